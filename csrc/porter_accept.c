/* accept4(2) for somebody else. A connection that is taken out of a listener's queue cannot be put back: so
 * all that can keep it from its caller is looked at right before, and nobody waits in accept itself. */
#include "compat.h"
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum {
	LOOK_MS = 1000, /* how often who waits looks by itself: see wait_for_one */
	STOLEN_MS = 2,  /* how long an accept waits where somebody else was quicker */
	LIMITS = 4096,  /* more than /proc/TID/limits has */
};

/* RLIMIT_NOFILE of the caller; 0: there is none, or nobody can say. */
static uint32_t most_descriptors(int task)
{
	static const char name[] = "\nMax open files";
	char text[LIMITS];
	int fd = openat(task, "limits", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	text[got < 0 ? 0 : got] = 0;
	const char *line = strstr(text, name);
	return line ? (uint32_t)strtoul(line + sizeof name - 1, NULL, 10) : 0;
}

/* Whether the caller's table of descriptors has no number left. What kcmp is asked about is not opened, so
 * that nothing has to be closed, which can take for ever. */
static int is_full(uint32_t tid, int task)
{
	uint32_t number = most_descriptors(task);
	if (!number)
		return 0;
	while (number--)
		if (syscall(SYS_kcmp, tid, tid, KCMP_FILE, number, number))
			return 0; /* free; or nobody can say */
	return 1;
}

int64_t sd_accept_begins(const struct sd_errand *errand, int listener, int task)
{
	int flags = fcntl(listener, F_GETFL);
	if (flags < 0 || flags & O_PATH)
		return -EBADF;
	if (errand->call_flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC))
		return -EINVAL;
	return is_full(errand->tid, task) ? -EMFILE : 0;
}

static int listens(int sock)
{
	int value;
	socklen_t size = sizeof value;
	return !getsockopt(sock, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) && value;
}

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

/* As the caller, for whose a socket is shows in its inode. Somebody else may have been quicker, or have
 * changed what blocks: then this is interrupted, and it is -EAGAIN. */
static int64_t take(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
		    struct sd_errand_done *done)
{
	socklen_t length = sizeof done->peer;
	int64_t result = sd_porter_become(errand->id, fds[1], fds[2], &hold->caller);
	int timer = result ? -1 : sd_alarm_after(STOLEN_MS);
	if (!result && timer < 0)
		result = -EPERM;
	if (result)
		done->why = result == -ESRCH ? SD_SOCKET_GONE : SD_SOCKET_RIGHTS;
	else
		done->taken = accept4(hold->sock, (struct sockaddr *)done->peer, &length,
				      (errand->call_flags & SOCK_NONBLOCK) | SOCK_CLOEXEC);
	if (!result && done->taken < 0)
		result = errno == EINTR ? -EAGAIN : -errno; /* who has kicked us does so again */
	if (timer >= 0)
		syscall(SYS_timer_delete, timer);
	sd_porter_come_back();
	done->peer_length = length > sizeof done->peer ? (int32_t)sizeof done->peer : (int32_t)length;
	return result;
}

/* Until somebody may have connected, the caller has gone, or the time is over. Of many that wait at one
 * listener one is woken. Should that one's caller go just then, the others hear nothing: so each looks
 * by itself, now and then. 0 or -errno */
static int64_t wait_for_one(int listener, int caller, int64_t ms)
{
	struct epoll_event connects = {.events = EPOLLIN | EPOLLEXCLUSIVE}, goes = {.events = EPOLLIN};
	int64_t error = 0;
	int set = epoll_create1(EPOLL_CLOEXEC);
	if (set < 0)
		return -errno;
	if (epoll_ctl(set, EPOLL_CTL_ADD, listener, &connects) ||
	    epoll_ctl(set, EPOLL_CTL_ADD, caller, &goes) ||
	    epoll_wait(set, &connects, 1, ms < 0 || ms > LOOK_MS ? LOOK_MS : (int)ms) < 0)
		error = -errno;
	close(set);
	return error;
}

static int is_there(int listener)
{
	struct pollfd one = {.fd = listener, .events = POLLIN};
	return poll(&one, 1, 0) == 1;
}

static int64_t take_within(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
			   struct sd_errand_done *done, int64_t end)
{
	int64_t left, result = -EAGAIN;
	for (;;) {
		if (is_there(hold->sock))
			result = take(errand, fds, hold, done);
		left = end < 0 ? -1 : end - sd_now_ms();
		if (result != -EAGAIN || (end >= 0 && left <= 0))
			return result;
		int64_t error = wait_for_one(hold->sock, fds[0], left);
		if (sd_id_valid(fds[1], errand->id)) {
			done->why = SD_SOCKET_GONE;
			return -ESRCH;
		}
		if (error) {
			done->why = error == -EINTR ? SD_SOCKET_MADE : SD_SOCKET_RIGHTS;
			return error;
		}
		/* it was not, when the wait began: but that may be long ago */
		if (is_full(errand->tid, fds[2]))
			return -EMFILE;
	}
}

int64_t sd_accept(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
		  struct sd_errand_done *done)
{
	int flags = fcntl(hold->sock, F_GETFL);
	if (flags < 0)
		return -errno;
	/* what does not listen is refused at once, and poll says nothing of that */
	if (!listens(hold->sock))
		return take(errand, fds, hold, done);
	int64_t may = flags & O_NONBLOCK ? 0 : patience(errand, hold->sock);
	int64_t end = may < 0 ? -1 : sd_now_ms() + may;
	int64_t result = take_within(errand, fds, hold, done, end);
	int64_t left = end < 0 ? 0 : end - sd_now_ms();
	done->patient = !(flags & O_NONBLOCK);
	done->left_ms = left > UINT32_MAX ? UINT32_MAX : (uint32_t)(left > 0 || end < 0 ? left : 1);
	return result;
}
