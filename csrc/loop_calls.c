/* The session's side of loop devices: orders to a maker, and callers' descriptors. */
#include "compat.h"
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int sd_loop_ask(int maker, struct sd_loop_order *order, int image)
{
	order->op = SD_MAKE_LOOP;
	order->cpu = (uint32_t)sched_getcpu();
	int sent = sd_send_fds(maker, order, sizeof *order, &image, image >= 0);
	return sent < 0 ? sent : 0;
}

int sd_loop_told(int maker, struct sd_loop_answer *answer, int *fd, int linger_us)
{
	for (;;) {
		int given, there = sd_readable(maker, linger_us);
		if (there <= 0)
			return there ? -EPIPE : 0;
		int got = sd_receive_fds(maker, answer, sizeof *answer, &given, 1);
		if (got == 1 && given >= 0 && *fd < 0) {
			*fd = given; /* it travels ahead of its message */
			continue;
		}
		sd_drop(&given);
		return got == (int)sizeof *answer ? 1 : -EPIPE;
	}
}

/* The flags as open(2) knows them, of a line of octal digits. */
static int read_flags(uint32_t tid, int number, uint32_t *flags)
{
	char path[48], text[512];
	snprintf(path, sizeof path, "/proc/%u/fdinfo/%d", tid, number);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	text[got < 0 ? 0 : got] = 0;
	const char *line = strstr(text, "flags:");
	if (!line)
		return -EBADF;
	*flags = (uint32_t)strtoul(line + 6, NULL, 8);
	return 0;
}

int sd_held_look(const struct sd_waiting *call, uint32_t tid, int number, struct sd_held_file *file)
{
	struct statx found;
	char path[48];
	if (number < 0)
		return -EBADF;
	snprintf(path, sizeof path, "/proc/%u/fd/%d", tid, number);
	int fd = open(path, O_PATH | O_CLOEXEC);
	int error = fd < 0 ? -EBADF : read_flags(tid, number, &file->flags);
	if (!error && syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
			      STATX_TYPE | STATX_INO, &found))
		error = -EBADF;
	if (fd >= 0)
		close(fd);
	if (sd_id_valid(call->listener, call->id))
		return -ESRCH;
	if (error)
		return -EBADF;
	file->device = makedev(found.stx_dev_major, found.stx_dev_minor);
	file->inode = found.stx_ino;
	file->block_device = S_ISBLK(found.stx_mode) ? makedev(found.stx_rdev_major, found.stx_rdev_minor)
						     : 0;
	return 0;
}

int sd_held_put(const struct sd_waiting *call, int number, int fd, int closes_on_exec)
{
	struct seccomp_notif_addfd give = {
		.id = call->id, .flags = SECCOMP_ADDFD_FLAG_SETFD, .srcfd = (uint32_t)fd,
		.newfd = (uint32_t)number, .newfd_flags = closes_on_exec ? O_CLOEXEC : 0,
	};
	while (ioctl(call->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &give) < 0)
		if (errno != EINTR)
			return errno == ENOENT ? -ESRCH : -errno;
	return 0;
}
