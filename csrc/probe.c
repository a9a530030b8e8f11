/* Asks the kernel what it can do. Nothing here changes the calling process: whatever would, is tried
 * in a child that shares our memory, and ends before we go on (vfork's way, some 70 us).
 */
#include "shim.h"

#include "compat.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRIAL_STACK = 32768 };

struct trial {
	int (*body)(void);
	int result;
};

static int enter_trial(void *argument)
{
	struct trial *trial = argument;

	trial->result = trial->body();
	_exit(0);
}

/* Runs `body` in a child that starts at the end of a stack, and gives what it returned. */
static int run_trial(int (*body)(void), char *stack_end)
{
	struct trial trial = {.body = body, .result = -ECHILD};
	pid_t pid = clone(enter_trial, stack_end, CLONE_VM | CLONE_VFORK | SIGCHLD, &trial);

	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return trial.result;
}

static int try_in_child(int (*body)(void))
{
	static char stack[TRIAL_STACK] __attribute__((aligned(16)));
	sigset_t all, before;
	int result;

	/* The child shares our memory: a signal handler of ours must not run in it. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	result = run_trial(body, stack + sizeof(stack));
	sigprocmask(SIG_SETMASK, &before, NULL);
	return result;
}

/* A listener over a filter that lets everything pass: there to be asked, never to be notified. */
static int harmless_listener(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {.len = 1, .filter = &allow};
	long fd;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
		     &program);
	return fd < 0 ? -errno : (int)fd;
}

static int try_listener(void)
{
	int fd = harmless_listener();

	return fd < 0 ? fd : 1;
}

static int try_sync_wake_up(void)
{
	int fd = harmless_listener();

	if (fd < 0)
		return fd;
	return ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) == 0;
}

/* Some systems allow the namespaces and then every use of them is refused: so mount something. */
static int try_namespaces(void)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID) < 0)
		return -errno;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	return mount("seccompd-probe", "/", "tmpfs", 0, NULL) < 0 ? -errno : 1;
}

static int mount_proc(void)
{
	return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ? -errno : 1;
}

/* The kernel refuses a new procfs where parts of the old one are hidden, as in many containers. */
static int try_proc(void)
{
	static char stack[TRIAL_STACK] __attribute__((aligned(16)));
	int result = try_namespaces();

	return result < 0 ? result : run_trial(mount_proc, stack + sizeof(stack));
}

/* Asked with an argument that no kernel accepts, a call that is there says `expected`. */
static int filter_flag(unsigned long flag)
{
	syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag, NULL);
	/* EBUSY and the like: a filter above us refuses it, whatever the kernel has. */
	return errno == EFAULT ? 1 : errno == EINVAL || errno == ENOSYS ? 0 : -errno;
}

static int there_as(long result, int expected)
{
	return result < 0 && errno == expected;
}

static int statx_mount_id(void)
{
	struct statx found;

	return statx(AT_FDCWD, "/", 0, STATX_MNT_ID, &found) == 0 &&
	       (found.stx_mask & STATX_MNT_ID) != 0;
}

static int user_notif(void)
{
	uint32_t action = SECCOMP_RET_USER_NOTIF;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

static int pidfd_info(void)
{
	struct pidfd_info info = {.mask = PIDFD_INFO_CREDS};
	int fd = (int)syscall(SYS_pidfd_open, gettid(), PIDFD_THREAD);
	int there = fd >= 0 && !ioctl(fd, PIDFD_GET_INFO, &info) && info.mask & PIDFD_INFO_CREDS;

	if (fd >= 0)
		close(fd);
	return there;
}

static int peer_pidfd(void)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return -errno;
	int fd = sd_peer_pidfd(ends[0]);
	if (fd >= 0)
		close(fd);
	close(ends[0]);
	close(ends[1]);
	return fd >= 0;
}

static int pass_rights(void)
{
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	int error = sd_refuse_descriptors(sock);
	close(sock);
	return !error;
}

int sd_probe(int feature)
{
	switch ((enum sd_feature)feature) {
	case SD_HAS_USER_NOTIF:
		return user_notif();
	case SD_HAS_NEW_LISTENER:
		return filter_flag(SECCOMP_FILTER_FLAG_NEW_LISTENER);
	case SD_HAS_WAIT_KILLABLE:
		return filter_flag(SECCOMP_FILTER_FLAG_NEW_LISTENER |
				   SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
	case SD_HAS_LISTENER:
		return try_in_child(try_listener);
	case SD_HAS_SYNC_WAKE_UP:
		return try_in_child(try_sync_wake_up);
	case SD_HAS_NAMESPACES:
		return try_in_child(try_namespaces);
	case SD_HAS_PROC:
		return try_in_child(try_proc);
	case SD_HAS_PIDFD:
		return there_as(syscall(SYS_pidfd_open, 0, 0), EINVAL);
	case SD_HAS_OPENAT2:
		return there_as(syscall(SYS_openat2, -1, NULL, NULL, 0), EINVAL);
	case SD_HAS_CLOSE_RANGE:
		return there_as(syscall(SYS_close_range, 1U, 0U, 0U), EINVAL);
	case SD_HAS_STATX_MNT_ID:
		return statx_mount_id();
	/* The mount calls look at the caller's rights first, or at their arguments: never ENOSYS. */
	case SD_HAS_OPEN_TREE:
		return !there_as(syscall(SYS_open_tree, -1, "", ~0U), ENOSYS);
	case SD_HAS_MOVE_MOUNT:
		return !there_as(syscall(SYS_move_mount, -1, "", -1, "", ~0U), ENOSYS);
	case SD_HAS_MOUNT_SETATTR:
		return !there_as(syscall(SYS_mount_setattr, -1, NULL, ~0U, NULL, 0), ENOSYS);
	case SD_HAS_PIDFD_INFO:
		return pidfd_info();
	case SD_HAS_PEER_PIDFD:
		return peer_pidfd();
	case SD_HAS_PASS_RIGHTS:
		return pass_rights();
	}
	return -EINVAL;
}
