/* accept4(2) for somebody else. A connection that is taken out of a listener's queue cannot be put back: so
 * whoever waits is asked for once more right before, and nobody waits in accept itself. */
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
	LOOK_MS = 1000, /* how long it can take until it is seen that the caller has gone */
	STOLEN_MS = 2,  /* how long an accept waits where somebody else was quicker */
};

/* How long accept may wait, in milliseconds; -1: for ever. */
static int64_t patience(const struct sd_errand *errand, int listener)
{
	struct timeval timeout = {0};
	socklen_t size = sizeof timeout;
	if (errand->wait_ms)
		return errand->wait_ms;
	if (getsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, &size) ||
	    (!timeout.tv_sec && !timeout.tv_usec))
		return -1;
	return (int64_t)timeout.tv_sec * 1000 + (timeout.tv_usec + 999) / 1000;
}

static int take(const struct sd_errand *errand, int listener, struct sd_errand_done *done)
{
	socklen_t length = sizeof done->peer;
	int sock = accept4(listener, (struct sockaddr *)done->peer, &length,
			   (errand->call_flags & SOCK_NONBLOCK) | SOCK_CLOEXEC);
	if (sock < 0)
		return -errno;
	done->peer_length = length > sizeof done->peer ? (int32_t)sizeof done->peer : (int32_t)length;
	done->taken = sock;
	return 0;
}

/* The same on a listener that blocks, where another one may have been quicker: -EAGAIN then. */
static int take_at_once(const struct sd_errand *errand, int listener, struct sd_errand_done *done)
{
	int64_t end = sd_now_ms() + STOLEN_MS;
	int timer = sd_alarm_after(STOLEN_MS);
	if (timer < 0)
		return timer;
	int result = take(errand, listener, done);
	syscall(SYS_timer_delete, timer);
	/* anybody else's kick comes again */
	return result == -EINTR && sd_now_ms() >= end ? -EAGAIN : result;
}

int64_t sd_accept(const struct sd_errand *errand, int listener, int notifier, struct sd_errand_done *done)
{
	int flags = fcntl(listener, F_GETFL);
	int listens = 0;
	socklen_t size = sizeof listens;
	if (flags < 0)
		return -errno;
	/* what does not listen is refused at once, and poll says nothing of it */
	if (flags & O_NONBLOCK || getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) || !listens)
		return sd_id_valid(notifier, errand->id) ? -ESRCH : take(errand, listener, done);
	done->patient = 1;
	int64_t may = patience(errand, listener), end = sd_now_ms() + may;
	for (;;) {
		int64_t left = may < 0 ? LOOK_MS : end - sd_now_ms();
		struct pollfd one = {.fd = listener, .events = POLLIN};
		if (left < 0)
			left = 0;
		int ready = poll(&one, 1, left > LOOK_MS ? LOOK_MS : (int)left);
		if (ready < 0)
			return -errno;
		if (sd_id_valid(notifier, errand->id))
			return -ESRCH;
		if (!ready) {
			if (may >= 0 && sd_now_ms() >= end)
				return -EAGAIN;
			continue;
		}
		int result = take_at_once(errand, listener, done);
		if (result != -EAGAIN) {
			int64_t rest = end - sd_now_ms();
			done->left_ms = may < 0 ? 0 : rest > 0 ? (uint32_t)rest : 1;
			return result;
		}
	}
}
