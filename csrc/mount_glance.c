/* The short look at a mount: by the session itself, where the caller is one who may what the session may,
 * as the root of a container is. For that both paths have to be plain and in the kernel's caches, and the
 * source on a file system of the host's. All else, and every error, is for a resolver, which has the exact
 * errno. */
#include "mounts.h"
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x00002000
#endif

struct glance {
	int root, target, source;
	int image; /* the source, opened */
	int mount_ns;
};

/* Whether the caller may search and open what we may, and nothing else: then the kernel finds for us what
 * it would find for it. Its groups can take a right away, too. */
static int is_like_us(const struct sd_caller *caller)
{
	if (caller->fsuid != geteuid() || caller->fsgid != getegid() || caller->groups_cut ||
	    !(caller->caps & 1ULL << CAP_DAC_OVERRIDE) || getgroups(0, NULL))
		return 0;
	for (uint32_t i = 0; i < caller->group_count; i++)
		if (caller->groups[i] != caller->fsgid)
			return 0;
	return 1;
}

/* Whether an absolute path is its own name, where there is no link in it. */
static int is_clean(const char *path, size_t length)
{
	if (length < 2 || path[0] != '/' || path[length - 1] == '/')
		return 0;
	for (const char *name = path + 1; name; name = strchr(name, '/') ? strchr(name, '/') + 1 : NULL) {
		size_t dots = strspn(name, ".");
		if (*name == '/' || (dots && dots <= 2 && (!name[dots] || name[dots] == '/')))
			return 0;
	}
	return 1;
}

static int walk(int root, const char *path, size_t length)
{
	return is_clean(path, length) ? sd_open_cached(root, path + 1, 0) : -EINVAL;
}

/* A device that may be mounted from where it lies, or an image, which is opened. Only the host's own
 * file systems are asked for anything: they answer. */
static int see_source(struct glance *glance, int writes, struct sd_seen *seen)
{
	struct statx found;
	struct statfs fs;
	int fd = glance->source;
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &found))
		return 0;
	uint64_t device = makedev(found.stx_dev_major, found.stx_dev_minor);
	if (!sd_is_on_host(device) || fstatfs(fd, &fs))
		return 0;
	if (S_ISBLK(found.stx_mode)) {
		seen->flags |= SD_SEEN_DEVICE;
		seen->major = found.stx_rdev_major;
		seen->minor = found.stx_rdev_minor;
		seen->source_ino = makedev(seen->major, seen->minor);
		return !(fs.f_flags & ST_NODEV);
	}
	/* what is on an overlay can have the device of a layer */
	if (!S_ISREG(found.stx_mode) || !sd_is_local((uint64_t)fs.f_type))
		return 0;
	seen->flags |= SD_SEEN_IMAGE;
	seen->source_dev = device;
	seen->source_ino = found.stx_ino;
	glance->image = sd_open_again(fd, (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return glance->image >= 0;
}

static int see_target(int fd, struct sd_seen *seen)
{
	struct statx found;
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &found))
		return 0;
	seen->target_major = found.stx_dev_major;
	seen->target_minor = found.stx_dev_minor;
	if (found.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		seen->flags |= SD_SEEN_ROOT;
	return 1;
}

/* Who calls, and what belongs to it: read first, and the caller's only if the call still waits then. */
static int look_at(const struct sd_waiting *call, uint32_t tid, struct sd_seen *seen,
		   struct glance *glance)
{
	static char userns[64];
	struct sd_caller caller;
	if (!userns[0] && readlink("/proc/thread-self/ns/user", userns, sizeof userns - 1) < 0)
		return 0;
	if (sd_look_at_known(&caller, tid, userns) || !caller.same_userns ||
	    !(caller.caps & 1ULL << CAP_SYS_ADMIN) || !is_like_us(&caller))
		return 0;
	glance->root = openat(caller.task, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	glance->mount_ns = openat(caller.task, "ns/mnt", O_RDONLY | O_CLOEXEC);
	seen->fsuid = caller.fsuid;
	seen->fsgid = caller.fsgid;
	seen->caps = caller.caps;
	return glance->root >= 0 && glance->mount_ns >= 0 && !sd_id_valid(call->listener, call->id);
}

static void drop(int fd)
{
	if (fd >= 0)
		close(fd);
}

int sd_mount_glance(const struct sd_waiting *call, uint32_t tid, int writes, const char *target,
		    size_t target_length, const char *source, size_t source_length,
		    struct sd_seen *seen, int *fds)
{
	struct glance glance = {-1, -1, -1, -1, -1};
	if (target_length >= SD_PATH_MAX || source_length >= SD_PATH_MAX)
		return 0;
	int all = look_at(call, tid, seen, &glance);
	if (all) {
		glance.target = walk(glance.root, target, target_length);
		glance.source = walk(glance.root, source, source_length);
		all = glance.target >= 0 && glance.source >= 0 && see_target(glance.target, seen) &&
		      see_source(&glance, writes, seen);
	}
	drop(glance.root);
	drop(glance.source);
	if (!all) {
		drop(glance.target);
		drop(glance.image);
		drop(glance.mount_ns);
		return 0;
	}
	seen->target_length = (int32_t)target_length;
	memcpy(seen->target, target, target_length);
	seen->source_length = (int32_t)source_length;
	memcpy(seen->source, source, source_length);
	fds[0] = glance.target;
	fds[1] = glance.mount_ns;
	fds[2] = glance.image;
	fds[3] = -1;
	return 1;
}
