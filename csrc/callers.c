/* Who a caller is, as /proc/TID tells. */
#include "callers.h"
#include "compat.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STATUS_MAX = 65536, KNOWN = 8 };

static char text[STATUS_MAX]; /* of the status that was read last */

/* The value of the line that begins with `name`. Lines are asked for in the order that the kernel
 * has them in, so that the text is gone through once. */
static const char *field(const char **at, const char *name)
{
	size_t length = strlen(name);
	for (const char *from = *at; from; from = from == text ? NULL : text) {
		const char *end;
		for (const char *line = from; (end = strchr(line, '\n')); line = end + 1) {
			if (!strncmp(line, name, length)) {
				*at = line;
				return line + length;
			}
		}
	}
	return NULL;
}

/* Of Uid and Gid the second number is the effective id, the fourth that for file systems. */
static uint32_t number(const char *at, int which)
{
	char *end = (char *)at;
	unsigned long value = 0;
	for (int i = 0; i < which; i++)
		value = strtoul(end, &end, 10);
	return (uint32_t)value;
}

static int last_number(const char *at)
{
	int value = -1;
	while (*at && *at != '\n') {
		char *end;
		long got = strtol(at, &end, 10);
		if (end == at)
			break;
		value = (int)got;
		at = end;
	}
	return value;
}

/* A file of one record comes whole, if it fits; its size, or -errno. */
static int read_file(int fd, char *into, size_t size)
{
	ssize_t got = pread(fd, into, size - 1, 0);
	int result = got < 0 ? -errno : (int)got;
	into[got < 0 ? 0 : got] = 0;
	return result;
}

static int read_status(struct sd_caller *caller)
{
	int fd = caller->status;
	if (fd < 0)
		fd = openat(caller->task, "status", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int size = read_file(fd, text, sizeof text);
	if (caller->status < 0)
		close(fd);
	if (size < 0)
		return size;
	const char *at = text;
	const char *mask = field(&at, "Umask:\t"), *uid = field(&at, "Uid:\t");
	const char *gid = field(&at, "Gid:\t"), *groups = field(&at, "Groups:\t");
	const char *tgid = field(&at, "NStgid:\t"), *pid = field(&at, "NSpid:\t");
	const char *caps = field(&at, "CapEff:\t");
	/* a task without a umask has no file system state any more: it is exiting */
	if (!mask || !uid || !gid || !groups || !caps)
		return -ESRCH;
	caller->umask = (uint32_t)strtoul(mask, NULL, 8);
	caller->uid = number(uid, 1);
	caller->euid = number(uid, 2);
	caller->suid = number(uid, 3);
	caller->fsuid = number(uid, 4);
	caller->gid = number(gid, 1);
	caller->egid = number(gid, 2);
	caller->sgid = number(gid, 3);
	caller->fsgid = number(gid, 4);
	caller->caps = strtoull(caps, NULL, 16);
	caller->pid = pid ? last_number(pid) : -1;
	caller->tgid = tgid ? last_number(tgid) : -1;
	caller->group_count = 0;
	caller->groups_cut = 0;
	while (*groups != '\n' && *groups) {
		char *end;
		unsigned long id = strtoul(groups, &end, 10);
		if (end == groups)
			break;
		groups = *end == ' ' ? end + 1 : end;
		if (caller->group_count < SD_GROUPS)
			caller->groups[caller->group_count++] = (uint32_t)id;
		else
			caller->groups_cut = 1; /* fewer groups are fewer rights */
	}
	return 0;
}

int sd_look_at(struct sd_caller *caller, const char *userns)
{
	char theirs[64] = "";
	int error = read_status(caller);
	if (error)
		return error;
	if (readlinkat(caller->task, "ns/user", theirs, sizeof theirs - 1) < 0)
		return -errno;
	caller->same_userns = !strcmp(theirs, userns);
	/* capabilities in a namespace below ours are none in ours */
	if (!caller->same_userns)
		caller->caps = 0;
	return 0;
}

/* The files of those who called lately stay open, for to open them takes longer than to read them.
 * Nothing that was read is kept. Such a descriptor belongs to one thread for ever, and once that has
 * gone whatever is read through it is ESRCH: what can be read while a call waits is of its caller. */
static struct sd_known known[KNOWN];

static void forget(struct sd_known *one)
{
	const int fds[] = {one->task, one->status, one->comm, one->pidfd, one->cgroup};
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
		if (fds[i] > 0)
			close(fds[i]);
	memset(one, 0, sizeof *one);
}

void sd_forget_callers(void)
{
	for (int i = 0; i < KNOWN; i++)
		forget(&known[i]);
}

static int open_known(struct sd_known *one, uint32_t tid)
{
	char name[32];
	forget(one);
	snprintf(name, sizeof name, "/proc/%u", tid);
	one->task = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	one->status = one->task < 0 ? -1 : openat(one->task, "status", O_RDONLY | O_CLOEXEC);
	one->tid = tid;
	return one->status < 0 ? -errno : 0;
}

int sd_with_known(uint32_t tid, int (*look)(struct sd_known *, void *, const void *), void *result,
		      const void *more)
{
	static uint64_t calls;
	struct sd_known *one = &known[0];
	if (!tid)
		return -ESRCH;
	for (int i = 1; i < KNOWN && one->tid != tid; i++)
		if (known[i].tid == tid || known[i].used < one->used)
			one = &known[i];
	int error = one->tid == tid ? look(one, result, more) : -ESRCH;
	if (error) { /* or the number belongs to somebody else by now */
		error = open_known(one, tid);
		if (!error)
			error = look(one, result, more);
	}
	if (error)
		forget(one);
	one->used = ++calls;
	return error;
}

static int look_at(struct sd_known *one, void *result, const void *userns)
{
	struct sd_caller *caller = result;
	caller->task = one->task;
	caller->status = one->status;
	return sd_look_at(caller, userns);
}

int sd_look_at_known(struct sd_caller *caller, uint32_t tid, const char *userns)
{
	return sd_with_known(tid, look_at, caller, userns);
}

static int open_root(struct sd_known *one, void *result, const void *nothing)
{
	(void)nothing;
	int fd = openat(one->task, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	*(int *)result = fd;
	return fd < 0 ? -errno : 0;
}

int sd_root_of_known(uint32_t tid)
{
	int root, error = sd_with_known(tid, open_root, &root, NULL);
	return error ? error : root;
}

static int stat_root(struct sd_known *one, void *result, const void *nothing)
{
	(void)nothing;
	return syscall(SYS_statx, one->task, "root", AT_STATX_DONT_SYNC, SD_LOOK_STATX, result)
		       ? -errno : 0;
}

int sd_stat_root_of_known(uint32_t tid, struct statx *root)
{
	return sd_with_known(tid, stat_root, root, NULL);
}

static int open_mounts(struct sd_known *one, void *result, const void *nothing)
{
	(void)nothing;
	int fd = openat(one->task, "mountinfo", O_RDONLY | O_CLOEXEC);
	*(int *)result = fd;
	return fd < 0 ? -errno : 0;
}

int sd_mounts_of_known(uint32_t tid)
{
	int fd, error = sd_with_known(tid, open_mounts, &fd, NULL);
	return error ? error : fd;
}

/* What the link is called says it all, and to follow it takes twice as long. */
static int read_network(struct sd_known *one, void *result, const void *nothing)
{
	char link[32] = "";
	(void)nothing;
	if (readlinkat(one->task, "ns/net", link, sizeof link - 1) < 0)
		return -errno;
	return sscanf(link, "net:[%" SCNu64 "]", (uint64_t *)result) == 1 ? 0 : -ESRCH;
}

int sd_network_of_known(uint32_t tid, uint64_t *network)
{
	return sd_with_known(tid, read_network, network, NULL);
}

static int read_ids(struct sd_known *one, struct sd_identity *who)
{
	int size = read_file(one->status, text, sizeof text);
	if (size < 0)
		return size;
	const char *at = text;
	const char *tgid = field(&at, "Tgid:\t"), *uid = field(&at, "Uid:\t");
	const char *gid = field(&at, "Gid:\t"), *own = field(&at, "NSpid:\t");
	if (!tgid || !uid || !gid)
		return -ESRCH;
	who->tgid = (uint32_t)strtoul(tgid, NULL, 10);
	who->uid = number(uid, 2);
	who->gid = number(gid, 2);
	one->own_tid = own ? last_number(own) : -1;
	return 0;
}

static int ask_ids(struct sd_known *one, struct sd_identity *who)
{
	struct pidfd_info info = {.mask = PIDFD_INFO_CREDS};
	if (ioctl(one->pidfd, PIDFD_GET_INFO, &info))
		return -errno;
	if (info.pid != who->tid || !(info.mask & PIDFD_INFO_CREDS))
		return -ESRCH;
	who->tgid = info.tgid;
	who->uid = info.euid;
	who->gid = info.egid;
	return 0;
}

static int identify(struct sd_known *one, void *result, const void *by_pidfd)
{
	struct sd_identity *who = result;
	if (!one->comm) {
		one->comm = openat(one->task, "comm", O_RDONLY | O_CLOEXEC);
		if (one->comm < 0)
			return -errno;
	}
	int error = one->pidfd > 0 && one->own_tid ? ask_ids(one, who) : read_ids(one, who);
	if (error)
		return error;
	int length = read_file(one->comm, who->comm, sizeof who->comm);
	if (length < 0)
		return length;
	who->comm_length = length && who->comm[length - 1] == '\n' ? length - 1 : length;
	who->own_tid = one->own_tid;
	/* the first time it was the file that told all */
	if (*(const int *)by_pidfd && !one->pidfd)
		one->pidfd = (int)syscall(SYS_pidfd_open, who->tid, PIDFD_THREAD);
	return 0;
}

int sd_identify(uint32_t tid, int by_pidfd, struct sd_identity *who)
{
	memset(who, 0, sizeof *who);
	who->tid = tid;
	return sd_with_known(tid, identify, who, &by_pidfd);
}
