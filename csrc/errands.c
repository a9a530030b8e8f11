/* Connects that are settled: an equal one needs no more looks at the policy. The session reads it and has
 * a porter make it, which answers it as well; nobody else is woken for that.
 *
 * Who answers is agreed upon in memory that both share, by an exchange that one of the two wins. As long
 * as the session waits, which is not long, the porter may; a call that takes longer is given to who
 * asks for calls, and the porter tells its result as it does else. */
#include "porters.h"
#include "receiver.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	LINGER_US = 300, /* while somebody else waits */
	ALONE_US = 1000, /* while nobody does: a timer that goes off takes as long as a connect */
};

static int porter = -1;
static struct sd_desk *desk; /* of that one */
static uint32_t kept_tid;    /* whose table it can take descriptors from; 0: nobody's */
static int kept_listener;
/* Not the receiver's, which is set for as long as nobody calls: others wait meanwhile. */
static struct sd_patience linger = {.timer = -1}, alone = {.timer = -1};
/* The call that the porter was asked for last: it says that it answers before it does. */
static struct {
	uint64_t id;
	int listener, on_error;
} last;

static void refuse_last(void)
{
	struct seccomp_notif_resp answer = {.id = last.id, .error = -last.on_error};
	if (last.id)
		sd_send_answer(last.listener, &answer); /* nobody gets it who has the porter's */
	last.id = 0;
}

/* The porter has something to say, which is that it has not answered; or it has gone. */
static void hear(void)
{
	struct sd_errand_done done;
	if (recv(porter, &done, sizeof done, MSG_DONTWAIT) == (ssize_t)sizeof done)
		return;
	porter = -1;
}

void sd_errands_by(int sock, uint32_t number)
{
	struct pollfd end = {porter, POLLIN, 0};
	if (porter >= 0) {
		if (poll(&end, 1, 0) > 0)
			refuse_last();
		sd_desk_set(desk, SD_DESK_SESSIONS); /* it goes back to its socket */
	}
	desk = sd_desk(number);
	porter = desk ? sock : -1;
	kept_tid = 0;
	last.id = 0;
}

int sd_errands_porter(void)
{
	return porter;
}

/* It is not done, or the porter was quicker. */
static enum sd_errand_end give_up(void)
{
	sd_desk_change(desk, SD_DESK_PORTERS, SD_DESK_SESSIONS);
	return sd_desk_is(desk, SD_DESK_ANSWERED) ? SD_ERRAND_DONE : SD_ERRAND_BEGUN;
}

static int begin_span(struct sd_patience *patience)
{
	return sd_patience_arm(patience, patience == &linger ? LINGER_US : ALONE_US);
}

static enum sd_errand_end wait_for_porter(int listener, struct sd_patience *patience, int *there)
{
	struct pollfd polled[] = {{porter, POLLIN, 0}, {patience->timer, POLLIN, 0}, {listener, POLLIN, 0}};
	nfds_t count = 3;
	for (int spans = 0;;) {
		if (!patience->armed && (spans++ || begin_span(patience)))
			return give_up();
		if (poll(polled, count, -1) < 0 && errno != EINTR)
			return give_up();
		*there |= count == 3 && polled[2].revents == POLLIN;
		if (polled[0].revents) {
			hear();
			return give_up() == SD_ERRAND_DONE ? SD_ERRAND_DONE : SD_ERRAND_NOT;
		}
		if (sd_desk_is(desk, SD_DESK_ANSWERED))
			return SD_ERRAND_DONE;
		if (polled[1].revents)
			patience->armed = 0;
		if (count == 3 && polled[2].revents) { /* the next call has to wait: this one is not done */
			count = 2;
			patience = &linger;
			polled[1].fd = patience->timer;
		}
	}
}

static int have_timers(void)
{
	if (linger.timer < 0)
		linger.timer = sd_deadline_timer();
	if (alone.timer < 0)
		alone.timer = sd_deadline_timer();
	return linger.timer >= 0 && alone.timer >= 0;
}

static int ask(const struct sd_socket *call)
{
	int same = kept_tid == call->tid && kept_listener == call->listener;
	kept_tid = 0;
	if (same) {
		sd_socket_ask_at(call, desk);
		return 0;
	}
	sd_desk_set(desk, SD_DESK_PORTERS);
	return sd_socket_ask(call, porter, call->by_thread ? SD_KEEP : SD_KEEP_NOT);
}

static void remember(const struct sd_socket *call)
{
	kept_tid = call->by_thread ? call->tid : 0;
	kept_listener = call->listener;
	last.id = call->id;
	last.listener = call->listener;
	last.on_error = call->on_error;
}

enum sd_errand_end sd_errand_run(struct sd_socket *call, int others_wait, int *there)
{
	if (porter < 0 || !have_timers())
		return SD_ERRAND_NOT;
	sd_desk_bind(desk, (uint32_t)sched_getcpu());
	int error = ask(call);
	if (error) {
		sd_desk_set(desk, SD_DESK_SESSIONS);
		if (error == -EPIPE) {
			refuse_last();
			porter = -1;
		}
		return SD_ERRAND_NOT;
	}
	enum sd_errand_end end = wait_for_porter(call->listener, others_wait ? &linger : &alone, there);
	if (porter < 0)
		refuse_last();
	if (end == SD_ERRAND_DONE)
		remember(call);
	if (porter < 0)
		refuse_last();
	if (end == SD_ERRAND_BEGUN)
		porter = -1; /* it is busy; who goes on with the call has it */
	return end;
}

void sd_settle_errand(struct sd_receiver *receiver, const struct sd_call *call,
		      const struct sd_socket *errand)
{
	struct sd_socket *kept = malloc(sizeof *kept);
	if (!kept)
		return;
	*kept = *errand;
	const struct sd_reply reply = {.errand = kept};
	sd_settled_add(&receiver->settled, call->key, (size_t)call->key_length, &reply);
}
