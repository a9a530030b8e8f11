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
	uint64_t net;     /* the network namespace that it is in */
	uint64_t nodes[SD_MOST_LENT]; /* that it has of the host's, by their serials; 0: none */
} openers[SD_OPENERS] = {
	[SD_OPENER_FILES] = {.runner = {.sock = -1}},
	[SD_OPENER_DEVICES] = {.runner = {.sock = -1}},
	[SD_OPENER_NET] = {.runner = {.sock = -1}},
};

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

static uint64_t own_network(void)
{
	static struct stat ours; /* a session stays where it is */
	if (!ours.st_ino && stat("/proc/self/ns/net", &ours))
		return 0;
	return ours.st_ino;
}

int sd_network_is_ours(uint32_t tid)
{
	uint64_t theirs, ours = own_network();
	return ours && !sd_network_of_known(tid, &theirs) && theirs == ours;
}

/* Where it is to be: `*netns` becomes -1 where that is where we are. 0 or -errno */
static int whose_network(struct opener *opener, int *netns)
{
	struct stat theirs = {.st_ino = own_network()};
	if (!theirs.st_ino || (*netns >= 0 && fstat(*netns, &theirs)))
		return -EINVAL;
	opener->net = theirs.st_ino;
	if (opener->net == own_network())
		*netns = -1;
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

int sd_opener_spawn(enum sd_opener kind, int netns, struct sd_child *child)
{
	struct opener *opener = &openers[kind];
	const struct sd_opener_birth birth = {kind};
	sd_opener_by(kind, -1, 0);
	int error = whose_network(opener, &netns);
	if (error)
		return error;
	int fds[2] = {new_desk(opener), netns};
	if (fds[0] < 0)
		return fds[0];
	memset(opener->nodes, 0, sizeof opener->nodes);
	int pid = sd_fork_helper(child, "seccompd-open", 0);
	if (!pid)
		sd_opener_live();
	if (pid > 0) /* where that fails it ends, and is not ready */
		sd_send_fds(child->sock, &birth, sizeof birth, fds, netns < 0 ? 1 : 2);
	close(fds[0]);
	return pid;
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
	uint64_t net;
	if (opener->runner.sock < 0 || kind != SD_OPENER_NET)
		return opener->runner.sock >= 0;
	return !sd_network_of_known(tid, &net) && net == opener->net;
}

static struct sd_open_order order_of(uint32_t index, uint32_t flags, uint64_t id)
{
	return (struct sd_open_order){
		.cpu = (uint32_t)sched_getcpu(), .index = index, .flags = flags, .id = id,
	};
}

static int has_node(const struct opener *opener, uint32_t index, const struct sd_node *node)
{
	return !node || (index < SD_MOST_LENT && opener->nodes[index] == node->serial);
}

/* Over the socket, with a listener or -1, and a node that it does not have yet. */
static int send_order(struct opener *opener, struct sd_open_order *order, int listener,
		      const struct sd_node *node)
{
	int fds[2], count = 0;
	if (listener >= 0) {
		order->brings |= SD_BRINGS_LISTENER;
		fds[count++] = listener;
	}
	if (!has_node(opener, order->index, node)) {
		if (order->index >= SD_MOST_LENT)
			return -EINVAL;
		order->brings |= SD_BRINGS_NODE;
		fds[count++] = node->fd;
	}
	int sent = sd_send_fds(opener->runner.sock, order, sizeof *order, fds, (size_t)count);
	if (sent >= 0 && order->brings & SD_BRINGS_NODE)
		opener->nodes[order->index] = node->serial;
	return sent < 0 ? sent : 0;
}

int sd_opener_open(enum sd_opener kind, uint32_t index, uint32_t flags, const struct sd_node *node)
{
	struct opener *opener = &openers[kind];
	struct sd_open_order order = order_of(index, flags, 0);
	if (opener->runner.sock < 0)
		return -EPIPE;
	opener->runner.at_desk = 0;
	sd_desk_set(&opener->desk->desk, SD_DESK_SESSIONS);
	return send_order(opener, &order, -1, node);
}

static int ask(struct opener *opener, const struct sd_gift *gift, const struct sd_waiting *call)
{
	struct sd_open_order order = order_of(gift->index, gift->flags, call->id);
	int same = opener->runner.at_desk && opener->listener == call->listener &&
		   has_node(opener, gift->index, gift->node);
	opener->runner.at_desk = 0;
	opener->listener = call->listener;
	if (same) {
		opener->desk->order = order;
		sd_desk_tell(&opener->desk->desk);
		return 0;
	}
	sd_desk_set(&opener->desk->desk, SD_DESK_PORTERS);
	return send_order(opener, &order, call->listener, gift->node);
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
