/* Porters carry out calls on sockets that were fetched from a caller.
 *
 * A socket that blocks, blocks whoever calls on it: O_NONBLOCK belongs to the open file, which is the
 * caller's, too. Even one that does not can be held by another thread of the caller's in the middle of
 * a send. So each call is a thread's own, and nobody else waits for it. A thread has no capability that
 * means anything to a socket but while it acts as the caller. It is kicked (interrupted by a signal) when the caller has gone or
 * has a signal of its own to see to. */
#include "porters.h"
#include "proxy.h"
#include "receiver.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_PORTERS = 256, STACK = 128 * 1024 };

static struct sd_porter_desk *desks; /* MOST_PORTERS of them */

static struct porter {
	pthread_t thread;
	int sock;
	int used; /* under `lock` */
} porters[MOST_PORTERS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- threads ---- */

static ssize_t receive(int sock, struct sd_parcel *parcel, int *fds, size_t *count)
{
	char control[CMSG_SPACE(sizeof(int) * SD_PORTER_FDS)];
	struct iovec io = {parcel, sizeof *parcel};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof control};
	ssize_t got;
	*count = 0;
	do
		got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR); /* kicked too late */
	struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
		*count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(head), *count * sizeof(int));
	}
	return got;
}

struct sd_porter_desk *sd_porter_desk(uint32_t number)
{
	return desks && number < MOST_PORTERS ? &desks[number] : NULL;
}

int sd_desk_answer(struct sd_desk *desk, uint64_t id, int listener, const struct sd_errand_done *done)
{
	int plain = (done->why == SD_SOCKET_MADE || done->why == SD_SOCKET_KERNEL) &&
		    done->result <= 0 && done->result >= LOWEST_ERRNO && done->result != -EINTR;
	struct seccomp_notif_resp answer = {.id = id, .error = (int32_t)done->result};
	if (!sd_desk_change(desk, SD_DESK_PORTERS, plain ? SD_DESK_ANSWERED : SD_DESK_SESSIONS) ||
	    !plain)
		return 0;
	int error;
	do
		error = sd_send_answer(listener, &answer);
	while (error == -EINTR); /* kicked too late */
	/* that the caller has gone is routine; anything else would leave it without an answer */
	if (error && error != -ENOENT && error != -EINPROGRESS)
		abort();
	return 1;
}

static void close_all(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* What came of it. A connection that was accepted goes ahead by itself, so that we have it no more by the
 * time that its caller may close it. */
static int tell(int sock, struct sd_errand_done *done)
{
	int sent = 0;
	if (done->taken >= 0) {
		sent = sd_send_fds(sock, "", 1, &done->taken, 1);
		close(done->taken);
	}
	size_t size = offsetof(struct sd_errand_done, value) + (size_t)done->value_length;
	return sent < 0 ? sent : sd_send_fds(sock, done, size, NULL, 0);
}

static void *serve(void *which)
{
	struct porter *porter = which;
	struct sd_porter_desk *at = sd_porter_desk((uint32_t)(porter - porters));
	struct sd_desk *desk = &at->desk;
	struct sd_parcel *parcel = malloc(sizeof *parcel);
	int fds[SD_PORTER_FDS], kept[2] = {-1, -1}, sock = porter->sock, answered = 0;
	size_t count;
	int error;
	desk->cpu = desk->told = 0;
	desk->tid = (uint32_t)syscall(SYS_gettid);
	while (parcel) {
		struct sd_errand *errand = &parcel->errand;
		struct sd_errand_done done;
		ssize_t got = sizeof *errand;
		count = 0;
		if (answered && sd_desk_wait(desk))
			*errand = at->errand;
		else
			got = receive(sock, parcel, fds, &count);
		if (got <= 0)
			break;
		sd_desk_bind(desk, errand->cpu);
		/* fewer came along where there was no room for them */
		int keep = errand->kept == SD_KEEP && count == 2;
		if (keep) {
			close_all(kept, 2);
			memcpy(kept, fds, sizeof kept);
		} else if (errand->kept == SD_KEEP_USED) {
			close_all(fds, count);
			memcpy(fds, kept, sizeof kept);
			count = 2;
		}
		answered = sd_porter_call(parcel, (size_t)got, fds, count, desk, &done);
		if (!keep && errand->kept != SD_KEEP_USED)
			close_all(fds, count);
		if (!answered && (error = tell(sock, &done)) < 0 && error != -EINTR)
			break;
	}
	close_all(kept, 2);
	free(parcel);
	pthread_mutex_lock(&lock);
	close(sock);
	porter->used = 0;
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void begin(uint32_t number, int sock)
{
	pthread_attr_t small;
	int started = 0;
	pthread_mutex_lock(&lock);
	if (number < MOST_PORTERS && !porters[number].used) {
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, STACK);
		pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
		porters[number].sock = sock;
		started = !pthread_create(&porters[number].thread, &small, serve, &porters[number]);
		porters[number].used = started;
		pthread_attr_destroy(&small);
	}
	pthread_mutex_unlock(&lock);
	if (!started)
		close(sock); /* who waits on it sees so */
}

static void kick(uint32_t number)
{
	pthread_mutex_lock(&lock); /* a thread that is marked as used has not ended yet */
	if (number < MOST_PORTERS && porters[number].used)
		pthread_kill(porters[number].thread, SIGUSR1);
	pthread_mutex_unlock(&lock);
}

static void nothing(int signal)
{
	(void)signal;
}

int sd_porters_spawn(struct sd_child *child)
{
	if (!desks) {
		void *shared = mmap(NULL, sizeof *desks * MOST_PORTERS, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (shared == MAP_FAILED)
			return -errno;
		desks = shared;
	}
	int pid = sd_fork_helper(child, "seccompd-port", 0);
	if (pid)
		return pid;
	struct sigaction interrupt = {.sa_handler = nothing}; /* no SA_RESTART: that is what it is for */
	struct sd_porters_order order;
	int sock;
	int32_t ready = sd_porter_setup();
	if (!ready && sigaction(SIGUSR1, &interrupt, NULL))
		ready = -errno;
	if (sd_send_fds(0, &ready, sizeof ready, NULL, 0) < 0 || ready)
		_exit(1);
	while (sd_receive_fds(0, &order, sizeof order, &sock, 1) == (int)sizeof order) {
		if (order.op == SD_PORTER_NEW && sock >= 0)
			begin(order.number, sock);
		else if (order.op == SD_PORTER_KICK)
			kick(order.number);
	}
	_exit(0);
}
