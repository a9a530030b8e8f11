/* The filesystems that a maker mounted, for as long as they are mounted anywhere: these and no others
 * it gives other flags and options. Their device numbers alone would not do: once a filesystem has
 * gone, its number is another's, of the host's perhaps. So each is watched, and forgotten in time. */
#include "mounts.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FSPICK_CLOEXEC_EMPTY = 8 | 1, SET_FLAG = 0, SET_STRING = 1, RECONFIGURE = 7 };

static void forget_gone(struct sd_mounting *mounting)
{
	struct {
		struct inotify_event event;
		char name[NAME_MAX + 1];
	} one;
	while (read(mounting->inotify, &one, sizeof one) >= (ssize_t)sizeof one.event)
		for (int i = 0; i < SD_MOST_MOUNTS; i++)
			if (one.event.mask & (IN_UNMOUNT | IN_IGNORED) && mounting->made[i].dev &&
			    mounting->made[i].watch == one.event.wd)
				mounting->made[i].dev = 0;
}

int sd_remember_superblock(struct sd_mounting *mounting, const char *path,
			   const struct sd_superblock *one)
{
	struct sd_superblock *free_one = NULL;
	if (mounting->inotify < 0)
		mounting->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	forget_gone(mounting);
	/* nothing is ever to be told of it but its end, and that is told unasked */
	int watch = inotify_add_watch(mounting->inotify, path, IN_DELETE_SELF);
	for (int i = 0; i < SD_MOST_MOUNTS; i++) {
		struct sd_superblock *known = &mounting->made[i];
		if (!known->dev) {
			free_one = known;
		} else if (known->dev == one->dev) {
			/* by another rule perhaps: what one of them forces is forced */
			known->force |= one->force;
			if (known->shifted != one->shifted)
				known->source[0] = 0;
			return 0;
		}
	}
	if (watch < 0 || !free_one)
		return watch < 0 ? -errno : -ENOSPC;
	*free_one = *one;
	free_one->watch = watch;
	return 0;
}

uint32_t sd_superblocks(struct sd_mounting *mounting)
{
	uint32_t count = 0;
	if (mounting->inotify >= 0)
		forget_gone(mounting);
	for (int i = 0; i < SD_MOST_MOUNTS; i++)
		count += mounting->made[i].dev != 0;
	return count;
}

const struct sd_superblock *sd_superblock_of(struct sd_mounting *mounting, uint64_t dev)
{
	if (mounting->inotify < 0)
		return NULL;
	forget_gone(mounting);
	for (int i = 0; i < SD_MOST_MOUNTS; i++)
		if (mounting->made[i].dev && mounting->made[i].dev == dev)
			return &mounting->made[i];
	return NULL;
}

static int configure(int context, int command, const char *key, const char *value)
{
	return syscall(SYS_fsconfig, context, command, key, value, 0) ? -errno : 0;
}

int sd_make_writable(int fd)
{
	int context = (int)syscall(SYS_fspick, fd, "", FSPICK_CLOEXEC_EMPTY);
	int error = context < 0 ? -errno : configure(context, SET_FLAG, "rw", NULL);
	if (!error)
		error = configure(context, RECONFIGURE, NULL, NULL);
	if (context >= 0)
		close(context);
	return error;
}

int sd_reconfigure(struct sd_mounting *mounting, const struct sd_new_mount *new, int fd,
		   struct sd_mounted *mounted)
{
	struct stat found;
	if (fd < 0 || fstat(fd, &found))
		return -EBADF;
	/* picked first: while we have it, its number is nobody else's */
	int context = (int)syscall(SYS_fspick, fd, "", FSPICK_CLOEXEC_EMPTY);
	int error = context < 0 ? -errno : 0;
	if (!error && !sd_change_granted(mounting->ceiling, new)) {
		mounted->flags |= SD_MOUNTED_CEILING;
		error = -EPERM;
	}
	if (!sd_superblock_of(mounting, found.st_dev)) {
		mounted->flags |= SD_MOUNTED_STRANGER;
		error = -EPERM;
	}
	/* those that mount(2) changes, whether it is told so or not */
	const char *const flags[] = {
		new->flags & MS_RDONLY ? "ro" : "rw",
		new->flags & MS_SYNCHRONOUS ? "sync" : "async",
		new->flags & MS_LAZYTIME ? "lazytime" : "nolazytime",
	};
	for (size_t i = 0; i < sizeof flags / sizeof *flags && !error; i++)
		error = configure(context, SET_FLAG, flags[i], NULL);
	char *rest = (char *)new->data;
	while (!error && rest && *rest) {
		char *word = strsep(&rest, ",");
		char *value = strchr(word, '=');
		if (!*word)
			continue;
		if (value)
			*value++ = 0;
		error = configure(context, value ? SET_STRING : SET_FLAG, word, value);
	}
	if (!error)
		error = configure(context, RECONFIGURE, NULL, NULL);
	if (context >= 0)
		close(context);
	return error;
}
