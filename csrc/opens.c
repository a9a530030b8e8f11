/* The resolver's part of opens: where a path leads, as the caller would get there, and opening what
 * is given in its place. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINKED = 1, MOST_LINKS = 40 };

/* The name of what is open, below the caller's root directory. */
static int found(struct sd_caller *caller, struct sd_home *home, int fd, struct sd_told *told)
{
	int32_t length = -1;
	int error = sd_find_name(caller, home, fd, told->path, &length);
	told->path_length = length;
	return error;
}

/* Adds names that are not there to the directory that is: as written, since nothing can be followed. */
static int append(struct sd_told *told, const char *rest)
{
	size_t length = (size_t)told->path_length;
	while (*rest) {
		size_t name = strcspn(rest, "/");
		if (name == 2 && !memcmp(rest, "..", 2))
			return -ENOENT;
		if (name && !(name == 1 && *rest == '.')) {
			if (length + 1 + name > sizeof told->path)
				return -ENAMETOOLONG;
			if (length > 1)
				told->path[length++] = '/';
			memcpy(told->path + length, rest, name);
			length += name;
		}
		rest += name + strspn(rest + name, "/");
	}
	told->path_length = (int)length;
	return 0;
}

/* Puts what a symbolic link says in its own place, which is in the directory of `told`. */
static int replace_link(char *path, const char *target, const char *rest, const struct sd_told *told)
{
	char whole[SD_PATH_MAX];
	int below = *target == '/' ? 0 : told->path_length;
	int length = snprintf(whole, sizeof whole, "%.*s/%s%s", below, told->path, target, rest);
	if (length >= (int)sizeof whole)
		return -ENAMETOOLONG;
	memcpy(path, whole, (size_t)length + 1);
	return LINKED;
}

/* The path leads nowhere: where would that be? LINKED: where `path` leads now, which is where the symbolic
 * link leads that the way ends with. With O_CREAT the kernel would make something there. */
static int missing(struct sd_caller *caller, struct sd_home *home, char *path, struct sd_told *told)
{
	char name[NAME_MAX + 1], target[SD_PATH_MAX];
	char parent[SD_PATH_MAX];
	size_t end = strlen(path);
	int directory = -ENOENT;
	while (directory == -ENOENT && end) {
		while (end && path[end - 1] == '/')
			end--;
		while (end && path[end - 1] != '/')
			end--;
		memcpy(parent, path, end);
		parent[end] = 0;
		directory = sd_walk(home, caller, 0, end ? parent : ".", 1, 1);
	}
	if (directory < 0)
		return directory;
	size_t length = strcspn(path + end, "/");
	ssize_t linked = -1;
	if (length < sizeof name) {
		memcpy(name, path + end, length);
		name[length] = 0;
		linked = readlinkat(directory, name, target, sizeof target - 1);
	}
	int error = found(caller, home, directory, told);
	close(directory);
	if (error || told->path_length < 0)
		return error;
	if (linked <= 0)
		return append(told, path + end);
	target[linked] = 0;
	return replace_link(path, target, path + end + length, told);
}

/* A path of which it is known where it leads, if there is no symbolic link on its way: that is seen
 * from where it starts, and the caller's mount namespace need not be entered. Where a name is missing
 * none of those behind it can be a link. */
static int is_plain(const struct sd_caller *caller, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	char start[SD_PATH_MAX];
	size_t end = strlen(path);
	int fd = -1;
	memcpy(start, path, end + 1);
	while (end > 1) {
		fd = (int)syscall(SYS_openat2, caller->base[0], start + 1, &how, sizeof how);
		if (fd >= 0 || errno != ENOENT)
			break;
		how.flags |= O_DIRECTORY;
		while (end > 1 && start[--end] != '/')
			;
		start[end] = 0;
	}
	if (fd >= 0)
		close(fd);
	return fd >= 0 || end == 1;
}

static int look(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
		struct sd_told *told)
{
	char path[SD_PATH_MAX];
	const char *written = sd_ask_text(ask, 0);
	const size_t size = strlen(written) + 1;
	int follow = !(ask->flags & (SD_OPEN_NOFOLLOW | SD_OPEN_NEW));
	int fd = -ENOENT, error = LINKED;
	struct stat file;
	if (size == 1 || size > sizeof path)
		return size == 1 ? -ENOENT : -ENAMETOOLONG;
	memcpy(path, written, size);
	for (int links = 0; error == LINKED; links++) {
		told->path_length = -1;
		if (links > MOST_LINKS)
			return -ELOOP;
		fd = sd_walk(home, caller, 0, path, 0, follow);
		if (fd != -ENOENT)
			break;
		error = missing(caller, home, path, told);
	}
	if (fd < 0)
		return fd == -ENOENT ? error : fd;
	error = found(caller, home, fd, told);
	if (!error && !follow && !fstat(fd, &file) && S_ISLNK(file.st_mode))
		error = ask->flags & SD_OPEN_NEW ? -EEXIST
			: ask->call_flags & O_DIRECTORY ? -ENOTDIR : -ELOOP;
	close(fd);
	return error;
}

static int leads(const struct sd_ask *ask, const struct sd_told *told)
{
	return ask->length[1] != SD_NO_TEXT && told->path_length == ask->length[1] &&
	       !memcmp(told->path, sd_ask_text(ask, 1), ask->length[1]);
}

struct reopening {
	int net_ns, dir, flags, result;
	char name[32];
	uint64_t caps; /* the caller's */
};

/* In that network namespace, and then as the caller. */
static int reopen(void *argument)
{
	struct reopening *it = argument;
	it->result = setns(it->net_ns, CLONE_NEWNET) ? -errno : sd_set_caps(it->caps, it->caps);
	if (!it->result)
		it->result = sd_open_unblocking(it->dir, it->name, it->flags);
	return 0;
}

static int is_ours(int net_ns, int task)
{
	struct stat theirs, ours;
	return !fstat(net_ns, &theirs) && !fstatat(task, "../self/ns/net", &ours, 0) &&
	       theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
}

/* There is no way back from a network namespace of the container's: it is another process that goes
 * there, with our descriptors, for as long as the open takes. */
static int reopen_there(struct reopening *it)
{
	static char stack[64 << 10] __attribute__((aligned(16)));
	int pid = clone(reopen, stack + sizeof stack,
			CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, it);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return it->result;
}

void sd_do_open(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
		struct sd_told *told, const int *held, int *give)
{
	if (ask->length[1] != SD_NO_TEXT && caller->base[0] >= 0 &&
	    is_plain(caller, sd_ask_text(ask, 1))) {
		told->path_length = ask->length[1];
		memcpy(told->path, sd_ask_text(ask, 1), ask->length[1]);
	} else if (!(ask->flags & SD_OPEN_DECIDED)) {
		told->error = look(caller, home, ask, told);
		if (told->error || !leads(ask, told))
			return;
	}
	told->flags |= SD_TOLD_LEADS;
	if (held[1] < 0)
		return;
	struct reopening it = {caller->net_ns, held[1], (int)ask->call_flags, -EPERM, SD_LENT_NAME,
			       caller->as_caller};
	told->error = sd_go_home(home, caller);
	if (!told->error)
		told->error = sd_act_as_self(home);
	if (!told->error && !(ask->flags & SD_OPEN_PLACE)) {
		/* now: the caller itself may not be let into its own directory there (hidepid) */
		it.dir = openat(caller->task, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		told->error = it.dir < 0 ? -errno : 0;
		it.flags &= ~O_NOFOLLOW;
		snprintf(it.name, sizeof it.name, "self/fd/%d", held[1]);
	}
	if (told->error)
		return;
	if (!(ask->flags & SD_OPEN_NET) || (it.net_ns >= 0 && is_ours(it.net_ns, caller->task))) {
		it.result = sd_act_as_caller_alone(home, caller);
		if (!it.result)
			it.result = sd_open_unblocking(it.dir, it.name, it.flags);
	} else if (it.net_ns >= 0) {
		it.result = reopen_there(&it);
	}
	if (it.dir != held[1])
		close(it.dir);
	told->error = it.result < 0 ? it.result : 0;
	if (it.result >= 0)
		*give = it.result;
}
