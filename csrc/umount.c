/* umount of a file system that nodes of ours stand on. Each is a mount, so the kernel would find
 * the file system busy, where a real node goes with it. They are taken away first; where the umount
 * then fails, they are put back. Whatever else is mounted there is left to the kernel.
 *
 * And umount of what a FUSE program of ours serves, for whose last writes the caller has to wait: so
 * it is done here. Nobody asks the program anything, for it may hang. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_CHILDREN = 64 };

struct child {
	unsigned long long id;
	char *path; /* below the caller's root directory */
	int tree;   /* what is put back, or -1 */
	int taken;
	struct stat node;
};

struct children {
	struct child at[MOST_CHILDREN];
	size_t count;
};

int32_t sd_name_of(int task, int fd, char *name)
{
	char link[32];
	snprintf(link, sizeof link, "../self/fd/%d", fd);
	ssize_t length = readlinkat(task, link, name, SD_PATH_MAX);
	if (length <= 0 || length >= SD_PATH_MAX || name[0] != '/')
		return -1;
	return (int32_t)length;
}

/* Nobody is asked who may serve the file. */
static int same_file(int file, int other)
{
	const unsigned int want = STATX_INO | STATX_MNT_ID;
	struct statx a, b;
	return other >= 0 && !syscall(SYS_statx, file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, want, &a) &&
	       !syscall(SYS_statx, other, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, want, &b) &&
	       (a.stx_mask & b.stx_mask & want) == want && a.stx_ino == b.stx_ino &&
	       a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor &&
	       a.stx_mnt_id == b.stx_mnt_id;
}

int sd_find_name(struct sd_caller *caller, struct sd_home *home, int fd, char *name, int32_t *length)
{
	struct open_how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	char path[SD_PATH_MAX];
	*length = -1;
	int error = sd_be_there(home, caller);
	int32_t found = error ? -1 : sd_name_of(caller->task, fd, name);
	if (found < 0)
		return error;
	memcpy(path, name, (size_t)found);
	path[found] = 0;
	/* the caller need not be able to search all directories above its own */
	error = sd_act_as_self(home);
	if (error)
		return error;
	int there = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
	if (same_file(fd, there))
		*length = found;
	if (there >= 0)
		close(there);
	return sd_act_as_caller(home, caller);
}

static int is_child(const struct children *children, unsigned long long id)
{
	for (size_t i = 0; i < children->count; i++)
		if (children->at[i].id == id)
			return 1;
	return 0;
}

/* The mounts on `target`. -EBUSY: some have mounts of their own, or there are too many; -EINVAL: it
 * is not `target` that stands there. */
static int find(struct children *children, FILE *mounts, unsigned long long target,
		const char *where)
{
	struct sd_mount_line line = {0};
	int error = 0, seen = 0;
	for (int pass = 0; pass < 2; pass++) {
		rewind(mounts);
		while (sd_next_mount(mounts, &line)) {
			if (error)
				continue;
			if (pass && is_child(children, line.parent))
				error = -EBUSY;
			if (pass || (line.id != target && line.parent != target))
				continue;
			if (line.id == target) {
				seen |= !strcmp(line.path, where);
				continue;
			}
			char *path = children->count == MOST_CHILDREN ? NULL : strdup(line.path);
			if (!path)
				error = -EBUSY;
			else
				children->at[children->count++] =
					(struct child){.id = line.id, .path = path, .tree = -1};
		}
	}
	return seen ? error : -EINVAL;
}

static void forget(struct children *children)
{
	for (size_t i = 0; i < children->count; i++)
		free(children->at[i].path);
	children->count = 0;
}

static int open_child(struct child *child)
{
	int fd = open(child->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && sd_mount_of(fd, NULL) == child->id && sd_is_ours(fd, &child->node))
		child->tree = (int)syscall(SYS_open_tree, fd, "",
					   OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH);
	if (fd >= 0)
		close(fd);
	return child->tree < 0 ? -EBUSY : 0;
}

static void put_back(struct children *children)
{
	for (size_t i = 0; i < children->count; i++) {
		struct child *child = &children->at[i];
		if (!child->taken)
			continue;
		int fd = open(child->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && !syscall(SYS_move_mount, child->tree, "", fd, "",
					MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
			child->taken = 0;
		if (fd >= 0)
			close(fd);
	}
}

static int try_umount(const char *where, int flags)
{
	return umount2(where, flags | UMOUNT_NOFOLLOW) ? -errno : 0;
}

/* 0, -errno of the umount, or 1: they are not nodes of ours */
static int take_away(struct children *children, const char *where, int flags)
{
	for (size_t i = 0; i < children->count; i++)
		if (open_child(&children->at[i]))
			return 1;
	int result = 0;
	for (size_t i = 0; i < children->count && !result; i++) {
		struct child *child = &children->at[i];
		child->taken = !umount2(child->path, MNT_DETACH | UMOUNT_NOFOLLOW);
		result = !child->taken;
	}
	if (!result)
		result = try_umount(where, flags);
	if (result)
		put_back(children);
	return result;
}

/* Whether it is a mount of ours that an umount is done for. MNT_FORCE takes a capability over the
 * filesystem, which of the kernel's mounts nobody in the container has; it does nothing there. */
static int is_listed(const struct sd_ask *ask, uint64_t device, int *flags)
{
	const char *list = sd_ask_text(ask, 1);
	struct sd_mounted_device one;
	for (size_t at = 0; list && at + sizeof one <= ask->length[1]; at += sizeof one) {
		memcpy(&one, list + at, sizeof one);
		if (one.device != device)
			continue;
		if (!one.program)
			*flags &= ~MNT_FORCE;
		return 1;
	}
	return 0;
}

/* Where the mount is, and which: 0 or -errno. Nothing of it is held afterwards. */
static int look(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
		char *where, unsigned long long *id, uint64_t *device)
{
	int fd = sd_walk(home, caller, 0, sd_ask_text(ask, 0), 0,
			 !(ask->call_flags & UMOUNT_NOFOLLOW));
	if (fd < 0)
		return fd;
	int error = sd_be_there(home, caller);
	*id = sd_mount_of(fd, device);
	int32_t length = error || !*id ? -1 : sd_name_of(caller->task, fd, where);
	close(fd);
	if (length < 2)
		return -EINVAL;
	where[length] = 0;
	return 0;
}

/* The session is told that it may take long now. */
static int begin(struct sd_told *told)
{
	sd_roam();
	told->flags = SD_TOLD_BEGUN;
	int sent = sd_send_fds(0, told, offsetof(struct sd_told, path), NULL, 0);
	told->flags = 0;
	return sent < 0 ? sent : 0;
}

static int carry_out(struct children *children, const char *where, int flags, int listed)
{
	int result = children->count ? take_away(children, where, flags) : 1;
	return result > 0 && listed ? try_umount(where, flags) : result;
}

void sd_do_umount(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
		  struct sd_told *told)
{
	static struct children children;
	char where[SD_PATH_MAX];
	unsigned long long id;
	uint64_t device;
	FILE *mounts = NULL;
	children.count = 0;
	int result = 1;
	if (caller->mountinfo >= 0 && caller->same_userns && !home->plain &&
	    caller->caps & 1ULL << CAP_SYS_ADMIN && !look(caller, home, ask, where, &id, &device))
		mounts = fdopen(caller->mountinfo, "r");
	if (mounts) {
		caller->mountinfo = -1;
		int flags = (int)ask->call_flags, listed = is_listed(ask, device, &flags);
		int error = find(&children, mounts, id, where);
		fclose(mounts);
		if (error == -EBUSY && listed) {
			forget(&children);
			error = 0;
		}
		if (!error && (children.count || listed) && !sd_act_as_self(home) && !begin(told))
			result = carry_out(&children, where, flags, listed);
		if (!result && listed)
			told->fs_dev = device;
	}
	/* what is gone has to be told in both cases: putting back may fail */
	uint64_t *gone = (void *)told->path;
	int32_t count = 0;
	for (size_t i = 0; i < children.count; i++) {
		struct child *child = &children.at[i];
		if (child->taken) {
			memcpy(gone + 2 * count, (uint64_t[]){child->node.st_dev, child->node.st_ino},
			       2 * sizeof *gone);
			count++;
			sd_count_closed(caller, home, &child->node, 0);
		}
		if (child->tree >= 0)
			close(child->tree);
		free(child->path);
	}
	if (count)
		told->path_length = count * 2 * (int32_t)sizeof *gone;
	if (result > 0)
		told->flags = SD_TOLD_LEFT_ALONE;
	else
		told->error = result;
}
