/* Mount flags that stay. Whoever has a mount in a mount namespace of its own can change its flags,
 * the container's root included, unless they were there when the mount came from another user
 * namespace: then the kernel locks them. So a mount is taken through a mount namespace that belongs
 * to a user namespace which nobody is in, copied from there into one of ours, and handed on. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char STAGE[] = "/stage";

int sd_open_tree(int dir, const char *path)
{
	int tree = (int)syscall(SYS_open_tree, dir, path,
				OPEN_TREE_CLONE | O_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH));
	return tree < 0 ? -errno : tree;
}

int sd_change_mount(int fd, uint64_t set, uint64_t clear, int userns)
{
	struct sd_mount_attr attr = {.set = set, .clear = clear};
	if (userns >= 0)
		attr.userns = (uint64_t)userns;
	if (!set && !clear)
		return 0;
	return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof attr) ? -errno : 0;
}

int sd_move_tree(int tree, int target)
{
	return syscall(SYS_move_mount, tree, "", target, "",
		       MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) ? -errno : 0;
}

/* Needs STAGE in the root directory, and to be in no chroot. The child opens the namespace itself:
 * it is not dumpable, so nobody else may. */
int sd_lock_namespace(int proc)
{
	int pair[2], fd = -1;
	char word = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	pid_t pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) ||
		    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
			_exit(1);
		fd = openat(proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
		_exit(fd < 0 || sd_send_fds(pair[1], "n", 1, &fd, 1) != 1);
	}
	close(pair[1]);
	int got = pid < 0 ? -errno : sd_receive_fds(pair[0], &word, 1, &fd, 1);
	close(pair[0]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return fd >= 0 ? fd : got < 0 ? got : -EPERM;
}

static int staged(int tree)
{
	int stage = open(STAGE, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (stage < 0)
		return -errno;
	int error = sd_move_tree(tree, stage);
	close(stage);
	return error;
}

int sd_copy_locked(int lock_ns, int home_ns)
{
	/* the copy is ours, so the kernel takes it for one that crossed a border */
	int tree = unshare(CLONE_NEWNS) ? -errno : sd_open_tree(AT_FDCWD, STAGE);
	int error = setns(lock_ns, CLONE_NEWNS) || umount2(STAGE, MNT_DETACH) ? -errno : 0;
	/* elsewhere than at home nothing of us may go on */
	if (setns(home_ns, CLONE_NEWNS))
		_exit(1);
	if (error && tree >= 0)
		close(tree);
	return error ? error : tree;
}

int sd_lock_flags(int lock_ns, int home_ns, int *tree)
{
	int error = setns(lock_ns, CLONE_NEWNS) ? -errno : staged(*tree);
	close(*tree);
	*tree = -1;
	if (!error) {
		*tree = sd_copy_locked(lock_ns, home_ns);
		return *tree < 0 ? *tree : 0;
	}
	if (setns(home_ns, CLONE_NEWNS))
		_exit(1);
	return error;
}
