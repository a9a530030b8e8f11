/* Extended attributes of files, set and removed: by a resolver as the caller, or by a maker as the host's
 * root, where a policy says so and the name begins with "trusted.".
 *
 * Both have the file by a descriptor (O_PATH: to open it for reading would start what a FIFO or a device
 * does then), and reach it by /proc/self/fd, so that nothing is looked up twice. */
#include "maker.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char ACCESS_LIST[] = "system.posix_acl_access", LISTS[] = "system.posix_acl_";
static const char SECURITY[] = "security.", CAPABILITY[] = "security.capability";

/* With the rights that we have now; our directory is the one that `link` starts from. */
static int change(const char *link, const char *name, int removes, const char *value, size_t size, int flags)
{
	int result = removes ? removexattr(link, name) : setxattr(link, name, value, size, flags);
	return result ? -errno : 0;
}

/* ---- the resolver's ---- */

int sd_is_path_only(int task, int fd)
{
	char name[32], text[256];
	snprintf(name, sizeof name, "fdinfo/%d", fd);
	int file = openat(task, name, O_RDONLY | O_CLOEXEC);
	ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
	int error = got < 0 ? -errno : 0;
	if (file >= 0)
		close(file);
	if (error)
		return error;
	text[got] = 0;
	const char *flags = strstr(text, "flags:");
	return !flags ? -EIO : (strtol(flags + sizeof "flags:" - 1, NULL, 8) & O_PATH) != 0;
}

static int find(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask)
{
	const char *path = sd_ask_text(ask, 0);
	if (ask->length[0] == SD_NO_TEXT) {
		if (caller->base[0] < 0)
			return caller->base[0];
		int file = fcntl(caller->base[0], F_DUPFD_CLOEXEC, 0);
		return file < 0 ? -errno : file;
	}
	return *path ? sd_walk(home, caller, 0, path, 0, !(ask->flags & SD_XATTR_NOFOLLOW)) : -ENOENT;
}

/* Where the file is, below the caller's root directory. */
static int name_it(struct sd_caller *caller, struct sd_home *home, int file, struct sd_told *told)
{
	int32_t length = -1;
	int error = sd_find_name(caller, home, file, told->path, &length);
	told->path_length = length;
	return error;
}

static int is_read_only(int file, struct statfs *fs)
{
	return fstatfs(file, fs) ? -errno : fs->f_flags & ST_RDONLY ? -EROFS : 0;
}

/* Whether a maker may be asked to set it, for this caller. */
static int check_root(const struct sd_caller *caller, int file, struct sd_told *told)
{
	struct statfs fs;
	struct stat it;
	int error = is_read_only(file, &fs);
	if (error)
		return error;
	if (!caller->same_userns || !(caller->caps & CAP(CAP_SYS_ADMIN)))
		return -EPERM;
	/* the maker must not be made to wait for a server; here we are the ones to wait */
	if (!sd_is_local((uint64_t)fs.f_type)) {
		told->flags |= SD_TOLD_FOREIGN;
		if (fs.f_type == OVERLAYFS_SUPER_MAGIC && !fstat(file, &it))
			told->fs_dev = it.st_dev;
	}
	return 0;
}

/* A node of ours is the host's own, whose inode is never touched: see sd_do_companion. */
static int is_node(const struct sd_caller *caller, const char *name, int file)
{
	struct stat node;
	return !strcmp(name, ACCESS_LIST) && caller->same_userns && caller->caps & CAP(CAP_FOWNER) &&
	       sd_is_ours(file, &node);
}

static int as_caller(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask, int file)
{
	char link[32];
	const char *name = sd_ask_text(ask, 1);
	if (is_node(caller, name, file))
		return 0;
	/* the ids in it would be taken for those of another user namespace */
	if (!caller->same_userns && !strncmp(name, LISTS, sizeof LISTS - 1))
		return -EPERM;
	/* labels: the kernel's security modules would ask who we are, and not who the caller is */
	if (!strncmp(name, SECURITY, sizeof SECURITY - 1) && strcmp(name, CAPABILITY))
		return -EPERM;
	int error = sd_act_as_self(home);
	if (!error && fchdir(caller->task))
		error = -errno;
	if (!error)
		error = sd_act_as_caller_with(home, caller, CAP(CAP_SYS_ADMIN) | CAP(CAP_SETFCAP));
	if (error)
		return error;
	snprintf(link, sizeof link, "../self/fd/%d", file);
	error = change(link, name, (ask->flags & SD_XATTR_REMOVES) != 0, sd_ask_text(ask, 2), ask->mode,
		       (int)ask->call_flags);
	if (!caller->away && (sd_act_as_self(home) || chdir("/")))
		_exit(1); /* else that is undone on the way home */
	return error;
}

void sd_do_xattr(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
		 struct sd_told *told, const int *held, int *give)
{
	struct statfs fs;
	int file = held[1], own = file < 0;
	if (ask->mode > SD_XATTR_MAX || ask->length[1] >= SD_XATTR_NAME) {
		told->error = -EINVAL;
		return;
	}
	if (own)
		file = find(caller, home, ask);
	if (file < 0) {
		told->error = file;
		return;
	}
	if (ask->flags & SD_XATTR_LOOK) {
		told->error = name_it(caller, home, file, told);
	} else if (ask->flags & SD_XATTR_REFUSE) {
		told->error = is_read_only(file, &fs);
		if (!told->error)
			told->error = -EPERM;
	} else if (ask->flags & SD_XATTR_ROOT) {
		told->error = check_root(caller, file, told);
	} else if (ask->flags & SD_XATTR_NODES) {
		if (!is_node(caller, sd_ask_text(ask, 1), file))
			told->flags |= SD_TOLD_LEFT_ALONE;
	} else {
		told->error = as_caller(caller, home, ask, file);
	}
	if (!told->error && ask->flags & (SD_XATTR_LOOK | SD_XATTR_ROOT)) {
		*give = own ? file : fcntl(file, F_DUPFD_CLOEXEC, 0);
		own = 0;
	}
	if (own)
		close(file);
}

/* ---- the maker's ---- */

static int own_files = -1; /* /proc/PID/fd, of this process */

int sd_xattrs_prepare(const struct sd_ceiling *ceiling)
{
	if (!ceiling->xattr_count)
		return 0;
	own_files = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return own_files < 0 ? -errno : 0;
}

static int granted(const struct sd_ceiling *ceiling, const struct sd_xattr_order *order)
{
	static const char TRUSTED[] = "trusted.";
	if (ceiling->no_real_nodes || strnlen(order->name, sizeof order->name) == sizeof order->name ||
	    strncmp(order->name, TRUSTED, sizeof TRUSTED - 1))
		return 0;
	for (uint32_t i = 0; i < ceiling->xattr_count; i++) {
		const struct sd_xattr_rule *rule = &ceiling->xattrs[i];
		if (fnmatch(rule->name, order->name, FNM_NOESCAPE))
			continue;
		if (!rule->value || (!order->removes && rule->size == order->size &&
				     !memcmp(rule->value, order->value, rule->size)))
			return 1;
	}
	return 0;
}

/* What capable_wrt_inode_uidgid() asks of a capability in a user namespace; without a question to whoever
 * serves the file. */
static int owner_is_mapped(const struct sd_ceiling *c, int file)
{
	struct statx it;
	return !syscall(SYS_statx, file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_UID | STATX_GID, &it) &&
	       sd_is_mapped(c->uids, c->uid_count, it.stx_uid) &&
	       sd_is_mapped(c->gids, c->gid_count, it.stx_gid);
}

int sd_xattr_as_root(const struct sd_ceiling *ceiling, const struct sd_xattr_order *order, int file)
{
	char link[32];
	if (file < 0 || own_files < 0 || !granted(ceiling, order) || !owner_is_mapped(ceiling, file))
		return file < 0 ? -EBADF : -EPERM;
	if (fchdir(own_files))
		return -errno;
	snprintf(link, sizeof link, "%d", file);
	int error = change(link, order->name, order->removes != 0, order->value, order->size,
			   (int)order->call_flags);
	if (chdir("/"))
		_exit(1); /* all else of ours is by names from there */
	return error;
}
