/* A spare beginning of a FUSE program: its namespaces, its root directory and its device are there
 * before anybody waits for them; the image, the loss of all rights and the filters come when it is
 * needed, as in programs.c.
 *
 * Who makes them is forked from the session once. It shares its memory with the spare one and waits
 * for its execve, so that each costs no copy of anything. The spare one is the session's child, as
 * any program: the session reaps it, and it ends with the session. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_WORDS = 64, MOST_TEXT = 16384 };
enum order_kind { PREPARE = 1, START };

struct order {
	uint32_t kind;
	uint32_t words;
	uint32_t alone;
	uint64_t memory;
	char text[MOST_TEXT]; /* the words, each with its end; sent as far as needed */
};

struct spare {
	int32_t pid; /* as the session sees it */
	int null, fuse;
};

static struct order order;

/* The order to start, as a program; never returns without one. */
static void await_order(struct sd_program *program, const char **argv, int *given)
{
	enum { IMAGE, MOUNT_NS, MESSAGES, STARTED, COUNT };
	int fds[COUNT];
	int size = sd_receive_fds(SD_STARTED, &order, sizeof order, fds, COUNT);
	if (size < (int)offsetof(struct order, text) || order.kind != START || fds[STARTED] < 0 ||
	    order.words > MOST_WORDS)
		_exit(0);
	const char *word = order.text;
	for (uint32_t i = 0; i < order.words; i++) {
		argv[i] = word;
		word += strlen(word) + 1;
	}
	argv[order.words] = NULL;
	*program = (struct sd_program){.argv = argv, .root = -1, .memory = order.memory,
				       .alone = order.alone, .bounded = 1};
	given[1] = given[2] = fds[MESSAGES];
	given[SD_IMAGE] = fds[IMAGE];
	given[SD_FUSE_NODE] = given[SD_ROOT] = -1;
	given[SD_MOUNT_NS] = fds[MOUNT_NS];
	given[SD_STARTED] = fds[STARTED];
	given[SD_OWN] = SD_OWN;
}

static int spare_main(void *from)
{
	static const char *argv[MOST_WORDS + 1];
	static struct sd_program program;
	const struct spare *spare = from;
	int given[SD_AFTER] = {spare->null, spare->null, spare->null, -1, spare->fuse, -1, -1, 0, -1};
	int32_t stage, told = spare->pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	umask(022);
	if (setsid() < 0 || sd_order_descriptors(given))
		_exit(1);
	int error = sd_program_frame("", &stage);
	if (!error && sd_program_bound(SD_PROGRAM_CAPS))
		error = -errno;
	if (error)
		told = error;
	/* so that who counts programs knows this one from one that serves somebody */
	prctl(PR_SET_NAME, "seccompd-spare", 0, 0, 0);
	if (sd_send_fds(SD_STARTED, &told, sizeof told, NULL, 0) < 0 || error)
		_exit(1);
	given[0] = 0;
	await_order(&program, argv, given);
	prctl(PR_SET_NAME, "seccompd-fuse", 0, 0, 0);
	int started = given[SD_STARTED];
	if (sd_order_descriptors(given))
		sd_program_failed(started, SD_PROGRAM_ROOT, errno);
	sd_program_execute(&program);
}

static void serve(void)
{
	struct spare spare = {.null = open("/dev/null", O_RDWR | O_CLOEXEC)};
	while (spare.null >= 0) {
		if (sd_receive_fds(0, &order, sizeof order, &spare.fuse, 1) <= 0)
			return;
		/* a start whose spare one has died: that its descriptors are gone is the answer */
		if (order.kind == PREPARE) {
			int pid = sd_program_clone(spare_main, &spare,
						   CLONE_VM | CLONE_VFORK | CLONE_PARENT |
						   CLONE_PARENT_SETTID, &spare.pid);
			if (pid < 0 && sd_send_fds(0, &pid, sizeof pid, NULL, 0) < 0)
				return;
		}
		if (spare.fuse >= 0)
			close(spare.fuse);
	}
}

int sd_spare_spawn(struct sd_child *child)
{
	int pid = sd_fork_helper(child, "seccompd-fuse", 0);
	if (pid)
		return pid;
	/* It runs for a moment when a program is executed, and must not take that one's place. */
	struct sched_param none = {0};
	sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none);
	sd_forget_parent(sd_own_maps());
	serve();
	_exit(0);
}

int sd_spare_prepare(int starter, int fuse)
{
	static const struct order prepare = {.kind = PREPARE};
	int sent = sd_send_fds(starter, &prepare, offsetof(struct order, text), &fuse, fuse >= 0);
	return sent < 0 ? sent : 0;
}

int sd_spare_made(int starter)
{
	int32_t told;
	ssize_t got = recv(starter, &told, sizeof told, MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	return got == (ssize_t)sizeof told && told ? told : -EPIPE;
}

int sd_spare_start(int starter, struct sd_program *program, int pid, int pidfd)
{
	static struct order start;
	int messages[2], started[2];
	size_t used = 0;
	sd_program_nothing(program);
	start.kind = START;
	start.memory = program->memory;
	start.alone = program->alone;
	start.words = 0;
	if (program->root >= 0 || sd_program_elsewhere(program->argv[0]))
		return -EINVAL;
	for (const char *const *word = program->argv; *word; word++, start.words++) {
		size_t length = strlen(*word) + 1;
		if (start.words == MOST_WORDS || length > sizeof start.text - used)
			return -E2BIG;
		memcpy(start.text + used, *word, length);
		used += length;
	}
	int error = sd_program_channels(messages, started);
	if (error)
		return error;
	const int given[] = {program->image, program->mount_ns, messages[1], started[1]};
	int sent = sd_send_fds(starter, &start, offsetof(struct order, text) + used, given, 4);
	close(messages[1]);
	close(started[1]);
	if (sent < 0) {
		close(messages[0]);
		close(started[0]);
		return sent;
	}
	program->pid = pid;
	program->pidfd = pidfd;
	program->messages = messages[0];
	program->started = started[0];
	return 0;
}
