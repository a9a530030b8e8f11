/* Making a directory, as the caller would: where its path leads is found once, and decided on, and
 * there it is made. */
#include "paths.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NULL_DEVICE = 0x103, FUSE_MAGIC = 0x65735546 };

/* The last name of a path, without the slashes behind it, which mean nothing to mkdir(2). What is no
 * name is there already. */
static int trim(const char *last, char name[256])
{
	size_t length = strcspn(last, "/");
	if (length >= 256)
		return -ENAMETOOLONG;
	memcpy(name, last, length);
	name[length] = 0;
	return length && strcmp(name, ".") && strcmp(name, "..") ? 0 : -EEXIST;
}

/* What the caller would hear if it might not write to the directory. The kernel says so of a device
 * node, which takes the same checks in the same order and then a capability that we have not. */
static int refusal(const struct sd_home *home, int parent, const char *name)
{
	if (home->plain && home->permitted & 1ULL << CAP_MKNOD)
		return -EACCES; /* it would be made */
	int error = sd_try_node(parent, name, S_IFCHR, NULL_DEVICE);
	return error && error != -EPERM ? error : -EACCES;
}

/* Whether it may be a FUSE program's, which can be for its mounter alone. */
static int is_fuse(int directory)
{
	struct statfs fs;
	return fstatfs(directory, &fs) || fs.f_type == FUSE_MAGIC;
}

/* Where it would be. A directory that was removed, or is out of the caller's root, has no name: rules
 * that ask for one do not match then. */
static int look(struct sd_caller *caller, struct sd_home *home, int parent, struct sd_told *told)
{
	int error = sd_be_there(home, caller);
	if (error)
		return error;
	if (sd_resolved(parent, told->name, told))
		told->path_length = -1;
	told->flags = SD_TOLD_PASSED;
	return 0;
}

void sd_do_directory(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
		     struct sd_told *told, int given, int *give)
{
	const char *last = sd_ask_text(ask, 0);
	int parent = given >= 0 ? given : sd_walk_parent(home, caller, 0, last, &last);
	if (parent < 0) {
		told->error = parent;
		return;
	}
	told->error = trim(last, told->name);
	if (!told->error && is_fuse(parent))
		told->error = sd_take_all_ids(home, caller);
	if (told->error)
		;
	else if (ask->flags & SD_WORK_WANT_PATH)
		told->error = look(caller, home, parent, told);
	else if (ask->flags & SD_WORK_PROBE)
		told->error = refusal(home, parent, told->name);
	else if (syscall(SYS_mkdirat, parent, told->name, ask->mode))
		told->error = -errno;
	if (told->flags & SD_TOLD_PASSED)
		*give = parent;
	else if (parent != given)
		close(parent);
}
