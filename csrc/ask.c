/* What the session's side of path work sends and hears; the machine itself is in work.c. */
#include "receiver.h"
#include "work.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

_Static_assert(SD_GROUPS == sizeof(((struct sd_work *)0)->groups) / sizeof(uint32_t), "groups");

/* As a session waits for helpers, call after call: see patience.c. A timer that another process has left
 * open is no trouble: who forks closes it. */
static int readable_soon(int fd, int linger_us)
{
	static struct sd_patience patience = {.timer = -1};
	if (patience.timer < 0 && (patience.timer = sd_deadline_timer()) < 0)
		return -1;
	int there = sd_wait_for_call(&patience, fd, linger_us, NULL, 0);
	return there == -ENOTCONN ? 1 : there; /* what is read next says so */
}

int sd_readable(int fd, int linger_us)
{
	if (linger_us > 0 && linger_us < 1000)
		return readable_soon(fd, linger_us);
	struct pollfd one = {.fd = fd, .events = POLLIN};
	struct timespec time = {linger_us / 1000000, linger_us % 1000000 * 1000L};
	int ready = ppoll(&one, 1, &time, NULL);
	return ready < 0 && errno != EINTR ? -errno : ready > 0;
}

int sd_helper_ready(int sock, int timeout_ms)
{
	int32_t ready;
	int fd;
	int there = sd_readable(sock, timeout_ms * 1000);
	if (there <= 0)
		return there ? there : -ETIMEDOUT;
	int size = sd_receive_fds(sock, &ready, sizeof ready, &fd, 1);
	return size < 0 ? size : size == (int)sizeof ready ? ready : -EPIPE;
}

void sd_drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int sd_done(struct sd_work *work, int error, uint32_t outcome)
{
	sd_drop(&work->parent);
	sd_drop(&work->placeholder);
	sd_drop(&work->pending);
	sd_drop(&work->home);
	work->stage = IDLE;
	work->error = error;
	work->outcome = outcome;
	return SD_WORK_DONE;
}

static size_t put(struct sd_ask *ask, size_t at, const char *text, size_t length)
{
	memcpy(ask->text + at, text, length);
	ask->text[at + length] = 0;
	return at + length + 1;
}

int sd_ask_resolver(struct sd_work *work, uint32_t op, enum sd_stage stage, const int *more,
			size_t count)
{
	struct sd_ask ask;
	int fds[SD_HELD] = {work->task};
	size_t used = 0;
	if (work->resolver < 0) {
		work->wanted = op;
		work->stage = LATER;
		return SD_WORK_LONG;
	}
	memset(&ask, 0, offsetof(struct sd_ask, text));
	ask.op = op;
	ask.cpu = (uint32_t)sched_getcpu();
	ask.flags = work->flags;
	ask.mode = op == SD_ASK_CHANGE ? (uint32_t)work->capability : work->mode;
	ask.call_flags = work->call_flags;
	ask.device = makedev(work->major, work->minor);
	ask.length[1] = SD_NO_TEXT;
	if (count) { /* the parent is known, and with it the name */
		ask.length[0] = (uint16_t)strlen(work->name);
		used = put(&ask, used, work->name, ask.length[0]);
		memcpy(fds + 1, more, count * sizeof *more);
	} else {
		for (int i = 0; i < 2; i++) {
			ask.dirfd[i] = work->dirfd[i];
			ask.length[i] = SD_NO_TEXT;
			if (work->length[i] < 0)
				continue;
			ask.length[i] = (uint16_t)work->length[i];
			used = put(&ask, used, work->path[i], ask.length[i]);
		}
	}
	used = put(&ask, used, work->host_node, strnlen(work->host_node, SD_HOST_NODE_MAX - 1));
	count++;
	ask.id = work->id;
	if (stage != UNDOING) { /* that has to be done for a caller that has gone, too */
		ask.listener = (uint32_t)count;
		fds[count++] = work->listener;
	}
	work->stage = (int)stage;
	work->waiting = work->resolver;
	int sent = sd_send_fds(work->resolver, &ask, offsetof(struct sd_ask, text) + used, fds,
			       count);
	return sent < 0 ? SD_WORK_LOST : SD_WORK_WAIT;
}

/* Another work's answer may still be on its way from there. */
int sd_ask_maker(struct sd_work *work, uint32_t op)
{
	struct sd_make make;
	int private = op == SD_MAKE_PRIVATE, closed = work->home >= 0;
	work->wanted = op;
	if (*work->maker_busy) {
		work->stage = QUEUED;
		return SD_WORK_BUSY;
	}
	memset(&make, 0, sizeof make);
	make.op = op;
	make.cpu = (uint32_t)sched_getcpu();
	make.flags = (work->told_flags & (SD_TOLD_DAC | SD_TOLD_FSETID));
	if (work->flags & SD_WORK_NODE)
		make.flags |= SD_MAKE_ANYWHERE;
	make.mode = work->mode;
	make.umask = work->umask;
	make.fsuid = work->fsuid;
	make.fsgid = work->fsgid;
	if (private || closed) {
		/* umask and ACL have been at work there, and a setgid directory */
		make.mode = (work->mode & ~0777U) | (work->file_mode & 0777);
		make.fsuid = work->file_uid;
		make.fsgid = work->file_gid;
	}
	make.device = makedev(work->major, work->minor);
	make.fs_type = work->fs_type;
	make.fs_id = work->fs_id;
	make.group_count = work->group_count;
	memcpy(make.groups, work->groups, work->group_count * sizeof *make.groups);
	memcpy(make.name, work->name, sizeof make.name);
	if (op == SD_MAKE_AT) {
		const uint64_t *local;
		size_t count = sd_host_devices(&local);
		memcpy(make.local, local, (count < SD_LOCAL ? count : SD_LOCAL) * sizeof *local);
	}
	int dir = work->parent;
	if (closed) {
		/* in a directory of the container's root, and nowhere else */
		char name[32];
		sd_closed_name(name, "new", work->id);
		memset(make.name, 0, sizeof make.name);
		memcpy(make.name, name + 1, sizeof name - 1);
		make.umask = 0;
		make.flags = SD_MAKE_ANYWHERE | SD_TOLD_DAC;
		dir = work->home;
	}
	work->stage = closed ? CLOSED : private ? PRIVATE : op == SD_MAKE_AT ? DIRECT : MAKING;
	work->waiting = work->maker;
	if (sd_send_fds(work->maker, &make, sizeof make, &dir, !private) < 0)
		return SD_WORK_LOST;
	*work->maker_busy = 1;
	return SD_WORK_WAIT;
}

int sd_maker_tell(int maker, uint32_t outcome, uint64_t node_dev, uint64_t node_ino, int until)
{
	struct sd_make make;
	memset(&make, 0, sizeof make);
	make.op = outcome & SD_WAS_LINKED ? SD_MAKE_LINK : SD_MAKE_DROP;
	make.node_dev = node_dev;
	make.node_ino = node_ino;
	int sent = sd_send_fds(maker, &make, sizeof make, &until, until >= 0);
	return sent < 0 ? sent : 0;
}

/* One message, and the descriptor that came ahead of it. 0: that is all that has come yet. */
int sd_hear(struct sd_work *work, void *message, size_t size, size_t least, int *fd)
{
	int got = sd_receive_fds(work->waiting, message, size, fd, 1);
	if (got == 1 && *fd >= 0 && work->pending < 0) {
		work->pending = *fd;
		return 0;
	}
	sd_drop(fd);
	if (got < (int)least)
		return -EPIPE;
	*fd = work->pending;
	work->pending = -1;
	return got;
}

