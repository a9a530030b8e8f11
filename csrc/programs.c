/* FUSE servers: a program that parses an image which nobody trusts.
 *
 * It runs in the target's user namespace, since whoever opens /dev/fuse has to be there, but in
 * mount, pid, network, ipc and uts namespaces of its own: it sees its image, the programs and
 * libraries of the host or of its container, nothing else of either, and no process but itself. It
 * has no capability but that of opening the image once more; its mount(2) is made for it (see
 * fuse_mount.c), and a filter keeps it from all ways to other namespaces. It is pid 1 there, so that
 * all it forks ends with it, and it ends with the session.
 *
 * Until it executes a program of the host's, the child shares our memory: a fork would copy the
 * tables of a process of some 60 MB. So it touches nothing but its own stack, and what is static
 * here. A program of the container's may take for ever to be found and read; nobody must wait for
 * that, so there it is a fork. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STACK = 256 * 1024, MOST_FILES = 256 };

struct child {
	const struct sd_program *program;
	int messages; /* the writing end */
	int null;
	int started;
};

struct failure {
	int32_t stage, error;
};

static int limit(int which, uint64_t most)
{
	struct rlimit both = {most, most};
	return setrlimit((__rlimit_resource_t)which, &both);
}

/* A program of the container's is its caller, less the groups. The raw calls act on this thread. */
static int become(const struct sd_program *program)
{
	if (program->root < 0)
		return 0;
	/* EPERM: the namespace has setgroups off, and the groups are those of all in it */
	if (syscall(SYS_setgroups, 0, NULL) && errno != EPERM)
		return -1;
	return syscall(SYS_setresgid, program->gid, program->gid, program->gid) ||
	       syscall(SYS_setresuid, program->uid, program->uid, program->uid) ? -1 : 0;
}

int sd_program_bound(uint64_t keep)
{
	for (int cap = 0; cap < 64; cap++)
		if (!(keep & 1ULL << cap) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			return errno == EINVAL ? 0 : -1; /* there are no more of them */
	return 0;
}

static int give_up_rights(const struct sd_program *program)
{
	uint64_t keep = SD_PROGRAM_CAPS;
	if (program->root >= 0)
		keep &= program->caps;
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{(uint32_t)keep, (uint32_t)keep, (uint32_t)keep},
						 {0, 0, 0}};
	if ((program->memory && limit(RLIMIT_AS, program->memory)) || limit(RLIMIT_CORE, 0) ||
	    limit(RLIMIT_NOFILE, MOST_FILES))
		return -1;
	if (!program->bounded && sd_program_bound(keep))
		return -1;
	if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
		  SECBIT_NO_SETUID_FIXUP_LOCKED, 0, 0, 0) ||
	    become(program) || syscall(SYS_capset, &head, data))
		return -1;
	if (keep && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0))
		return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* Its mount(2) is notified; the listener goes to the session. */
static int filtered(const struct sd_program *program)
{
	struct sock_filter code[SD_FILTER_MOST];
	int length = sd_program_filter(code, program->alone != 0);
	struct sock_fprog filter = {(unsigned short)length, code};
	if (length < 0)
		return -1;
	int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				    SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
	if (listener < 0 || sd_send_fds(SD_STARTED, "l", 1, &listener, 1) != 1)
		return -1;
	return close(listener);
}

/* What is handed on gets the number it is known by, the rest is closed. */
int sd_order_descriptors(const int *given)
{
	int high[SD_AFTER];
	for (int number = 0; number < SD_AFTER; number++) {
		high[number] = given[number] < 0 ? -1 : fcntl(given[number], F_DUPFD, 32);
		if (given[number] >= 0 && high[number] < 0)
			return -1;
	}
	for (int number = 0; number < SD_AFTER; number++) {
		if (high[number] < 0)
			close(number);
		else if (dup2(high[number], number) < 0)
			return -1;
	}
	/* a program that opens it once more finds it as it was given */
	if (given[SD_IMAGE] >= 0)
		fcntl(SD_IMAGE, F_SETFL, fcntl(SD_IMAGE, F_GETFL) & ~O_NONBLOCK);
	return syscall(SYS_close_range, SD_AFTER, ~0U, 0) || fcntl(SD_STARTED, F_SETFD, FD_CLOEXEC);
}

void sd_program_failed(int started, int32_t stage, int error)
{
	struct failure failure = {stage, error};
	sd_send_fds(started, &failure, sizeof failure, NULL, 0);
	_exit(127);
}

void sd_program_execute(const struct sd_program *program)
{
	static const char *const ENVIRONMENT[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C",
						  "HOME=/", NULL};
	sigset_t none;
	int error = sd_program_image(program);
	if (error)
		sd_program_failed(SD_STARTED, SD_PROGRAM_ROOT, -error);
	if (give_up_rights(program))
		sd_program_failed(SD_STARTED, SD_PROGRAM_RIGHTS, errno);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* last, for changes of credentials clear it */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (filtered(program))
		sd_program_failed(SD_STARTED, SD_PROGRAM_FILTER, errno);
	execve(program->argv[0], (char *const *)program->argv, (char *const *)ENVIRONMENT);
	sd_program_failed(SD_STARTED, SD_PROGRAM_EXEC, errno);
}

static int child_main(void *given)
{
	const struct child *child = given;
	const struct sd_program *program = child->program;
	const int order[SD_AFTER] = {
		child->null, child->messages, child->messages, program->image, program->fuse,
		program->mount_ns, program->root, child->started, -1,
	};
	int32_t stage;
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	umask(022);
	if (setsid() < 0 || sd_order_descriptors(order))
		sd_program_failed(child->started, SD_PROGRAM_ROOT, errno);
	int error = sd_program_frame(program->root < 0 ? program->argv[0] : NULL, &stage);
	if (error)
		sd_program_failed(SD_STARTED, stage, -error);
	sd_program_execute(program);
}

int sd_program_clone(int (*run)(void *), void *given, int flags, int *told)
{
	static char stack[STACK] __attribute__((aligned(64)));
	sigset_t all, before;
	/* a handler of ours must not run in the child, which may have our memory */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	int pid = clone(run, stack + sizeof stack,
			flags | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
			CLONE_NEWUTS | SIGCHLD, given, told);
	int error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid < 0 ? -error : pid;
}

static void let_go(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void sd_program_nothing(struct sd_program *program)
{
	program->pid = program->pidfd = program->messages = program->listener = -1;
	program->started = -1;
	program->stage = SD_PROGRAM_CLONE;
}

int sd_program_channels(int *messages, int *started)
{
	if (pipe2(messages, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, started))
		return 0;
	int error = -errno;
	let_go(&messages[0]);
	let_go(&messages[1]);
	return error;
}

int sd_program_start(struct sd_program *program)
{
	struct child child = {.program = program};
	int messages[2] = {-1, -1}, started[2] = {-1, -1}, pidfd = -1, pid = -1;
	int together = program->root < 0 ? CLONE_VM | CLONE_VFORK : 0;
	sd_program_nothing(program);
	program->bounded = 0;
	child.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int error = child.null < 0 ? -errno : sd_program_channels(messages, started);
	child.messages = messages[1];
	child.started = started[1];
	if (!error) {
		pid = sd_program_clone(child_main, &child, together | CLONE_PIDFD, &pidfd);
		error = pid < 0 ? pid : 0;
	}
	let_go(&child.null);
	let_go(&messages[1]);
	let_go(&started[1]);
	if (error) {
		let_go(&messages[0]);
		let_go(&started[0]);
		return error;
	}
	program->pid = pid;
	program->pidfd = pidfd;
	program->messages = messages[0];
	program->started = started[0];
	return 0;
}

/* First comes the listener, and then either what went wrong, or the end: the program has the other
 * descriptor no more. */
int sd_program_started(struct sd_program *program)
{
	struct failure failure;
	for (;;) {
		int fd, got = sd_receive_fds(program->started, &failure, sizeof failure, &fd, 1);
		if (got == -EAGAIN)
			return 0;
		if (fd >= 0 && got == 1 && program->listener < 0) {
			program->listener = fd;
			continue;
		}
		if (fd >= 0)
			close(fd);
		if (got == (int)sizeof failure && failure.error > 0) {
			program->stage = failure.stage;
			return -failure.error;
		}
		program->stage = SD_PROGRAM_EXEC;
		return got == 0 && program->listener >= 0 ? 1 : -EIO;
	}
}
