/* The session's side of path work: one plan, carried out by a resolver and perhaps a maker, as a
 * machine that never blocks for longer than it is told to. Most answers come within some tens of
 * microseconds, so each step waits a little before it gives the thread back. */
#include "work.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int place(struct sd_work *work)
{
	return sd_ask_resolver(work, SD_ASK_PLACE, PLACING, &work->parent, 1);
}

/* What comes after a resolver has found that nothing but CAP_MKNOD is missing. */
static int make(struct sd_work *work)
{
	if (work->maker < 0)
		return sd_ask_resolver(work, SD_ASK_BIND, LAST, &work->parent, 1);
	int bind = work->flags & SD_WORK_BIND;
	int foreign = work->told_flags & SD_TOLD_FOREIGN && !(work->fs_dev && sd_is_on_host(work->fs_dev));
	if (foreign && work->flags & SD_WORK_NODE)
		return sd_done(work, -EPERM, 0);
	bind |= foreign;
	if (!bind && !(work->flags & SD_WORK_NODE) && work->told_flags & SD_TOLD_NO_NODES)
		bind = 1;
	return bind ? place(work) : sd_ask_maker(work, SD_MAKE_NODE);
}

/* What comes after it was decided on. */
static int make_directory(struct sd_work *work)
{
	if (!(work->flags & SD_WORK_ELSEWHERE))
		return sd_ask_resolver(work, SD_ASK_DIRECTORY, LAST, &work->parent, 1);
	sd_drop(&work->parent);
	return sd_ask_resolver(work, SD_ASK_DIRECTORY, LAST, NULL, 0);
}

static int undo(struct sd_work *work, int error)
{
	int fds[2] = {work->parent, work->placeholder};
	work->failure = error;
	return sd_ask_resolver(work, SD_ASK_ATTACH, UNDOING, fds, 2);
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
	work->fs_dev = told->fs_dev;
	work->group_count = told->group_count <= SD_GROUPS ? told->group_count : 0;
	memcpy(work->groups, told->groups, sizeof work->groups);
	memcpy(work->name, told->name, sizeof work->name);
	work->resolved_length = told->path_length;
	if (told->path_length > 0)
		memcpy(work->resolved, told->path, (size_t)told->path_length);
	if (told->error || !(told->flags & SD_TOLD_PASSED) || fd < 0)
		return sd_done(work, told->error ? told->error : -EPERM, 0);
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
	int size = sd_hear(work, &told, sizeof told, offsetof(struct sd_told, path), &fd);
	if (size <= 0)
		return size ? SD_WORK_LOST : SD_WORK_WAIT;
	if (told.path_length > (int)sizeof told.path ||
	    told.path_length > size - (int)offsetof(struct sd_told, path))
		told.path_length = -1;
	if (told.flags & SD_TOLD_RETIRE) {
		sd_drop(&fd);
		sd_done(work, -EPERM, 0);
		return SD_WORK_RETIRE;
	}
	switch ((enum sd_stage)work->stage) {
	case RESOLVING:
		return resolved(work, &told, fd);
	case PLACING:
		work->placeholder = fd;
		if (told.error || fd < 0)
			return sd_done(work, told.error ? told.error : -EPERM, 0);
		work->file_mode = told.mode;
		work->file_uid = told.uid;
		work->file_gid = told.gid;
		if (work->flags & SD_WORK_CLOSED)
			return sd_ask_resolver(work, SD_ASK_HOME, HOMING, NULL, 0);
		return sd_ask_maker(work, SD_MAKE_PRIVATE);
	case HOMING:
		work->home = fd;
		return fd < 0 ? undo(work, -EPERM) : sd_ask_maker(work, SD_MAKE_NODE);
	case UNDOING:
		sd_drop(&fd);
		return sd_done(work, work->failure, 0);
	default:
		sd_drop(&fd);
		if (told.flags & SD_TOLD_BEGUN) {
			work->begun = 1;
			return SD_WORK_WAIT;
		}
		work->fs_dev = told.fs_dev;
		work->node_dev = told.node_dev;
		work->node_ino = told.node_ino;
		work->resolved_length = told.path_length;
		if (told.path_length > 0)
			memcpy(work->resolved, told.path, (size_t)told.path_length);
		uint32_t outcome = 0;
		if (told.flags & SD_TOLD_LEFT_ALONE)
			outcome |= SD_WAS_LEFT_ALONE;
		if (told.flags & SD_TOLD_BOUND)
			outcome |= SD_WAS_BOUND;
		if (told.flags & SD_TOLD_UNBOUND)
			outcome |= SD_WAS_UNBOUND;
		if (told.flags & SD_TOLD_LINKED)
			outcome |= SD_WAS_LINKED;
		if (told.flags & (SD_TOLD_LINKED | SD_TOLD_OTHERS))
			outcome |= SD_WAS_COUNTED;
		return sd_done(work, told.error, outcome);
	}
}

static int resolve(struct sd_work *work)
{
	sd_drop(&work->parent);
	work->guess = 0;
	work->resolved_length = -1;
	return sd_ask_resolver(work, SD_ASK_RESOLVE, RESOLVING, NULL, 0);
}

static int heard_direct(struct sd_work *work, int error, int parent)
{
	sd_drop(&work->parent);
	if (!error || error == -EEXIST) {
		sd_drop(&parent);
		return sd_done(work, error, error ? 0 : SD_WAS_NODE);
	}
	if (error == SD_NEEDS_BIND && parent >= 0) {
		const char *slash = strrchr(work->name, '/');
		work->parent = parent;
		if (slash)
			memmove(work->name, slash + 1, strlen(slash));
		return place(work);
	}
	sd_drop(&parent);
	return resolve(work);
}

static int heard_maker(struct sd_work *work)
{
	struct sd_made made;
	int tree = -1;
	int size = sd_hear(work, &made, sizeof made, sizeof made, &tree);
	if (size <= 0)
		return size ? SD_WORK_LOST : SD_WORK_WAIT;
	*work->maker_busy = 0;
	if (work->stage == DIRECT)
		return heard_direct(work, made.error, tree);
	if (work->stage == PRIVATE) {
		if (made.error || tree < 0)
			return undo(work, made.error < 0 ? made.error : -EPERM);
		int fds[3] = {work->parent, work->placeholder, tree};
		int result = sd_ask_resolver(work, SD_ASK_ATTACH, ATTACHING, fds, 3);
		close(tree);
		return result;
	}
	sd_drop(&tree);
	if (work->stage == CLOSED) {
		int fds[2] = {work->parent, work->placeholder};
		sd_drop(&work->home);
		if (made.error)
			return undo(work, made.error < 0 ? made.error : -EPERM);
		return sd_ask_resolver(work, SD_ASK_ATTACH, ATTACHING, fds, 2);
	}
	if (made.error == SD_NEEDS_BIND)
		return place(work);
	return sd_done(work, made.error, made.error ? 0 : SD_WAS_NODE);
}

int sd_work_step(struct sd_work *work, int linger_us)
{
	int result = SD_WORK_WAIT;
	while (result == SD_WORK_WAIT) {
		int there = sd_readable(work->waiting, linger_us);
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
		[SD_WORK_UMOUNT] = SD_ASK_UMOUNT, [SD_WORK_DIRECTORY] = SD_ASK_DIRECTORY,
	};
	uint32_t op = SD_ASK_RESOLVE;
	enum sd_stage stage = RESOLVING;
	work->parent = work->placeholder = work->pending = work->home = -1;
	work->guess = work->begun = 0;
	work->error = 0;
	work->outcome = 0;
	work->resolved_length = -1;
	if (work->length[0] >= SD_PATH_MAX || work->length[1] >= SD_PATH_MAX)
		return sd_done(work, -ENAMETOOLONG, 0);
	if (work->op == SD_WORK_CHANGE && sd_plainly_foreign(work))
		return sd_done(work, 0, SD_WAS_LEFT_ALONE);
	if (work->op != SD_WORK_MAKE) {
		op = ASKS[work->op];
		if (work->op != SD_WORK_DIRECTORY || !(work->flags & SD_WORK_WANT_PATH))
			stage = LAST;
	} else if (work->maker < 0 && !(work->flags & (SD_WORK_PROBE | SD_WORK_WANT_PATH))) {
		op = SD_ASK_BIND; /* the whole of it in one question */
		stage = LAST;
	}
	int result = work->op == SD_WORK_MAKE ? sd_go_direct(work) : -EAGAIN;
	if (result < 0)
		result = sd_ask_resolver(work, op, stage, NULL, 0);
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
	int result;
	/* a guess that was granted holds for the short way alone */
	if (work->stage == GUESSING)
		work->flags |= SD_WORK_WANT_PATH;
	if (work->stage == DECIDING)
		result = work->op == SD_WORK_DIRECTORY ? make_directory(work) : make(work);
	else if (work->stage == GUESSING)
		result = work->flags & SD_WORK_BIND ? resolve(work) : sd_ask_maker(work, SD_MAKE_AT);
	else if (work->stage == QUEUED)
		result = sd_ask_maker(work, work->wanted);
	else if (work->stage == LATER)
		result = work->wanted == SD_ASK_PLACE ? place(work) : resolve(work);
	else
		return sd_done(work, -EINVAL, 0);
	return result == SD_WORK_WAIT ? sd_work_step(work, linger_us) : result;
}

int sd_work_resolve(struct sd_work *work, int linger_us)
{
	int result = work->stage == GUESSING ? resolve(work) : sd_done(work, -EINVAL, 0);
	return result == SD_WORK_WAIT ? sd_work_step(work, linger_us) : result;
}

int sd_work_undo(struct sd_work *work, int error, int linger_us)
{
	if (work->placeholder < 0)
		return sd_done(work, error, 0);
	int result = undo(work, error);
	return result == SD_WORK_WAIT ? sd_work_step(work, linger_us) : result;
}

int sd_work_owed(const struct sd_work *work)
{
	int nobody = work->stage == IDLE || work->stage == DECIDING || work->stage == GUESSING ||
		     work->stage == QUEUED || work->stage == LATER;
	return nobody ? -1 : work->waiting;
}

void sd_work_close(struct sd_work *work)
{
	sd_done(work, -EPERM, 0);
}
