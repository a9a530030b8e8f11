/* The session waits for who carries a settled call out: a porter, or an opener.
 *
 * Who answers is agreed upon in memory that both share, by an exchange that one of the two wins. As long
 * as the session waits, which is not long, the other one may; a call that takes longer is given to who
 * asks for calls, and its result is told over the socket. */
#include "desks.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

enum {
	LINGER_US = 300, /* while somebody else waits */
	ALONE_US = 1000, /* while nobody does: a timer that goes off takes as long as a connect */
};

/* Not the receiver's, which is set for as long as nobody calls: others wait meanwhile. */
static struct sd_patience linger = {.timer = -1}, alone = {.timer = -1};

static void refuse_last(struct sd_runner *runner)
{
	struct seccomp_notif_resp answer = {.id = runner->last.id, .error = -runner->last.on_error};
	if (runner->last.id) /* nobody gets it who has an answer */
		sd_send_answer(runner->last.listener, &answer);
	runner->last.id = 0;
}

void sd_runner_by(struct sd_runner *runner, int sock, struct sd_desk *desk)
{
	struct pollfd end = {runner->sock, POLLIN, 0};
	if (runner->sock >= 0) {
		if (poll(&end, 1, 0) > 0)
			refuse_last(runner);
		sd_desk_set(runner->desk, SD_DESK_SESSIONS); /* it goes back to its socket */
	}
	*runner = (struct sd_runner){.sock = desk ? sock : -1, .desk = desk};
}

static int have_timers(void)
{
	if (linger.timer < 0)
		linger.timer = sd_deadline_timer();
	if (alone.timer < 0)
		alone.timer = sd_deadline_timer();
	return linger.timer >= 0 && alone.timer >= 0;
}

int sd_runner_is_there(const struct sd_runner *runner)
{
	return runner->sock >= 0 && have_timers();
}

/* It has something to say, which is that it has not answered; or it has gone. */
static void hear(struct sd_runner *runner)
{
	char byte; /* what is not read of a message is dropped */
	if (recv(runner->sock, &byte, 1, MSG_DONTWAIT) <= 0)
		runner->sock = -1;
}

/* It is not done, or the other one was quicker. */
static enum sd_errand_end give_up(struct sd_runner *runner)
{
	sd_desk_change(runner->desk, SD_DESK_PORTERS, SD_DESK_SESSIONS);
	return sd_desk_is_answered(runner->desk) ? SD_ERRAND_DONE : SD_ERRAND_BEGUN;
}

static int begin_span(struct sd_patience *patience)
{
	return sd_patience_arm(patience, patience == &linger ? LINGER_US : ALONE_US);
}

static enum sd_errand_end wait_for(struct sd_runner *runner, int listener,
				   struct sd_patience *patience, int *there)
{
	struct pollfd polled[] = {
		{runner->sock, POLLIN, 0}, {patience->timer, POLLIN, 0}, {listener, POLLIN, 0},
	};
	nfds_t count = 3;
	for (int spans = 0;;) {
		if (!patience->armed && (spans++ || begin_span(patience)))
			return give_up(runner);
		if (poll(polled, count, -1) < 0 && errno != EINTR)
			return give_up(runner);
		*there |= count == 3 && polled[2].revents == POLLIN;
		if (polled[0].revents) {
			hear(runner);
			return give_up(runner) == SD_ERRAND_DONE ? SD_ERRAND_DONE : SD_ERRAND_NOT;
		}
		if (sd_desk_is_answered(runner->desk))
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

enum sd_errand_end sd_runner_wait(struct sd_runner *runner, int error, const struct sd_asked *asked,
				  int others_wait, int *there)
{
	if (error) {
		sd_desk_set(runner->desk, SD_DESK_SESSIONS);
		if (error == -EPIPE) {
			refuse_last(runner);
			runner->sock = -1;
		}
		return SD_ERRAND_NOT;
	}
	enum sd_errand_end end =
		wait_for(runner, asked->listener, others_wait ? &linger : &alone, there);
	if (runner->sock < 0)
		refuse_last(runner);
	if (end == SD_ERRAND_DONE) {
		runner->at_desk = 1;
		runner->last = *asked;
	}
	if (runner->sock < 0)
		refuse_last(runner);
	if (end == SD_ERRAND_BEGUN)
		runner->sock = -1; /* it is busy; who goes on with the call has it */
	return end;
}
