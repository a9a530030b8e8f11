/* What is done to a node that is a bind mount: unlink, rename, link; chmod, chown and utimens.
 *
 * A mount of ours is a device whose mount does not follow symlinks: nobody else asks for that on a
 * single node, copies of the mount namespace keep it, and it outlives every process of ours. Where
 * somebody did ask for it, it is their own mount, and they can take it away by other means.
 *
 * All that is not a node of ours is left alone, errors included: the kernel answers those. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x00002000
#endif
#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x00001000U
#endif

int sd_is_ours(int fd, struct stat *node)
{
	struct statfs fs;
	struct statx more;
	if (fstat(fd, node) || !(S_ISCHR(node->st_mode) || S_ISBLK(node->st_mode)))
		return 0;
	if (fstatfs(fd, &fs) || !(fs.f_flags & SD_ST_NOSYMFOLLOW))
		return 0;
	return !syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_TYPE, &more) &&
	       more.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

static int name_is_ours(int parent, const char *name, struct stat *node)
{
	int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return 0;
	int ours = sd_is_ours(fd, node);
	close(fd);
	return ours;
}

void sd_remember(struct sd_told *told, const struct stat *node, uint32_t flags)
{
	told->flags |= flags | (node->st_nlink > 1 ? SD_TOLD_OTHERS : 0);
	told->node_dev = node->st_dev;
	told->node_ino = node->st_ino;
}

/* A node that cannot be opened has as many names at home as in the container. Where that is another
 * resolver's home, they stay until it goes. */
void sd_count_closed(struct sd_caller *caller, struct sd_home *home, const struct stat *node,
		     int more)
{
	struct stat there;
	char first[32], other[48];
	if (home->plain || node->st_dev != home->dev || sd_go_home(home, caller) ||
	    sd_act_as_self(home))
		return;
	sd_closed_name(first, "node", node->st_ino);
	if (lstat(first, &there) || there.st_ino != node->st_ino)
		return;
	unsigned long links = there.st_nlink - (more ? 0 : 1);
	snprintf(other, sizeof other, "%s.%lu", first, links);
	if (more)
		(void)!link(first, other);
	else
		unlink(links ? other : first);
}

static void do_remove(struct sd_caller *caller, struct sd_home *home,
		      const struct sd_ask *ask, struct sd_told *told)
{
	const char *name;
	struct stat node;
	int parent = sd_walk_parent(home, caller, 0, sd_ask_text(ask, 0), &name);
	if (parent < 0 || !name_is_ours(parent, name, &node)) {
		told->flags = SD_TOLD_LEFT_ALONE;
	} else {
		told->error = sd_go_home(home, caller);
		if (!told->error && unlinkat(parent, name, 0))
			told->error = -errno;
		if (!told->error) {
			sd_remember(told, &node, SD_TOLD_UNBOUND);
			sd_count_closed(caller, home, &node, 0);
		}
	}
	if (parent >= 0)
		close(parent);
}

static void do_rename(struct sd_caller *caller, struct sd_home *home,
		      const struct sd_ask *ask, struct sd_told *told)
{
	enum { EXCHANGE = 2 };
	const char *name[2];
	struct stat node[2];
	int parent[2], ours[2] = {0, 0};
	for (int i = 0; i < 2; i++) {
		parent[i] = sd_walk_parent(home, caller, i, sd_ask_text(ask, i),
					   &name[i]);
		if (parent[i] >= 0)
			ours[i] = name_is_ours(parent[i], name[i], &node[i]);
	}
	if (parent[0] < 0 || parent[1] < 0 || !(ours[0] || ours[1])) {
		told->flags = SD_TOLD_LEFT_ALONE;
	} else {
		told->error = sd_go_home(home, caller);
		if (!told->error && syscall(SYS_renameat2, parent[0], name[0], parent[1], name[1],
					    ask->call_flags))
			told->error = -errno;
		if (!told->error && ours[1] && !(ask->call_flags & EXCHANGE) &&
		    !name_is_ours(parent[0], name[0], &node[0]))
			sd_remember(told, &node[1], SD_TOLD_UNBOUND);
	}
	for (int i = 0; i < 2; i++)
		if (parent[i] >= 0)
			close(parent[i]);
}

uint64_t sd_mount_of(int fd, uint64_t *device)
{
	struct statx more;
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &more) ||
	    !(more.stx_mask & STATX_MNT_ID))
		return 0;
	if (device)
		*device = makedev(more.stx_dev_major, more.stx_dev_minor);
	return more.stx_mnt_id;
}

/* A second name is a second placeholder with the same node mounted on it: the inode is the same,
 * which is what a link is. */
static int link_node(struct sd_caller *caller, struct sd_home *home, int node_fd,
		     const struct stat *node, int new_parent, const char *name)
{
	int error = sd_enter_mounts(home, caller);
	int tree = -1;
	if (!error) {
		tree = (int)syscall(SYS_open_tree, node_fd, "",
				    OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH);
		error = tree < 0 ? -errno : 0;
	}
	int back = sd_act_as_caller(home, caller);
	umask(0);
	int placeholder = error || back ? -1 : sd_place(new_parent, name, node->st_mode);
	if (placeholder >= 0) {
		error = sd_attach(caller, home, tree, placeholder);
		if (error < 0)
			sd_take_back(new_parent, name, placeholder);
		close(placeholder);
	} else if (!error) {
		error = back ? back : placeholder;
	}
	if (tree >= 0)
		close(tree);
	return error;
}

static void do_link(struct sd_caller *caller, struct sd_home *home,
		    const struct sd_ask *ask, struct sd_told *told)
{
	const char *old_name, *name;
	struct stat node;
	int follow = ask->call_flags & AT_SYMLINK_FOLLOW;
	int node_fd = -1, new_parent = -1;
	int old_parent = sd_walk_parent(home, caller, 0, sd_ask_text(ask, 0),
					&old_name);
	if (old_parent >= 0)
		node_fd = follow ? sd_walk(home, caller, 0, sd_ask_text(ask, 0), 0, 1)
				 : openat(old_parent, old_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (node_fd < 0 || !sd_is_ours(node_fd, &node)) {
		told->flags = SD_TOLD_LEFT_ALONE;
		goto out;
	}
	new_parent = sd_walk_parent(home, caller, 1, sd_ask_text(ask, 1), &name);
	if (new_parent < 0) {
		told->error = new_parent;
		goto out;
	}
	/* the kernel's order: the new name, then the mounts, then who may link, then permissions */
	int tried = sd_try_node(new_parent, name, S_IFCHR, 0x103);
	if (tried != -EPERM && tried != -EACCES)
		told->error = tried ? tried : -EEXIST;
	else if (sd_mount_of(old_parent, NULL) != sd_mount_of(new_parent, NULL))
		told->error = -EXDEV;
	else if (node.st_uid != caller->fsuid && !(caller->caps & 1ULL << CAP_FOWNER))
		told->error = -EPERM;
	else if (tried == -EACCES)
		told->error = -EACCES;
	else
		told->error = link_node(caller, home, node_fd, &node, new_parent, name);
	if (told->error == SD_GONE) {
		told->error = 0;
	} else if (!told->error) {
		sd_remember(told, &node, SD_TOLD_BOUND | SD_TOLD_LINKED);
		sd_count_closed(caller, home, &node, 1);
	}
out:
	if (node_fd >= 0)
		close(node_fd);
	if (new_parent >= 0)
		close(new_parent);
	if (old_parent >= 0)
		close(old_parent);
}

/* The host's inode is never touched. The container's root is told what it would hear of a node of
 * its own; whoever has no right to it hears EPERM from the kernel. */
static void do_change(struct sd_caller *caller, struct sd_home *home,
		      const struct sd_ask *ask, struct sd_told *told)
{
	struct stat node;
	int whole = ask->length[0] == SD_NO_TEXT;
	int may = caller->caps & 1ULL << ask->mode; /* the capability that a non-owner needs */
	int fd = whole ? caller->base[0]
		       : sd_walk(home, caller, 0, sd_ask_text(ask, 0), 0,
				 !(ask->call_flags & AT_SYMLINK_NOFOLLOW));
	if (fd < 0 || !caller->same_userns || !may || !sd_is_ours(fd, &node))
		told->flags = SD_TOLD_LEFT_ALONE;
	if (fd >= 0 && !whole)
		close(fd);
}

void sd_do_companion(struct sd_caller *caller, struct sd_home *home,
		     const struct sd_ask *ask, struct sd_told *told)
{
	switch (ask->op) {
	case SD_ASK_REMOVE:
		do_remove(caller, home, ask, told);
		break;
	case SD_ASK_RENAME:
		do_rename(caller, home, ask, told);
		break;
	case SD_ASK_LINK:
		do_link(caller, home, ask, told);
		break;
	case SD_ASK_CHANGE:
		do_change(caller, home, ask, told);
		break;
	case SD_ASK_UMOUNT:
		sd_do_umount(caller, home, ask, told);
		break;
	default:
		told->error = -EINVAL;
	}
}
