/* Receives one notification at a time: poll, RECV, read the caller's memory, ID_VALID.
 *
 * The watch is a memfd that the watchdog shares. Ids are in it from the moment the kernel hands them
 * out (NOTIF_RECV writes straight into it) to their answer, so that a session that dies or hangs
 * leaves nobody without an answer. */
#include "compat.h"
#include "memory.h"
#include "proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

const uint32_t SD_ARCH_X86_64 = AUDIT_ARCH_X86_64;
const uint32_t SD_ARCH_I386 = AUDIT_ARCH_I386;

struct sd_receiver {
	int listener;
	int proxy;            /* -1: calls come from the listener itself */
	int outstanding;      /* from a proxy, and not answered */
	uint64_t received_at; /* that one */
	int timer;
	struct sd_watch *watch;
	struct sd_reads *reads;
	size_t count;
	uint64_t deadline_ns;
	int next_slot;
	uint64_t last_id;
	int last_slot;
};

_Static_assert(sizeof(struct seccomp_notif) <= sizeof(((struct sd_watch *)0)->received),
	       "a notification fits into the watch");
_Static_assert(sizeof(struct sd_watch) <= SD_WATCH_SIZE, "a watch fits into its place");

char *sd_watches_map(int memfd)
{
	void *memory = mmap(NULL, SD_WATCHES * SD_WATCH_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    memfd, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

void sd_watches_unmap(char *watches)
{
	munmap(watches, SD_WATCHES * SD_WATCH_SIZE);
}

static int by_call(const void *a, const void *b)
{
	const struct sd_reads *x = a, *y = b;
	if (x->arch != y->arch)
		return x->arch < y->arch ? -1 : 1;
	return (x->nr > y->nr) - (x->nr < y->nr);
}

struct sd_receiver *sd_receiver_new(int listener, int proxy, int timer, struct sd_watch *watch,
				    const struct sd_reads *reads, size_t count, uint64_t deadline_ns)
{
	struct seccomp_notif_sizes sizes;
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) ||
	    sizes.seccomp_notif > sizeof watch->received)
		return NULL;
	struct sd_receiver *receiver = calloc(1, sizeof *receiver);
	if (!receiver)
		return NULL;
	*receiver = (struct sd_receiver){
		.listener = listener, .proxy = proxy, .timer = timer, .watch = watch,
		.deadline_ns = deadline_ns,
	};
	if (sd_receiver_reads(receiver, reads, count)) {
		free(receiver);
		return NULL;
	}
	return receiver;
}

int sd_receiver_reads(struct sd_receiver *receiver, const struct sd_reads *reads, size_t count)
{
	struct sd_reads *table = calloc(count ? count : 1, sizeof *table);
	if (!table)
		return -ENOMEM;
	memcpy(table, reads, count * sizeof *table);
	qsort(table, count, sizeof *table, by_call);
	free(receiver->reads);
	receiver->reads = table;
	receiver->count = count;
	return 0;
}

void sd_receiver_free(struct sd_receiver *receiver)
{
	if (!receiver)
		return;
	free(receiver->reads);
	free(receiver);
}

int sd_listener_state(int listener)
{
	struct pollfd p = {listener, POLLIN, 0};
	if (poll(&p, 1, 0) < 0)
		return -errno;
	if (p.revents & POLLIN)
		return 1;
	return p.revents & (POLLHUP | POLLERR | POLLNVAL) ? -ENOTCONN : 0;
}

int sd_id_valid(int listener, uint64_t id)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) ? -errno : 0;
}

int sd_set_sync_wake_up(int listener)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
		       ? -errno : 0;
}

/* 1: the listener has a call; 0: it has not */
static int wait_for_call(const struct sd_receiver *receiver, int linger_us, const int *also,
			 size_t also_count)
{
	struct pollfd polled[SD_ALSO + 1];
	nfds_t count = 1;
	int fd = receiver->proxy >= 0 ? receiver->proxy : receiver->listener;
	polled[0] = (struct pollfd){fd, POLLIN, 0};
	for (size_t i = 0; i < also_count && count <= SD_ALSO; i++)
		polled[count++] = (struct pollfd){also[i], POLLIN, 0};
	struct timespec limit = {linger_us / 1000000, (long)(linger_us % 1000000) * 1000};
	int ready = ppoll(polled, count, &limit, NULL);
	if (ready < 0)
		return errno == EINTR ? 0 : -errno;
	if (polled[0].revents & POLLIN)
		return 1;
	return polled[0].revents & (POLLHUP | POLLERR | POLLNVAL) ? -ENOTCONN : 0;
}

int sd_task_start(int tid, uint32_t *tgid, uint64_t *start_time)
{
	char path[64], text[4096];
	snprintf(path, sizeof path, "/proc/%d/status", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0)
		return -ESRCH;
	text[got] = 0;
	const char *line = strstr(text, "\nTgid:");
	if (!line || sscanf(line, "\nTgid: %u", tgid) != 1)
		return -EINVAL;
	snprintf(path, sizeof path, "/proc/%u/stat", *tgid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, sizeof text - 1);
	close(fd);
	if (got <= 0)
		return -ESRCH;
	text[got] = 0;
	/* the command's name may hold anything, a parenthesis too: fields count from the last one */
	const char *field = strrchr(text, ')');
	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	unsigned long long ticks;
	if (!field || sscanf(field, " %llu", &ticks) != 1)
		return -EINVAL;
	*start_time = ticks;
	return 0;
}

/* A caller that made one reader hang is not read again; past SD_STALLS nobody of its container is. */
static int stalled_before(const struct sd_watch *watch, uint32_t tid)
{
	uint32_t stalls = __atomic_load_n(&watch->stalls, __ATOMIC_ACQUIRE);
	if (!stalls)
		return 0;
	if (stalls >= SD_STALLS)
		return 1;
	uint32_t tgid;
	uint64_t start_time;
	if (sd_task_start((int)tid, &tgid, &start_time))
		return 1;
	for (uint32_t i = 0; i < stalls; i++)
		if (watch->stalled[i].tgid == tgid && watch->stalled[i].start_time == start_time)
			return 1;
	return 0;
}

int sd_deadline_timer(void)
{
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return timer < 0 ? -errno : timer;
}

int sd_arm_timer(int timer, uint64_t in_ns)
{
	struct itimerspec in = {.it_value = {.tv_sec = (time_t)(in_ns / 1000000000u),
					     .tv_nsec = (long)(in_ns % 1000000000u)}};
	return timerfd_settime(timer, 0, &in, NULL) ? -errno : 0;
}

static void begin_reading(struct sd_receiver *receiver, uint64_t id, uint32_t tid)
{
	struct sd_watch *watch = receiver->watch;
	uint64_t now = sd_now_ns();
	watch->reading_id = id;
	watch->reading_tid = tid;
	__atomic_store_n(&watch->reading_since, now, __ATOMIC_RELEASE);
	/* A timer that is still running will be seen by the watchdog, who then waits for the rest of
	 * this reading: so a busy session arms it at most once a deadline, and an idle one never. */
	if (receiver->timer >= 0 && now - watch->armed_at >= receiver->deadline_ns) {
		watch->armed_at = now;
		sd_arm_timer(receiver->timer, receiver->deadline_ns);
	}
}

static void end_reading(struct sd_receiver *receiver)
{
	__atomic_store_n(&receiver->watch->reading_since, 0, __ATOMIC_RELEASE);
}

static const struct sd_reads *reads_of(const struct sd_receiver *receiver, uint32_t arch, int32_t nr)
{
	struct sd_reads wanted = {.arch = arch, .nr = nr};
	return bsearch(&wanted, receiver->reads, receiver->count, sizeof wanted, by_call);
}

static void append(struct sd_call *call, const void *data, size_t size)
{
	memcpy(call->key + call->key_length, data, size);
	call->key_length += (int32_t)size;
}

_Static_assert(sizeof(((struct sd_call *)0)->key) >=
	       SD_STRINGS * (SD_PATH_MAX + sizeof(int32_t)) + 6 * sizeof(uint64_t) + 8,
	       "the key holds the longest call");

/* Cuts the arguments to their types, reads the strings, and writes the key of what was found. */
static void take_arguments(struct sd_receiver *receiver, struct sd_call *call,
			   const struct sd_reads *reads, const __u64 *args, int unread)
{
	int strings = 0;
	call->key_length = 0;
	append(call, &call->arch, sizeof call->arch);
	append(call, &call->nr, sizeof call->nr);
	for (int i = 0; i < 6; i++) {
		uint64_t value = args[i];
		int kind = reads ? reads->kind[i] : SD_UNUSED;
		if (kind == SD_U32 || call->arch != AUDIT_ARCH_X86_64)
			value &= UINT32_MAX;
		if (kind == SD_U16)
			value &= UINT16_MAX;
		call->args[i] = value;
		if (kind != SD_UNUSED && kind < SD_STRING)
			append(call, &value, sizeof value);
	}
	call->head_length = call->key_length;
	for (int i = 0; reads && i < 6 && strings < SD_STRINGS; i++) {
		if (reads->kind[i] < SD_STRING)
			continue;
		int length = -EFAULT;
		if (!unread) {
			if (!strings)
				begin_reading(receiver, call->id, call->tid);
			length = reads->kind[i] == SD_HOW
					 ? sd_read_how((pid_t)call->tid, call->args[i],
						       i < 5 ? args[i + 1] : 0, call->text[strings])
					 : sd_read_string((pid_t)call->tid, call->args[i],
							  call->text[strings], reads->kind[i]);
		}
		call->length[strings] = length;
		append(call, &length, sizeof length);
		if (length > 0)
			append(call, call->text[strings], (size_t)length);
		strings++;
	}
	if (strings && !unread)
		end_reading(receiver);
}

static int free_slot(struct sd_receiver *receiver)
{
	for (int i = 0; i < SD_PENDING; i++) {
		int slot = (receiver->next_slot + i) % SD_PENDING;
		if (!receiver->watch->pending[slot]) {
			receiver->next_slot = slot + 1;
			return slot;
		}
	}
	return -ENOBUFS;
}

static void forget(struct sd_receiver *receiver, int slot)
{
	__atomic_store_n(&receiver->watch->pending[slot], 0, __ATOMIC_RELEASE);
	receiver->next_slot = slot; /* the same cache line again, as long as calls come one by one */
}

/* The place of the call that the watchdog received for us: its notification is still there. */
static int carried_slot(struct sd_watch *watch)
{
	uint64_t id = watch->carried;
	watch->carried = 0;
	for (int i = 0; id && i < SD_PENDING; i++)
		if (watch->pending[i] == id)
			return i;
	return -1;
}

/* 0, -EAGAIN: there is none after all; or another errno. The notification is in the watch then. */
static int next_call(struct sd_receiver *receiver)
{
	if (receiver->proxy >= 0) {
		receiver->received_at = sd_now_ns();
		/* a monitor that does not wait for the answer any more would take it for the next one's */
		if (receiver->outstanding) {
			shutdown(receiver->proxy, SHUT_RDWR);
			return -ENOTCONN;
		}
		return sd_proxy_receive(receiver->proxy, receiver->listener, receiver->watch);
	}
	memset(receiver->watch->received, 0, sizeof receiver->watch->received);
	if (!ioctl(receiver->listener, SECCOMP_IOCTL_NOTIF_RECV, receiver->watch->received))
		return 0;
	return errno == ENOENT || errno == EINTR ? -EAGAIN : -errno;
}

/* The caller has gone. A proxy's client waits for an answer all the same. */
static void abandon(struct sd_receiver *receiver, uint64_t id, int slot)
{
	struct seccomp_notif_resp answer = {.id = id, .error = -EPERM};
	if (receiver->proxy >= 0)
		sd_proxy_answer(receiver->proxy, receiver->watch, &answer, receiver->received_at);
	receiver->outstanding = 0;
	forget(receiver, slot);
}

int sd_receive(struct sd_receiver *receiver, struct sd_call *call, int linger_us, const int *also,
	       size_t also_count)
{
	struct sd_watch *watch = receiver->watch;
	struct seccomp_notif *notif = (void *)watch->received;
	__atomic_store_n(&watch->turns, watch->turns + 1, __ATOMIC_RELAXED);
	for (;;) {
		int slot = watch->carried ? carried_slot(watch) : -1;
		if (slot >= 0) {
			receiver->received_at = watch->carried_at;
		} else {
			slot = free_slot(receiver);
			if (slot < 0)
				return slot;
			int ready = wait_for_call(receiver, linger_us, also, also_count);
			if (ready <= 0)
				return ready;
			int error = next_call(receiver);
			if (error == -EAGAIN)
				continue; /* aborted between poll and RECV: routine */
			if (error)
				return error;
			watch->pending[slot] = notif->id;
		}
		receiver->outstanding = 1;
		call->id = notif->id;
		call->ip = notif->data.instruction_pointer;
		call->tid = notif->pid;
		call->arch = notif->data.arch;
		call->nr = notif->data.nr;
		call->slot = slot;
		/* pid 0 is a caller that our pid namespace does not show: nothing of it can be looked at */
		int unread = !call->tid || stalled_before(watch, call->tid);
		take_arguments(receiver, call, reads_of(receiver, call->arch, call->nr),
			       notif->data.args, unread);
		if (!unread && sd_id_valid(receiver->listener, call->id)) {
			abandon(receiver, call->id, slot);
			linger_us = 0;
			continue;
		}
		watch->calls++;
		receiver->last_id = call->id;
		receiver->last_slot = slot;
		return call->key_length | (unread ? SD_UNREAD : 0);
	}
}

static int send_answer(int listener, struct seccomp_notif_resp *answer)
{
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, answer) ? -errno : 0;
}

static int send_error(int listener, uint64_t id, int error)
{
	struct seccomp_notif_resp answer = {.id = id, .error = error};
	return send_answer(listener, &answer);
}

int sd_answer(struct sd_receiver *receiver, uint64_t id, int slot, int64_t value, int error,
	      int proceed)
{
	if (slot < 0 || slot >= SD_PENDING)
		return -EINVAL;
	/* The kernel would take an error of any size and sign, and 1 would look like success. */
	if (error > 0 || error < LOWEST_ERRNO || (error && value) || (proceed && (error || value)))
		return -EINVAL;
	uint32_t flags = proceed ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
	struct seccomp_notif_resp answer = {.id = id, .val = value, .error = error, .flags = flags};
	int result = receiver->proxy >= 0
			     ? sd_proxy_answer(receiver->proxy, receiver->watch, &answer,
					       receiver->received_at)
			     : send_answer(receiver->listener, &answer);
	receiver->outstanding = 0;
	forget(receiver, slot);
	return result;
}

int sd_answer_last(struct sd_receiver *receiver, int64_t value, int error, int proceed)
{
	return sd_answer(receiver, receiver->last_id, receiver->last_slot, value, error, proceed);
}

int sd_give(struct sd_receiver *receiver, uint64_t id, int slot, int fd, uint32_t flags)
{
	struct seccomp_notif_addfd give = {
		.id = id, .srcfd = (uint32_t)fd, .newfd_flags = flags,
		/* a proxy's client has the answer to give: there the two are not one */
		.flags = receiver->proxy >= 0 ? 0 : SECCOMP_ADDFD_FLAG_SEND,
	};
	if (slot < 0 || slot >= SD_PENDING)
		return -EINVAL;
	int number;
	do
		number = ioctl(receiver->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &give);
	while (number < 0 && errno == EINTR);
	if (number >= 0 && receiver->proxy < 0) {
		receiver->outstanding = 0;
		forget(receiver, slot);
		return number;
	}
	int error = number < 0 ? -errno : 0;
	if (error == -ENOENT) {
		abandon(receiver, id, slot);
		return error;
	}
	int told = sd_answer(receiver, id, slot, error ? 0 : number, error, 0);
	return told ? told : error ? error : number;
}

int sd_refuse_pending(int listener, struct sd_watch *watch, int error)
{
	if (error >= 0 || error < LOWEST_ERRNO)
		return -EINVAL;
	int refused = 0;
	struct seccomp_notif last;
	memcpy(&last, watch->received, sizeof last);
	if (last.id && !send_error(listener, last.id, error))
		refused++;
	memset(watch->received, 0, sizeof watch->received);
	for (int i = 0; i < SD_PENDING; i++) {
		if (watch->pending[i] && !send_error(listener, watch->pending[i], error))
			refused++;
		watch->pending[i] = 0;
	}
	watch->reading_since = 0;
	watch->carried = 0;
	return refused;
}

int sd_receive_first(int listener, struct sd_watch *watch, uint32_t *tid)
{
	struct seccomp_notif *notif = (void *)watch->received;
	int state = sd_listener_state(listener);
	if (state <= 0)
		return state;
	memset(watch->received, 0, sizeof watch->received);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notif))
		return errno == ENOENT || errno == EINTR ? 0 : -errno;
	watch->pending[0] = watch->carried = notif->id;
	*tid = notif->pid;
	return 1;
}

int sd_refuse_next(int listener, int error)
{
	if (error >= 0 || error < LOWEST_ERRNO)
		return -EINVAL;
	union {
		struct seccomp_notif notif;
		uint8_t space[256];
	} received;
	int state = sd_listener_state(listener);
	if (state <= 0)
		return state;
	memset(&received, 0, sizeof received);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &received))
		return errno == ENOENT || errno == EINTR ? 0 : -errno;
	send_error(listener, received.notif.id, error);
	return 1;
}
