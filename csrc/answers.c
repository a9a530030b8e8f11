/* Answers calls: by numbers, by descriptors, and where an equal one was settled before by the same again. */
#include "compat.h"
#include "openers.h"
#include "proxy.h"
#include "receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void forget(struct sd_receiver *receiver, int slot)
{
	__atomic_store_n(&receiver->watch->pending[slot], 0, __ATOMIC_RELEASE);
	receiver->next_slot = slot; /* the same cache line again, as long as calls come one by one */
}

void sd_abandon(struct sd_receiver *receiver, uint64_t id, int slot)
{
	struct seccomp_notif_resp answer = {.id = id, .error = -EPERM};
	if (receiver->proxy >= 0)
		sd_proxy_answer(receiver->proxy, receiver->watch, &answer, receiver->received_at);
	receiver->outstanding = 0;
	forget(receiver, slot);
}

int sd_answer(struct sd_receiver *receiver, uint64_t id, int slot, int64_t value, int error,
	      int proceed)
{
	if (slot < 0 || slot >= SD_PENDING)
		return -EINVAL;
	/* The kernel would take an error of any size and sign, and 1 would look like success. */
	if (error > 0 || error < LOWEST_ERRNO || (error && value) || (proceed && (error || value)))
		return -EINVAL;
	uint32_t flags = proceed ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
	struct seccomp_notif_resp answer = {.id = id, .val = value, .error = error, .flags = flags};
	int result = receiver->proxy >= 0
			     ? sd_proxy_answer(receiver->proxy, receiver->watch, &answer,
					       receiver->received_at)
			     : sd_send_answer(receiver->listener, &answer);
	receiver->outstanding = 0;
	forget(receiver, slot);
	return result;
}

int sd_answer_last(struct sd_receiver *receiver, int64_t value, int error, int proceed)
{
	return sd_answer(receiver, receiver->last_id, receiver->last_slot, value, error, proceed);
}

int sd_give(struct sd_receiver *receiver, uint64_t id, int slot, int fd, uint32_t flags)
{
	struct seccomp_notif_addfd give = {
		.id = id, .srcfd = (uint32_t)fd, .newfd_flags = flags,
		/* a proxy's client has the answer to give: there the two are not one */
		.flags = receiver->proxy >= 0 ? 0 : SECCOMP_ADDFD_FLAG_SEND,
	};
	if (slot < 0 || slot >= SD_PENDING)
		return -EINVAL;
	int number;
	do
		number = ioctl(receiver->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &give);
	while (number < 0 && errno == EINTR);
	if (number >= 0 && receiver->proxy < 0) {
		receiver->outstanding = 0;
		forget(receiver, slot);
		return number;
	}
	int error = number < 0 ? -errno : 0;
	if (error == -ENOENT) {
		sd_abandon(receiver, id, slot);
		return error;
	}
	int told = sd_answer(receiver, id, slot, error ? 0 : number, error, 0);
	return told ? told : error ? error : number;
}

/* What became of a call that somebody else is asked for; 0: nothing. */
static int came_to(struct sd_receiver *receiver, struct sd_call *call, enum sd_errand_end end)
{
	call->begun = end == SD_ERRAND_BEGUN;
	if (end == SD_ERRAND_DONE) {
		receiver->outstanding = 0;
		forget(receiver, call->slot);
	}
	return end != SD_ERRAND_NOT;
}

/* 0: that takes more than a look. */
static int give_again(struct sd_receiver *receiver, struct sd_call *call, const struct sd_gift *gift,
		      int others_wait)
{
	const struct sd_waiting waiting = {receiver->listener, call->id};
	/* before it is asked whether the caller still waits, which says whose network that was, and whose ids */
	int here = gift->by == SD_OPENER_NET && gift->node && sd_network_is_ours(call->tid);
	if (gift->by && !here &&
	    (receiver->proxy >= 0 || !sd_opener_is_there(gift->by, call->tid)))
		return 0;
	const enum sd_node_for why =
		gift->node ? sd_node_is_for(gift->node, call->tid, gift->flags) : SD_NODE_NO;
	if (gift->node && why == SD_NODE_NO)
		return 0;
	if (sd_open_look(&waiting, call->tid, gift->path, gift->length) != 1)
		return 0;
	sd_open_stay(); /* from here on the caller goes on */
	if (gift->by && !here) {
		int *there = &receiver->patience.there;
		enum sd_errand_end end = sd_opener_run(gift, &waiting, others_wait, there);
		if (end != SD_ERRAND_DONE || !*there)
			sd_open_leave();
		return came_to(receiver, call, end);
	}
	int fd = sd_node_open_for(gift->node, why, gift->flags);
	if (fd < 0)
		return 0;
	int number = sd_give(receiver, call->id, call->slot, fd, gift->flags & O_CLOEXEC);
	close(fd);
	receiver->watch->refused += number < 0 && number != -ENOENT;
	return 1;
}

static int run_again(struct sd_receiver *receiver, struct sd_call *call, struct sd_socket *errand,
		     int others_wait)
{
	if (receiver->proxy >= 0)
		return 0; /* its client has the answer to give */
	errand->listener = receiver->listener;
	errand->id = call->id;
	errand->tid = call->tid;
	return came_to(receiver, call, sd_errand_run(errand, others_wait, &receiver->patience.there));
}

/* Whether what was read was its caller's, the answer says itself: nobody gets it where that one has gone. */
int sd_answer_again(struct sd_receiver *receiver, struct sd_call *call, int others_wait)
{
	const struct sd_reply *reply =
		sd_settled_find(&receiver->settled, call->key, (size_t)call->key_length);
	if (!reply)
		return 0;
	if (reply->gift)
		return give_again(receiver, call, reply->gift, others_wait);
	if (reply->errand)
		return run_again(receiver, call, reply->errand, others_wait);
	/* that the caller has gone is routine; any other error would be here again with the next one */
	sd_answer_last(receiver, reply->value, reply->error, reply->proceed);
	receiver->watch->refused += reply->refuses != 0;
	return 1;
}

void sd_settle(struct sd_receiver *receiver, const struct sd_call *call, int64_t value, int error,
	       int proceed, int refuses)
{
	const struct sd_reply reply = {value, error, proceed, refuses, NULL, NULL};
	sd_settled_add(&receiver->settled, call->key, (size_t)call->key_length, &reply);
}

void sd_settle_gift(struct sd_receiver *receiver, const struct sd_call *call,
		    const struct sd_gift_from *from, uint32_t flags, const char *path, size_t length)
{
	struct sd_gift *gift = malloc(sizeof *gift + length);
	if (!gift)
		return;
	*gift = (struct sd_gift){.node = from->node, .by = from->by, .index = from->index,
				 .flags = flags, .length = length};
	if (gift->node)
		gift->node->holders++;
	memcpy(gift->path, path, length);
	const struct sd_reply reply = {.gift = gift};
	sd_settled_add(&receiver->settled, call->key, (size_t)call->key_length, &reply);
}

void sd_settle_no_more(struct sd_receiver *receiver)
{
	sd_settled_clear(&receiver->settled);
}
