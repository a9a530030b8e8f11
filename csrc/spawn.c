/* How a helper comes to be: forked, stripped to one socket, and let go of whatever it does not
 * need. Only C runs in it from the fork on. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t here = UINT32_MAX; /* the processor that we are bound to */
static cpu_set_t anywhere;         /* where we were allowed to run before */

void sd_follow(uint32_t cpu)
{
	cpu_set_t only;
	if (cpu == here || cpu >= CPU_SETSIZE)
		return;
	if (here == UINT32_MAX && sched_getaffinity(0, sizeof anywhere, &anywhere))
		return;
	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	if (!sched_setaffinity(0, sizeof only, &only))
		here = cpu;
}

void sd_roam(void)
{
	if (here != UINT32_MAX && !sched_setaffinity(0, sizeof anywhere, &anywhere))
		here = UINT32_MAX;
}

void sd_harden(void)
{
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

int sd_set_caps(uint64_t effective, uint64_t permitted)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {
		{(uint32_t)effective, (uint32_t)permitted, 0},
		{(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), 0},
	};
	return syscall(SYS_capset, &head, data) ? -errno : 0;
}

int sd_permitted_caps(uint64_t *permitted)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &head, data))
		return -errno;
	*permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	return 0;
}

static void forget_signals(void)
{
	sigset_t none;
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

int sd_fork_helper(struct sd_child *child, const char *name, int sibling)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	/* as fork(2), for which libc does no more where there is one thread; whatever the order of arguments is,
	 * flags come first where we run */
	pid_t pid = sibling ? (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) : fork();
	if (pid < 0) {
		int error = -errno;
		close(pair[0]);
		close(pair[1]);
		return error;
	}
	if (pid) {
		close(pair[1]);
		child->pid = pid;
		child->sock = pair[0];
		child->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		return pid;
	}
	sd_harden();
	forget_signals();
	prctl(PR_SET_NAME, name, 0, 0, 0);
	/* a helper that kept a copy of our standard streams would keep a pipeline from ending */
	if (dup2(pair[1], 0) < 0 || syscall(SYS_close_range, 1, ~0U, 0))
		_exit(1);
	return 0;
}

int sd_reply(int sock, const void *message, size_t size, int give)
{
	if (give >= 0) {
		int sent = sd_send_fds(sock, "f", 1, &give, 1);
		close(give);
		if (sent < 0)
			return sent;
	}
	return sd_send_fds(sock, message, size, NULL, 0);
}

/* Makes a tmpfs the root of a mount namespace that is already our own, with `keep` (a directory)
 * bound into it, and lets go of all other mounts: what is not there can neither be reached nor
 * kept busy. Where the root cannot be pivoted (an initramfs), a chroot has to do. */
int sd_pivot_into(const char *options, const char *keep)
{
	unsigned long flags = MS_NOSUID | MS_NOEXEC;
#ifdef MS_NOSYMFOLLOW
	flags |= MS_NOSYMFOLLOW;
#else
	flags |= 256;
#endif
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
		return -errno;
	/* any directory will do to mount it on, and /proc is there wherever we run */
	if (mount("seccompd", "/proc", "tmpfs", flags, options) || chdir("/proc"))
		return -errno;
	if (keep && (mkdir(keep + 1, 0755) || mount(keep, keep + 1, NULL, MS_BIND | MS_REC, NULL)))
		return -errno;
	if (syscall(SYS_pivot_root, ".", ".") == 0) {
		if (umount2(".", MNT_DETACH))
			return -errno;
	} else if (chroot(".")) {
		return -errno;
	}
	return chdir("/") ? -errno : 0;
}
