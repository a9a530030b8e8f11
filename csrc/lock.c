/* Mount flags that stay. Whoever has a mount in a mount namespace of its own can change its flags,
 * the container's root included, unless they were there when the mount came from another user
 * namespace: then the kernel locks them. So there is a mount namespace that belongs to a user
 * namespace which nobody is in. What is mounted on our stage is propagated to that one's, and a copy
 * is taken from there. It is made once: to leave a namespace behind takes a grace period of RCU. */
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

static const char SHARED[] = "/stage";

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

static int share(void)
{
	if (mount(SHARED, SHARED, NULL, MS_BIND, NULL) ||
	    mount(NULL, SHARED, NULL, MS_SHARED, NULL) || mkdir(SD_LOCK_STAGE, 0755))
		return -errno;
	return 0;
}

/* Needs SHARED in the root directory, and to be in no chroot. The child opens the namespace itself:
 * it is not dumpable, so nobody else may. */
int sd_lock_namespace(int proc)
{
	int pair[2], fd = -1;
	char word = 0;
	int error = share();
	if (error)
		return error;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	pid_t pid = fork();
	if (!pid) {
		/* what is shared here is a slave there: it follows, and nothing comes back */
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
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

int sd_stage(int tree)
{
	int stage = open(SD_LOCK_STAGE, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (stage < 0)
		return -errno;
	int error = sd_move_tree(tree, stage);
	close(stage);
	return error;
}

void sd_clear_stage(void)
{
	/* what stays there would be the next one's, and would keep a device busy for ever */
	if (umount2(SD_LOCK_STAGE, MNT_DETACH))
		_exit(1);
}

int sd_copy_stage(int lock_ns, int home_ns)
{
	/* a copy would be a peer or a slave of the original, for as long as that is there */
	struct sd_mount_attr private = {.propagation = MS_PRIVATE};
	int tree = lock_ns >= 0 && setns(lock_ns, CLONE_NEWNS) ? -errno
							       : sd_open_tree(AT_FDCWD, SD_LOCK_STAGE);
	/* elsewhere than at home nothing of us may go on */
	if (lock_ns >= 0 && setns(home_ns, CLONE_NEWNS))
		_exit(1);
	if (tree >= 0 &&
	    syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &private, sizeof private)) {
		int error = -errno;
		close(tree);
		return error;
	}
	return tree;
}
