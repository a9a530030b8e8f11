/* The maker's device nodes: in directories that a resolver opened or that it walks to by itself, and
 * in its own tmpfs. It takes on the caller's ids for each. */
#include "maker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif

enum { NOBODY = 0xfffffffe, PROBE_DEVICE = 0x103 };

static void change_mask(struct maker *maker, uint32_t mask)
{
	if (mask != maker->mask)
		umask(mask);
	maker->mask = mask;
}

int sd_maker_become(struct maker *maker, uint32_t uid, uint32_t gid)
{
	if (maker->ids_known && maker->fsuid == uid && maker->fsgid == gid)
		return 0;
	maker->ids_known = 0;
	int error = sd_set_caps(CAP(CAP_SETUID) | CAP(CAP_SETGID), maker->permitted);
	if (error)
		return error;
	setfsgid(gid);
	setfsuid(uid);
	/* -1 is no id: a call that changes nothing and says what is */
	if ((uint32_t)setfsuid((uid_t)-1) != uid || (uint32_t)setfsgid((gid_t)-1) != gid)
		return -EPERM;
	sd_harden();
	maker->fsuid = uid;
	maker->fsgid = gid;
	maker->ids_known = 1;
	return 0;
}

int sd_maker_become_root(struct maker *maker)
{
	if (maker->group_count) {
		if (sd_set_caps(CAP(CAP_SETGID), maker->permitted) || syscall(SYS_setgroups, 0, NULL))
			return -EPERM;
		maker->group_count = 0;
	}
	return sd_maker_become(maker, 0, 0);
}

/* The caller's ids and groups, as the initial namespace numbers them. A group that is not mapped
 * gives no right, and is left out. */
static int take_ids(struct maker *maker, const struct sd_make *make)
{
	const struct sd_ceiling *c = maker->ceiling;
	uint32_t uid, gid, groups[SD_GROUPS], count = 0;
	if (sd_outside(c->uids, c->uid_count, make->fsuid, &uid) ||
	    sd_outside(c->gids, c->gid_count, make->fsgid, &gid) || make->group_count > SD_GROUPS)
		return -EPERM;
	for (uint32_t i = 0; i < make->group_count; i++)
		if (!sd_outside(c->gids, c->gid_count, make->groups[i], &groups[count]))
			count++;
	if (count != maker->group_count || memcmp(groups, maker->groups, count * sizeof *groups)) {
		int error = sd_set_caps(CAP(CAP_SETGID), maker->permitted);
		if (error)
			return error;
		if (syscall(SYS_setgroups, count, groups))
			return -errno;
		maker->group_count = count;
		memcpy(maker->groups, groups, count * sizeof *groups);
	}
	return sd_maker_become(maker, uid, gid);
}

/* Whether nobody may make a file here whom a user namespace does not map. The kernel says so to
 * somebody whom none maps: EOVERFLOW, long before it would look for a capability; and without
 * CAP_MKNOD it never creates anything here. */
static int wants_mapped_ids(struct maker *maker, const struct sd_make *make, int dir)
{
	/* CAP_DAC_OVERRIDE, or a directory that is not for everybody would say EACCES before */
	if (sd_maker_become(maker, NOBODY, NOBODY) ||
	    sd_set_caps(CAP(CAP_DAC_OVERRIDE), maker->permitted))
		return -EPERM;
	return syscall(SYS_mknodat, dir, make->name, S_IFCHR, PROBE_DEVICE) && errno == EOVERFLOW;
}

/* Whether nodes of this filesystem cannot be opened since it belongs to a user namespace. */
static int owned_by_user_namespace(struct maker *maker, const struct sd_make *make, int dir,
				   dev_t dev)
{
	/* these cannot be mounted there */
	if (make->fs_type == EXT4_SUPER_MAGIC || make->fs_type == XFS_SUPER_MAGIC ||
	    make->fs_type == BTRFS_SUPER_MAGIC)
		return 0;
	struct sd_known_fs *known = &maker->known[make->fs_id % SD_KNOWN_FS];
	int lasting = make->fs_type == TMPFS_MAGIC && make->fs_id;
	if (lasting && known->fs_id == make->fs_id && known->dev == dev)
		return known->theirs;
	int theirs = wants_mapped_ids(maker, make, dir);
	if (theirs < 0)
		return theirs;
	/* the id of a tmpfs is a random number of its own; others may come again */
	if (lasting)
		*known = (struct sd_known_fs){make->fs_id, dev, theirs};
	return theirs;
}

/* Whether no device can be opened here, whoever asks for it and whatever a mount's flags are. Of a
 * device that may only be made closed this is certain or it is not made, so nothing that the asker
 * says is believed: it is a tmpfs of a user namespace, and the kernel refuses to open null. An
 * idmapped mount of another file system wants mapped ids, too, but opens it. */
static int opens_nothing(struct maker *maker, const struct sd_make *make, int dir)
{
	struct open_how how = {
		.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	struct statfs fs;
	if (fstatfs(dir, &fs) || fs.f_type != TMPFS_MAGIC || fs.f_flags & ST_NODEV ||
	    wants_mapped_ids(maker, make, dir) != 1 || take_ids(maker, make) ||
	    sd_set_caps(CAP(CAP_MKNOD) | CAP(CAP_DAC_OVERRIDE), maker->permitted) ||
	    sd_try_node(dir, make->name, S_IFCHR | 0600, PROBE_DEVICE))
		return 0;
	int fd = (int)syscall(SYS_openat2, dir, make->name, &how, sizeof how);
	int refused = fd < 0 && errno == EACCES;
	if (fd >= 0)
		close(fd);
	return !unlinkat(dir, make->name, 0) && refused;
}

int sd_make_real_node(struct maker *maker, const struct sd_make *make, int dir)
{
	const struct sd_ceiling *c = maker->ceiling;
	struct stat parent;
	if (dir < 0 || strchr(make->name, '/'))
		return dir < 0 ? -EBADF : -EINVAL;
	if (fstat(dir, &parent))
		return -errno;
	if (!S_ISDIR(parent.st_mode))
		return -ENOTDIR;
	if (!sd_is_mapped(c->uids, c->uid_count, parent.st_uid))
		return -EACCES;
	if (c->no_real_nodes && sd_allowed(c, make->mode, make->device) != SD_CLOSED)
		return -EPERM;
	if (sd_allowed(c, make->mode, make->device) == SD_CLOSED) {
		if (!opens_nothing(maker, make, dir))
			return -EPERM;
	} else if (!(make->flags & SD_MAKE_ANYWHERE)) {
		int theirs = owned_by_user_namespace(maker, make, dir, parent.st_dev);
		if (theirs)
			return theirs < 0 ? theirs : SD_NEEDS_BIND;
	}
	int error = take_ids(maker, make);
	if (error)
		return error;
	uint64_t caps = CAP(CAP_MKNOD);
	/* the caller's own right reaches as far as its map, and no further */
	if (sd_is_mapped(c->uids, c->uid_count, parent.st_uid) &&
	    sd_is_mapped(c->gids, c->gid_count, parent.st_gid)) {
		if (make->flags & SD_TOLD_DAC)
			caps |= CAP(CAP_DAC_OVERRIDE);
		if (make->flags & SD_TOLD_FSETID)
			caps |= CAP(CAP_FSETID);
	}
	error = sd_set_caps(caps, maker->permitted);
	if (error)
		return error;
	change_mask(maker, make->umask & 0777);
	return sd_try_node(dir, make->name, make->mode, make->device);
}

static int is_local(const struct sd_make *make, uint64_t device)
{
	for (int i = 0; i < SD_LOCAL && make->local[i]; i++)
		if (make->local[i] == device)
			return 1;
	return 0;
}

/* The short way of most calls: a path from where it starts, without a symlink, all of it known to
 * the kernel already (so that nobody can make us wait), and walked with the caller's own rights.
 * What does not go this way goes the long one; of our errors only EEXIST is the caller's. */
int sd_make_node_at(struct maker *maker, struct sd_make *make, int base, int *parent)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
			   RESOLVE_CACHED,
	};
	struct statfs fs;
	struct statx at;
	int error = take_ids(maker, make);
	if (error)
		return error;
	char *slash = strrchr(make->name, '/');
	if (slash) {
		*slash = 0;
		*parent = (int)syscall(SYS_openat2, base, make->name, &how, sizeof how);
		memmove(make->name, slash + 1, strlen(slash + 1) + 1);
	} else {
		*parent = base;
	}
	/* before it is asked anything that it could leave unanswered: what the kernel knows of it */
	if (*parent < 0 || syscall(SYS_statx, *parent, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
				   STATX_TYPE, &at))
		return -errno;
	if (!is_local(make, makedev(at.stx_dev_major, at.stx_dev_minor)) || fstatfs(*parent, &fs))
		return -EAGAIN;
	make->fs_type = (uint64_t)fs.f_type;
	memcpy(&make->fs_id, &fs.f_fsid, sizeof make->fs_id);
	if (!make->name[0])
		return -EAGAIN;
	if (fs.f_flags & ST_NODEV && !(make->flags & SD_MAKE_ANYWHERE))
		return SD_NEEDS_BIND;
	return sd_make_real_node(maker, make, *parent);
}

static void name_of(char *name, size_t size, uint64_t ino, unsigned int link)
{
	if (link)
		snprintf(name, size, "%llx.%u", (unsigned long long)ino, link);
	else
		snprintf(name, size, "%llx", (unsigned long long)ino);
}

/* A node of our own with the placeholder's owner and mode, and a detached mount of it. Its name
 * here is its inode number, so that nothing has to be remembered. The placeholder itself may be on
 * a file system that tells us nothing (FUSE), or late: it is the resolver who looks at it. */
int sd_make_private_node(struct maker *maker, const struct sd_make *make, int *tree)
{
	struct stat node;
	char new_name[32], name[32];
	/* our own tmpfs is one of the host's */
	if (sd_allowed(maker->ceiling, make->mode, make->device) != SD_OPEN)
		return -EPERM;
	int error = take_ids(maker, make);
	if (error)
		return error;
	/* CAP_FSETID: the bits are the placeholder's, and were checked there */
	error = sd_set_caps(CAP(CAP_MKNOD) | CAP(CAP_FSETID) | CAP(CAP_SYS_ADMIN),
			    maker->permitted);
	if (error)
		return error;
	change_mask(maker, 0);
	snprintf(new_name, sizeof new_name, "new.%llu", (unsigned long long)maker->made++);
	error = sd_try_node(AT_FDCWD, new_name, make->mode, make->device);
	if (error)
		return error;
	if (lstat(new_name, &node)) {
		error = -errno;
	} else {
		name_of(name, sizeof name, node.st_ino, 0);
		error = rename(new_name, name) ? -errno : 0;
	}
	if (error) {
		unlink(new_name);
		return error;
	}
	*tree = (int)syscall(SYS_open_tree, AT_FDCWD, name,
			     OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (*tree < 0) {
		error = -errno;
		unlink(name);
		return error;
	}
	return 0;
}

/* Names beside the first one are there for the link count alone. */
void sd_change_links(const struct maker *maker, const struct sd_make *make)
{
	struct stat node;
	char name[32], other[48];
	name_of(name, sizeof name, make->node_ino, 0);
	if (make->node_dev != maker->own_dev || lstat(name, &node) ||
	    sd_set_caps(CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FOWNER), maker->permitted))
		return;
	if (make->op == SD_MAKE_LINK) {
		name_of(other, sizeof other, make->node_ino, (unsigned int)node.st_nlink);
		if (link(name, other))
			return;
	} else {
		name_of(other, sizeof other, make->node_ino, (unsigned int)node.st_nlink - 1);
		unlink(other);
	}
}
