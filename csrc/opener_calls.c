/* Opens that are settled, of what somebody else has to open: an equal one needs no more looks at the
 * policy. The session sees where its path leads, and an opener opens what is given, and answers. */
#include "openers.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct opener {
	struct sd_runner runner;
	struct sd_opener_desk *desk;
	int on_error;
	int listener;     /* that it has */
	struct stat net;  /* the network namespace that it is in */
} openers[SD_OPENERS] = {
	[SD_OPENER_FILES] = {.runner = {.sock = -1}},
	[SD_OPENER_DEVICES] = {.runner = {.sock = -1}},
	[SD_OPENER_NET] = {.runner = {.sock = -1}},
};

static int same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

static int new_desk(struct opener *opener)
{
	const size_t size = sizeof *opener->desk;
	int memfd = memfd_create("desk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0)
		return -errno;
	void *desk = MAP_FAILED;
	if (!ftruncate(memfd, (off_t)size) && !fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		desk = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (desk == MAP_FAILED) {
		int error = -errno;
		close(memfd);
		return error;
	}
	madvise(desk, size, MADV_DONTFORK); /* helpers that are forked later have no part in it */
	if (opener->desk)
		munmap(opener->desk, size);
	opener->desk = desk;
	return memfd;
}

/* Where it is to be: `*netns` becomes -1 where that is where we are. 0 or -errno */
static int whose_network(struct opener *opener, int *netns)
{
	struct stat ours;
	if (stat("/proc/self/ns/net", &ours) || (*netns >= 0 && fstat(*netns, &opener->net)))
		return -errno;
	if (*netns < 0 || same_file(&ours, &opener->net)) {
		opener->net = ours;
		*netns = -1;
	}
	return 0;
}

int sd_opener_ask(int maker, enum sd_opener kind, int netns, int *sock)
{
	struct opener *opener = &openers[kind];
	struct sd_make make;
	int pair[2];
	sd_opener_by(kind, -1, 0);
	int error = whose_network(opener, &netns);
	if (error)
		return error;
	int fds[SD_OPENER_FDS] = {-1, new_desk(opener), netns};
	error = fds[1] < 0 ? fds[1] : 0;
	if (!error && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		error = -errno;
	if (!error) {
		memset(&make, 0, sizeof make);
		make.op = SD_MAKE_OPENER;
		make.cpu = (uint32_t)sched_getcpu();
		make.device = kind;
		make.fsuid = geteuid();
		make.fsgid = getegid();
		make.name[0] = 'o';
		fds[0] = pair[1];
		*sock = pair[0];
		int sent = sd_send_fds(maker, &make, sizeof make, fds, fds[2] < 0 ? 2 : 3);
		error = sent < 0 ? sent : 0;
		close(pair[1]);
	}
	if (fds[1] >= 0)
		close(fds[1]);
	return error;
}

void sd_opener_by(enum sd_opener kind, int sock, int on_error)
{
	struct opener *opener = &openers[kind];
	sd_runner_by(&opener->runner, sock, opener->desk ? &opener->desk->desk : NULL);
	opener->on_error = on_error;
}

int sd_opener_is_there(enum sd_opener kind, uint32_t tid)
{
	const struct opener *opener = &openers[kind];
	struct stat net;
	if (opener->runner.sock < 0 || kind != SD_OPENER_NET)
		return opener->runner.sock >= 0;
	return !sd_network_of_known(tid, &net) && same_file(&net, &opener->net);
}

static struct sd_open_order order_of(uint32_t index, uint32_t flags, uint64_t id)
{
	return (struct sd_open_order){
		.cpu = (uint32_t)sched_getcpu(), .index = index, .flags = flags, .id = id,
	};
}

int sd_opener_open(enum sd_opener kind, uint32_t index, uint32_t flags)
{
	struct opener *opener = &openers[kind];
	const struct sd_open_order order = order_of(index, flags, 0);
	if (opener->runner.sock < 0)
		return -EPIPE;
	opener->runner.at_desk = 0;
	sd_desk_set(&opener->desk->desk, SD_DESK_SESSIONS);
	int sent = sd_send_fds(opener->runner.sock, &order, sizeof order, NULL, 0);
	return sent < 0 ? sent : 0;
}

static int ask(struct opener *opener, const struct sd_gift *gift, const struct sd_waiting *call)
{
	const struct sd_open_order order = order_of(gift->index, gift->flags, call->id);
	int same = opener->runner.at_desk && opener->listener == call->listener;
	opener->runner.at_desk = 0;
	opener->listener = call->listener;
	if (same) {
		opener->desk->order = order;
		sd_desk_tell(&opener->desk->desk);
		return 0;
	}
	sd_desk_set(&opener->desk->desk, SD_DESK_PORTERS);
	int sent = sd_send_fds(opener->runner.sock, &order, sizeof order, &call->listener, 1);
	return sent < 0 ? sent : 0;
}

enum sd_errand_end sd_opener_run(const struct sd_gift *gift, const struct sd_waiting *call,
				 int others_wait, int *there)
{
	struct opener *opener = &openers[gift->by];
	const struct sd_asked asked = {call->id, call->listener, opener->on_error};
	if (!sd_runner_is_there(&opener->runner))
		return SD_ERRAND_NOT;
	return sd_runner_wait(&opener->runner, ask(opener, gift, call), &asked, others_wait, there);
}

void sd_openers_forget_listeners(void)
{
	for (int kind = SD_OPENER_FILES; kind < SD_OPENERS; kind++)
		openers[kind].listener = -1;
}
