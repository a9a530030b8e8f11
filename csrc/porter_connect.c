/* Connects of which somebody wants to know how they end: within a time, so that another address can be
 * tried on the same socket; and what becomes of it later, without keeping it open. */
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum {
	SOON_MS = 1,   /* how long somebody waits who did not ask to: what is near answers by then */
	AGAIN_MS = 50,
};

int64_t sd_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct timespec time_of(uint32_t ms)
{
	return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
}

int sd_alarm_after(uint32_t ms)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	const struct itimerspec times = {.it_value = time_of(ms), .it_interval = time_of(AGAIN_MS)};
	int timer;
	event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer))
		return -errno;
	if (syscall(SYS_timer_settime, timer, 0, &times, NULL)) {
		int error = -errno;
		syscall(SYS_timer_delete, timer);
		return error;
	}
	return timer;
}

/* Ends what has begun, as if nobody had asked for it. */
static void take_back(int sock)
{
	const struct sockaddr none = {.sa_family = AF_UNSPEC};
	int error;
	socklen_t size = sizeof error;
	connect(sock, &none, sizeof none);
	getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &size);
}

static int within(int sock, const void *address, socklen_t length, uint32_t ms)
{
	int64_t end = sd_now_ms() + ms;
	int timer = sd_alarm_after(ms);
	if (timer < 0)
		return timer;
	int result = connect(sock, address, length) ? -errno : 0;
	syscall(SYS_timer_delete, timer);
	if (result != -EINTR || sd_now_ms() < end)
		return result;
	take_back(sock);
	return -ETIMEDOUT;
}

/* What is refused at once was never begun: the caller has not been told so yet. */
static int soon(int sock, const void *address, socklen_t length)
{
	struct pollfd one = {.fd = sock, .events = POLLOUT};
	if (poll(&one, 1, SOON_MS) != 1 || !(one.revents & (POLLERR | POLLHUP)))
		return -EINPROGRESS;
	/* says what came of it, and makes the socket one that can be connected again */
	return connect(sock, address, length) ? -errno : -EINPROGRESS;
}

int64_t sd_connect(const struct sd_errand *errand, int sock, const void *address, socklen_t length)
{
	int flags = errand->wait_ms ? fcntl(sock, F_GETFL) : 0;
	if (flags < 0)
		return -errno;
	if (errand->wait_ms && !(flags & O_NONBLOCK))
		return within(sock, address, length, errand->wait_ms);
	int result = connect(sock, address, length) ? -errno : 0;
	return errand->wait_ms && result == -EINPROGRESS ? soon(sock, address, length) : result;
}

void sd_tell_tcp(int sock, struct sd_errand_done *done)
{
	struct tcp_info info = {0};
	socklen_t size = sizeof info;
	if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &size) || info.tcpi_state != TCP_ESTABLISHED)
		return;
	done->mss = info.tcpi_snd_mss;
	done->rtt_us = info.tcpi_rtt;
	done->pmtu = info.tcpi_pmtu;
	done->retransmits = info.tcpi_total_retrans;
}

void sd_watch(int watch, int sock, uint64_t mark, int64_t result)
{
	int begun = result == -EINPROGRESS || result == -EINTR;
	struct epoll_event event = {.events = EPOLLONESHOT | (begun ? (uint32_t)EPOLLOUT : 0),
				    .data.u64 = mark};
	if ((result && !begun) || sock < 0)
		return;
	/* known by this very number, from another connection of it */
	if (epoll_ctl(watch, EPOLL_CTL_ADD, sock, &event) && errno == EEXIST)
		epoll_ctl(watch, EPOLL_CTL_MOD, sock, &event);
}
