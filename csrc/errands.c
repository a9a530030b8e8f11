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

enum { LINGER_US = 300 };

static int porter = -1;
static struct sd_desk *desk; /* of that one */
static uint32_t kept_tid;    /* whose table it can take descriptors from; 0: nobody's */
static int kept_listener;
/* Not the receiver's, which is set for as long as nobody calls: others wait meanwhile. */
static struct sd_patience waiting = {.timer = -1};

void sd_errands_by(int sock, uint32_t number)
{
	desk = sd_desk(number);
	porter = desk ? sock : -1;
	kept_tid = 0;
}

int sd_errands_porter(void)
{
	return porter;
}

/* The porter has something to say, which is that it has not answered; or it has gone. */
static void hear(void)
{
	struct sd_errand_done done;
	if (recv(porter, &done, sizeof done, MSG_DONTWAIT) != (ssize_t)sizeof done)
		porter = -1;
}

static enum sd_errand_end give_up(void)
{
	return sd_desk_change(desk, SD_DESK_PORTERS, SD_DESK_SESSIONS) ? SD_ERRAND_BEGUN
								     : SD_ERRAND_DONE;
}

static enum sd_errand_end wait_for_porter(int listener, int *there)
{
	struct pollfd polled[] = {{porter, POLLIN, 0}, {waiting.timer, POLLIN, 0}, {listener, POLLIN, 0}};
	nfds_t count = 3;
	for (int spans = 0;;) {
		if (!waiting.armed && (spans++ || sd_patience_arm(&waiting, LINGER_US)))
			return give_up();
		if (poll(polled, count, -1) < 0 && errno != EINTR)
			return give_up();
		*there |= count == 3 && polled[2].revents == POLLIN;
		if (sd_desk_is(desk, SD_DESK_ANSWERED))
			return SD_ERRAND_DONE;
		if (polled[0].revents) {
			hear();
			return give_up() == SD_ERRAND_DONE && sd_desk_is(desk, SD_DESK_ANSWERED)
				       ? SD_ERRAND_DONE : SD_ERRAND_NOT;
		}
		if (polled[1].revents)
			waiting.armed = 0;
		if (polled[2].revents)
			count = 2; /* the next call has to wait: this one is not done */
	}
}

enum sd_errand_end sd_errand_run(struct sd_socket *call, int *there)
{
	if (porter < 0 || (waiting.timer < 0 && (waiting.timer = sd_deadline_timer()) < 0))
		return SD_ERRAND_NOT;
	sd_desk_bind(desk, (uint32_t)sched_getcpu());
	sd_desk_set(desk, SD_DESK_PORTERS);
	int same = kept_tid == call->tid && kept_listener == call->listener;
	enum sd_kept keep = !call->by_thread ? SD_KEEP_NOT : same ? SD_KEEP_USED : SD_KEEP;
	int error = sd_socket_ask(call, porter, keep);
	enum sd_errand_end end = error ? SD_ERRAND_NOT : wait_for_porter(call->listener, there);
	kept_tid = end == SD_ERRAND_DONE && keep ? call->tid : 0;
	kept_listener = call->listener;
	if (error) {
		sd_desk_set(desk, SD_DESK_SESSIONS);
		porter = error == -EPIPE ? -1 : porter;
	} else if (end == SD_ERRAND_BEGUN) {
		porter = -1; /* it is busy; who goes on with the call has it */
	}
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
