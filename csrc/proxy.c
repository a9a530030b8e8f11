/* LXC's notify proxy: the monitor of a container receives its calls, sends each over a socket, and
 * waits for the answer. One call at a time, as SEQPACKET messages:
 *
 *   0 reserved (0) | 8 monitor's pid, init's pid | 16 three sizes | 24 length of the cookie
 *   32 struct seccomp_notif | 112 struct seccomp_notif_resp | 136 cookie
 *
 * with /proc/PID, /proc/PID/mem and (of newer LXCs) the listener. The answer is the first 136 bytes, of
 * which the monitor uses the response. It waits for 30 seconds; an answer that comes later it takes
 * for that of the next call. So ours comes in time, or the connection ends: then it makes another. */
#include "proxy.h"

#include "compat.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct head {
	uint64_t reserved;
	int32_t monitor, init;
	struct seccomp_notif_sizes sizes;
	uint64_t cookie_length;
};

struct packet {
	struct head head;
	struct seccomp_notif notif;
	struct seccomp_notif_resp resp;
};

_Static_assert(sizeof(struct packet) == SD_PROXY_SIZE, "as LXC has it");

enum { MOST_FDS = 3 };

uint64_t sd_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int good(const struct head *head, size_t size)
{
	return size >= sizeof(struct packet) && !head->reserved &&
	       head->sizes.seccomp_notif == sizeof(struct seccomp_notif) &&
	       head->sizes.seccomp_notif_resp == sizeof(struct seccomp_notif_resp) &&
	       head->cookie_length <= SD_PROXY_COOKIE &&
	       size == sizeof(struct packet) + head->cookie_length;
}

int sd_proxy_parse(const void *data, size_t size, struct sd_proxy_request *request)
{
	struct packet packet;
	if (size < sizeof packet)
		return -EINVAL;
	memcpy(&packet, data, sizeof packet);
	if (!good(&packet.head, size) || !packet.notif.id)
		return -EINVAL;
	*request = (struct sd_proxy_request){
		packet.head.monitor, packet.head.init, (uint32_t)packet.head.cookie_length,
		packet.notif.pid, packet.notif.id,
	};
	return 0;
}

void sd_proxy_carry(struct sd_watch *watch, const void *data)
{
	memset(watch->received, 0, sizeof watch->received);
	memcpy(watch->received, (const char *)data + sizeof(struct head),
	       sizeof(struct seccomp_notif));
	watch->carried_at = sd_now_ns();
	watch->carried = watch->pending[0] = ((struct seccomp_notif *)watch->received)->id;
}

int sd_proxy_state(int proxy)
{
	struct pollfd p = {proxy, POLLIN | POLLRDHUP, 0};
	if (poll(&p, 1, 0) < 0)
		return -errno;
	if (p.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL))
		return -ENOTCONN;
	return p.revents & POLLIN ? 1 : 0;
}

/* How many came; no more than MOST_FDS are kept. */
static size_t take_fds(struct msghdr *message, int *fds)
{
	size_t count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < here; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (count < MOST_FDS)
				fds[count] = fd;
			else
				close(fd);
			count++;
		}
	}
	return count;
}

/* They have come together: mostly their numbers follow each other, and one call does. */
static void close_fds(const int *fds, size_t count)
{
	for (size_t first = 0, next; first < count; first = next) {
		next = first + 1;
		while (next < count && fds[next] == fds[next - 1] + 1)
			next++;
		syscall(SYS_close_range, fds[first], fds[next - 1], 0U);
	}
}

int sd_proxy_receive(int proxy, int listener, struct sd_watch *watch)
{
	static char rest[sizeof(struct seccomp_notif_resp) + SD_PROXY_COOKIE];
	char control[CMSG_SPACE(sizeof(int) * MOST_FDS)];
	struct head head;
	/* The notification goes straight into the watch, as from NOTIF_RECV: it cannot be lost. */
	struct iovec parts[] = {{&head, sizeof head},
				{watch->received, sizeof(struct seccomp_notif)},
				{rest, sizeof rest}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3,
				 .msg_control = control, .msg_controllen = sizeof control};
	int fds[MOST_FDS];
	memset(watch->received, 0, sizeof watch->received);
	ssize_t got = recvmsg(proxy, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -ENOTCONN;
	size_t count = take_fds(&message, fds);
	if (count == MOST_FDS && listener >= 0)
		dup3(fds[2], listener, O_CLOEXEC);
	close_fds(fds, count < MOST_FDS ? count : MOST_FDS);
	if (got && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
	    (count == MOST_FDS || count == MOST_FDS - 1) && good(&head, (size_t)got))
		return 0;
	memset(watch->received, 0, sizeof watch->received);
	shutdown(proxy, SHUT_RDWR);
	return -ENOTCONN;
}

int sd_proxy_answer(int proxy, struct sd_watch *watch, const struct seccomp_notif_resp *answer,
		    uint64_t received_ns)
{
	struct packet packet = {
		.head.sizes = {sizeof(struct seccomp_notif), sizeof(struct seccomp_notif_resp),
			       sizeof(struct seccomp_data)},
		.resp = *answer,
	};
	ssize_t sent = -1;
	__atomic_store_n(&watch->answering, answer->id, __ATOMIC_SEQ_CST);
	if (sd_now_ns() - received_ns < SD_PROXY_SECONDS * 1000000000ull)
		sent = send(proxy, &packet, sizeof packet, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent != sizeof packet)
		shutdown(proxy, SHUT_RDWR);
	memset(watch->received, 0, sizeof watch->received);
	__atomic_store_n(&watch->answering, 0, __ATOMIC_SEQ_CST);
	return sent == sizeof packet ? 0 : -ENOENT;
}

/* Of a session that has died: whether its last answer has gone out may be unknown, and a second one
 * would be taken for that of the next call. */
int sd_proxy_refuse_pending(int proxy, struct sd_watch *watch, int error)
{
	struct seccomp_notif last;
	if (error >= 0 || error < LOWEST_ERRNO)
		return -EINVAL;
	memcpy(&last, watch->received, sizeof last);
	struct seccomp_notif_resp answer = {.id = last.id, .error = error};
	int refused = 0;
	if (watch->answering)
		shutdown(proxy, SHUT_RDWR);
	else if (last.id)
		refused = !sd_proxy_answer(proxy, watch, &answer, sd_now_ns());
	memset(watch->received, 0, sizeof watch->received);
	memset(watch->pending, 0, sizeof watch->pending);
	watch->answering = watch->carried = 0;
	watch->reading_since = watch->armed_at = 0;
	return refused;
}

int sd_proxy_refuse_next(int proxy, struct sd_watch *watch, int error)
{
	if (error >= 0 || error < LOWEST_ERRNO)
		return -EINVAL;
	int state = sd_proxy_state(proxy);
	if (state <= 0)
		return state;
	int got = sd_proxy_receive(proxy, -1, watch);
	if (got)
		return got == -EAGAIN ? 0 : got;
	return sd_proxy_refuse_pending(proxy, watch, error);
}
