/* The maker: the one process of a session that keeps CAP_MKNOD, outside of the target's user
 * namespace. It works on descriptors alone, in a mount namespace that holds nothing but its own
 * tmpfs, and below a ceiling that its parent set: devices and ids that it was not born with cannot
 * be asked of it by anybody. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/securebits.h>
#include <linux/stat.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif

#define CAP(name) (1ULL << (name))

enum { NOBODY = 0xfffffffe, PROBE_DEVICE = 0x103, MOST_GIVEN = 2 };

struct known_fs {
	uint64_t fs_id;
	dev_t dev;
	int theirs;
};

enum { KNOWN = 64 };

struct maker {
	struct known_fs known[KNOWN];
	const struct sd_ceiling *ceiling;
	uint64_t permitted;
	dev_t own_dev; /* of our tmpfs */
	uint32_t group_count;
	uint32_t groups[SD_GROUPS];
	uint64_t made;
	int ids_known;
	uint32_t fsuid, fsgid, mask; /* ours now */
	struct sd_mounting mounting;
};

static void change_mask(struct maker *maker, uint32_t mask)
{
	if (mask != maker->mask)
		umask(mask);
	maker->mask = mask;
}

static int become(struct maker *maker, uint32_t uid, uint32_t gid)
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
	return become(maker, uid, gid);
}

/* Whether nobody may make a file here whom a user namespace does not map. The kernel says so to
 * somebody whom none maps: EOVERFLOW, long before it would look for a capability; and without
 * CAP_MKNOD it never creates anything here. */
static int wants_mapped_ids(struct maker *maker, const struct sd_make *make, int dir)
{
	/* CAP_DAC_OVERRIDE, or a directory that is not for everybody would say EACCES before */
	if (become(maker, NOBODY, NOBODY) || sd_set_caps(CAP(CAP_DAC_OVERRIDE), maker->permitted))
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
	struct known_fs *known = &maker->known[make->fs_id % KNOWN];
	int lasting = make->fs_type == TMPFS_MAGIC && make->fs_id;
	if (lasting && known->fs_id == make->fs_id && known->dev == dev)
		return known->theirs;
	int theirs = wants_mapped_ids(maker, make, dir);
	if (theirs < 0)
		return theirs;
	/* the id of a tmpfs is a random number of its own; others may come again */
	if (lasting)
		*known = (struct known_fs){make->fs_id, dev, theirs};
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

static int real_node(struct maker *maker, const struct sd_make *make, int dir)
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
static int node_at(struct maker *maker, struct sd_make *make, int base, int *parent)
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
	return real_node(maker, make, *parent);
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
static int private_node(struct maker *maker, const struct sd_make *make, int *tree)
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
static void change_links(const struct maker *maker, const struct sd_make *make)
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

/* With the capabilities of root that mounting takes, while it takes them. The mount goes to the
 * resolver behind `channel`, which brings it to its place. After the answer comes a single byte, once
 * we have tidied up and hold nothing of it any more; but for AGAIN. 0, or -errno where the session
 * has gone. */
static int answer_mount(struct maker *maker, struct sd_new_mount *new, int *fds)
{
	struct sd_mounted mounted = {0};
	int again = new->kind == SD_NEW_AGAIN, channel = again ? -1 : fds[0];
	int tree = -EPERM;
	sd_follow(new->cpu);
	if (!become(maker, 0, 0) && !sd_set_caps(maker->permitted, maker->permitted))
		tree = sd_mount_filesystem(&maker->mounting, new, again ? fds[0] : fds[1], &mounted);
	if (tree > 0) {
		int sent = sd_send_fds(channel, "t", 1, &tree, 1);
		close(tree);
		tree = sent < 0 ? sent : 0;
	}
	for (int i = 0; i < MOST_GIVEN; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	mounted.error = tree;
	int sent = sd_send_fds(0, &mounted, sizeof mounted, NULL, 0);
	sd_mounting_clear(&maker->mounting);
	sd_set_caps(0, maker->permitted);
	if (sent >= 0 && !again)
		sent = sd_send_fds(0, "c", 1, NULL, 0);
	return sent < 0 ? sent : 0;
}

static void serve(struct maker *maker)
{
	static union {
		struct sd_make make;
		struct sd_new_mount mount;
	} asked;
	for (;;) {
		struct sd_made made = {-EINVAL};
		int fds[MOST_GIVEN], give = -1;
		int size = sd_receive_fds(0, &asked, sizeof asked, fds, MOST_GIVEN);
		if (size <= 0)
			_exit(0);
		if (asked.mount.op == SD_MAKE_MOUNT && size == (int)sizeof asked.mount) {
			if (answer_mount(maker, &asked.mount, fds) < 0)
				_exit(1);
			continue;
		}
		int fd = fds[0];
		if (fds[1] >= 0)
			close(fds[1]);
		struct sd_make make = asked.make;
		make.name[sizeof make.name - 1] = 0;
		if (make.op == SD_MAKE_DROP || make.op == SD_MAKE_LINK) {
			if (size == (int)sizeof make)
				change_links(maker, &make);
			if (fd >= 0)
				close(fd);
			continue;
		}
		sd_follow(make.cpu);
		if (size != (int)sizeof make || !make.name[0])
			made.error = -EINVAL;
		else if (make.op == SD_MAKE_LEND)
			made.error = sd_lend(&make, maker->permitted, &give);
		else if (!sd_allowed(maker->ceiling, make.mode, make.device))
			made.error = -EPERM;
		else if (make.op == SD_MAKE_NODE)
			made.error = real_node(maker, &make, fd);
		else if (make.op == SD_MAKE_PRIVATE)
			made.error = private_node(maker, &make, &give);
		else if (make.op == SD_MAKE_AT)
			made.error = node_at(maker, &make, fd, &give);
		sd_set_caps(0, maker->permitted);
		if (give >= 0 && made.error != SD_NEEDS_BIND && make.op != SD_MAKE_PRIVATE &&
		    make.op != SD_MAKE_LEND) {
			if (give != fd)
				close(give);
			give = -1;
		}
		if (fd >= 0 && fd != give)
			close(fd);
		if (sd_reply(0, &made, sizeof made, give) < 0)
			_exit(1);
	}
}

static int make_home(struct maker *maker)
{
	struct stat own;
	char options[64];
	snprintf(options, sizeof options, "mode=0777,size=64k,nr_inodes=%u",
		 maker->ceiling->most_private ? maker->ceiling->most_private : 65536);
	if (unshare(CLONE_NEWNS))
		return -errno;
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	sd_lend_prepare(maker->ceiling);
	int error = sd_mounting_prepare(&maker->mounting, maker->ceiling);
	if (!error)
		error = sd_pivot_into(options, NULL);
	if (!error)
		error = sd_mounting_settle(&maker->mounting, proc);
	if (!error)
		error = sd_lend_settle();
	if (proc >= 0)
		close(proc);
	if (error)
		return error;
	if (stat("/", &own))
		return -errno;
	maker->own_dev = own.st_dev;
	maker->mask = 0;
	umask(0);
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT, 0, 0, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_setgroups, 0, NULL))
		return -errno;
	maker->permitted = CAP(CAP_MKNOD) | CAP(CAP_SYS_ADMIN) | CAP(CAP_DAC_OVERRIDE) |
			   CAP(CAP_FSETID) | CAP(CAP_FOWNER) | CAP(CAP_SETUID) | CAP(CAP_SETGID);
	if (maker->ceiling->mount_count) /* to come and go between its own mount namespaces */
		maker->permitted |= CAP(CAP_SYS_CHROOT);
	error = sd_set_caps(0, maker->permitted);
	sd_harden();
	return error;
}

/* Forks a maker below `ceiling`, which has to stay as it is in this process until then. Its first
 * message says whether it is ready: 0 or -errno. Needs real root. */
int sd_maker_spawn(const struct sd_ceiling *ceiling, struct sd_child *child)
{
	int pid = sd_fork_helper(child, "seccompd-make");
	if (pid > 0 && ceiling->mount_count) /* no descriptor but its socket lives through the fork */
		sd_send_fds(child->sock, "u", 1, &ceiling->userns, ceiling->userns >= 0);
	if (pid)
		return pid;
	static struct maker maker;
	char word;
	setsid(); /* where the kernel shares processors by sessions, it is not the zygote's share */
	maker.ceiling = ceiling;
	maker.mounting.userns = -1;
	if (ceiling->mount_count)
		sd_receive_fds(0, &word, 1, &maker.mounting.userns, 1);
	int32_t ready = make_home(&maker);
	if (sd_send_fds(0, &ready, sizeof ready, NULL, 0) < 0 || ready)
		_exit(1);
	serve(&maker);
	_exit(0);
}
