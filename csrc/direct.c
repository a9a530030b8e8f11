/* The short way of a mknod: from the session to the maker, without a resolver. */
#include "work.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <unistd.h>

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
	struct sd_caller caller = {.task = work->task};
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
	if (sd_look_at(&caller, userns) || !(caller.caps & 1ULL << CAP_MKNOD))
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
	if (want_path) {
		work->guess = 1;
		work->stage = GUESSING;
		return SD_WORK_DECIDE;
	}
	return sd_ask_maker(work, SD_MAKE_AT);
}

