/* Who a caller is, as /proc/TID tells. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATUS_MAX = 65536, KNOWN = 8 };

/* The value of the line that begins with `name`. Lines are asked for in the order that the kernel
 * has them in, so that the text is gone through once. */
static const char *field(const char **at, const char *text, const char *name)
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

/* The fourth number of Uid and Gid is the file system id. */
static uint32_t fourth(const char *at)
{
	char *end = (char *)at;
	unsigned long value = 0;
	for (int i = 0; i < 4; i++)
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

static int read_status(struct sd_caller *caller)
{
	static char text[STATUS_MAX];
	int fd = caller->status;
	if (fd < 0)
		fd = openat(caller->task, "status", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* a file of one record comes whole, if it fits */
	ssize_t size = pread(fd, text, sizeof text - 1, 0);
	int error = size < 0 ? -errno : 0;
	if (caller->status < 0)
		close(fd);
	if (error)
		return error;
	text[size] = 0;
	const char *at = text;
	const char *mask = field(&at, text, "Umask:\t"), *uid = field(&at, text, "Uid:\t");
	const char *gid = field(&at, text, "Gid:\t"), *groups = field(&at, text, "Groups:\t");
	const char *tgid = field(&at, text, "NStgid:\t"), *pid = field(&at, text, "NSpid:\t");
	const char *caps = field(&at, text, "CapEff:\t");
	/* a task without a umask has no file system state any more: it is exiting */
	if (!mask || !uid || !gid || !groups || !caps)
		return -ESRCH;
	caller->umask = (uint32_t)strtoul(mask, NULL, 8);
	caller->fsuid = fourth(uid);
	caller->fsgid = fourth(gid);
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
static struct known {
	uint32_t tid;
	int task, status;
	uint64_t used;
} known[KNOWN];

static void forget(struct known *one)
{
	if (one->tid) {
		close(one->status);
		close(one->task);
	}
	memset(one, 0, sizeof *one);
}

void sd_forget_callers(void)
{
	for (int i = 0; i < KNOWN; i++)
		forget(&known[i]);
}

static int open_known(struct known *one, uint32_t tid)
{
	char name[32];
	snprintf(name, sizeof name, "/proc/%u", tid);
	int task = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int status = task < 0 ? -1 : openat(task, "status", O_RDONLY | O_CLOEXEC);
	int error = -errno;
	if (status < 0) {
		if (task >= 0)
			close(task);
		return error;
	}
	*one = (struct known){.tid = tid, .task = task, .status = status};
	return 0;
}

int sd_look_at_known(struct sd_caller *caller, uint32_t tid, const char *userns)
{
	static uint64_t calls;
	struct known *one = &known[0];
	if (!tid)
		return -ESRCH;
	for (int i = 0; i < KNOWN && one->tid != tid; i++)
		if (known[i].tid == tid || known[i].used < one->used)
			one = &known[i];
	int error = -ESRCH;
	for (int fresh = one->tid != tid; error && fresh < 2; fresh++) {
		if (fresh) { /* or the number belongs to somebody else by now */
			forget(one);
			error = open_known(one, tid);
			if (error)
				return error;
		}
		caller->task = one->task;
		caller->status = one->status;
		error = sd_look_at(caller, userns);
	}
	one->used = ++calls;
	return error;
}
