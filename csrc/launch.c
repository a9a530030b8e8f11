/* The front's side of a launch: makes init, and talks with it. See init.c for the other side. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static sigset_t mask_before;
static bool children_ignored;
static bool signals_opened;

/* SIGCHLD stays as it is: whoever runs beside us in the front may wait for its children. */
static void forwarded_signals(sigset_t *set)
{
	static const int not_ours[] = {SIGCHLD, SIGSEGV, SIGBUS,  SIGFPE,
				       SIGILL,  SIGTRAP, SIGABRT, SIGSYS};

	sigfillset(set);
	for (size_t i = 0; i < sizeof not_ours / sizeof not_ours[0]; i++)
		sigdelset(set, not_ours[i]);
}

int sd_signals_open(void)
{
	struct sigaction action;
	sigset_t set;

	if (sigaction(SIGCHLD, NULL, &action))
		return -errno;
	children_ignored = action.sa_handler == SIG_IGN;
	/* An inherited SIG_IGN would make waitpid() lose the exit status. */
	action = (struct sigaction){.sa_handler = SIG_DFL};
	if (children_ignored && sigaction(SIGCHLD, &action, NULL))
		return -errno;
	forwarded_signals(&set);
	if (sigprocmask(SIG_BLOCK, &set, &mask_before))
		return -errno;
	signals_opened = true;
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int sd_signals_next(int signals, struct sd_signal *signal)
{
	struct signalfd_siginfo info;
	ssize_t got = read(signals, &info, sizeof info);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	signal->number = (int32_t)info.ssi_signo;
	signal->code = info.ssi_code;
	signal->sender = (int32_t)info.ssi_pid;
	return 1;
}

int sd_signals_stop_self(int number)
{
	struct sigaction action = {.sa_handler = SIG_DFL}, before;
	sigset_t one;

	/* The stops that can be caught are ignored in an orphaned process group, and then CMD has not
	 * been stopped by one either; SIGSTOP itself has no disposition to change. */
	if (number != SIGSTOP && sigaction(number, &action, &before))
		return -errno;
	sigemptyset(&one);
	sigaddset(&one, number);
	kill(getpid(), number);
	sigprocmask(SIG_UNBLOCK, &one, NULL);
	sigprocmask(SIG_BLOCK, &one, NULL);
	if (number != SIGSTOP)
		sigaction(number, &before, NULL);
	return 0;
}

/* Whatever handles a signal belongs to the program that we were forked from. */
static void default_handlers(void)
{
	struct sigaction action, plain = {.sa_handler = SIG_DFL};

	for (int number = 1; number < NSIG; number++)
		if (!sigaction(number, NULL, &action) && action.sa_handler != SIG_IGN &&
		    action.sa_handler != SIG_DFL)
			sigaction(number, &plain, NULL);
}

void sd_signals_for_init(void)
{
	struct sigaction plain = {.sa_handler = SIG_DFL};
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	default_handlers();
	sigaction(SIGCHLD, &plain, NULL);
}

/* As CMD would have found them without us: what the user's shell had ignored stays ignored (nohup).
 * SIGPIPE and SIGXFSZ are ignored by Python, whatever they were before. Init reset the handlers. */
void sd_signals_for_command(void)
{
	struct sigaction plain = {.sa_handler = SIG_DFL}, ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGPIPE, &plain, NULL);
	sigaction(SIGXFSZ, &plain, NULL);
	if (children_ignored)
		sigaction(SIGCHLD, &ignore, NULL);
}

void sd_signals_unblock(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, signals_opened ? &mask_before : &none, NULL);
}

static unsigned long clone_flags(uint32_t namespaces)
{
	static const struct {
		uint32_t ours;
		unsigned long flag;
	} table[] = {
		{SD_NS_USER, CLONE_NEWUSER}, {SD_NS_MOUNT, CLONE_NEWNS},
		{SD_NS_PID, CLONE_NEWPID},   {SD_NS_NET, CLONE_NEWNET},
		{SD_NS_IPC, CLONE_NEWIPC},   {SD_NS_UTS, CLONE_NEWUTS},
		{SD_NS_CGROUP, CLONE_NEWCGROUP},
	}; /* CLONE_NEWTIME is none of clone(2)'s: init unshares it */
	unsigned long flags = 0;

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (namespaces & table[i].ours)
			flags |= table[i].flag;
	return flags;
}

int sd_launch_begin(const struct sd_launch_spec *spec, int32_t *init)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -errno;
	/* The raw call: a namespace for the child needs flags that fork() does not take. */
	long pid = syscall(SYS_clone, clone_flags(spec->namespaces) | SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		sd_init(spec, ends[1]);
	int error = errno;
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return -error;
	}
	*init = (int32_t)pid;
	return ends[0];
}

static int send_order(int sock, const struct sd_order *order)
{
	int sent = sd_send_fds(sock, order, sizeof *order, NULL, 0);

	return sent < 0 ? sent : 0;
}

int sd_launch_go(int sock)
{
	struct sd_order order = {.kind = SD_ORDER_GO};

	return send_order(sock, &order);
}

int sd_launch_kill(int sock, const struct sd_signal *signal)
{
	struct sd_order order = {.kind = SD_ORDER_KILL, .signal = *signal};

	return send_order(sock, &order);
}

int sd_launch_next(int sock, struct sd_launch_event *event, int32_t *fd)
{
	struct pollfd ready = {.fd = sock, .events = POLLIN};
	int handed = -1;

	if (poll(&ready, 1, 0) == 0)
		return -EAGAIN;
	int got = sd_receive_fds(sock, event, sizeof *event, &handed, 1);
	/* Init ended with an order of ours unread. That is said once, and before what it had sent. */
	if (got == -ECONNRESET)
		got = sd_receive_fds(sock, event, sizeof *event, &handed, 1);
	if (got <= 0)
		return got;
	*fd = handed;
	if (got != (int)sizeof *event) {
		if (handed >= 0)
			close(handed);
		return -EPROTO;
	}
	return 1;
}

int sd_detach_stream(int fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return -errno;
	int error = null == fd || dup2(null, fd) >= 0 ? 0 : -errno;
	if (null != fd)
		close(null);
	return error;
}

int sd_limit_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];

	if (syscall(SYS_capget, &header, sets))
		return -errno;
	for (int i = 0; i < 2; i++) {
		uint32_t kept = (uint32_t)(keep >> (32 * i));
		sets[i].permitted &= kept;
		sets[i].effective &= kept;
		sets[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, sets) ? -errno : 0;
}
