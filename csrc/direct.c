/* The short ways: of a mknod from the session to the maker, without a resolver; of a chmod and its
 * like on what is surely no node of ours. */
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif

/* Where an absolute path leads if there is no symlink in it: without slashes and dots too many. */
static int clean(struct sd_work *work)
{
	const char *at = work->path[0];
	int32_t used = 0;
	if (*at != '/')
		return -EAGAIN;
	while (*(at += strspn(at, "/"))) {
		size_t length = strcspn(at, "/");
		if (length == 2 && at[0] == '.' && at[1] == '.')
			return -EAGAIN;
		if (length != 1 || at[0] != '.') {
			work->resolved[used++] = '/';
			memcpy(work->resolved + used, at, length);
			used += (int32_t)length;
		} else if (!at[1]) {
			return -EAGAIN;
		}
		at += length;
	}
	work->resolved_length = used;
	return used ? 0 : -EAGAIN;
}

/* Works where the path is a plain one and the caller may make nodes.
 * This process only reads what the kernel itself knows of the caller; the path is the maker's. */
int sd_go_direct(struct sd_work *work)
{
	static char userns[64];
	const char *path = work->path[0];
	struct sd_caller caller;
	int want_path = work->flags & SD_WORK_WANT_PATH;
	int32_t length = work->length[0];
	if (work->maker < 0 || *work->maker_busy || work->flags & (SD_WORK_PROBE | SD_WORK_BIND) ||
	    length <= 0 || length >= (int)sizeof work->name || path[length - 1] == '/')
		return -EAGAIN;
	work->path[0][length] = 0;
	if (want_path && clean(work) < 0)
		return -EAGAIN;
	if (!userns[0] && readlink("/proc/thread-self/ns/user", userns, sizeof userns - 1) < 0)
		return -errno;
	if (sd_look_at_known(&caller, work->tid, userns) || !(caller.caps & 1ULL << CAP_MKNOD))
		return -EAGAIN;
	int base = sd_open_base(&caller, path, work->dirfd[0]);
	if (base < 0)
		return -EAGAIN;
	/* Now all is read. Another thread's execve may have put a set-id program in the caller's place
	 * meanwhile, behind the same /proc/TID: only a call that still waits says whose all this is. */
	if (sd_id_valid(work->listener, work->id)) {
		close(base);
		return sd_done(work, -ESRCH, 0);
	}
	size_t skip = strspn(path, "/");
	memcpy(work->name, path + skip, (size_t)length + 1 - skip);
	work->umask = caller.umask;
	work->fsuid = caller.fsuid;
	work->fsgid = caller.fsgid;
	work->group_count = caller.group_count;
	memcpy(work->groups, caller.groups, caller.group_count * sizeof *work->groups);
	work->told_flags = caller.caps & 1ULL << CAP_DAC_OVERRIDE ? SD_TOLD_DAC : 0;
	work->told_flags |= caller.caps & 1ULL << CAP_FSETID ? SD_TOLD_FSETID : 0;
	work->parent = base;
	if (want_path && !(work->flags & SD_WORK_AS_WRITTEN)) {
		work->guess = 1;
		work->stage = GUESSING;
		return SD_WORK_DECIDE;
	}
	return sd_ask_maker(work, SD_MAKE_AT);
}


/* Whether what the path leads to is not the root of a mount, and so not a node of ours. Only what
 * the kernel has in its cache is walked, without following anything, and without a question to a
 * file system: nobody can make us wait. The answer opens no door, since the kernel then does the
 * call itself; so the caller's rights do not matter here. 0 where it cannot be told. */
int sd_plainly_foreign(const struct sd_work *work)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
			   RESOLVE_CACHED,
	};
	struct sd_caller caller = {.task = work->task};
	char path[SD_PATH_MAX];
	int32_t length = work->length[0];
	if (length <= 0 || length >= SD_PATH_MAX)
		return 0;
	memcpy(path, work->path[0], (size_t)length);
	path[length] = 0;
	int at = sd_open_base(&caller, path, work->dirfd[0]);
	char *name = strrchr(path, '/');
	const char *start = path + strspn(path, "/");
	if (at >= 0 && name && name >= start) {
		*name = 0;
		int parent = (int)syscall(SYS_openat2, at, start, &how, sizeof how);
		close(at);
		at = parent;
	}
	name = name ? name + 1 : path;
	if (at < 0)
		return 0;
	/* across a mount point it would be EXDEV */
	how.resolve |= RESOLVE_NO_XDEV;
	int fd = *name ? (int)syscall(SYS_openat2, at, name, &how, sizeof how) : -1;
	close(at);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}
