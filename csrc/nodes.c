/* Making a node: what the caller's own mknod would come to, and a bind mount of a node where a
 * real one is out of reach. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

enum { ATTR_NOSUID = 0x2, ATTR_NOEXEC = 0x8, ATTR_NOSYMFOLLOW = 0x200000 };

int sd_try_node(int parent, const char *name, uint32_t mode, uint64_t device)
{
	/* glibc's mknodat checks and converts; the kernel is to see what the caller gave */
	dev_t dev = (dev_t)device;
	unsigned int packed = (minor(dev) & 0xff) | major(dev) << 8 | (minor(dev) & ~0xffU) << 12;
	return syscall(SYS_mknodat, parent, name, mode, packed) ? -errno : 0;
}

int sd_resolved(int parent, const char *name, struct sd_told *told)
{
	char *path = told->path;
	if (fchdir(parent) || syscall(SYS_getcwd, path, SD_PATH_MAX) < 0 || path[0] != '/')
		return -EACCES; /* "(unreachable)", or not to be told */
	size_t length = strlen(path), more = strlen(name);
	if (length + 1 + more > sizeof told->path)
		return -ENAMETOOLONG;
	if (length > 1)
		path[length++] = '/';
	memcpy(path + length, name, more);
	told->path_length = (int)(length + more);
	return 0;
}

/* Whether a directory belongs to somebody whom the session's user namespace maps: elsewhere nothing
 * is made, whoever may write there. All that are not mapped show as one id, which may be mapped as
 * well. Then the kernel is asked: O_NOATIME is for a file's owner, and for who has CAP_FOWNER over
 * that owner. */
static int owner_is_mapped(struct sd_caller *caller, struct sd_home *home, int directory)
{
	struct stat at;
	if (fstat(directory, &at))
		return 0;
	if (at.st_uid != home->nobody)
		return 1;
	if (sd_act_as_self(home))
		return 0;
	int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_NOATIME | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return !sd_act_as_caller(home, caller) && fd >= 0;
}

/* The parent's descriptor where nothing but CAP_MKNOD is missing; -errno is final. */
static int check(struct sd_caller *caller, struct sd_home *home,
		 const struct sd_ask *ask, const char **name)
{
	int parent = sd_walk_parent(home, caller, 0, sd_ask_text(ask, 0), name);
	if (parent < 0)
		return parent;
	int error = sd_try_node(parent, *name, ask->mode, ask->device);
	int may = caller->same_userns && caller->caps & 1ULL << CAP_MKNOD;
	if (error == -EPERM && may) {
		if (!owner_is_mapped(caller, home, parent))
			error = -EACCES;
		else if (!(ask->flags & SD_WORK_PROBE))
			return parent;
	}
	close(parent);
	/* no answer but an errno is expected: a node that came to be was the kernel's own grant */
	return error ? error : -EEXIST;
}

void sd_do_resolve(struct sd_caller *caller, struct sd_home *home,
		   const struct sd_ask *ask, struct sd_told *told, int *give)
{
	const char *name;
	struct statfs fs;
	struct stat directory;
	int parent = check(caller, home, ask, &name);
	if (parent < 0) {
		told->error = parent;
		return;
	}
	if (ask->flags & SD_WORK_WANT_PATH) {
		told->error = sd_be_there(home, caller);
		if (!told->error)
			told->error = sd_resolved(parent, name, told);
		if (told->error) {
			close(parent);
			return;
		}
	}
	told->flags = SD_TOLD_PASSED;
	if (caller->caps & 1ULL << CAP_DAC_OVERRIDE)
		told->flags |= SD_TOLD_DAC;
	if (caller->caps & 1ULL << CAP_FSETID)
		told->flags |= SD_TOLD_FSETID;
	/* the maker must not be made to wait for a server; here we are the ones to wait */
	told->flags |= SD_TOLD_FOREIGN;
	if (!fstatfs(parent, &fs)) {
		if (fs.f_flags & ST_NODEV)
			told->flags |= SD_TOLD_NO_NODES;
		told->fs_type = (uint64_t)fs.f_type;
		memcpy(&told->fs_id, &fs.f_fsid, sizeof told->fs_id);
		if (sd_is_local(told->fs_type))
			told->flags &= ~(uint32_t)SD_TOLD_FOREIGN;
		else if (fs.f_type == OVERLAYFS_SUPER_MAGIC && !fstat(parent, &directory))
			told->fs_dev = directory.st_dev;
	}
	size_t length = strlen(name);
	memcpy(told->name, name, length < sizeof told->name ? length + 1 : 0);
	*give = parent;
}

void sd_closed_name(char name[32], const char *kind, uint64_t number)
{
	snprintf(name, 32, "/%s.%llx", kind, (unsigned long long)number);
}

int sd_place(int parent, const char *name, uint32_t mode)
{
	int fd = openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC,
			mode & 0777);
	if (fd >= 0)
		return fd;
	/* all permissions were there: this is a filesystem that makes no files, nor nodes */
	return errno == EACCES ? -EPERM : -errno;
}

void sd_take_back(int parent, const char *name, int placeholder)
{
	struct stat ours, there;
	if (!fstat(placeholder, &ours) && !fstatat(parent, name, &there, AT_SYMLINK_NOFOLLOW) &&
	    ours.st_ino == there.st_ino && ours.st_dev == there.st_dev)
		unlinkat(parent, name, 0);
}

static int attached(int tree, int placeholder)
{
	if (!syscall(SYS_move_mount, tree, "", placeholder, "",
		     MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
		return 0;
	struct stat file;
	if (errno == ENOENT && !fstat(placeholder, &file) && !file.st_nlink)
		return SD_GONE;
	/* a directory of a mount namespace that the caller is not in */
	return errno == EINVAL ? -EPERM : -errno;
}

int sd_attach(struct sd_caller *caller, struct sd_home *home, int tree,
	      int placeholder)
{
	int error = sd_enter_mounts(home, caller);
	if (!error)
		error = attached(tree, placeholder);
	int back = sd_act_as_caller(home, caller);
	return error ? error : back;
}

/* A detached mount of the host's node, with the marks of ours. Runs at home, with our own
 * capabilities. */
static int host_tree(const char *path, uint32_t mode, uint64_t device)
{
	struct stat node;
	struct sd_mount_attr attr = {
		.set = ATTR_NOSUID | ATTR_NOEXEC | ATTR_NOSYMFOLLOW,
		.propagation = MS_PRIVATE,
	};
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, path,
				OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0)
		return -EPERM;
	if (fstat(tree, &node) || (node.st_mode & S_IFMT) != (mode & S_IFMT) ||
	    node.st_rdev != device ||
	    syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr)) {
		close(tree);
		return -EPERM;
	}
	return tree;
}

static int bind_host(struct sd_caller *caller, struct sd_home *home,
		     const struct sd_ask *ask, int placeholder)
{
	int error = sd_go_home(home, caller);
	if (!error)
		error = sd_act_as_self(home);
	if (error)
		return error;
	int tree = host_tree(sd_ask_text(ask, 2), ask->mode, ask->device);
	if (tree < 0)
		return tree;
	error = sd_enter_mounts(home, caller);
	if (!error)
		error = attached(tree, placeholder);
	close(tree);
	return error;
}

void sd_do_bind(struct sd_caller *caller, struct sd_home *home,
		const struct sd_ask *ask, struct sd_told *told, int given)
{
	const char *name = sd_ask_text(ask, 0);
	int parent = given >= 0 ? given : check(caller, home, ask, &name);
	int placeholder = parent < 0 ? parent : sd_place(parent, name, ask->mode);
	if (placeholder < 0) {
		told->error = placeholder;
	} else {
		int error = bind_host(caller, home, ask, placeholder);
		if (error < 0 && !sd_act_as_caller(home, caller))
			sd_take_back(parent, name, placeholder);
		else if (error <= 0)
			told->flags = SD_TOLD_BOUND;
		told->error = error == SD_GONE ? 0 : error;
		close(placeholder);
	}
	if (parent >= 0 && parent != given)
		close(parent);
}

void sd_do_place(struct sd_caller *caller, struct sd_home *home,
		 const struct sd_ask *ask, struct sd_told *told, int parent, int *give)
{
	const char *name = sd_ask_text(ask, 0);
	struct stat file;
	/* who asks for a place may not have tried before */
	int placeholder = parent < 0 ? -EBADF : sd_try_node(parent, name, ask->mode, ask->device);
	if (placeholder == -EPERM)
		placeholder = owner_is_mapped(caller, home, parent)
				      ? sd_place(parent, name, ask->mode)
				      : -EACCES;
	if (placeholder <= 0) {
		told->error = placeholder ? placeholder : -EEXIST;
		return;
	}
	if (fstat(placeholder, &file)) {
		told->error = -errno;
		sd_take_back(parent, name, placeholder);
		close(placeholder);
		return;
	}
	told->mode = file.st_mode;
	told->uid = file.st_uid;
	told->gid = file.st_gid;
	*give = placeholder;
}

/* Home is a tmpfs of the container's user namespace: the kernel opens no device on it, whatever is
 * done to the flags of a mount of it. */
static int closed_tree(struct sd_caller *caller, struct sd_home *home, uint64_t id)
{
	char made[32], name[32];
	struct stat node;
	sd_closed_name(made, "new", id);
	int error = sd_go_home(home, caller);
	if (!error)
		error = sd_act_as_self(home);
	if (error || lstat(made, &node))
		return error ? error : -errno;
	/* by its inode it is found again when it goes */
	sd_closed_name(name, "node", node.st_ino);
	if (rename(made, name))
		return -errno;
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, name,
				OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0) {
		error = -errno;
		unlink(name);
		return error;
	}
	return tree;
}

void sd_drop_node(struct sd_home *home, const struct sd_ask *ask, struct sd_told *told, int tree)
{
	char made[32];
	struct stat node;
	if (ask->flags & SD_WORK_CLOSED && !sd_act_as_self(home)) {
		sd_closed_name(made, "new", ask->id);
		unlink(made);
	}
	if (tree >= 0 && !fstat(tree, &node))
		sd_remember(told, &node, SD_TOLD_UNBOUND);
}

void sd_do_attach(struct sd_caller *caller, struct sd_home *home,
		  const struct sd_ask *ask, struct sd_told *told, const int *held)
{
	struct stat node;
	if (held[1] < 0 || held[2] < 0) {
		told->error = -EBADF;
		return;
	}
	int tree = held[3];
	if (ask->flags & SD_WORK_CLOSED && ask->listener) {
		tree = closed_tree(caller, home, ask->id);
		told->error = tree < 0 ? tree : 0;
	}
	int known = tree >= 0 && !fstat(tree, &node);
	if (tree >= 0)
		told->error = sd_attach(caller, home, tree, held[2]);
	if (tree >= 0 && tree != held[3])
		close(tree);
	if (tree >= 0 && !told->error) {
		told->flags = SD_TOLD_BOUND;
		return;
	}
	if (known && tree == held[3])
		sd_remember(told, &node, SD_TOLD_UNBOUND);
	else if (known)
		sd_count_closed(caller, home, &node, 0);
	if (told->error == SD_GONE)
		told->error = 0;
	else if (!sd_act_as_caller(home, caller))
		sd_take_back(held[1], sd_ask_text(ask, 0), held[2]);
}
