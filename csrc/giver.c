/* The giver: brings a device into a container that runs, or takes it away, once, and ends. Only the
 * daemon can have one made, on an admin's word; no session has a way to it.
 *
 * Each device is an inode of its own in a tmpfs of its own. The container sees a mount of that inode
 * and can copy, move or hide it as it likes: whoever has the tmpfs can still make the inode one that
 * nobody in the container may open, and knows all that came of it by the number of the tmpfs.
 *
 * What is done in the container is done as its root: nothing that it prepares there (links,
 * directories of the host's, file systems that it serves) is met with a right of the host's. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char NODE[] = "node", CGROUP[] = "cgroup";

enum { MOST_TURNS = 64, CGROUP_MS = 2000, JOINED = 64, ATTR_NOSYMFOLLOW = 0x200000 };

/* -- the cgroups */

/* Whether processes of that cgroup may open the node. Opening it might do something: the kernel asks
 * the device controllers at access(2), too. The child is a member for that long. */
static int try_there(int procs)
{
	int status;
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		sd_harden();
		if (write(procs, "0", 1) != 1)
			_exit(0);
		_exit(JOINED | (faccessat(AT_FDCWD, NODE, R_OK, 0) ? 0 : SD_GIVE_READ) |
		      (faccessat(AT_FDCWD, NODE, W_OK, 0) ? 0 : SD_GIVE_WRITE));
	}
	/* a frozen cgroup would keep it for as long as it likes */
	struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	if (end.fd < 0 || poll(&end, 1, CGROUP_MS) != 1) {
		kill(pid, SIGKILL);
		return -ETIMEDOUT;
	}
	close(end.fd);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	    !(WEXITSTATUS(status) & JOINED))
		return -EPERM;
	return WEXITSTATUS(status) & (SD_GIVE_READ | SD_GIVE_WRITE);
}

/* Our own mount of the hierarchy: the host's may be read-only for us, or elsewhere. */
static int ask_cgroup(const char *type, const char *options, const char *path)
{
	char name[SD_PATH_MAX + 16];
	if (!path[0])
		return SD_GIVE_READ | SD_GIVE_WRITE;
	if (mount(CGROUP, CGROUP, type, MS_NOSUID | MS_NODEV | MS_NOEXEC, options))
		return -errno;
	snprintf(name, sizeof name, "%s%s/cgroup.procs", CGROUP, path);
	int procs = open(name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), error = -errno;
	umount2(CGROUP, MNT_DETACH);
	if (procs < 0)
		return error;
	int may = try_there(procs);
	close(procs);
	return may;
}

static void ask_cgroups(const struct sd_give *give, struct sd_given *given)
{
	int may = mkdir(CGROUP, 0700) ? -errno : ask_cgroup("cgroup2", NULL, give->cgroup);
	int old = may < 0 ? may : ask_cgroup("cgroup", give->controllers, give->device_cgroup);
	if (old < 0)
		given->unknown = -old;
	given->may = old < 0 ? SD_GIVE_READ | SD_GIVE_WRITE : (uint32_t)(may & old);
}

/* -- in the container */

static int enter(const struct sd_give *give, int user, int mounts)
{
	if (user >= 0) {
		int error = sd_join_user_namespace(user, give->root_uid, give->root_gid);
		if (error)
			return error;
	}
	sd_harden();
	umask(0);
	return setns(mounts, CLONE_NEWNS) ? -errno : 0;
}

/* A directory, by a path that ends in the container's root directory whatever its links say. */
static int directory(int root, const char *path)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	int fd = -1;
	/* EAGAIN: something was renamed meanwhile */
	for (int turn = 0; turn < MOST_TURNS; turn++) {
		fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd < 0 ? -errno : fd;
}

/* The directory that `path` is to be in, and its name there. With `make` what is missing on the way is
 * made, each in the directory that was reached by then. */
static int parent_of(char *path, const char **name, int make)
{
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int dir = root < 0 ? -errno : directory(root, "/");
	char *slash;
	for (char *at = path; dir >= 0 && (slash = strchr(at + 1, '/')); at = slash) {
		*slash = 0;
		int next = directory(root, path);
		if (next == -ENOENT && make)
			next = mkdirat(dir, at + 1, 0755) && errno != EEXIST
				       ? -errno : directory(root, path);
		*slash = '/';
		close(dir);
		dir = next;
	}
	*name = strrchr(path, '/') + 1;
	if (root >= 0)
		close(root);
	return dir;
}

/* /proc/self/FILE of the host's procfs; the container's own cannot be relied on. */
static FILE *own_mounts(int proc)
{
	int fd = openat(proc, "self/mountinfo", O_RDONLY | O_CLOEXEC);
	FILE *mounts = fd < 0 ? NULL : fdopen(fd, "r");
	if (fd >= 0 && !mounts)
		close(fd);
	return mounts;
}

static int is_shared(int proc, int fd)
{
	struct sd_mount_line line = {0};
	unsigned long long id = sd_mount_of(fd, NULL);
	FILE *mounts = own_mounts(proc);
	int shared = !mounts;
	while (mounts && sd_next_mount(mounts, &line))
		if (line.id == id)
			shared = line.shared;
	if (mounts)
		fclose(mounts);
	return shared;
}

/* -- a device comes */

static int make_node(const struct sd_give *give, struct sd_given *given)
{
	struct stat node;
	umask(0);
	int error = sd_try_node(AT_FDCWD, NODE, give->mode, makedev(give->major, give->minor));
	if (error)
		return error;
	if (fchownat(AT_FDCWD, NODE, give->uid, give->gid, AT_SYMLINK_NOFOLLOW) ||
	    lstat(NODE, &node))
		return -errno;
	given->device = node.st_dev;
	return 0;
}

/* The file that it is mounted on: a new one, or one that a device has left there that went with the
 * mounts of an earlier start of the container: empty, its root's, and open to nobody. */
static int place_of(int dir, const char *name, struct stat *file)
{
	int place = sd_place(dir, name, 0), left = place == -EEXIST;
	if (left)
		place = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (place < 0)
		return left ? -EEXIST : place;
	if (fstat(place, file) || (left && (file->st_mode != S_IFREG || file->st_size ||
					    file->st_uid != geteuid() || file->st_nlink != 1))) {
		close(place);
		return -EEXIST;
	}
	return place;
}

static int put(struct sd_give *give, struct sd_given *given, int proc, int tree, int alone)
{
	const char *name;
	struct stat file;
	given->stage = SD_GIVE_PARENT;
	int dir = parent_of(give->path, &name, 1);
	if (dir < 0)
		return dir;
	given->stage = SD_GIVE_PLACE;
	int place = place_of(dir, name, &file), error = place < 0 ? place : 0;
	if (!error) {
		given->place_device = file.st_dev;
		given->place_inode = file.st_ino;
		given->stage = SD_GIVE_ATTACH;
		/* where a mount namespace is all that parts the two, its mounts may be the host's, too */
		error = !alone && is_shared(proc, place) ? -EXDEV : sd_move_tree(tree, place);
	}
	if (error && place >= 0)
		sd_take_back(dir, name, place);
	if (place >= 0)
		close(place);
	close(dir);
	return error;
}

/* Our tmpfs goes to the daemon before anything is done in the container, where we may be made to wait
 * until we are killed: with it the device can be taken away, however far this has come. */
static int hand_over_home(void)
{
	int home = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int sent = home < 0 ? -errno : sd_send_fds(0, "f", 1, &home, 1);
	if (home >= 0)
		close(home);
	return sent < 0 ? sent : 0;
}

static int add(struct sd_give *give, struct sd_given *given, int mounts, int user)
{
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	given->stage = SD_GIVE_NODE;
	if (proc < 0 || unshare(CLONE_NEWNS))
		return -errno;
	int error = sd_pivot_into("mode=0700,size=4k,nr_inodes=8", NULL);
	if (!error)
		error = make_node(give, given);
	if (error)
		return error;
	given->stage = SD_GIVE_CGROUP;
	ask_cgroups(give, given);
	if (!given->may)
		return -EPERM;
	given->stage = SD_GIVE_ENTER;
	int tree = sd_open_tree(AT_FDCWD, NODE);
	/* without the mark of a session's nodes: a session counts its own, and leaves this one alone */
	error = tree < 0 ? tree : sd_change_mount(tree, 0, ATTR_NOSYMFOLLOW, -1);
	if (!error)
		error = hand_over_home();
	if (!error)
		error = enter(give, user, mounts);
	if (!error)
		error = put(give, given, proc, tree, user >= 0);
	if (tree >= 0)
		close(tree);
	return error;
}

/* -- a device goes */

/* Takes away the mount at `path` if it is one of the filesystem `device`. 0, or -errno. By its
 * descriptor: what has that name by then may be another one. */
static int detach(int proc, const char *path, uint64_t device)
{
	char link[32];
	uint64_t found = 0;
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), error = 0;
	if (fd < 0)
		return -errno;
	snprintf(link, sizeof link, "self/fd/%d", fd);
	if (!sd_mount_of(fd, &found) || found != device)
		error = -ESTALE;
	else if (fchdir(proc) || umount2(link, MNT_DETACH))
		error = -errno;
	close(fd);
	return error;
}

/* All mounts of the device that can be reached; the others are counted. */
static int detach_all(int proc, struct sd_given *given)
{
	for (int turn = 0; turn < MOST_TURNS; turn++) {
		struct sd_mount_line line = {0};
		FILE *mounts = own_mounts(proc);
		uint32_t before = given->detached;
		if (!mounts)
			return -errno;
		given->hidden = 0;
		while (sd_next_mount(mounts, &line)) {
			if (line.device != given->device)
				continue;
			if (detach(proc, line.path, given->device))
				given->hidden++;
			else
				given->detached++;
		}
		fclose(mounts);
		if (given->detached == before) /* the last look has found no more */
			break;
	}
	return 0;
}

/* The file that it was mounted on, where it is still that one. */
static void drop_place(struct sd_give *give)
{
	const char *name;
	struct stat file;
	int dir = parent_of(give->path, &name, 0);
	if (dir < 0)
		return;
	if (!fstatat(dir, name, &file, AT_SYMLINK_NOFOLLOW) && S_ISREG(file.st_mode) &&
	    !file.st_size && file.st_dev == give->place_device &&
	    file.st_ino == give->place_inode)
		unlinkat(dir, name, 0);
	close(dir);
}

/* The owner first: it could change the mode. */
static int close_to_all(const struct sd_give *give, int home)
{
	if (fchownat(home, NODE, give->uid, give->gid, AT_SYMLINK_NOFOLLOW) ||
	    fchmodat(home, NODE, 0, 0))
		return -errno;
	return 0;
}

/* First nobody may open it any more, wherever it may be. */
static int take(struct sd_give *give, struct sd_given *given, int home, int mounts, int user)
{
	struct stat node;
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	given->stage = SD_GIVE_NODE;
	int error = close_to_all(give, home);
	/* root of a container without a user namespace may have made it read-only */
	if (error == -EROFS && !sd_make_writable(home))
		error = close_to_all(give, home);
	if (error)
		return error;
	if (proc < 0 || fstatat(home, NODE, &node, AT_SYMLINK_NOFOLLOW))
		return -errno;
	given->device = node.st_dev;
	given->stage = SD_GIVE_ENTER;
	if (mounts < 0)
		return 0;
	error = enter(give, user, mounts);
	if (!error)
		error = detach_all(proc, given);
	if (!error && !given->hidden)
		drop_place(give);
	return error;
}

static _Noreturn void serve(void)
{
	static union {
		struct sd_give give;
		struct sd_look look;
	} asked;
	struct sd_given given = {.error = -EINVAL};
	int fds[3];
	int size = sd_receive_fds(0, &asked, sizeof asked, fds, 3);
	if (size == (int)sizeof asked.look && asked.look.op == SD_GIVE_LOOK)
		_exit(sd_find_holders(0, &asked.look) ? 1 : 0);
	if (size == (int)sizeof asked.give) {
		asked.give.path[sizeof asked.give.path - 1] = 0;
		asked.give.cgroup[sizeof asked.give.cgroup - 1] = 0;
		asked.give.device_cgroup[sizeof asked.give.device_cgroup - 1] = 0;
		asked.give.controllers[sizeof asked.give.controllers - 1] = 0;
		if (asked.give.path[0] != '/')
			given.error = -EINVAL;
		else if (asked.give.op == SD_GIVE_ADD)
			given.error = add(&asked.give, &given, fds[0], fds[1]);
		else if (asked.give.op == SD_GIVE_TAKE)
			given.error = take(&asked.give, &given, fds[0], fds[1], fds[2]);
	}
	sd_reply(0, &given, sizeof given, -1);
	_exit(0);
}

/* Needs real root. */
int sd_giver_spawn(struct sd_child *child)
{
	int pid = sd_fork_helper(child, "seccompd-give", 0);
	if (!pid)
		serve();
	return pid;
}
