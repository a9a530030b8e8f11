/* The root directory of a FUSE program: the programs and libraries of the host, or those of the
 * program's own container as its caller sees them, read-only; the image, a /proc of its own pid
 * namespace, a few devices. Whatever else is mounted anywhere is neither seen nor kept busy.
 *
 * Of names that a container can change only single components are looked up, links never followed;
 * where that takes for ever, it takes the program's time alone. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

enum { ATTR_NOSUID = 0x2, ATTR_NODEV = 0x4 };

/* What is there of these is there for the program; /etc is so for the container's alone. */
static const char *const TREES[] = {"usr",   "bin",    "sbin", "lib", "lib32",
				    "lib64", "libx32", "etc"};
enum { TREE_COUNT = sizeof TREES / sizeof *TREES, OF_HOST = TREE_COUNT - 1 };

struct root {
	int dir;                    /* the new one */
	int trees[TREE_COUNT + 1];  /* detached, or -1; the last one: where the program is */
	char program[NAME_MAX + 1]; /* the first component of its path */
};

/* A tmpfs with what every program finds, and /proc. The working directory is it. */
static int make_frame(void)
{
	static const char *const DIRECTORIES[] = {"dev", "mnt", "proc", "tmp"};
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return -errno;
	/* a tree of the new /proc, since the next mount covers it */
	int proc = sd_open_tree(AT_FDCWD, "/proc");
	if (proc < 0)
		return proc;
	if (umount2("/proc", MNT_DETACH) ||
	    mount("seccompd", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") ||
	    chdir("/proc"))
		return -errno;
	for (size_t i = 0; i < sizeof DIRECTORIES / sizeof *DIRECTORIES; i++)
		if (mkdir(DIRECTORIES[i], 0755))
			return -errno;
	if (chmod("tmp", 01777) || syscall(SYS_move_mount, proc, "", AT_FDCWD, "proc", MOVE_MOUNT_F_EMPTY_PATH) ||
	    close(proc) || symlink("/proc/self/fd", "dev/fd"))
		return -errno;
	return 0;
}

static int make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644);
	return fd < 0 ? -1 : close(fd);
}

/* `name` of the directory `from`: a detached tree, or a copy of a symbolic link in the new root. */
static int take(struct root *root, int from, const char *name, int *tree)
{
	char link[PATH_MAX];
	struct stat found;
	int error = 0;
	int fd = openat(from, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &found)) {
		error = -errno;
	} else if (S_ISLNK(found.st_mode)) {
		ssize_t length = readlinkat(fd, "", link, sizeof link - 1);
		link[length < 0 ? 0 : length] = 0;
		if (symlinkat(link, root->dir, name))
			error = -errno;
	} else if (S_ISDIR(found.st_mode)) {
		*tree = (int)syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | AT_RECURSIVE |
				     O_CLOEXEC | AT_EMPTY_PATH);
		if (*tree < 0)
			error = -errno;
	}
	close(fd);
	return error;
}

/* The first component of the program's path, where that is no tree already, and not ours. */
static void program_directory(struct root *root, const char *path)
{
	static const char *const NEVER[] = {".", "..", "dev", "proc"};
	size_t length = strcspn(path + 1, "/");
	if (path[0] != '/' || !path[1 + length] || !length || length >= sizeof root->program)
		return;
	memcpy(root->program, path + 1, length);
	root->program[length] = 0;
	for (int i = 0; i < TREE_COUNT; i++)
		if (!strcmp(root->program, TREES[i]))
			root->program[0] = 0;
	for (size_t i = 0; i < sizeof NEVER / sizeof *NEVER; i++)
		if (!strcmp(root->program, NEVER[i]))
			root->program[0] = 0;
}

static int take_all(struct root *root, int from, int count, const char *program)
{
	int error = 0;
	for (int i = 0; i < count && !error; i++)
		error = take(root, from, TREES[i], &root->trees[i]);
	program_directory(root, program);
	if (!error && root->program[0])
		error = take(root, from, root->program, &root->trees[TREE_COUNT]);
	return error;
}

static int take_from_host(struct root *root, const char *program)
{
	int host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int error = host < 0 ? -errno : take_all(root, host, OF_HOST, program);
	if (host >= 0)
		close(host);
	return error;
}

static int place(int tree, const char *name, uint64_t flags)
{
	struct sd_mount_attr attr = {.set = flags};
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr) ||
	    syscall(SYS_move_mount, tree, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH))
		return -errno;
	close(tree);
	return 0;
}

static int place_all(const struct root *root)
{
	for (int i = 0; i <= TREE_COUNT; i++) {
		const char *name = i < TREE_COUNT ? TREES[i] : root->program;
		if (root->trees[i] < 0)
			continue;
		if (mkdir(name, 0755) && errno != EEXIST)
			return -errno;
		int error = place(root->trees[i], name, SD_ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV);
		if (error)
			return error;
	}
	return 0;
}

/* Of the host's /etc a program is to see nothing else. */
static int place_cache(void)
{
	static const char CACHE[] = "/etc/ld.so.cache";
	struct sd_mount_attr attr = {.set = SD_ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV};
	struct stat found;
	if (stat(CACHE, &found))
		return 0;
	if (mkdir("etc", 0755) || make_file(CACHE + 1) ||
	    mount(CACHE, CACHE + 1, NULL, MS_BIND, NULL) ||
	    syscall(SYS_mount_setattr, AT_FDCWD, CACHE + 1, 0, &attr, sizeof attr))
		return -errno;
	return 0;
}

static int place_image(int image)
{
	if (image < 0)
		return symlink("/proc/self/fd/3", SD_IMAGE_NAME + 1) ? -errno : 0;
	/* what was opened for reading alone is not opened again for more */
	int writable = (fcntl(SD_IMAGE, F_GETFL) & O_ACCMODE) != O_RDONLY;
	if (make_file(SD_IMAGE_NAME + 1))
		return -errno;
	/* through the descriptor it could be, by /proc/self/fd */
	close(SD_IMAGE);
	return place(image, SD_IMAGE_NAME + 1, writable ? 0 : SD_ATTR_RDONLY);
}

static int make_devices(void)
{
	static const char *const DEVICES[] = {"/dev/null", "/dev/zero", "/dev/random",
					      "/dev/urandom"};
	for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++)
		if (make_file(DEVICES[i] + 1) ||
		    mount(DEVICES[i], DEVICES[i] + 1, NULL, MS_BIND, NULL))
			return -errno;
	if (make_file("dev/fuse"))
		return -errno;
	int target = open("dev/fuse", O_PATH | O_CLOEXEC);
	struct stat found;
	int error = 0;
	if (target < 0)
		return -errno;
	if (fstat(SD_FUSE_NODE, &found) || !S_ISCHR(found.st_mode))
		error = mount("/dev/fuse", "dev/fuse", NULL, MS_BIND, NULL) ? -errno : 0;
	else
		error = sd_move_tree(SD_FUSE_NODE, target);
	close(target);
	return error;
}

int sd_program_elsewhere(const char *path)
{
	struct root root = {.program = ""};
	program_directory(&root, path);
	return root.program[0] != 0;
}

int sd_program_frame(const char *host, int32_t *stage)
{
	struct root root = {.program = ""};
	memset(root.trees, -1, sizeof root.trees);
	*stage = SD_PROGRAM_ROOT;
	/* opened before /proc is covered */
	int own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (own < 0)
		return -errno;
	if (own != SD_OWN) {
		if (dup3(own, SD_OWN, O_CLOEXEC) < 0)
			return -errno;
		close(own);
	}
	int error = make_frame();
	root.dir = error ? -1 : open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!error && root.dir < 0)
		error = -errno;
	if (!error && host)
		error = take_from_host(&root, host);
	if (!error && host)
		error = place_all(&root);
	if (!error && host)
		error = place_cache();
	if (!error) {
		*stage = SD_PROGRAM_DEVICE;
		error = make_devices();
	}
	if (error)
		return error;
	*stage = SD_PROGRAM_ROOT;
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return -errno;
	close(root.dir);
	close(SD_FUSE_NODE);
	return 0;
}

int sd_program_image(const struct sd_program *program)
{
	struct root root = {.program = ""};
	memset(root.trees, -1, sizeof root.trees);
	root.dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root.dir < 0 || setns(SD_MOUNT_NS, CLONE_NEWNS))
		return -errno;
	/* one that is mounted nowhere any more has no name to be had; then the descriptor has to do */
	int image = (int)syscall(SYS_open_tree, SD_IMAGE, "",
				 OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH);
	int error = program->root < 0 ? 0 : take_all(&root, SD_ROOT, TREE_COUNT, program->argv[0]);
	/* which makes the new root directory ours again */
	if (!error && setns(SD_OWN, CLONE_NEWNS))
		error = -errno;
	if (!error)
		error = place_all(&root);
	if (!error)
		error = place_image(image);
	close(root.dir);
	close(SD_OWN);
	close(SD_MOUNT_NS);
	close(SD_ROOT);
	return error;
}
