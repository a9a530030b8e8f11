/* What a listener is asked without reading what a call is about, by the session and its watchdog.
 *
 * The watch is a memfd that both share. Ids are in it from the moment the kernel hands them out
 * (NOTIF_RECV writes straight into it) to their answer, so that a session that dies or hangs leaves
 * nobody without an answer. */
#include "compat.h"
#include "proxy.h"
#include "receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

const uint32_t SD_ARCH_X86_64 = AUDIT_ARCH_X86_64;
const uint32_t SD_ARCH_I386 = AUDIT_ARCH_I386;

_Static_assert(sizeof(struct seccomp_notif) <= sizeof(((struct sd_watch *)0)->received),
	       "a notification fits into the watch");
_Static_assert(sizeof(struct sd_watch) <= SD_WATCH_SIZE, "a watch fits into its place");

char *sd_watches_map(int memfd)
{
	void *memory = mmap(NULL, SD_WATCHES * SD_WATCH_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    memfd, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

void sd_watches_unmap(char *watches)
{
	munmap(watches, SD_WATCHES * SD_WATCH_SIZE);
}

int sd_listener_state(int listener)
{
	struct pollfd p = {listener, POLLIN, 0};
	if (poll(&p, 1, 0) < 0)
		return -errno;
	if (p.revents & POLLIN)
		return 1;
	return p.revents & (POLLHUP | POLLERR | POLLNVAL) ? -ENOTCONN : 0;
}

int sd_id_valid(int listener, uint64_t id)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) ? -errno : 0;
}

int sd_set_sync_wake_up(int listener)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
		       ? -errno : 0;
}

int sd_task_start(int tid, uint32_t *tgid, uint64_t *start_time)
{
	char path[64], text[4096];
	snprintf(path, sizeof path, "/proc/%d/status", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0)
		return -ESRCH;
	text[got] = 0;
	const char *line = strstr(text, "\nTgid:");
	if (!line || sscanf(line, "\nTgid: %u", tgid) != 1)
		return -EINVAL;
	snprintf(path, sizeof path, "/proc/%u/stat", *tgid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0)
		return -ESRCH;
	text[got] = 0;
	/* the command's name may hold anything, a parenthesis too: fields count from the last one */
	const char *field = strrchr(text, ')');
	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	unsigned long long ticks;
	if (!field || sscanf(field, " %llu", &ticks) != 1)
		return -EINVAL;
	*start_time = ticks;
	return 0;
}

int sd_deadline_timer(void)
{
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return timer < 0 ? -errno : timer;
}

int sd_arm_timer(int timer, uint64_t in_ns)
{
	struct itimerspec in = {.it_value = {.tv_sec = (time_t)(in_ns / 1000000000u),
					     .tv_nsec = (long)(in_ns % 1000000000u)}};
	return timerfd_settime(timer, 0, &in, NULL) ? -errno : 0;
}

int sd_send_answer(int listener, struct seccomp_notif_resp *answer)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, answer) ? -errno : 0;
}

static int send_error(int listener, uint64_t id, int error)
{
	struct seccomp_notif_resp answer = {.id = id, .error = error};
	return sd_send_answer(listener, &answer);
}

int sd_refuse_pending(int listener, struct sd_watch *watch, int error)
{
	if (error >= 0 || error < LOWEST_ERRNO)
		return -EINVAL;
	int refused = 0;
	struct seccomp_notif last;
	memcpy(&last, watch->received, sizeof last);
	if (last.id && !send_error(listener, last.id, error))
		refused++;
	memset(watch->received, 0, sizeof watch->received);
	for (int i = 0; i < SD_PENDING; i++) {
		if (watch->pending[i] && !send_error(listener, watch->pending[i], error))
			refused++;
		watch->pending[i] = 0;
	}
	watch->reading_since = watch->armed_at = 0;
	watch->carried = 0;
	return refused;
}

int sd_receive_first(int listener, struct sd_watch *watch, uint32_t *tid)
{
	struct seccomp_notif *notif = (void *)watch->received;
	int state = sd_listener_state(listener);
	if (state <= 0)
		return state;
	memset(watch->received, 0, sizeof watch->received);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notif))
		return errno == ENOENT || errno == EINTR ? 0 : -errno;
	watch->pending[0] = watch->carried = notif->id;
	*tid = notif->pid;
	return 1;
}

int sd_refuse_next(int listener, struct sd_watch *watch, int error)
{
	uint32_t tid;
	if (error >= 0 || error < LOWEST_ERRNO)
		return -EINVAL;
	int received = sd_receive_first(listener, watch, &tid);
	return received <= 0 ? received : sd_refuse_pending(listener, watch, error);
}
