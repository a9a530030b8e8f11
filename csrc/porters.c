/* Porters carry out calls on sockets that were fetched from a caller.
 *
 * A socket that blocks, blocks whoever calls on it: O_NONBLOCK belongs to the open file, which is the
 * caller's, too. Even one that does not can be held by another thread of the caller's in the middle of
 * a send. So each call is a thread's own, and nobody else waits for it. A thread has no capabilities
 * but while it acts as the caller. It is kicked (interrupted by a signal) when the caller has gone or
 * has a signal of its own to see to. */
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST_PORTERS = 256, STACK = 128 * 1024, OVERFLOW_ID = 65534 };

#define CAP(name) (1ULL << (name))
/* What a caller's capabilities may do for it on a socket. */
static const uint64_t SOCKET_CAPS = CAP(CAP_DAC_OVERRIDE) | CAP(CAP_DAC_READ_SEARCH) |
				    CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_NET_BROADCAST) |
				    CAP(CAP_NET_ADMIN) | CAP(CAP_NET_RAW);

static struct porter {
	pthread_t thread;
	int sock;
	int used; /* under `lock` */
} porters[MOST_PORTERS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t permitted;
static char userns[64];
static uid_t own_uid;
static gid_t own_gid;
static uint32_t own_groups[SD_GROUPS], own_count;

/* ---- as whom ---- */

/* Groups that are not mapped show as 65534 and cannot be set: a list that has some is left as it is
 * where it is the one that we were born with, and loses them elsewhere, which is fewer rights. */
static int take_groups(const uint32_t *groups, uint32_t count)
{
	uint32_t list[SD_GROUPS], used = 0;
	gid_t now[SD_GROUPS];
	int known = getgroups(SD_GROUPS, now);
	if (known == (int)count && !memcmp(now, groups, count * sizeof *groups))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (groups[i] != OVERFLOW_ID)
			list[used++] = groups[i];
	return syscall(SYS_setgroups, used, list) ? -errno : 0;
}

/* glibc's functions would change all threads at once. */
static int take_ids(uint32_t uid, uint32_t gid, const uint32_t *groups, uint32_t count)
{
	int error = take_groups(groups, count);
	if (!error && (syscall(SYS_setresgid, -1, gid, -1) || syscall(SYS_setresuid, -1, uid, -1)))
		error = -errno;
	return error;
}

/* The ids that count: the effective ones, which a peer is shown, and those of the file system. */
static int become(const struct sd_errand *errand, int listener, int task, struct sd_caller *caller)
{
	caller->task = task;
	caller->status = -1;
	/* following the links of another's /proc directory takes a capability */
	int error = sd_set_caps(permitted, permitted);
	if (!error) {
		pthread_mutex_lock(&lock); /* it reads into one place for all */
		error = sd_look_at(caller, userns);
		pthread_mutex_unlock(&lock);
	}
	if (!error && sd_id_valid(listener, errand->id))
		error = -ESRCH;
	if (!error && permitted & CAP(CAP_SETUID))
		error = take_ids(caller->euid, caller->egid, caller->groups, caller->group_count);
	else if (!error && (caller->euid != own_uid || caller->egid != own_gid))
		error = -EPERM;
	if (!error) {
		setfsgid(caller->fsgid);
		setfsuid(caller->fsuid);
		if ((uint32_t)setfsuid((uid_t)-1) != caller->fsuid ||
		    (uint32_t)setfsgid((gid_t)-1) != caller->fsgid)
			error = -EPERM;
	}
	sd_harden();
	return error ? error : sd_set_caps(caller->caps & SOCKET_CAPS & permitted, permitted);
}

/* Nobody's again. A thread that cannot be is of no use to the next caller. */
static void come_back(void)
{
	int error = sd_set_caps(permitted, permitted);
	if (!error && permitted & CAP(CAP_SETUID))
		error = take_ids(own_uid, own_gid, own_groups, own_count);
	if (error || sd_set_caps(0, permitted))
		_exit(1);
	sd_harden();
}

/* ---- the call ---- */

/* Where an address is a path, it was followed as the caller would have: what it led to is open, and
 * reached through that. */
static socklen_t by_descriptor(struct sockaddr_un *address, int path)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	int length = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d", path);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
}

static size_t add_control(char *control, size_t used, int level, int type, const void *data,
			  size_t size)
{
	struct cmsghdr head = {.cmsg_len = CMSG_LEN(size), .cmsg_level = level, .cmsg_type = type};
	memcpy(control + used, &head, sizeof head);
	memcpy(control + used + CMSG_LEN(0), data, size);
	return used + CMSG_SPACE(size);
}

/* Over a unix socket go the caller's descriptors, and who it is: the kernel would say that of us.
 * What number the caller has as a process only one of its own namespace could say. */
static int64_t send_unix(struct sd_errand *errand, struct msghdr *message, int sock,
			 const struct sd_caller *caller, const int *rights)
{
	char control[CMSG_SPACE(sizeof(int) * SD_RIGHTS_MAX) + CMSG_SPACE(sizeof(struct ucred))] = "";
	struct ucred who = {getpid(), caller->uid, caller->gid};
	size_t used = 0;
	if (errand->flags & SD_SOCKET_CREDENTIALS) {
		/* SCM_CREDENTIALS of the caller's own */
		if ((errand->uid != caller->uid && errand->uid != caller->euid) ||
		    (errand->gid != caller->gid && errand->gid != caller->egid))
			return -EPERM;
		who.uid = errand->uid;
		who.gid = errand->gid;
	}
	if (errand->right_count)
		used = add_control(control, used, SOL_SOCKET, SCM_RIGHTS, rights,
				   errand->right_count * sizeof *rights);
	if (permitted & CAP(CAP_SETUID)) {
		/* our real uid is another one: saying theirs takes a capability */
		uint64_t caps = caller->caps & SOCKET_CAPS & permitted;
		if (sd_set_caps(caps | CAP(CAP_SETUID) | CAP(CAP_SETGID), permitted))
			return -EPERM;
		used = add_control(control, used, SOL_SOCKET, SCM_CREDENTIALS, &who, sizeof who);
	}
	message->msg_control = used ? control : NULL;
	message->msg_controllen = used;
	ssize_t sent = sendmsg(sock, message, errand->call_flags | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}

static int64_t call(struct sd_errand *errand, const int *fds, const struct sd_caller *caller)
{
	struct sockaddr_un path;
	void *address = errand->address;
	socklen_t length = (socklen_t)errand->address_length;
	int next = errand->flags & SD_SOCKET_AS_CALLER ? 3 : 1;
	if (errand->with_path) {
		length = by_descriptor(&path, fds[next++]);
		address = &path;
	}
	if (errand->op == SD_SOCKET_CONNECT)
		return connect(fds[0], address, length) ? -errno : 0;
	if (errand->op == SD_SOCKET_BIND)
		return bind(fds[0], address, length) ? -errno : 0;
	if (errand->op != SD_SOCKET_SEND)
		return -EINVAL;
	struct iovec data = {errand->more + errand->control_length, (size_t)errand->payload_length};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	if (!(errand->flags & SD_SOCKET_NO_ADDRESS)) {
		message.msg_name = address;
		message.msg_namelen = length;
	}
	int domain;
	socklen_t size = sizeof domain;
	if (getsockopt(fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &size))
		return -errno;
	if (domain == AF_UNIX)
		return send_unix(errand, &message, fds[0], caller, fds + next);
	if (errand->control_length) {
		message.msg_control = errand->more;
		message.msg_controllen = (size_t)errand->control_length;
	}
	ssize_t sent = sendmsg(fds[0], &message, errand->call_flags | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}

/* Whether the message is one: its sender is ours, but what does not fit must not be read. */
static int is_whole(const struct sd_errand *errand, size_t size, size_t fds)
{
	size_t needed = 1 + (errand->flags & SD_SOCKET_AS_CALLER ? 2 : 0) +
			(errand->with_path ? 1 : 0) + errand->right_count;
	return size >= offsetof(struct sd_errand, more) && fds == needed &&
	       errand->control_length >= 0 && errand->payload_length >= 0 &&
	       errand->address_length >= 0 && errand->address_length <= SD_ADDRESS_MAX &&
	       errand->right_count <= SD_RIGHTS_MAX &&
	       size == offsetof(struct sd_errand, more) + (size_t)errand->control_length +
			       (size_t)errand->payload_length;
}

static int64_t run(struct sd_errand *errand, size_t size, const int *fds, size_t count)
{
	struct sd_caller caller = {0};
	if (!is_whole(errand, size, count))
		return -EINVAL;
	if (!(errand->flags & SD_SOCKET_AS_CALLER))
		return call(errand, fds, &caller);
	int64_t result = become(errand, fds[1], fds[2], &caller);
	if (!result)
		result = call(errand, fds, &caller);
	come_back();
	return result;
}

/* ---- threads ---- */

static ssize_t receive(int sock, struct sd_errand *errand, int *fds, size_t *count)
{
	char control[CMSG_SPACE(sizeof(int) * SD_PORTER_FDS)];
	struct iovec io = {errand, sizeof *errand};
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

static void follow(uint32_t cpu)
{
	static __thread uint32_t here = UINT32_MAX;
	cpu_set_t only;
	if (cpu == here || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	if (!sched_setaffinity((pid_t)syscall(SYS_gettid), sizeof only, &only))
		here = cpu;
}

static void *serve(void *which)
{
	struct porter *porter = which;
	struct sd_errand *errand = malloc(sizeof *errand);
	int fds[SD_PORTER_FDS], sock = porter->sock;
	size_t count;
	ssize_t got;
	if (sd_set_caps(0, permitted))
		_exit(1);
	while (errand && (got = receive(sock, errand, fds, &count)) > 0) {
		follow(errand->cpu);
		int64_t result = run(errand, (size_t)got, fds, count);
		/* before the answer: who closes the socket next is to be the last one to hold it */
		for (size_t i = 0; i < count; i++)
			close(fds[i]);
		if (send(sock, &result, sizeof result, MSG_NOSIGNAL) < 0 && errno != EINTR)
			break;
	}
	free(errand);
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
	int pid = sd_fork_helper(child, "seccompd-port");
	if (pid)
		return pid;
	struct sigaction interrupt = {.sa_handler = nothing}; /* no SA_RESTART: that is what it is for */
	struct sd_porters_order order;
	int sock;
	own_uid = geteuid();
	own_gid = getegid();
	int32_t ready = sd_permitted_caps(&permitted);
	int count = getgroups(SD_GROUPS, own_groups);
	if (count < 0)
		ready = -errno;
	own_count = (uint32_t)count;
	if (!ready && readlink("/proc/thread-self/ns/user", userns, sizeof userns - 1) < 0)
		ready = -errno;
	/* a uid that becomes or leaves 0 must not change capabilities behind our back */
	if (!ready && permitted & CAP(CAP_SETPCAP) &&
	    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT, 0, 0, 0))
		ready = -errno;
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
