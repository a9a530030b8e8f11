/* From a path to a descriptor, as the caller would get there.
 *
 * The kernel walks by itself wherever it can. It must not follow magic links for us, since
 * /proc/self would be the helper's: where it stops at one, or does not find its way, the path is
 * walked again here, component by component, and `self` and `thread-self` of any procfs become the
 * caller's own directories there. Nothing of the helper's is ever resolved. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_LINKS = 40, PROC_ROOT_INO = 1 };

struct walk {
	struct sd_home *home;
	const struct sd_caller *caller;
	int at;        /* O_PATH, owned */
	int own;       /* below the caller's own directory of a procfs */
	int links;
	char rest[2 * SD_PATH_MAX]; /* what is still to be walked */
};

static int open_how(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
	int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
	return fd < 0 ? -errno : fd;
}

static int on_procfs(int fd)
{
	struct statfs fs;
	return !fstatfs(fd, &fs) && fs.f_type == PROC_SUPER_MAGIC;
}

static int is_proc_root(int fd)
{
	struct stat at;
	return on_procfs(fd) && !fstat(fd, &at) && at.st_ino == PROC_ROOT_INO;
}

static void move_to(struct walk *walk, int fd)
{
	if (walk->at >= 0 && walk->at != walk->caller->base[0] &&
	    walk->at != walk->caller->base[1])
		close(walk->at);
	walk->at = fd;
}

/* The caller's directory in the procfs at `walk->at`: the entry with the number that the caller
 * has in its own pid namespace is the caller itself only where that entry is in that namespace. */
static int enter_own(struct walk *walk, int thread)
{
	char name[64];
	struct stat theirs, callers;
	int pid = walk->caller->pid, tgid = walk->caller->tgid;
	if (pid <= 0 || tgid <= 0)
		return -EACCES;
	snprintf(name, sizeof name, "%d/task/%d/ns/pid", tgid, pid);
	int error = sd_act_as_self(walk->home);
	if (error)
		return error;
	int same = !fstatat(walk->at, name, &theirs, 0) &&
		   !fstatat(walk->caller->task, "ns/pid", &callers, 0) &&
		   theirs.st_ino == callers.st_ino && theirs.st_dev == callers.st_dev;
	int fd = -EACCES;
	if (same) {
		snprintf(name, sizeof name, thread ? "%d/task/%d" : "%d", tgid, pid);
		fd = openat(walk->at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	error = sd_act_as_caller_alone(walk->home, walk->caller);
	if (error && fd >= 0)
		close(fd);
	if (error || fd < 0)
		return error ? error : fd;
	move_to(walk, fd);
	walk->own = 1;
	return 0;
}

/* A number in the root of a procfs that is this very process (a caller without namespaces of its
 * own sees the host's). */
static int is_helper(int proc_root, const char *name)
{
	char self[32];
	ssize_t got = readlinkat(proc_root, "self", self, sizeof self - 1);
	if (got <= 0)
		return 0;
	self[got] = 0;
	return !strcmp(self, name);
}

/* A caller may always look into its own directory of /proc, whoever it has become. */
static int open_name(struct walk *walk, const char *name, int flags)
{
	if (walk->own && sd_act_as_self(walk->home))
		return -EPERM;
	int fd = openat(walk->at, name, O_PATH | O_CLOEXEC | flags);
	int error = fd < 0 ? -errno : 0;
	if (walk->own && sd_act_as_caller_alone(walk->home, walk->caller)) {
		if (fd >= 0)
			close(fd);
		return -EPERM;
	}
	return error ? error : fd;
}

/* fs.protected_symlinks, which the kernel applies to a last component alone */
static int may_follow_last(struct walk *walk, const struct stat *link)
{
	struct stat dir;
	if (fstat(walk->at, &dir) || link->st_uid == walk->caller->fsuid)
		return 1;
	if ((dir.st_mode & (S_ISVTX | S_IWOTH)) != (S_ISVTX | S_IWOTH))
		return 1;
	return dir.st_uid == link->st_uid;
}

static int prepend(struct walk *walk, const char *target, size_t length, const char *rest)
{
	size_t more = strlen(rest);
	if (length + 1 + more >= sizeof walk->rest)
		return -ENAMETOOLONG;
	memmove(walk->rest + length + (more ? 1 : 0), rest, more + 1);
	memcpy(walk->rest, target, length);
	if (more)
		walk->rest[length] = '/';
	return 0;
}

static int to_root(struct walk *walk)
{
	int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	move_to(walk, fd);
	walk->own = 0;
	return 0;
}

/* `fd` is a symbolic link named `name` in walk->at; `rest` is what comes after it. */
static int follow(struct walk *walk, int fd, const char *name, const char *rest)
{
	char target[SD_PATH_MAX];
	if (++walk->links > MOST_LINKS) {
		close(fd);
		return -ELOOP;
	}
	int proc = on_procfs(fd);
	if (proc && is_proc_root(walk->at)) {
		int thread = !strcmp(name, "thread-self");
		if (thread || !strcmp(name, "self")) {
			close(fd);
			int error = enter_own(walk, thread);
			return error ? error : prepend(walk, "", 0, rest);
		}
	}
	if (proc) {
		int probe = open_how(walk->at, name, O_PATH, RESOLVE_NO_MAGICLINKS);
		if (probe >= 0)
			close(probe);
		if (probe == -ELOOP) { /* a magic link: the kernel jumps, and checks who may */
			close(fd);
			int jumped = open_name(walk, name, 0);
			if (jumped < 0)
				return jumped;
			move_to(walk, jumped);
			walk->own = 0;
			return prepend(walk, "", 0, rest);
		}
	}
	ssize_t length = readlinkat(fd, "", target, sizeof target - 1);
	int error = length < 0 ? -errno : length == 0 ? -ENOENT : 0;
	close(fd);
	if (!error)
		error = prepend(walk, target, (size_t)length, rest);
	if (!error && target[0] == '/')
		error = to_root(walk);
	return error;
}

static int step(struct walk *walk, int follow_last)
{
	char name[256];
	char *start = walk->rest + strspn(walk->rest, "/");
	size_t length = strcspn(start, "/");
	if (length >= sizeof name)
		return -ENAMETOOLONG;
	memcpy(name, start, length);
	name[length] = 0;
	char *rest = start + length;
	int last = !rest[strspn(rest, "/")];
	struct stat found, here;
	if (fstat(walk->at, &here))
		return -errno;
	if (!S_ISDIR(here.st_mode))
		return -ENOTDIR;
	int up = !strcmp(name, "..");
	if (!up && is_proc_root(walk->at) && is_helper(walk->at, name))
		return -EACCES;
	int fd = open_name(walk, name, O_NOFOLLOW);
	if (fd < 0)
		return fd;
	if (fstat(fd, &found)) {
		int error = -errno;
		close(fd);
		return error;
	}
	if (S_ISLNK(found.st_mode) && (!last || *rest || follow_last)) {
		if (last && !*rest && !may_follow_last(walk, &found)) {
			close(fd);
			return -EACCES;
		}
		return follow(walk, fd, name, rest);
	}
	int leave = walk->own && (up || !on_procfs(fd));
	int must_be_directory = *rest && !S_ISDIR(found.st_mode);
	move_to(walk, fd);
	if (leave)
		walk->own = 0;
	if (must_be_directory)
		return -ENOTDIR;
	return prepend(walk, "", 0, rest);
}

static int walk_slowly(struct sd_home *home, const struct sd_caller *caller, int base,
		       const char *path, int follow_last)
{
	struct walk walk = {.home = home, .caller = caller, .at = -1};
	int error = 0;
	if (path[0] == '/')
		error = to_root(&walk);
	else
		walk.at = base;
	if (!error)
		error = prepend(&walk, path, strlen(path), "");
	while (!error && walk.rest[strspn(walk.rest, "/")])
		error = step(&walk, follow_last);
	if (!error && walk.at == base) /* the caller of this function owns what it gets */
		walk.at = openat(base, ".", O_PATH | O_CLOEXEC);
	if (error)
		move_to(&walk, -1);
	return error ? error : walk.at < 0 ? -errno : walk.at;
}

int sd_walk(struct sd_home *home, struct sd_caller *caller, int which, const char *path,
	    int directory, int follow)
{
	int base = caller->base[which];
	uint64_t flags = O_PATH | (directory ? O_DIRECTORY : 0) | (follow ? 0 : O_NOFOLLOW);
	if (base < 0)
		return base;
	/* Without symlinks, and without leaving where it starts, a path means the same from
	 * everywhere: most need neither the caller's root nor its mount namespace. */
	if (!caller->there) {
		int fd = open_how(base, path + strspn(path, "/"), flags,
				  RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
		if (fd >= 0)
			return fd;
	}
	int error = sd_be_there(home, caller);
	if (error)
		return error;
	int fd = open_how(base, path, flags, RESOLVE_NO_MAGICLINKS);
	if (fd != -ELOOP && fd != -ENOENT && fd != -EACCES)
		return fd;
	error = sd_act_as_caller_alone(home, caller);
	fd = error ? error : walk_slowly(home, caller, base, path, follow);
	if (sd_act_as_caller(home, caller) && fd >= 0) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

int sd_walk_parent(struct sd_home *home, struct sd_caller *caller, int which,
		   const char *path, const char **last)
{
	char parent[SD_PATH_MAX + 4];
	size_t end = strlen(path);
	if (end >= SD_PATH_MAX)
		return -ENAMETOOLONG;
	if (!end)
		return -ENOENT;
	while (end && path[end - 1] == '/')
		end--;
	while (end && path[end - 1] != '/')
		end--;
	*last = path + end;
	if (!**last) { /* nothing but slashes: a name that is always there */
		*last = ".";
		memcpy(parent, "/.", 3);
	} else if (end) {
		/* "/." has the kernel take the directory's own name for an intermediate one */
		memcpy(parent, path, end);
		memcpy(parent + end, ".", 2);
	} else {
		memcpy(parent, ".", 2);
	}
	return sd_walk(home, caller, which, parent, 1, 1);
}
