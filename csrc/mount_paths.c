/* The resolver's part of mounts: what target and source are, as the caller sees them, and bringing a
 * mount to its place. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <poll.h>
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

#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x00002000
#endif

enum { TARGET, MOUNT_NS, ROOT, SOURCE, GIVEN };

/* Without a question to a FUSE server. */
static int look_at(int fd, struct statx *found)
{
	return syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
		       STATX_TYPE, found) ? -errno : 0;
}

/* Opens anew what an O_PATH descriptor stands for, with the rights that we have now. */
static int open_again(int task, int fd, int flags)
{
	char link[32];
	snprintf(link, sizeof link, "../self/fd/%d", fd);
	int opened = openat(task, link, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return opened < 0 ? -errno : opened;
}

static int walk(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask, int which)
{
	const char *path = sd_ask_text(ask, which);
	return *path ? sd_walk(home, caller, which, path, 0, 1) : -ENOENT;
}

/* The device of the overlay that a file is on; a file there has that of its layer. 0: not known. */
static uint64_t overlay_of(int fd, const char *name, size_t length)
{
	char parent[SD_PATH_MAX];
	uint64_t device = 0;
	while (length > 1 && name[length - 1] != '/')
		length--;
	memcpy(parent, name, length);
	parent[length] = 0;
	int dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return 0;
	uint64_t mount = sd_mount_of(dir, &device);
	int same = mount && mount == sd_mount_of(fd, NULL);
	close(dir);
	return same ? device : 0;
}

/* Closes `fd`, which stands for the source. */
static int see_source(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask, int fd,
		      struct sd_seen *seen, int *give)
{
	struct stat found;
	struct statfs fs;
	if (fd < 0)
		return fd;
	int error = sd_be_there(home, caller);
	if (!error && (fstat(fd, &found) || fstatfs(fd, &fs)))
		error = -errno;
	if (!error && S_ISBLK(found.st_mode)) {
		seen->flags |= SD_SEEN_DEVICE;
		seen->major = major(found.st_rdev);
		seen->minor = minor(found.st_rdev);
		seen->source_ino = found.st_rdev;
		if (fs.f_flags & ST_NODEV)
			error = -EACCES;
	} else if (!error && S_ISREG(found.st_mode)) {
		seen->flags |= SD_SEEN_IMAGE;
		seen->source_dev = found.st_dev;
		seen->source_ino = found.st_ino;
		if (!sd_is_local((uint64_t)fs.f_type))
			seen->flags |= SD_SEEN_FOREIGN;
	} else if (!error) {
		error = -ENOTBLK;
	}
	/* who has to close a file that somebody serves may wait for that: so it is looked at first */
	int opens = !(ask->call_flags & SD_LOOK_FILE) || (ask->device && found.st_dev == ask->device);
	if (!error && opens && (seen->flags & SD_SEEN_IMAGE || ask->call_flags & SD_LOOK_DEVICE)) {
		int write = ask->call_flags & SD_LOOK_WRITE;
		int opened = open_again(caller->task, fd, write ? O_RDWR : O_RDONLY);
		if (opened < 0)
			error = opened;
		else
			*give = opened;
	}
	if (!error)
		seen->source_length = sd_name_of(caller->task, fd, seen->source);
	if (!error && fs.f_type == OVERLAYFS_SUPER_MAGIC && seen->source_length > 0)
		seen->source_fs = overlay_of(fd, seen->source, (size_t)seen->source_length);
	close(fd);
	return error;
}

/* Where a path leads, for whoever asks about no mount. */
static int see_place(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask,
		     struct sd_seen *seen, int *give)
{
	const char *last = "";
	if (ask->call_flags & SD_LOOK_PARENT)
		give[TARGET] = sd_walk_parent(home, caller, 0, sd_ask_text(ask, 0), &last);
	else
		give[TARGET] = walk(home, caller, ask, 0);
	if (give[TARGET] < 0)
		return give[TARGET];
	int error = sd_be_there(home, caller);
	if (error)
		return error;
	seen->target_length = sd_name_of(caller->task, give[TARGET], seen->target);
	size_t used = (size_t)seen->target_length, more = strlen(last);
	if (!more || seen->target_length < 0)
		return 0;
	/* slashes at its end are the kernel's to object to */
	while (more && last[more - 1] == '/')
		more--;
	if (used == 1)
		used = 0; /* the root directory */
	if (used + 1 + more > sizeof seen->target) {
		seen->target_length = -1;
		return 0;
	}
	seen->target[used] = '/';
	memcpy(seen->target + used + 1, last, more);
	seen->target_length = (int32_t)(used + 1 + more);
	return 0;
}

static int see(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask,
	       struct sd_seen *seen, int *give)
{
	struct statx found;
	seen->fsuid = caller->fsuid;
	seen->fsgid = caller->fsgid;
	seen->caps = caller->caps;
	if (ask->call_flags & SD_LOOK_FILE) {
		int fd = caller->base[0];
		caller->base[0] = -1;
		return see_source(home, caller, ask, fd, seen, &give[SOURCE]);
	}
	if (ask->call_flags & SD_LOOK_ALONE)
		return see_place(home, caller, ask, seen, give);
	give[TARGET] = walk(home, caller, ask, 0);
	if (give[TARGET] < 0)
		return give[TARGET];
	/* who may not mount in its own mount namespace hears so before anything else is looked at */
	if (!caller->same_userns || !(caller->caps & 1ULL << CAP_SYS_ADMIN))
		return -EPERM;
	int error = sd_be_there(home, caller);
	if (error)
		return error;
	if (look_at(give[TARGET], &found))
		return -EIO;
	seen->target_major = found.stx_dev_major;
	seen->target_minor = found.stx_dev_minor;
	if (found.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		seen->flags |= SD_SEEN_ROOT;
	seen->target_length = sd_name_of(caller->task, give[TARGET], seen->target);
	if (ask->call_flags & SD_LOOK_SOURCE)
		seen->source_error = see_source(home, caller, ask, walk(home, caller, ask, 1), seen,
						&give[SOURCE]);
	give[MOUNT_NS] = caller->mount_ns; /* opened before it was said whose it is, as the root */
	caller->mount_ns = -1;
	if (ask->call_flags & SD_LOOK_ROOT) {
		give[ROOT] = caller->root;
		caller->root = -1;
		seen->flags |= SD_SEEN_CALLERS_ROOT;
	}
	return 0;
}

/* The listener that came with a question, no longer among `held`; -1: none, so nothing is done. */
static int take_listener(const struct sd_ask *ask, int *held)
{
	if (!ask->listener || ask->listener >= SD_HELD)
		return -1;
	int listener = held[ask->listener];
	held[ask->listener] = -1;
	return listener;
}

static int answer_look(struct sd_home *home, const struct sd_ask *ask, int *held)
{
	static struct sd_seen seen;
	struct sd_caller caller = {.task = held[0], .status = -1};
	int listener = take_listener(ask, held);
	int give[GIVEN] = {-1, -1, -1, -1}, all[GIVEN], count = 0;
	memset(&seen, 0, offsetof(struct sd_seen, target));
	seen.target_length = seen.source_length = -1;
	int plain = home->plain && !(ask->call_flags & SD_LOOK_ALONE);
	if (plain || held[0] < 0 || listener < 0) {
		seen.error = -EPERM;
		if (listener >= 0)
			close(listener);
	} else {
		int places = ask->call_flags & SD_LOOK_SOURCE ? 2 : 1;
		int result = sd_enter(home, &caller, ask, places, listener);
		if (result == SD_TOLD_RETIRE)
			seen.flags = SD_SEEN_RETIRE;
		else
			seen.error = result ? result : see(home, &caller, ask, &seen, give);
		sd_leave(home, &caller);
	}
	/* whether there is a ROOT the flags say; SOURCE, which may be missing, comes last */
	for (int i = 0; i < GIVEN && !seen.error && !(seen.flags & SD_SEEN_RETIRE); i++)
		if (give[i] >= 0)
			all[count++] = give[i];
	int sent = sd_send_fds(0, &seen, sizeof seen, all, (size_t)count);
	for (int i = 0; i < GIVEN; i++)
		if (give[i] >= 0)
			close(give[i]);
	return sent;
}

/* Moves `tree` to where it belongs. The errors are those of mount(2). */
static int attach(int mount_ns, int target, int tree)
{
	struct statx above, below;
	if (look_at(tree, &above) || look_at(target, &below))
		return -EINVAL;
	if (below.stx_attributes & STATX_ATTR_MOUNT_ROOT &&
	    above.stx_dev_major == below.stx_dev_major && above.stx_dev_minor == below.stx_dev_minor)
		return -EBUSY;
	if (S_ISDIR(above.stx_mode) != S_ISDIR(below.stx_mode))
		return -ENOTDIR;
	if (setns(mount_ns, CLONE_NEWNS))
		return -errno;
	return sd_move_tree(tree, target);
}

/* The mount that a maker sends, or -ECANCELED where it sends none. Once nothing more can come from it, it
 * has answered and holds only what is on its stage; that alone wakes us. */
static int receive(int channel)
{
	struct pollfd both[] = {
		{.fd = channel, .events = POLLRDHUP},
		{.fd = 0, .events = POLLIN}, /* the session does not ask twice: it has gone */
	};
	char word;
	int tree = -1;
	while (poll(both, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	if (!both[0].revents)
		_exit(0);
	sd_receive_fds(channel, &word, 1, &tree, 1);
	return tree < 0 ? -ECANCELED : tree;
}

static int swap(int mount_ns, int tree)
{
	return setns(mount_ns, CLONE_NEWNS) ? -errno : sd_swap(tree);
}

/* What is to be replaced, and whether it can be. */
static int before_swap(const struct sd_ask *ask, const int *held)
{
	if (setns(held[0], CLONE_NEWNS))
		return -errno;
	return ask->op == SD_ASK_MOUNT_MARK ? sd_swap_mark(held[1], held[2]) : sd_swap_idle();
}

static int attach_sent(const struct sd_ask *ask, int *held, int listener)
{
	int tree = receive(held[1]);
	close(held[1]); /* whatever we wait for now, the maker is not to wait for us */
	held[1] = -1;
	if (tree < 0)
		return tree;
	int error = sd_id_valid(listener, ask->id) ? -ESRCH
		    : ask->op == SD_ASK_MOUNT_SWAP ? swap(held[0], tree)
						   : attach(held[0], held[2], tree);
	close(tree);
	return error;
}

static int lock_namespace(int task)
{
	int proc = openat(task, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int lock_ns = proc < 0 ? -errno : sd_lock_namespace(proc);
	if (proc >= 0)
		close(proc);
	return lock_ns;
}

static int adopt(struct sd_home *home, const struct sd_ask *ask, const int *held, int listener,
		 struct sd_attached *attached)
{
	struct statx found;
	uint64_t force = ask->device, set = ask->mode;
	struct sd_fuse_terms terms = {force, ask->call_flags, sd_ask_text(ask, 0)};
	/* once in our life, and the program has not begun yet */
	if (home->lock_ns < 0)
		home->lock_ns = lock_namespace(held[2]);
	if (home->lock_ns < 0)
		return -EPERM;
	sd_roam();
	int error = sd_fuse_mount(held[5], held[3], &terms);
	if (error)
		return error;
	/* all that can be done while the program gets ready is done before it is waited for */
	int tree = sd_copy_stage(force ? home->lock_ns : -1, home->mount_ns);
	sd_clear_stage();
	if (tree < 0)
		return tree;
	if (!look_at(tree, &found))
		attached->device = makedev(found.stx_dev_major, found.stx_dev_minor);
	error = sd_change_mount(tree, force | set, 0, -1);
	if (!error)
		error = sd_fuse_watch(tree, held[2], held[4], &attached->watch);
	if (!error)
		error = sd_id_valid(listener, ask->id) ? -ESRCH : attach(held[0], held[1], tree);
	close(tree);
	return error;
}

/* A copy has the same flags locked, and nobody sees what is tried on it. */
static int change(const struct sd_ask *ask, const int *held)
{
	if (setns(held[0], CLONE_NEWNS))
		return -errno;
	if (!ask->flags)
		return sd_change_mount(held[1], ask->mode, ask->device, -1);
	int copy = sd_open_tree(held[1], "");
	if (copy < 0)
		return copy;
	int error = sd_change_mount(copy, ask->mode, ask->device, -1);
	close(copy);
	return error;
}

static int carry_out(struct sd_home *home, const struct sd_ask *ask, int *held, int listener,
		     struct sd_attached *attached)
{
	switch (ask->op) {
	case SD_ASK_MOUNT_ATTACH:
	case SD_ASK_MOUNT_SWAP:
		return attach_sent(ask, held, listener);
	case SD_ASK_MOUNT_ADOPT:
		return adopt(home, ask, held, listener, attached);
	case SD_ASK_MOUNT_CHANGE:
		return change(ask, held);
	case SD_ASK_MOUNT_MARK:
	case SD_ASK_MOUNT_IDLE:
		return before_swap(ask, held);
	}
	return -EINVAL;
}

int sd_answer_mount(struct sd_home *home, const struct sd_ask *ask, int *held)
{
	struct sd_attached attached = {-EPERM, -1, 0};
	int result = 0;
	if (ask->op == SD_ASK_MOUNT_LOOK) {
		result = answer_look(home, ask, held);
	} else if (ask->op == SD_ASK_SOCKET_BIND) {
		attached.error = sd_bind_path(home, ask, held, take_listener(ask, held));
	} else {
		int listener = take_listener(ask, held);
		if (home->plain || held[0] < 0 || (held[1] < 0 && ask->op != SD_ASK_MOUNT_IDLE))
			attached.error = -EBADF;
		else if (sd_id_valid(listener, ask->id))
			attached.error = -ESRCH;
		else
			attached.error = sd_act_as_self(home);
		if (!attached.error)
			attached.error = carry_out(home, ask, held, listener, &attached);
		/* one that cannot come home is of no use, and would hold what it stands on */
		if (!home->plain && setns(home->mount_ns, CLONE_NEWNS))
			_exit(1);
		if (listener >= 0)
			close(listener);
	}
	for (int i = 0; i < SD_HELD; i++)
		if (held[i] >= 0)
			close(held[i]);
	/* the answer comes once nothing is held any more: the caller's next umount finds it free */
	if (ask->op != SD_ASK_MOUNT_LOOK)
		result = sd_send_fds(0, &attached, sizeof attached, NULL, 0);
	return result < 0 ? result : 0;
}
