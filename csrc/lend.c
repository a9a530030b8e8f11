/* What a maker lends for opens: the devices and files of the host's that `inject` rules name, each by
 * its number in the ceiling. Nobody can ask for another one.
 *
 * A device is a node of our own tmpfs that belongs to the host's root, which no container maps: so
 * its mode is the most that anybody gets, however it is opened again. A file is a mount of its own,
 * read-only where it is not granted for writing: a descriptor can be opened again by /proc/self/fd,
 * and a mount's flags hold there too. It is the file that was there when the maker was born.
 *
 * A directory is a mount of its own as well, but one that is in no mount namespace any more. ".." leads
 * nowhere from its root then; and nobody can move it into a namespace, copy it or change its flags, as
 * whoever is root of a container could with one that only was not attached yet.
 *
 * Each device and file has a directory of its own. Who opens it for a caller elsewhere is lent that, below a
 * mount in no namespace as well, and not the thing alone: that could only be opened by a link of /proc,
 * and not with O_NOFOLLOW, which a descriptor has from then on. */
#include "mounts.h"
#include "openers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CAP(name) (1ULL << (name))

enum { ATTR_NOSUID = 0x2, ATTR_NODEV = 0x4, ATTR_NOEXEC = 0x8 };

/* What of a caller's flags is for whatever is opened. */
enum { ANY = O_APPEND | O_NONBLOCK | O_SYNC | O_DIRECT | O_ASYNC | O_LARGEFILE | O_NOFOLLOW };

static struct {
	const struct sd_ceiling *ceiling;
	int state[SD_MOST_LENT]; /* a mount of a file until it is settled; then 0 or -errno */
	int root[SD_MOST_LENT];  /* of a directory's mount */
	int shared[SD_MOST_LENT]; /* the session need not wait to open it, where it may as root of the container */
} lending;

/* Files of these filesystems are not what they seem: what they do goes by whoever opened them. */
static int is_of_kernel(const struct statfs *fs)
{
	return fs->f_type == PROC_SUPER_MAGIC || fs->f_type == SYSFS_MAGIC ||
	       fs->f_type == CGROUP2_SUPER_MAGIC || fs->f_type == DEBUGFS_MAGIC ||
	       fs->f_type == TRACEFS_MAGIC;
}

/* A detached mount of a regular file, or of a directory. What is only read is shown with the container's ids,
 * where the filesystem can: so its root may read all of it. What is written keeps the host's, or the container
 * could leave set-user-ID programs of the host's root there. */
static int mount_of(const struct sd_lent *lent, int userns, int *shared)
{
	struct stat file;
	struct statfs fs;
	struct sd_mount_attr attr = {
		.set = ATTR_NOSUID | ATTR_NODEV | (lent->writes ? 0 : SD_ATTR_RDONLY),
		.propagation = MS_PRIVATE,
	};
	int tree = sd_open_tree(AT_FDCWD, lent->path);
	if (tree < 0)
		return tree;
	int error = 0;
	if (fstat(tree, &file) || fstatfs(tree, &fs))
		error = -errno;
	else if (!lent->directory != !S_ISDIR(file.st_mode))
		error = lent->directory ? -ENOTDIR : -EISDIR;
	else if ((!lent->directory && !S_ISREG(file.st_mode)) || is_of_kernel(&fs))
		error = -EPERM;
	else if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr))
		error = -errno;
	if (error)
		close(tree);
	else if (userns >= 0)
		*shared = (lent->writes || !sd_change_mount(tree, SD_ATTR_IDMAP, 0, userns)) &&
			  sd_is_local((uint64_t)fs.f_type);
	return error ? error : tree;
}

static int keep_root(int tree)
{
	int root = openat(tree, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int error = root < 0 ? -errno : 0;
	close(tree); /* which takes the mount out of the kernel's lists */
	return error ? error : root;
}

static int root_of(const struct sd_lent *lent, int userns, int *shared)
{
	int tree = mount_of(lent, userns, shared);
	return tree < 0 ? tree : keep_root(tree);
}

void sd_lend_prepare(const struct sd_ceiling *ceiling, int userns)
{
	lending.ceiling = ceiling;
	for (uint32_t i = 0; i < ceiling->lent_count && i < SD_MOST_LENT; i++) {
		const struct sd_lent *lent = &ceiling->lent[i];
		if (lent->path && lent->directory)
			lending.root[i] = root_of(lent, userns, &lending.shared[i]);
		else if (lent->path)
			lending.state[i] = mount_of(lent, userns, &lending.shared[i]);
	}
}

struct name { /* of a thing, and of its directory */
	char place[16], file[24];
};

static struct name name_of(uint32_t index)
{
	struct name name;
	snprintf(name.place, sizeof name.place, "lent.%u", index);
	snprintf(name.file, sizeof name.file, "%s/" SD_LENT_NAME, name.place);
	return name;
}

static int settle_device(const struct sd_lent *lent, const char *name)
{
	uint32_t mode = (lent->type == 'c' ? S_IFCHR : S_IFBLK) | (lent->writes ? 0666 : 0444);
	return sd_try_node(AT_FDCWD, name, mode, makedev(lent->major, lent->minor));
}

static int settle_file(int tree, const char *name)
{
	if (tree < 0)
		return tree;
	int place = open(name, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDONLY | O_CLOEXEC, 0600);
	int error = place < 0 ? -errno : sd_move_tree(tree, place);
	if (place >= 0)
		close(place);
	close(tree);
	return error;
}

int sd_lend_settle(void)
{
	const struct sd_ceiling *ceiling = lending.ceiling;
	if (ceiling->lent_count > SD_MOST_LENT)
		return -E2BIG;
	umask(0);
	for (uint32_t i = 0; i < ceiling->lent_count; i++) {
		const struct sd_lent *lent = &ceiling->lent[i];
		const struct name name = name_of(i);
		if (lent->loops) {
			lending.state[i] = -EPERM; /* loops.c has those */
		} else if (lent->directory) {
			lending.state[i] = lending.root[i] < 0 ? lending.root[i] : 0;
		} else {
			if (mkdir(name.place, 0755))
				return -errno;
			lending.state[i] = lent->path ? settle_file(lending.state[i], name.file)
						      : settle_device(lent, name.file);
		}
	}
	return 0;
}

int sd_open_unblocking(int dir, const char *path, int flags)
{
	int fd = openat(dir, path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (flags & O_NONBLOCK)
		return fd;
	if (fcntl(fd, F_SETFL, flags)) { /* of which it takes those that can be changed */
		close(fd);
		return -EIO;
	}
	return fd;
}

static int is_kept(int fd)
{
	for (uint32_t i = 0; i < lending.ceiling->lent_count; i++)
		if (lending.ceiling->lent[i].directory && lending.root[i] == fd)
			return 1;
	return 0;
}

void sd_lend_keep_alone(void)
{
	const int most = 2 * SD_MOST_LENT; /* a maker has a few others */
	for (int fd = 1; fd < most; fd++)
		if (!is_kept(fd))
			close(fd);
	syscall(SYS_close_range, most, ~0U, 0);
}

int sd_lend_is_file(uint64_t index)
{
	return index < lending.ceiling->lent_count && lending.ceiling->lent[index].path;
}

int sd_lend_open(uint64_t index, int flags)
{
	if (index >= lending.ceiling->lent_count)
		return -EPERM;
	if (lending.state[index])
		return lending.state[index];
	if (lending.ceiling->lent[index].directory)
		return sd_open_unblocking(lending.root[index], ".", flags & (ANY | O_DIRECTORY));
	return sd_open_unblocking(AT_FDCWD, name_of((uint32_t)index).file,
				  flags & (ANY | O_ACCMODE | O_TRUNC | O_EXCL));
}

/* A detached copy of a thing's directory, as root_of has it. */
static int copy_of(const char *place)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, place,
				OPEN_TREE_CLONE | AT_RECURSIVE | O_CLOEXEC);
	return tree < 0 ? -errno : keep_root(tree);
}

int sd_lend(const struct sd_make *make, uint64_t permitted, int *give)
{
	const struct sd_ceiling *ceiling = lending.ceiling;
	if (make->device >= ceiling->lent_count)
		return -EPERM;
	uint32_t index = (uint32_t)make->device;
	const struct sd_lent *lent = &ceiling->lent[index];
	if (lending.state[index])
		return lending.state[index];
	int opens = lent->path && !(make->flags & O_PATH);
	if (lent->path && !opens && !lending.shared[index])
		return -EOPNOTSUPP;
	int by_name = opens || lent->directory; /* of the host's, which root may not be let into */
	int error = sd_set_caps(by_name ? CAP(CAP_DAC_OVERRIDE) : CAP(CAP_SYS_ADMIN), permitted);
	if (error)
		return error;
	if (opens)
		*give = sd_lend_open(index, (int)make->flags);
	else if (lent->directory)
		*give = openat(lending.root[index], ".", O_PATH | O_CLOEXEC);
	else
		*give = copy_of(name_of(index).place);
	return *give < 0 ? *give : 0;
}
