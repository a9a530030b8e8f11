/* The small init above CMD: pid 1 of a pid namespace, or without one a subreaper.
 *
 * It hands the listener over, passes signals on, reaps, and ends when nobody is left below it. It
 * ends at once when the front has gone, by EOF on its socket and by PDEATHSIG: the kernel then
 * takes the whole pid namespace with it. Forked without execve, its memory belongs to the initial user
 * namespace, and it is not dumpable: the container's root cannot look into it or trace it.
 */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TOGETHER_MS = 1000 }; /* one kill() of a group reaches all its members well within this */

struct state {
	const struct sd_launch_spec *spec;
	int sock;
	int signals;
	int null; /* opened while nobody but us can have put something else in its place */
	pid_t command;
	int command_ended;
	int64_t seen[NSIG]; /* when a signal from outside last came to our own group, in ms; 0: never */
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The front has gone or given up. Without a pid namespace nobody but CMD is known to be ours. */
_Noreturn static void end(const struct state *state)
{
	if (!(state->spec->namespaces & SD_NS_PID) && state->command > 0)
		kill(state->command, SIGKILL);
	_exit(1);
}

/* A stream that CMD has closed leaves its number to whatever is opened next: not to ours. */
static int out_of_the_way(const struct state *state, int fd)
{
	int moved = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, state->sock);
	int error = errno;

	if (fd >= 0)
		close(fd);
	errno = error;
	return moved;
}

/* CMD gets 0, 1, 2 and what the user asked for; the rest is the front's business. */
static void keep_descriptors(struct state *state)
{
	unsigned int first = 3 + state->spec->preserve_fds;
	int moved = fcntl(state->sock, F_DUPFD_CLOEXEC, (int)first);

	if (moved < 0)
		_exit(1);
	/* Where a stream was closed, its number may have gone to something of the front's. */
	for (unsigned int fd = 0; fd < first; fd++) {
		int flags = fcntl((int)fd, F_GETFD);
		if (flags >= 0 && flags & FD_CLOEXEC)
			close((int)fd);
	}
	if (moved > (int)first)
		syscall(SYS_close_range, first, (unsigned int)moved - 1, 0);
	syscall(SYS_close_range, (unsigned int)moved + 1, ~0U, 0);
	state->sock = moved;
	state->null = out_of_the_way(state, open("/dev/null", O_RDWR | O_CLOEXEC));
}

static int take_identity(const struct sd_launch_spec *spec)
{
	if (!(spec->namespaces & SD_NS_USER))
		return 0;
	if (spec->drop_groups && syscall(SYS_setgroups, 0, NULL))
		return -errno;
	if (syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) ||
	    syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid))
		return -errno;
	/* The user's keys are not the container's. Without a kernel that has keyrings: nothing to do. */
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	return 0;
}

/* In this order: a change of credentials clears PDEATHSIG and may set dumpable. */
static int settle(struct state *state)
{
	struct pollfd front = {.fd = state->sock, .events = POLLIN};

	int error = take_identity(state->spec);
	if (error) {
		sd_report(state->sock, SD_EVENT_FAILED, SD_STAGE_IDENTITY, -error);
		return error;
	}
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (!(state->spec->namespaces & SD_NS_PID))
		prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	/* getppid() is 0 in a pid namespace; a front that died before PDEATHSIG was set shows here. */
	if (poll(&front, 1, 0) == 1 && front.revents & POLLHUP)
		return -ESRCH;
	return sd_surroundings(state->spec, state->sock);
}

_Noreturn static void command_process(const struct state *state, struct sd_handover *page,
				      pid_t init)
{
	if (!(state->spec->namespaces & SD_NS_PID)) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		if (getppid() != init)
			_exit(1);
	}
	sd_handover_command(page, state->spec);
}

static int fork_command(struct state *state, struct sd_handover *page)
{
	struct timespec none = {0};
	pid_t init = getpid();
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, SIGCHLD);
	state->signals = out_of_the_way(state, signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
	if (state->signals < 0)
		return -errno;
	/* What our group got before CMD was in it, CMD did not get. */
	while (sigtimedwait(&all, NULL, &none) > 0)
		;
	sigaddset(&all, SIGCHLD);
	if (signalfd(state->signals, &all, 0) < 0)
		return -errno;
	long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		command_process(state, page, init);
	state->command = (pid_t)pid;
	return pid < 0 ? -errno : 0;
}

static void pass_on(struct state *state, const struct sd_handover *page,
		    const struct sd_signal *signal);

/* CMD runs once somebody has taken its listener. -ESRCH where the front has gone or given up. */
static int await_release(struct state *state, const struct sd_handover *page)
{
	struct sd_order order = {.kind = state->spec->held ? 0 : SD_ORDER_GO};

	while (order.kind != SD_ORDER_GO) {
		if (recv(state->sock, &order, sizeof order, 0) != (ssize_t)sizeof order)
			return -ESRCH;
		if (order.kind == SD_ORDER_KILL)
			pass_on(state, page, &order.signal);
	}
	return 0;
}

static int hand_over(struct state *state, struct sd_handover *page)
{
	struct sd_launch_event event = {.kind = SD_EVENT_LISTENER, .value = state->command};
	int error = sd_handover_await(page, SD_STEP_LISTENING, state->command);

	if (error) {
		sd_report(state->sock, SD_EVENT_FAILED, SD_STAGE_FILTER, -error);
		return error;
	}
	if (page->privileges)
		sd_report(state->sock, SD_EVENT_NOTE, SD_STAGE_NO_NEW_PRIVS, 0);
	if (page->listener < 0) {
		sd_report(state->sock, SD_EVENT_FAILED, page->stage, -page->listener);
		return page->listener;
	}
	int sent = sd_send_fds(state->sock, &event, sizeof event, &page->listener, 1);
	close(page->listener);
	if (sent < 0)
		return sent;
	error = await_release(state, page);
	if (error)
		return error;
	sd_handover_step(page, SD_STEP_RELEASED);
	/* It may be killed on the way: then there is just a dead child to reap. */
	sd_handover_await(page, SD_STEP_ALONE, state->command);
	return 0;
}

/* Streams and directory are CMD's: that we live must not keep a pipe open, or a mount busy. */
static void step_aside(const struct state *state, const struct sd_handover *page)
{
	if (page->alone && state->null >= 0) {
		for (int fd = 0; fd < 3; fd++)
			dup2(state->null, fd);
		if (state->spec->preserve_fds)
			syscall(SYS_close_range, 3U, 2 + state->spec->preserve_fds, 0);
	}
	if (chdir("/"))
		return;
}

static void report_command(struct state *state, const siginfo_t *info,
			   const struct sd_handover *page)
{
	if (info->si_code == CLD_STOPPED) {
		sd_report(state->sock, SD_EVENT_STOPPED, 0, info->si_status);
	} else if (info->si_code == CLD_CONTINUED) {
		sd_report(state->sock, SD_EVENT_CONTINUED, 0, 0);
	} else {
		state->command_ended = 1;
		if (page->exec_error)
			sd_report(state->sock, SD_EVENT_FAILED, SD_STAGE_EXEC, page->exec_error);
		else
			sd_report(state->sock, SD_EVENT_EXITED, 0,
				  info->si_code == CLD_EXITED ? info->si_status
							      : 128 + info->si_status);
	}
}

static void reap(struct state *state, const struct sd_handover *page)
{
	siginfo_t info = {0};

	if (!state->command_ended &&
	    !waitid(P_PID, (id_t)state->command, &info, WSTOPPED | WCONTINUED | WNOHANG) && info.si_pid)
		report_command(state, &info, page);
	for (;;) {
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL)) {
			if (errno == ECHILD)
				_exit(0);
			return;
		}
		if (!info.si_pid)
			return;
		if (info.si_pid == state->command && !state->command_ended)
			report_command(state, &info, page);
	}
}

/* Reads what came to us. Signals from inside the namespace are no business of ours; those from
 * outside came to our whole process group. */
static void read_signals(struct state *state, const struct sd_handover *page)
{
	struct signalfd_siginfo info;
	int children = 0;

	while (read(state->signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if (info.ssi_signo == SIGCHLD)
			children = 1;
		else if (info.ssi_signo < NSIG && (info.ssi_code == SI_KERNEL || !info.ssi_pid ||
						   !(state->spec->namespaces & SD_NS_PID)))
			state->seen[info.ssi_signo] = now_ms();
	}
	if (children)
		reap(state, page);
}

static void pass_on(struct state *state, const struct sd_handover *page,
		    const struct sd_signal *signal)
{
	if (signal->number <= 0 || signal->number >= NSIG)
		return;
	read_signals(state, page);
	int64_t seen = state->seen[signal->number];
	int whole_group = seen && now_ms() - seen <= TOGETHER_MS;
	state->seen[signal->number] = 0;
	/* Signals are CMD's own where it is in our group; a terminal's are meant for that group alone. */
	if (whole_group && (signal->code == SI_KERNEL || getpgid(state->command) == getpgid(0)))
		return;
	if (!state->command_ended)
		kill(state->command, signal->number);
}

_Noreturn static void serve(struct state *state, const struct sd_handover *page)
{
	struct pollfd ready[2] = {{.fd = state->sock, .events = POLLIN},
				  {.fd = state->signals, .events = POLLIN}};
	struct sd_order order;

	for (;;) {
		if (poll(ready, 2, -1) < 0)
			continue;
		if (ready[1].revents)
			read_signals(state, page);
		if (!ready[0].revents)
			continue;
		if (recv(state->sock, &order, sizeof order, 0) != (ssize_t)sizeof order)
			end(state);
		if (order.kind == SD_ORDER_KILL)
			pass_on(state, page, &order.signal);
	}
}

_Noreturn void sd_init(const struct sd_launch_spec *spec, int sock)
{
	static struct state state; /* static: it is large, and there is one */
	struct sd_order order;
	struct sd_handover *page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	state.spec = spec;
	state.sock = sock;
	sd_signals_for_init();
	prctl(PR_SET_NAME, "seccompd-init", 0, 0, 0);
	keep_descriptors(&state);
	if (page == MAP_FAILED || recv(state.sock, &order, sizeof order, 0) != (ssize_t)sizeof order ||
	    order.kind != SD_ORDER_GO || settle(&state))
		end(&state);
	int error = fork_command(&state, page);
	if (error) {
		sd_report(state.sock, SD_EVENT_FAILED, SD_STAGE_FORK, -error);
		end(&state);
	}
	if (hand_over(&state, page))
		end(&state);
	step_aside(&state, page);
	serve(&state, page);
}
