/* The maker's mounts: the kernel's own drivers, on a device or an image that came as a descriptor or
 * as a number, never by a name that anybody else has a say in. What comes out is a detached mount
 * with the flags that are forced locked; bringing it to its place is for a resolver.
 *
 * mount(2) itself is what makes it, so that its errors are the kernel's. */
#include "compat.h"
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { LOOP_MAJOR = 7, ATTEMPTS = 16 };

static const char PLAIN[] = "/plain"; /* what is mounted there goes nowhere else */
static const char LOOP_NAME[] = "seccompd";

int sd_mounting_prepare(struct sd_mounting *mounting, const struct sd_ceiling *ceiling)
{
	mounting->ceiling = ceiling;
	mounting->lock_ns = mounting->loop_control = mounting->sys_block = mounting->inotify = -1;
	mounting->home_ns = mounting->loop = mounting->own = -1;
	if (!ceiling->mount_count)
		return 0;
	mounting->home_ns = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (mounting->home_ns < 0)
		return -errno;
	/* where these are missing, there is nothing to be mounted from them */
	mounting->loop_control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	mounting->sys_block = open("/sys/dev/block", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return 0;
}

int sd_mounting_settle(struct sd_mounting *mounting, int proc)
{
	if (!mounting->ceiling->mount_count)
		return 0;
	if (mkdir("/stage", 0755) || mkdir(PLAIN, 0755) || mkdir("/dev", 0755))
		return -errno;
	mounting->lock_ns = sd_lock_namespace(proc);
	return mounting->lock_ns < 0 ? mounting->lock_ns : 0;
}

/* A node of ours for a device, below /dev; its name is what mountinfo will show. It stays for the
 * next time: there are no more of them than devices in the ceiling. */
static int make_node(char *path, const char *name, dev_t device)
{
	struct stat found;
	snprintf(path, SD_NODE_MAX, "/dev/%s", name);
	if (!lstat(path, &found) && S_ISBLK(found.st_mode) && found.st_rdev == device)
		return 0;
	char *slash = strchr(path + 5, '/');
	if (slash) {
		*slash = 0;
		mkdir(path, 0755);
		*slash = '/';
	}
	unlink(path);
	return sd_try_node(AT_FDCWD, path, S_IFBLK | 0600, device);
}

static int open_loop(char *path, int number, int read_only)
{
	char name[16];
	snprintf(name, sizeof name, "loop%d", number);
	int error = make_node(path, name, makedev(LOOP_MAJOR, (unsigned int)number));
	if (error)
		return error;
	int loop = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	return loop < 0 ? -errno : loop;
}

/* The device that `image` is attached to already. Two of them would be two filesystems that write to
 * the same blocks; with one the second mount is one more of the same, as it is with any device. */
static int known_loop(struct sd_mounting *mounting, const struct stat *image, int read_only,
		      char *path)
{
	for (uint32_t i = 0; i < SD_MOST_MOUNTS; i++) {
		const struct sd_loop *known = &mounting->loops[i];
		struct loop_info64 info;
		if (!known->ino || known->ino != image->st_ino || known->dev != image->st_dev)
			continue;
		int loop = open_loop(path, known->number, read_only || known->read_only);
		if (loop < 0)
			continue;
		if (!ioctl(loop, LOOP_GET_STATUS64, &info) && info.lo_inode == image->st_ino &&
		    info.lo_number == (uint32_t)known->number &&
		    !strcmp((const char *)info.lo_file_name, LOOP_NAME)) {
			if (!known->read_only || read_only)
				return loop;
			close(loop);
			return -EBUSY; /* the kernel's word, too, for a device that is mounted so */
		}
		close(loop);
	}
	return -ENOENT;
}

static void remember_loop(struct sd_mounting *mounting, const struct stat *image, int number,
			  int read_only)
{
	struct sd_loop *loop = &mounting->loops[mounting->loop_count % SD_MOST_MOUNTS];
	for (uint32_t i = 0; i < SD_MOST_MOUNTS; i++) /* what it was attached to before it is no longer */
		if (mounting->loops[i].ino && mounting->loops[i].number == number)
			loop = &mounting->loops[i];
	if (loop == &mounting->loops[mounting->loop_count % SD_MOST_MOUNTS])
		mounting->loop_count++;
	*loop = (struct sd_loop){image->st_dev, image->st_ino, number, read_only};
}

/* A loop device on `image`, which goes with its last user. */
static int attach_loop(struct sd_mounting *mounting, int image, int read_only, char *path)
{
	struct stat found;
	if (image < 0 || fstat(image, &found) || !S_ISREG(found.st_mode))
		return -ENOTBLK;
	if (mounting->loop_control < 0)
		return -ENODEV;
	int known = known_loop(mounting, &found, read_only, path);
	if (known != -ENOENT)
		return known;
	for (int i = 0; i < ATTEMPTS; i++) {
		int number = ioctl(mounting->loop_control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return -errno;
		int loop = open_loop(path, number, read_only);
		if (loop < 0)
			return loop;
		struct loop_config config = {
			.fd = (uint32_t)image,
			.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0),
		};
		memcpy(config.info.lo_file_name, LOOP_NAME, sizeof LOOP_NAME);
		if (!ioctl(loop, LOOP_CONFIGURE, &config)) {
			remember_loop(mounting, &found, number, read_only);
			return loop;
		}
		int error = -errno;
		close(loop);
		if (error != -EBUSY) /* somebody else was quicker */
			return error;
	}
	return -EBUSY;
}

/* Flags that were asked for, and are not forced, must not be locked with the others: the caller may
 * take them away again. */
static int mount_on_stage(const struct sd_new_mount *new, const char *source)
{
	static const unsigned long LOCKED = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	/* the superblock is read-only from the start, and the mount becomes so later */
	int later = new->flags & MS_RDONLY && !(new->force & SD_ATTR_RDONLY);
	const char *data = new->data_length < 0 ? NULL : new->data;
	unsigned long flags = (new->flags & ~LOCKED) | (new->force & LOCKED);
	if (mount(source, later ? PLAIN : SD_LOCK_STAGE, new->fstype, flags, data))
		return -errno;
	if (!later)
		return 0;
	int plain = open(PLAIN, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int error = plain < 0 ? -errno : sd_change_mount(plain, 0, SD_ATTR_RDONLY, -1);
	if (!error)
		error = sd_stage(plain);
	if (plain >= 0)
		close(plain);
	if (error && umount2(PLAIN, MNT_DETACH))
		_exit(1);
	return error;
}

/* Ids, and the flags that are not locked. */
static int finish(const struct sd_mounting *mounting, const struct sd_new_mount *new,
		  struct sd_mounted *mounted, int tree)
{
	uint64_t set = new->set & ~new->force;
	if (new->force & ~(uint64_t)(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC))
		set |= new->force; /* of those that cannot be locked */
	if (new->shift != SD_SHIFT_FALSE && mounting->userns >= 0) {
		int error = sd_change_mount(tree, set | SD_ATTR_IDMAP, 0, mounting->userns);
		if (!error) {
			mounted->flags |= SD_MOUNTED_SHIFTED;
			return 0;
		}
		if (error != -EINVAL && error != -EPERM)
			return error;
	}
	if (new->shift == SD_SHIFT_TRUE) {
		mounted->flags |= SD_MOUNTED_NO_SHIFT;
		return -EINVAL;
	}
	return sd_change_mount(tree, set, 0, -1);
}

/* A detached mount of it, ready for its place. The original stays on the stage. */
static int mount_here(struct sd_mounting *mounting, const struct sd_new_mount *new,
		      struct sd_mounted *mounted, const char *source)
{
	int error = mount_on_stage(new, source);
	if (error)
		return error;
	mounting->staged = 1;
	int tree = sd_copy_stage(new->force ? mounting->lock_ns : -1, mounting->home_ns);
	if (tree < 0) {
		if (new->force)
			mounted->flags |= SD_MOUNTED_LOCK;
		return tree;
	}
	error = finish(mounting, new, mounted, tree);
	if (!error)
		return tree;
	close(tree);
	return error;
}

/* What nobody would know of must not be there. `path`: of a device, or "". */
static int remember(struct sd_mounting *mounting, const struct sd_new_mount *new, const char *path,
		    struct sd_mounted *mounted, int tree)
{
	struct sd_superblock one = {.force = new->force,
				    .shifted = (mounted->flags & SD_MOUNTED_SHIFTED) != 0};
	struct stat found;
	if (fstat(tree, &found))
		return -errno;
	one.dev = found.st_dev;
	memcpy(one.fstype, new->fstype, sizeof one.fstype);
	snprintf(one.source, sizeof one.source, "%s", path);
	mounted->major = major(found.st_dev);
	mounted->minor = minor(found.st_dev);
	return sd_remember_superblock(mounting, SD_LOCK_STAGE, &one);
}

/* A mount whose flags are locked keeps those of atime, too. So another one has to take its place. */
static int mount_copy(struct sd_mounting *mounting, struct sd_new_mount *new,
		      struct sd_mounted *mounted)
{
	struct stat found;
	uint64_t device = makedev(new->major, new->minor);
	const struct sd_superblock *known = sd_superblock_of(mounting, device);
	if (!known || !*known->source) {
		mounted->flags |= SD_MOUNTED_STRANGER;
		return -EPERM;
	}
	memcpy(new->fstype, known->fstype, sizeof new->fstype);
	new->force = known->force;
	new->shift = known->shifted ? SD_SHIFT_TRUE : SD_SHIFT_FALSE;
	new->data_length = -1;
	new->data[0] = 0;
	if (!sd_change_granted(mounting->ceiling, new)) {
		mounted->flags |= SD_MOUNTED_CEILING;
		return -EPERM;
	}
	int tree = mount_here(mounting, new, mounted, known->source);
	if (tree >= 0 && (fstat(tree, &found) || found.st_dev != device)) {
		close(tree);
		return -EPERM;
	}
	return tree;
}

static int is_no_new_mount(const struct sd_new_mount *new)
{
	return (new->flags & (MS_REMOUNT | MS_BIND | MS_MOVE | MS_SHARED | MS_PRIVATE | MS_SLAVE |
			      MS_UNBINDABLE)) != 0;
}

int sd_mount_filesystem(struct sd_mounting *mounting, struct sd_new_mount *new, int fd,
			struct sd_mounted *mounted)
{
	char name[SD_DEVICE_NAME_MAX] = "", path[SD_NODE_MAX] = "";
	new->fstype[sizeof new->fstype - 1] = 0;
	new->source[sizeof new->source - 1] = 0;
	new->data[new->data_length < 0 ? 0 : sizeof new->data - 1] = 0;
	if (new->kind == SD_NEW_AGAIN)
		return sd_reconfigure(mounting, new, fd, mounted);
	if (is_no_new_mount(new))
		return -EINVAL;
	if (new->kind == SD_NEW_COPY)
		return mount_copy(mounting, new, mounted);
	if (new->kind == SD_NEW_DEVICE)
		sd_device_name_at(mounting->sys_block, new->major, new->minor, name);
	if (!sd_mount_granted(mounting->ceiling, new, name, NULL)) {
		mounted->flags = SD_MOUNTED_CEILING;
		return -EPERM;
	}
	if (sd_superblocks(mounting) >= new->most) {
		mounted->flags |= SD_MOUNTED_FULL;
		return -ENOSPC;
	}
	if (new->kind == SD_NEW_IMAGE) {
		mounting->loop = attach_loop(mounting, fd, (new->flags & MS_RDONLY) != 0, path);
		if (mounting->loop < 0) {
			mounted->flags |= mounting->loop == -EBUSY ? 0 : SD_MOUNTED_LOOP;
			return mounting->loop;
		}
	} else if (new->kind == SD_NEW_DEVICE) {
		/* what another container's, or the host's, is by now is not this one's to mount; held
		 * open it stays what it is */
		if (sd_loop_is_lent(new->major, new->minor)) {
			mounting->own = sd_loop_own(new->minor, O_RDONLY);
			if (mounting->own < 0)
				return mounting->own;
		}
		char shown[SD_DEVICE_NAME_MAX];
		if (*name)
			memcpy(shown, name, sizeof shown);
		else
			snprintf(shown, sizeof shown, "block-%u:%u", new->major, new->minor);
		int error = make_node(path, shown, makedev(new->major, new->minor));
		if (error)
			return error;
	}
	int image = new->kind == SD_NEW_IMAGE ? fd : -1;
	int error = sd_is_ext(new) ? sd_tame_ext(mounting, new, name, path, image, mounted) : 0;
	if (error)
		return error;
	int tree = mount_here(mounting, new, mounted, *path ? path : new->source);
	error = tree < 0 ? tree : remember(mounting, new, path, mounted, tree);
	if (error && tree >= 0)
		close(tree);
	return error ? error : tree;
}

void sd_mounting_clear(struct sd_mounting *mounting)
{
	if (mounting->staged)
		sd_clear_stage();
	if (mounting->loop >= 0)
		close(mounting->loop);
	if (mounting->own >= 0)
		close(mounting->own);
	mounting->staged = 0;
	mounting->loop = mounting->own = -1;
}
