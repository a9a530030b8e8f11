/* The session's side of calls on sockets: it says whose socket, and a porter fetches it and calls. */
#include "compat.h"
#include "porters.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "work.h"

/* Those of who called lately stay open. One belongs to one thread for ever: where that has gone it
 * leads to nobody, whoever has the number now. */
enum { KNOWN = 8 };
static struct owner {
	uint32_t tid;
	int pidfd;
	uint64_t used;
} known[KNOWN];

void sd_socket_forget_owners(void)
{
	for (int i = 0; i < KNOWN; i++) {
		if (known[i].tid)
			close(known[i].pidfd);
		known[i].tid = 0;
	}
}

/* Lent: it stays ours. */
static int known_owner(const struct sd_socket *call, int anew)
{
	static uint64_t calls;
	struct owner *one = &known[0];
	for (int i = 1; i < KNOWN && one->tid != call->tid; i++)
		if (known[i].tid == call->tid || known[i].used < one->used)
			one = &known[i];
	if (one->tid != call->tid || anew) {
		int pidfd = sd_socket_owner(call);
		if (one->tid)
			close(one->pidfd);
		one->tid = pidfd < 0 ? 0 : call->tid;
		one->pidfd = pidfd;
	}
	one->used = ++calls;
	return one->pidfd;
}

/* The thread itself has it, or where the kernel has no pidfds of threads its process, if a comparison
 * says that the two share it. */
int sd_socket_owner(const struct sd_socket *call)
{
	if (call->by_thread) {
		int pidfd = (int)syscall(SYS_pidfd_open, call->tid, PIDFD_THREAD);
		return pidfd < 0 ? -ESRCH : pidfd;
	}
	uint32_t tgid;
	uint64_t start;
	if (sd_task_start((int)call->tid, &tgid, &start))
		return -ESRCH;
	int pidfd = (int)syscall(SYS_pidfd_open, tgid, 0);
	if (pidfd < 0)
		return -ESRCH;
	if (tgid != call->tid && syscall(SYS_kcmp, call->tid, tgid, KCMP_FILES, 0, 0)) {
		close(pidfd);
		return -EPERM;
	}
	return pidfd;
}

static void end(int sock, const struct linger *how)
{
	setsockopt(sock, SOL_SOCKET, SO_LINGER, how, sizeof *how);
	close(sock);
}

void sd_socket_refuse(int sock)
{
	end(sock, &(struct linger){.l_onoff = 1});
}

void sd_socket_lose(int sock)
{
	end(sock, &(struct linger){.l_onoff = 0});
}

int sd_signal_thread(uint32_t tgid, uint32_t tid, int number)
{
	return syscall(SYS_tgkill, tgid, tid, number) ? -errno : 0;
}

/* ---- porters ---- */

int sd_porter_new(int porters, uint32_t number)
{
	struct sd_porters_order order = {SD_PORTER_NEW, number};
	int pair[2], room = 2 * (int)sizeof(struct sd_parcel);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
	int sent = sd_send_fds(porters, &order, sizeof order, &pair[1], 1);
	close(pair[1]);
	if (sent < 0)
		close(pair[0]);
	return sent < 0 ? sent : pair[0];
}

int sd_porter_kick(int porters, uint32_t number)
{
	struct sd_porters_order order = {SD_PORTER_KICK, number};
	int sent = sd_send_fds(porters, &order, sizeof order, NULL, 0);
	return sent < 0 ? sent : 0;
}

static void write_errand(const struct sd_socket *call, enum sd_kept kept, struct sd_errand *errand)
{
	memset(errand, 0, offsetof(struct sd_errand, set));
	errand->op = call->op;
	errand->cpu = (uint32_t)sched_getcpu();
	errand->flags = call->flags;
	errand->number = call->number;
	errand->call_flags = call->call_flags;
	errand->address_length = call->address_length;
	errand->control_length = call->control_length;
	errand->payload_length = call->payload_length;
	errand->with_path = call->path >= 0;
	errand->asked_family = call->asked_family;
	errand->asked_length = call->asked_length;
	errand->level = call->level;
	errand->option = call->option;
	errand->wait_ms = call->wait_ms;
	errand->kept = kept;
	errand->tid = call->tid;
	errand->id = call->id;
	errand->mark = call->mark;
	errand->network = call->network;
	errand->set_count = call->set_count;
	memcpy(errand->set, call->set, sizeof errand->set);
	memcpy(errand->address, call->address, sizeof errand->address);
}

static int send_errand(const struct sd_socket *call, int porter, const int *fds, size_t count,
		       enum sd_kept kept)
{
	struct sd_errand errand;
	char control[CMSG_SPACE(sizeof(int) * SD_PORTER_FDS)];
	size_t size = count * sizeof(int);
	write_errand(call, kept, &errand);
	struct iovec parts[] = {
		{&errand, sizeof errand},
		{(void *)call->control, (size_t)call->control_length},
		{(void *)call->payload, (size_t)call->payload_length},
	};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3, .msg_control = control,
				 .msg_controllen = CMSG_SPACE(size)};
	memset(control, 0, sizeof control);
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(head), fds, size);
	return sendmsg(porter, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int sd_socket_ask(const struct sd_socket *call, int porter, enum sd_kept kept)
{
	int fds[SD_PORTER_FDS] = {-1, call->listener};
	size_t count = 2;
	if (call->address_length < 0 || call->address_length > SD_ADDRESS_MAX ||
	    call->set_count > SD_MOST_SET || call->control_length > SD_CONTROL_MAX ||
	    call->payload_length > SD_PAYLOAD_MAX)
		return -EINVAL;
	/* without pidfds of threads each call asks anew whether the thread shares its process's table */
	fds[0] = known_owner(call, !call->by_thread || call->anew);
	if (fds[0] < 0)
		return fds[0];
	if (call->flags & SD_SOCKET_AS_CALLER)
		fds[count++] = call->task;
	if (call->path >= 0)
		fds[count++] = call->path;
	if (call->flags & SD_SOCKET_WATCHED)
		fds[count++] = call->watch;
	return send_errand(call, porter, fds, count, kept);
}

void sd_socket_ask_at(const struct sd_socket *call, struct sd_porter_desk *desk)
{
	write_errand(call, SD_KEEP_USED, &desk->errand);
	sd_desk_tell(&desk->desk);
}

int sd_socket_call(struct sd_socket *call, int porter, int linger_us)
{
	int error = sd_socket_ask(call, porter, SD_KEEP_NOT);
	return error ? error : sd_socket_answer(call, porter, linger_us);
}

int sd_socket_answer(struct sd_socket *call, int porter, int linger_us)
{
	struct sd_errand_done done;
	int there = sd_readable(porter, linger_us);
	if (there <= 0)
		return there;
	int taken = -1;
	int got = sd_receive_fds(porter, &done, sizeof done, &taken, 1);
	while (got == 1 || (got == -EINTR && taken >= 0)) /* the rest is on its way */
		got = sd_receive_fds(porter, &done, sizeof done, NULL, 0);
	if (got == -EAGAIN || got == -EINTR)
		return 0;
	const int least = (int)offsetof(struct sd_errand_done, value);
	int is_whole = got >= least && got == least + done.value_length;
	if (!is_whole && taken >= 0)
		close(taken);
	if (!is_whole)
		return got < 0 ? got : -EPIPE;
	call->taken = taken;
	call->left_ms = done.left_ms;
	call->peer_length = done.peer_length;
	memcpy(call->peer, done.peer, sizeof call->peer);
	call->result = done.result;
	call->why = done.why;
	call->domain = done.domain;
	call->type = done.type;
	call->patient = done.patient;
	call->replaced = done.replaced;
	call->hosted = done.hosted;
	call->cookie = done.cookie;
	call->mss = done.mss;
	call->rtt_us = done.rtt_us;
	call->pmtu = done.pmtu;
	call->retransmits = done.retransmits;
	call->value_length = done.value_length;
	memcpy(call->value, done.value, (size_t)done.value_length);
	return 1;
}
