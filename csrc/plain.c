/* Whether a path surely leads where it says, seen without waiting for anybody and without becoming the
 * caller: it has no symbolic link, and everybody may go there. */
#include "mounts.h"
#include "openers.h"
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif

enum { MOST_MOUNTS = 500 }; /* so many lines are looked at */

/* The root directory of the last caller, from its look until sd_open_leave. While settled
 * opens come within a millisecond of each other it is kept for the next: to open it takes as long as all
 * the rest of a look, and to see that the next caller's is the same one does not. Who holds a directory keeps
 * everybody from unmounting it, but for the one at the top of a mount namespace, where nobody can: that
 * alone is kept. (Somebody could who makes another one the top, by pivot_root(2), at that very moment.) */
static struct {
	int fd;
	int stays; /* nobody can unmount it: so nobody is kept from that */
	struct statx at;
} root = {.fd = -1};

static int open_cached(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | flags,
		.resolve = RESOLVE_CACHED | resolve,
	};
	int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
	return fd < 0 ? -errno : fd;
}

int sd_open_cached(int dir, const char *path, uint64_t flags)
{
	return open_cached(dir, path, flags,
			   RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

static int look_at(int dir, struct statx *at)
{
	return syscall(SYS_statx, dir, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, SD_LOOK_STATX, at)
		       ? -errno : 0;
}

static int is_same(const struct statx *a, const struct statx *b)
{
	return a->stx_mask & b->stx_mask & STATX_MNT_ID && a->stx_mnt_id == b->stx_mnt_id &&
	       a->stx_ino == b->stx_ino && a->stx_dev_major == b->stx_dev_major &&
	       a->stx_dev_minor == b->stx_dev_minor;
}

void sd_open_leave(void)
{
	if (root.fd >= 0)
		close(root.fd);
	root.fd = -1;
	root.stays = 0;
}

int sd_open_stays(void)
{
	return root.fd >= 0;
}

/* It is at the top of its mount namespace, or of none: from there ".." leads nowhere. */
static int is_top(void)
{
	static struct statx other; /* the last one that is not */
	struct statx above;
	if (is_same(&root.at, &other))
		return 0;
	int fd = open_cached(root.fd, "..", O_DIRECTORY, 0);
	int top = fd >= 0 && !look_at(fd, &above) && is_same(&above, &root.at);
	if (fd >= 0)
		close(fd);
	if (!top)
		other = root.at;
	return top;
}

void sd_open_stay(void)
{
	if (root.fd < 0 || root.stays)
		return;
	root.stays = is_top();
	if (!root.stays)
		sd_open_leave();
}

/* 0, and `root` is that of a thread; or -errno. */
static int go_to_root(uint32_t tid)
{
	struct statx at;
	if (root.fd >= 0 && !sd_stat_root_of_known(tid, &at) && is_same(&at, &root.at)) {
		root.at = at;
		return 0;
	}
	sd_open_leave();
	int fd = sd_root_of_known(tid);
	if (fd < 0)
		return fd;
	root.fd = fd;
	return look_at(fd, &root.at);
}

/* The same, of what may not have been held meanwhile: all numbers are soon another's, but not with the same
 * time of birth. */
static int is_still(const struct statx *a, const struct statx *b)
{
	return is_same(a, b) && a->stx_mask & b->stx_mask & STATX_BTIME &&
	       a->stx_btime.tv_sec == b->stx_btime.tv_sec &&
	       a->stx_btime.tv_nsec == b->stx_btime.tv_nsec;
}

/* Whether a directory is of a filesystem in memory, which the caller's list of mounts says. */
static int is_memory(uint32_t tid, const struct statx *dir)
{
	static struct {
		struct statx dir;
		int memory;
	} seen[8], *one;
	static unsigned int next;
	const uint64_t device = makedev(dir->stx_dev_major, dir->stx_dev_minor);
	struct sd_mount_line line = {0};
	if (dir->stx_dev_major || !is_still(dir, dir))
		return 0;
	for (one = seen; one < seen + 8; one++)
		if (is_still(&one->dir, dir))
			return one->memory;
	one = &seen[next++ % 8];
	one->dir = *dir;
	one->memory = 0;
	int fd = sd_mounts_of_known(tid);
	FILE *mounts = fd < 0 ? NULL : fdopen(fd, "r");
	if (!mounts && fd >= 0)
		close(fd);
	for (int count = 0; mounts && count < MOST_MOUNTS && sd_next_mount(mounts, &line); count++)
		if (line.id == dir->stx_mnt_id && line.device == device)
			one->memory = line.memory;
	free(line.text);
	if (mounts)
		fclose(mounts);
	return one->memory;
}

/* What has that name: a descriptor, -ENOENT, or another error where that takes longer to find out. */
static int find(int dir, const char *name, uint64_t flags, uint32_t tid, const struct statx *at)
{
	static struct {
		struct statx dir;
		char name[64];
	} missing; /* the last one that was */
	int fd = sd_open_cached(dir, name, flags);
	if (fd >= 0 && !strcmp(name, missing.name))
		missing.name[0] = 0;
	if (fd != -EAGAIN || !is_memory(tid, at))
		return fd;
	/* All that is there is in the cache, and found there, unless somebody renames something, be it
	 * elsewhere, at that very moment: so it has to be missed twice, now or by two looks. */
	if (is_still(at, &missing.dir) && !strcmp(name, missing.name))
		return -ENOENT;
	fd = sd_open_cached(dir, name, flags);
	if (fd != -EAGAIN)
		return fd;
	const size_t size = strlen(name) + 1;
	missing.dir = *at;
	missing.name[0] = 0;
	if (size <= sizeof missing.name)
		memcpy(missing.name, name, size);
	return -ENOENT;
}

/* From `root` on; cuts `rest` up. */
static int is_plain(uint32_t tid, char *rest)
{
	struct statx at = root.at;
	int plain = -1, dir = root.fd;
	for (char *name = rest; plain < 0;) {
		char *end = strchr(name, '/');
		if (end)
			*end = 0;
		/* We walk with rights of our own, so only where everybody may. */
		int next = at.stx_mode & S_IXOTH ? find(dir, name, end ? O_DIRECTORY : 0, tid, &at)
						 : -EACCES;
		if (next == -ENOENT || (next >= 0 && !end))
			plain = 1; /* what is missing cannot be a link, nor what would be behind it */
		else if (next < 0 || look_at(next, &at))
			plain = 0;
		if (dir != root.fd)
			close(dir);
		dir = next;
		name = end ? end + 1 : name;
	}
	if (dir >= 0 && dir != root.fd)
		close(dir);
	return plain;
}

int sd_open_look(const struct sd_waiting *call, uint32_t tid, const char *path, size_t length)
{
	char rest[SD_PATH_MAX];
	if (length < 2 || length >= sizeof rest)
		return 0;
	memcpy(rest, path, length);
	rest[length] = 0;
	int plain = !go_to_root(tid) && !sd_id_valid(call->listener, call->id) && is_plain(tid, rest + 1);
	if (!plain)
		sd_open_leave();
	return plain;
}

int sd_open_is_plain(const struct sd_waiting *call, uint32_t tid, const char *path, size_t length)
{
	int plain = sd_open_look(call, tid, path, length);
	sd_open_leave();
	return plain;
}
