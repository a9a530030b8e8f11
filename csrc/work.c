/* The session's side of path work: one plan, carried out by a resolver and perhaps a maker, as a
 * machine that never blocks for longer than it is told to. Most answers come within some tens of
 * microseconds, so each step waits a little before it gives the thread back. */
#include "paths.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

_Static_assert(SD_GROUPS == sizeof(((struct sd_work *)0)->groups) / sizeof(uint32_t), "groups");

enum stage { IDLE, RESOLVING, DECIDING, QUEUED, MAKING, PLACING, PRIVATE, ATTACHING, UNDOING, LAST };

static int readable(int fd, int linger_us)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};
	struct timespec time = {linger_us / 1000000, linger_us % 1000000 * 1000L};
	int ready = ppoll(&one, 1, &time, NULL);
	return ready < 0 && errno != EINTR ? -errno : ready > 0;
}

int sd_helper_ready(int sock, int timeout_ms)
{
	int32_t ready;
	int fd;
	int there = readable(sock, timeout_ms * 1000);
	if (there <= 0)
		return there ? there : -ETIMEDOUT;
	int size = sd_receive_fds(sock, &ready, sizeof ready, &fd, 1);
	return size < 0 ? size : size == (int)sizeof ready ? ready : -EPIPE;
}

static void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int done(struct sd_work *work, int error, uint32_t outcome)
{
	drop(&work->parent);
	drop(&work->placeholder);
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

static int ask_resolver(struct sd_work *work, uint32_t op, enum stage stage, const int *more,
			size_t count)
{
	struct sd_ask ask;
	int fds[SD_HELD] = {work->task};
	size_t used = 0;
	memset(&ask, 0, offsetof(struct sd_ask, text));
	ask.op = op;
	ask.flags = work->flags;
	ask.mode = op == SD_ASK_CHANGE ? (uint32_t)work->capability : work->mode;
	ask.call_flags = work->call_flags;
	ask.device = makedev(work->major, work->minor);
	ask.length[1] = SD_NO_TEXT;
	if (count) { /* the parent is known, and with it the name */
		ask.length[0] = (uint16_t)strlen(work->name);
		used = put(&ask, used, work->name, ask.length[0]);
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
	memcpy(fds + 1, more, count * sizeof *more);
	work->stage = (int)stage;
	work->waiting = work->resolver;
	int sent = sd_send_fds(work->resolver, &ask, offsetof(struct sd_ask, text) + used, fds,
			       count + 1);
	return sent < 0 ? SD_WORK_LOST : SD_WORK_WAIT;
}

/* Another work's answer may still be on its way from there. */
static int ask_maker(struct sd_work *work, uint32_t op)
{
	struct sd_make make;
	int fd = op == SD_MAKE_PRIVATE ? work->placeholder : work->parent;
	work->wanted = op;
	if (*work->maker_busy) {
		work->stage = QUEUED;
		return SD_WORK_BUSY;
	}
	memset(&make, 0, sizeof make);
	make.op = op;
	make.flags = (work->told_flags & (SD_TOLD_DAC | SD_TOLD_FSETID));
	if (work->flags & SD_WORK_NODE)
		make.flags |= SD_MAKE_ANYWHERE;
	make.mode = work->mode;
	make.umask = work->umask;
	make.fsuid = work->fsuid;
	make.fsgid = work->fsgid;
	make.device = makedev(work->major, work->minor);
	make.fs_type = work->fs_type;
	make.fs_id = work->fs_id;
	make.group_count = work->group_count;
	memcpy(make.groups, work->groups, work->group_count * sizeof *make.groups);
	memcpy(make.name, work->name, sizeof make.name);
	work->stage = op == SD_MAKE_PRIVATE ? PRIVATE : MAKING;
	work->waiting = work->maker;
	if (sd_send_fds(work->maker, &make, sizeof make, &fd, 1) < 0)
		return SD_WORK_LOST;
	*work->maker_busy = 1;
	return SD_WORK_WAIT;
}

int sd_maker_tell(int maker, uint32_t outcome, uint64_t node_dev, uint64_t node_ino)
{
	struct sd_make make;
	memset(&make, 0, sizeof make);
	make.op = outcome & SD_WAS_LINKED ? SD_MAKE_LINK : SD_MAKE_DROP;
	make.node_dev = node_dev;
	make.node_ino = node_ino;
	int sent = sd_send_fds(maker, &make, sizeof make, NULL, 0);
	return sent < 0 ? sent : 0;
}

static int place(struct sd_work *work)
{
	return ask_resolver(work, SD_ASK_PLACE, PLACING, &work->parent, 1);
}

/* What comes after a resolver has found that nothing but CAP_MKNOD is missing. */
static int make(struct sd_work *work)
{
	if (work->maker < 0)
		return ask_resolver(work, SD_ASK_BIND, LAST, &work->parent, 1);
	int bind = work->flags & SD_WORK_BIND;
	if (!bind && !(work->flags & SD_WORK_NODE) && work->told_flags & SD_TOLD_NO_NODES)
		bind = 1;
	return bind ? place(work) : ask_maker(work, SD_MAKE_NODE);
}

static int undo(struct sd_work *work, int error)
{
	int fds[2] = {work->parent, work->placeholder};
	work->failure = error;
	return ask_resolver(work, SD_ASK_ATTACH, UNDOING, fds, 2);
}

static int resolved(struct sd_work *work, const struct sd_told *told, int fd)
{
	work->parent = fd;
	work->told_flags = told->flags;
	work->umask = told->umask;
	work->fsuid = told->fsuid;
	work->fsgid = told->fsgid;
	work->fs_type = told->fs_type;
	work->fs_id = told->fs_id;
	work->group_count = told->group_count <= SD_GROUPS ? told->group_count : 0;
	memcpy(work->groups, told->groups, sizeof work->groups);
	memcpy(work->name, told->name, sizeof work->name);
	work->resolved_length = told->path_length;
	if (told->path_length > 0)
		memcpy(work->resolved, told->path, (size_t)told->path_length);
	if (told->error || !(told->flags & SD_TOLD_PASSED) || fd < 0)
		return done(work, told->error ? told->error : -EPERM, 0);
	if (work->flags & SD_WORK_WANT_PATH) {
		work->stage = DECIDING;
		return SD_WORK_DECIDE;
	}
	return make(work);
}

static int heard_resolver(struct sd_work *work)
{
	struct sd_told told;
	int fd = -1;
	int size = sd_receive_fds(work->resolver, &told, sizeof told, &fd, 1);
	if (size < (int)offsetof(struct sd_told, path)) {
		drop(&fd);
		return SD_WORK_LOST;
	}
	if (told.path_length > (int)sizeof told.path ||
	    told.path_length > size - (int)offsetof(struct sd_told, path))
		told.path_length = -1;
	if (told.flags & SD_TOLD_RETIRE) {
		drop(&fd);
		done(work, -EPERM, 0);
		return SD_WORK_RETIRE;
	}
	switch ((enum stage)work->stage) {
	case RESOLVING:
		return resolved(work, &told, fd);
	case PLACING:
		work->placeholder = fd;
		if (told.error || fd < 0)
			return done(work, told.error ? told.error : -EPERM, 0);
		return ask_maker(work, SD_MAKE_PRIVATE);
	case UNDOING:
		drop(&fd);
		return done(work, work->failure, 0);
	default:
		drop(&fd);
		work->node_dev = told.node_dev;
		work->node_ino = told.node_ino;
		uint32_t outcome = 0;
		if (told.flags & SD_TOLD_LEFT_ALONE)
			outcome |= SD_WAS_LEFT_ALONE;
		if (told.flags & SD_TOLD_BOUND)
			outcome |= SD_WAS_BOUND;
		if (told.flags & SD_TOLD_UNBOUND)
			outcome |= SD_WAS_UNBOUND;
		if (told.flags & SD_TOLD_LINKED)
			outcome |= SD_WAS_LINKED;
		return done(work, told.error, outcome);
	}
}

static int heard_maker(struct sd_work *work)
{
	struct sd_made made;
	int tree = -1;
	int size = sd_receive_fds(work->maker, &made, sizeof made, &tree, 1);
	if (size != (int)sizeof made) {
		drop(&tree);
		return SD_WORK_LOST;
	}
	*work->maker_busy = 0;
	if (work->stage == PRIVATE) {
		if (made.error || tree < 0)
			return undo(work, made.error < 0 ? made.error : -EPERM);
		int fds[3] = {work->parent, work->placeholder, tree};
		int result = ask_resolver(work, SD_ASK_ATTACH, ATTACHING, fds, 3);
		close(tree);
		return result;
	}
	drop(&tree);
	if (made.error == SD_NEEDS_BIND)
		return place(work);
	return done(work, made.error, made.error ? 0 : SD_WAS_NODE);
}

int sd_work_step(struct sd_work *work, int linger_us)
{
	int result = SD_WORK_WAIT;
	while (result == SD_WORK_WAIT) {
		int there = readable(work->waiting, linger_us);
		if (there < 0)
			return SD_WORK_LOST;
		if (!there)
			return SD_WORK_WAIT;
		result = work->waiting == work->maker ? heard_maker(work) : heard_resolver(work);
	}
	return result;
}

int sd_work_start(struct sd_work *work, int linger_us)
{
	static const uint32_t ASKS[] = {
		[SD_WORK_REMOVE] = SD_ASK_REMOVE, [SD_WORK_RENAME] = SD_ASK_RENAME,
		[SD_WORK_LINK] = SD_ASK_LINK, [SD_WORK_CHANGE] = SD_ASK_CHANGE,
	};
	uint32_t op = SD_ASK_RESOLVE;
	enum stage stage = RESOLVING;
	work->parent = work->placeholder = -1;
	work->error = 0;
	work->outcome = 0;
	work->resolved_length = -1;
	if (work->length[0] >= SD_PATH_MAX || work->length[1] >= SD_PATH_MAX)
		return done(work, -ENAMETOOLONG, 0);
	if (work->op != SD_WORK_MAKE) {
		op = ASKS[work->op];
		stage = LAST;
	} else if (work->maker < 0 && !(work->flags & (SD_WORK_PROBE | SD_WORK_WANT_PATH))) {
		op = SD_ASK_BIND; /* the whole of it in one question */
		stage = LAST;
	}
	int result = ask_resolver(work, op, stage, NULL, 0);
	return result == SD_WORK_WAIT ? sd_work_step(work, linger_us) : result;
}

int sd_work_make(struct sd_work *work, uint32_t flags, uint32_t mode, uint32_t major,
		 uint32_t minor, int dirfd, const char *path, size_t length, int linger_us)
{
	work->op = SD_WORK_MAKE;
	work->flags = flags;
	work->mode = mode;
	work->major = major;
	work->minor = minor;
	work->call_flags = 0;
	work->dirfd[0] = dirfd;
	work->length[0] = length < SD_PATH_MAX ? (int32_t)length : SD_PATH_MAX;
	work->length[1] = -1;
	memcpy(work->path[0], path, length < SD_PATH_MAX ? length : 0);
	return sd_work_start(work, linger_us);
}

int sd_work_go(struct sd_work *work, int linger_us)
{
	if (work->stage != DECIDING && work->stage != QUEUED)
		return done(work, -EINVAL, 0);
	int result = work->stage == DECIDING ? make(work) : ask_maker(work, work->wanted);
	return result == SD_WORK_WAIT ? sd_work_step(work, linger_us) : result;
}

int sd_work_undo(struct sd_work *work, int error, int linger_us)
{
	if (work->placeholder < 0)
		return done(work, error, 0);
	int result = undo(work, error);
	return result == SD_WORK_WAIT ? sd_work_step(work, linger_us) : result;
}

int sd_work_owed(const struct sd_work *work)
{
	int nobody = work->stage == IDLE || work->stage == DECIDING || work->stage == QUEUED;
	return nobody ? -1 : work->waiting;
}

void sd_work_close(struct sd_work *work)
{
	done(work, -EPERM, 0);
}
