/* Receives one call at a time: poll, RECV, read the caller's memory, ID_VALID. */
#include "compat.h"
#include "memory.h"
#include "openers.h"
#include "proxy.h"
#include "receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SOON_US = 1000 };

static int by_call(const void *a, const void *b)
{
	const struct sd_reads *x = a, *y = b;
	if (x->arch != y->arch)
		return x->arch < y->arch ? -1 : 1;
	return (x->nr > y->nr) - (x->nr < y->nr);
}

struct sd_receiver *sd_receiver_new(int listener, int proxy, int timer, struct sd_watch *watch,
				    const struct sd_reads *reads, size_t count, uint64_t deadline_ns)
{
	struct seccomp_notif_sizes sizes;
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) ||
	    sizes.seccomp_notif > sizeof watch->received)
		return NULL;
	struct sd_receiver *receiver = calloc(1, sizeof *receiver);
	if (!receiver)
		return NULL;
	*receiver = (struct sd_receiver){
		.listener = listener, .proxy = proxy, .timer = timer, .watch = watch,
		.patience.timer = sd_deadline_timer(),
	};
	sd_openers_forget_listeners();
	if (receiver->patience.timer < 0 || sd_receiver_reads(receiver, reads, count, deadline_ns)) {
		sd_receiver_free(receiver);
		return NULL;
	}
	return receiver;
}

int sd_receiver_reads(struct sd_receiver *receiver, const struct sd_reads *reads, size_t count,
		      uint64_t deadline_ns)
{
	struct sd_reads *table = calloc(count ? count : 1, sizeof *table);
	if (!table)
		return -ENOMEM;
	memcpy(table, reads, count * sizeof *table);
	qsort(table, count, sizeof *table, by_call);
	sd_settled_clear(&receiver->settled);
	free(receiver->reads);
	receiver->reads = table;
	receiver->count = count;
	receiver->deadline_ns = deadline_ns;
	return 0;
}

void sd_receiver_free(struct sd_receiver *receiver)
{
	if (!receiver)
		return;
	sd_settled_clear(&receiver->settled);
	free(receiver->reads);
	if (receiver->patience.timer >= 0)
		close(receiver->patience.timer);
	free(receiver);
}

/* A caller that made one reader hang is not read again; past SD_STALLS nobody of its container is. */
static int stalled_before(const struct sd_watch *watch, uint32_t tid)
{
	uint32_t stalls = __atomic_load_n(&watch->stalls, __ATOMIC_ACQUIRE);
	if (!stalls)
		return 0;
	if (stalls >= SD_STALLS)
		return 1;
	uint32_t tgid;
	uint64_t start_time;
	if (sd_task_start((int)tid, &tgid, &start_time))
		return 1;
	for (uint32_t i = 0; i < stalls; i++)
		if (watch->stalled[i].tgid == tgid && watch->stalled[i].start_time == start_time)
			return 1;
	return 0;
}

static void begin_reading(struct sd_receiver *receiver, uint64_t id, uint32_t tid)
{
	struct sd_watch *watch = receiver->watch;
	uint64_t now = sd_now_ns();
	watch->reading_id = id;
	watch->reading_tid = tid;
	__atomic_store_n(&watch->reading_since, now, __ATOMIC_SEQ_CST);
	/* A timer that is still running will be seen by the watchdog, who then waits for the rest of
	 * this reading: so a busy session arms it at most once a deadline, and an idle one never. Once
	 * it has gone off the watchdog says so here (0) before it looks who reads. */
	uint64_t armed_at = __atomic_load_n(&watch->armed_at, __ATOMIC_SEQ_CST);
	if (receiver->timer >= 0 && (!armed_at || now - armed_at >= receiver->deadline_ns)) {
		watch->armed_at = now;
		sd_arm_timer(receiver->timer, receiver->deadline_ns);
	}
}

static void end_reading(struct sd_receiver *receiver)
{
	__atomic_store_n(&receiver->watch->reading_since, 0, __ATOMIC_RELEASE);
}

static const struct sd_reads *reads_of(const struct sd_receiver *receiver, uint32_t arch, int32_t nr)
{
	struct sd_reads wanted = {.arch = arch, .nr = nr};
	return bsearch(&wanted, receiver->reads, receiver->count, sizeof wanted, by_call);
}

static void take_arguments(struct sd_receiver *receiver, struct sd_call *call, int unread)
{
	const struct seccomp_notif *notif = (void *)receiver->watch->received;
	const struct sd_reads *reads = reads_of(receiver, call->arch, call->nr);
	uint64_t args[6];
	for (int i = 0; i < 6; i++)
		args[i] = notif->data.args[i];
	int wrapped = !reads && sd_is_socketcall(call, args);
	if (wrapped)
		reads = reads_of(receiver, call->arch, sd_socketcall_number(args));
	int reading = !unread && (sd_has_strings(reads) || (wrapped && reads));
	if (reading)
		begin_reading(receiver, call->id, call->tid);
	if (wrapped && reads)
		unread |= sd_unwrap_socketcall(call, args, unread);
	sd_take_arguments(call, reads, args, unread);
	if (reading)
		end_reading(receiver);
}

static int free_slot(struct sd_receiver *receiver)
{
	for (int i = 0; i < SD_PENDING; i++) {
		int slot = (receiver->next_slot + i) % SD_PENDING;
		if (!receiver->watch->pending[slot]) {
			receiver->next_slot = slot + 1;
			return slot;
		}
	}
	return -ENOBUFS;
}

/* The place of the call that the watchdog received for us: its notification is still there. */
static int carried_slot(struct sd_watch *watch)
{
	uint64_t id = watch->carried;
	watch->carried = 0;
	for (int i = 0; id && i < SD_PENDING; i++)
		if (watch->pending[i] == id)
			return i;
	return -1;
}

/* 0, -EAGAIN: there is none after all; or another errno. The notification is in the watch then. */
static int next_call(struct sd_receiver *receiver)
{
	if (receiver->proxy >= 0) {
		receiver->received_at = sd_now_ns();
		/* a monitor that does not wait for the answer any more would take it for the next one's */
		if (receiver->outstanding) {
			shutdown(receiver->proxy, SHUT_RDWR);
			return -ENOTCONN;
		}
		return sd_proxy_receive(receiver->proxy, receiver->listener, receiver->watch);
	}
	memset(receiver->watch->received, 0, sizeof receiver->watch->received);
	if (!ioctl(receiver->listener, SECCOMP_IOCTL_NOTIF_RECV, receiver->watch->received))
		return 0;
	return errno == ENOENT || errno == EINTR ? -EAGAIN : -errno;
}

/* As sd_wait_for_call. What is held of the last caller is let go of where none comes soon. */
static int wait_for_call(struct sd_receiver *receiver, int from, int linger_us, const int *also,
			 size_t also_count)
{
	static struct sd_patience soon = {.timer = -1};
	if (sd_open_stays() && !receiver->patience.there) {
		if (soon.timer < 0)
			soon.timer = sd_deadline_timer();
		int ready = linger_us && soon.timer >= 0
				    ? sd_wait_for_call(&soon, from, SOON_US, also, also_count) : 0;
		if (!ready)
			sd_open_leave();
		receiver->patience.called |= ready > 0;
		if (ready)
			return ready;
	}
	return sd_wait_for_call(&receiver->patience, from, linger_us, also, also_count);
}

/* One call: see sd_receive. */
static int receive(struct sd_receiver *receiver, struct sd_call *call, int linger_us, const int *also,
	       size_t also_count)
{
	struct sd_watch *watch = receiver->watch;
	struct seccomp_notif *notif = (void *)watch->received;
	for (;;) {
		__atomic_store_n(&watch->turns, watch->turns + 1, __ATOMIC_RELAXED);
		int slot = watch->carried ? carried_slot(watch) : -1;
		if (slot >= 0) {
			receiver->received_at = watch->carried_at;
		} else {
			slot = free_slot(receiver);
			if (slot < 0)
				return slot;
			int from = receiver->proxy >= 0 ? receiver->proxy : receiver->listener;
			int ready = wait_for_call(receiver, from, linger_us, also, also_count);
			if (ready <= 0)
				return ready;
			int error = next_call(receiver);
			if (error == -EAGAIN)
				continue; /* aborted between poll and RECV: routine */
			if (error)
				return error;
			watch->pending[slot] = notif->id;
		}
		receiver->outstanding = 1;
		call->id = notif->id;
		call->ip = notif->data.instruction_pointer;
		call->tid = notif->pid;
		call->arch = notif->data.arch;
		call->nr = notif->data.nr;
		call->slot = slot;
		/* pid 0 is a caller that our pid namespace does not show: nothing of it can be looked at */
		int unread = !call->tid || stalled_before(watch, call->tid);
		take_arguments(receiver, call, unread);
		watch->calls++;
		receiver->last_id = call->id;
		receiver->last_slot = slot;
		return call->key_length | (unread ? SD_UNREAD : 0);
	}
}

/* Until there is one that was not settled. */
static int receive_new(struct sd_receiver *receiver, struct sd_call *call, int linger_us,
		       const int *also, size_t also_count)
{
	call->settled = call->begun = 0;
	while (call->settled < SD_AT_ONCE) {
		int found = receive(receiver, call, linger_us, also, also_count);
		if (found <= 0 || found & SD_UNREAD)
			return found;
		if (sd_answer_again(receiver, call, !linger_us)) {
			if (call->begun)
				return found;
			call->settled++;
		} else if (sd_id_valid(receiver->listener, call->id)) {
			sd_abandon(receiver, call->id, call->slot);
			linger_us = 0;
		} else {
			return found;
		}
	}
	return 0;
}

int sd_receive(struct sd_receiver *receiver, struct sd_call *call, int linger_us, const int *also,
	       size_t also_count)
{
	int found = receive_new(receiver, call, linger_us, also, also_count);
	sd_open_leave(); /* what comes now may take long */
	return found;
}

int sd_receiver_write(struct sd_receiver *receiver, uint64_t id, uint32_t tid, uint64_t address,
		      const char *data, size_t size)
{
	int error = 0, memory = sd_memory_of(receiver->listener, id, tid);
	if (memory < 0)
		return memory;
	/* a page that takes for ever to come stalls who writes as it stalls who reads */
	begin_reading(receiver, id, tid);
	if (pwrite(memory, data, size, (off_t)address) != (ssize_t)size)
		error = -EFAULT;
	end_reading(receiver);
	close(memory);
	return error;
}

int sd_receiver_write_address(struct sd_receiver *receiver, uint64_t id, uint32_t tid,
			      uint64_t address, uint64_t length_at, const char *from, int32_t size)
{
	int memory = sd_memory_of(receiver->listener, id, tid);
	if (memory < 0)
		return memory;
	begin_reading(receiver, id, tid);
	int error = sd_write_address(memory, address, length_at, from, size);
	end_reading(receiver);
	close(memory);
	return error;
}
