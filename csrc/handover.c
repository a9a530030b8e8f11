/* The way of the listener out of CMD's process, without a call that CMD's own filter could stop.
 *
 * CMD's process shares init's descriptor table, so the listener that it makes is init's as well.
 * Init, which has no filter, sends it away and closes it: one table, so it is closed for both
 * before CMD's program runs. Steps are words in shared memory: between the filter and the end of
 * the hand-over CMD's process makes no call but futex.
 */
#include "launch.h"

#include "compat.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int install_filter(struct sd_handover *page, const struct sd_launch_spec *spec)
{
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER |
			      (spec->wait_killable ? SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0);
	struct sock_fprog program = {
		.len = (unsigned short)(spec->filter_size / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)spec->filter,
	};
	long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);

	/* Without CAP_SYS_ADMIN in its own user namespace a process has to give up set-id programs. */
	if (fd < 0 && errno == EACCES) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
			page->stage = SD_STAGE_NO_NEW_PRIVS;
			return -errno;
		}
		page->privileges = 1;
		fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	}
	page->stage = SD_STAGE_FILTER;
	return fd < 0 ? -errno : (int)fd;
}

void sd_handover_step(struct sd_handover *page, enum sd_step step)
{
	__atomic_store_n(&page->step, step, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &page->step, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* 0 once `step` is reached, -ECHILD where CMD's process ended on the way. `command` 0: there is no
 * process to look at. The time limit is there to look: nobody wakes us for a process that was killed. */
int sd_handover_await(struct sd_handover *page, enum sd_step step, pid_t command)
{
	for (;;) {
		uint32_t now = __atomic_load_n(&page->step, __ATOMIC_SEQ_CST);
		struct timespec limit = {.tv_nsec = 20 * 1000 * 1000};
		siginfo_t info = {0};

		if (now >= (uint32_t)step)
			return 0;
		syscall(SYS_futex, &page->step, FUTEX_WAIT, now, &limit, NULL, 0);
		if (command && !waitid(P_PID, (id_t)command, &info, WEXITED | WNOHANG | WNOWAIT) &&
		    info.si_pid == command &&
		    __atomic_load_n(&page->step, __ATOMIC_SEQ_CST) < (uint32_t)step)
			return -ECHILD;
	}
}

_Noreturn void sd_handover_command(struct sd_handover *page, const struct sd_launch_spec *spec)
{
	sd_signals_for_command();
	int listener = install_filter(page, spec);

	page->listener = listener;
	sd_handover_step(page, SD_STEP_LISTENING);
	if (listener < 0)
		_exit(126);
	sd_handover_await(page, SD_STEP_RELEASED, 0);
	/* Now, and not only by execve: init may then let go of the streams that CMD has. */
	page->alone = syscall(SYS_unshare, CLONE_FILES) == 0;
	sd_handover_step(page, SD_STEP_ALONE);
	sd_signals_unblock();
	execvp(spec->argv[0], (char *const *)spec->argv);
	page->exec_error = errno;
	_exit(errno == ENOENT ? 127 : 126);
}
