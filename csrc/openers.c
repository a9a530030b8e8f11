/* Openers open what a maker lends, and give it to callers by themselves: one message less for each, and
 * an open that waits, as that of a disk may, keeps nobody else waiting.
 *
 * One is a maker's child, below the same ceiling, and has less rights than that. Files of the host's are
 * opened by one that has CAP_DAC_OVERRIDE, and names nothing else. Devices are opened
 * by one that has become the root of the container's user namespace, and then lost all capabilities: so
 * what a driver lets somebody do is what it lets the container. /dev/net/tun is of the network namespace
 * of whoever opens it: for that one goes there, once, with the container's rights alone.
 *
 * A session that has no makers forks its own, which open nodes of the host's. They are who the session is,
 * without capabilities; it is the session that sees whether the caller could open them as well.
 *
 * Whom it gives something to is for the kernel to say: the call has to be one that waits at the listener
 * that the session has sent. */
#include "openers.h"
#include "compat.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NICENESS = 5 };     /* its work is half of a session's: so it has used up as much of its share */
enum { MOST_BROUGHT = 2 }; /* with one order */
enum { MOST_OPENERS = 6 }; /* of a maker at a time: one that hangs is left behind */

static struct {
	enum sd_opener kind;
	dev_t anonymous; /* of the files that listeners are */
	struct sd_opener_desk *desk;
	int listener;
	int links;  /* of a session without makers: /proc/self/fd; -1 */
	int nodes[SD_MOST_LENT]; /* and of the host's nodes those that it has brought; 0: none */
} self = {.listener = -1, .links = -1};

/* With the ids that we were forked with, and no capabilities. */
static int open_hosts(const struct sd_open_order *order)
{
	char link[16];
	if (order->index >= SD_MOST_LENT || !self.nodes[order->index])
		return -EPERM;
	snprintf(link, sizeof link, "%d", self.nodes[order->index]);
	return sd_open_unblocking(self.links, link,
				  (int)order->flags & ~(O_CREAT | O_PATH | O_NOFOLLOW));
}

static int open_it(const struct sd_open_order *order)
{
	if (self.links >= 0)
		return open_hosts(order);
	if (sd_lend_is_file(order->index) != (self.kind == SD_OPENER_FILES))
		return -EPERM;
	return sd_lend_open(order->index, (int)order->flags);
}

/* The descriptor and the answer are one. Whatever the caller gets instead, it gets one. */
static void give(uint64_t id, int fd, uint32_t flags)
{
	struct seccomp_notif_addfd add = {
		.id = id, .srcfd = (uint32_t)fd, .newfd_flags = flags & O_CLOEXEC,
		.flags = SECCOMP_ADDFD_FLAG_SEND,
	};
	int number;
	do
		number = ioctl(self.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
	while (number < 0 && errno == EINTR);
	if (number >= 0 || errno == ENOENT || errno == EINPROGRESS)
		return;
	struct seccomp_notif_resp answer = {.id = id, .error = -errno}; /* its table is full */
	int error = sd_send_answer(self.listener, &answer);
	if (error && error != -ENOENT && error != -EINPROGRESS)
		_exit(1); /* then the session refuses it */
}

/* Whether the call has its answer; else the session is told what came of it. */
static int carry_out(const struct sd_open_order *order, int answers)
{
	struct sd_made made = {0};
	struct sd_desk *desk = &self.desk->desk;
	sd_follow(order->cpu);
	int fd = open_it(order);
	if (fd >= 0 && answers && sd_desk_change(desk, SD_DESK_PORTERS, SD_DESK_ANSWERED)) {
		give(order->id, fd, order->flags);
		close(fd);
		return 1;
	}
	if (fd < 0) {
		made.error = fd;
		sd_desk_change(desk, SD_DESK_PORTERS, SD_DESK_SESSIONS);
	}
	if (sd_reply(0, &made, sizeof made, fd) < 0)
		_exit(1);
	return 0;
}

/* Not a file that somebody serves, who would be asked what our ioctl means. */
static int is_anonymous(int fd)
{
	struct statx file;
	return !syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &file) &&
	       makedev(file.stx_dev_major, file.stx_dev_minor) == self.anonymous;
}

static int keep(int listener)
{
	if (!is_anonymous(listener)) {
		close(listener);
		return -EINVAL;
	}
	if (self.listener >= 0)
		close(self.listener);
	self.listener = listener;
	return 0;
}

static int keep_node(uint32_t index, int node)
{
	if (self.links < 0 || index >= SD_MOST_LENT)
		return -EPERM;
	if (self.nodes[index])
		close(self.nodes[index]);
	self.nodes[index] = node;
	return 0;
}

/* What has come with an order. Whether that is a listener */
static int take_along(const struct sd_open_order *order, const int *fds)
{
	int at = 0, listener = order->brings & SD_BRINGS_LISTENER ? fds[at++] : -1;
	int node = order->brings & SD_BRINGS_NODE ? fds[at++] : -1;
	/* what there was no room for would be missed later on, when another call waits for its answer */
	if (at && fds[at - 1] < 0)
		_exit(1);
	if ((listener >= 0 && keep(listener)) || (node >= 0 && keep_node(order->index, node)))
		_exit(1);
	for (; at < MOST_BROUGHT; at++)
		if (fds[at] >= 0)
			close(fds[at]);
	return listener >= 0;
}

static _Noreturn void serve(void)
{
	struct sd_open_order order;
	for (int answered = 0;;) {
		int fds[MOST_BROUGHT], answers = answered && sd_desk_wait(&self.desk->desk);
		if (answers) /* once: the session may write there meanwhile */
			order = *(volatile struct sd_open_order *)&self.desk->order;
		else if (sd_receive_fds(0, &order, sizeof order, fds, MOST_BROUGHT) != (int)sizeof order)
			_exit(0);
		else
			answers = take_along(&order, fds);
		answered = carry_out(&order, answers);
	}
}

/* A memfd that nobody can cut away under us, nor make us wait for. */
static int map_desk(int memfd)
{
	struct stat file;
	int seals = fcntl(memfd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(memfd, &file) ||
	    file.st_size < (off_t)sizeof *self.desk)
		return -EINVAL;
	self.desk = mmap(NULL, sizeof *self.desk, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	return self.desk == MAP_FAILED ? -errno : 0;
}

static int become(const struct sd_make *make, const int *fds, int userns, uint64_t permitted)
{
	int error = 0;
	if (self.kind == SD_OPENER_FILES)
		return sd_set_caps(1ULL << CAP_DAC_OVERRIDE, 1ULL << CAP_DAC_OVERRIDE);
	if (sd_set_caps(permitted, permitted))
		return -EPERM;
	if (userns >= 0)
		error = sd_join_user_namespace(userns, make->fsuid, make->fsgid);
	if (!error && self.kind == SD_OPENER_NET && fds[2] >= 0 && setns(fds[2], CLONE_NEWNET))
		error = -errno;
	return error ? error : sd_set_caps(0, 0);
}

/* Who is woken by its answer goes on before us, and so does the session, which has the next call: else we
 * would have the processor for a moment, after each call, to see that there is nothing to do yet. */
static void stand_back(void)
{
	const struct sched_param none = {0};
	sched_setscheduler(0, SCHED_BATCH, &none);
	setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICENESS);
}

static int know_listeners(void)
{
	struct stat file;
	int any = eventfd(0, EFD_CLOEXEC);
	if (any < 0 || fstat(any, &file))
		return -EMFILE;
	self.anonymous = file.st_dev;
	close(any);
	return 0;
}

static int settle(const struct sd_make *make, const int *fds, int userns, uint64_t permitted)
{
	int error = know_listeners();
	if (!error)
		error = map_desk(fds[1]);
	return error ? error : become(make, fds, userns, permitted);
}

int sd_opener_start(const struct sd_make *make, const int *fds, int userns, uint64_t permitted)
{
	static int alive;
	pid_t maker = getpid();
	if (make->device < SD_OPENER_FILES || make->device >= SD_OPENERS || fds[0] < 0 || fds[1] < 0)
		return -EINVAL;
	while (alive && waitpid(-1, NULL, WNOHANG) > 0)
		alive--;
	if (alive >= MOST_OPENERS)
		return -EAGAIN;
	pid_t pid = fork();
	alive += pid > 0;
	if (pid)
		return pid < 0 ? -errno : 0;
	struct sd_made ready;
	self.kind = (enum sd_opener)make->device;
	prctl(PR_SET_NAME, "seccompd-open", 0, 0, 0);
	if (dup2(fds[0], 0) < 0)
		_exit(1);
	ready.error = settle(make, fds, userns, permitted);
	stand_back();
	sd_harden(); /* now: to become somebody else undoes it */
	if (getppid() != maker)
		_exit(1);
	if (self.kind == SD_OPENER_FILES)
		sd_lend_keep_alone();
	else
		syscall(SYS_close_range, 1, ~0U, 0);
	if (sd_send_fds(0, &ready, sizeof ready, NULL, 0) < 0 || ready.error)
		_exit(1);
	serve();
}

/* Where it is to be, and as what. */
static int settle_for_session(void)
{
	struct sd_opener_birth birth;
	int fds[2];
	if (sd_receive_fds(0, &birth, sizeof birth, fds, 2) != (int)sizeof birth)
		_exit(1);
	self.kind = (enum sd_opener)birth.kind;
	self.links = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int error = self.links < 0 ? -errno : know_listeners();
	if (!error)
		error = map_desk(fds[0]);
	if (!error && fds[1] >= 0 && setns(fds[1], CLONE_NEWNET))
		error = -errno;
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return error ? error : sd_set_caps(0, 0);
}

void sd_opener_live(void)
{
	int maps = sd_own_maps();
	const struct sd_made ready = {settle_for_session()};
	stand_back();
	sd_harden();
	if (sd_send_fds(0, &ready, sizeof ready, NULL, 0) < 0 || ready.error)
		_exit(1);
	sd_forget_parent(maps);
	serve();
}
