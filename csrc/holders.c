/* Who has a device still: descriptors, mappings and mounts, by the number of the tmpfs that its inode
 * is in; and a filesystem on it that the container has mounted, by the number of the device. Nobody who is looked at can make us wait for good: nothing is asked of a file but what the
 * kernel has of it. What is in flight between processes is not seen. */
#include "mounts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { MOST_NAMESPACES = 4096 };

/* A mount namespace as a process sees it: what is not below its root directory is not shown to it. */
struct view {
	uint64_t namespace, root, root_mount;
};

struct search {
	int sock;
	const struct sd_look *look;
	struct view seen[MOST_NAMESPACES]; /* whose mounts were read */
	uint32_t seen_count;
	int failed; /* who asked has gone */
};

static int wanted(const struct search *search, uint64_t device)
{
	for (uint32_t i = 0; i < search->look->count; i++)
		if (search->look->devices[i] == device)
			return 1;
	return 0;
}

static void tell(struct search *search, int task, uint32_t pid, uint32_t kind, uint64_t device,
		 const char *path)
{
	struct sd_holder found = {.pid = pid, .kind = kind, .device = device};
	struct stat ns;
	if (!fstatat(task, "ns/mnt", &ns, 0))
		found.mounts = ns.st_ino;
	int fd = openat(task, "comm", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, found.comm, sizeof found.comm - 1);
	if (fd >= 0)
		close(fd);
	if (length > 0 && found.comm[length - 1] == '\n')
		found.comm[length - 1] = 0;
	snprintf(found.path, sizeof found.path, "%s", path);
	if (sd_send_fds(search->sock, &found, sizeof found, NULL, 0) < 0)
		search->failed = 1;
}

/* Calls `each` with the names in a directory that are numbers. */
static void numbers(int at, const char *name, void (*each)(struct search *, int, const char *, void *),
		    struct search *search, void *what)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	if (fd >= 0 && !dir)
		close(fd);
	while (dir && !search->failed && (entry = readdir(dir)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			each(search, fd, entry->d_name, what);
	if (dir)
		closedir(dir);
}

struct process {
	uint32_t pid;
	int task;
	uint64_t told[SD_MOST_LOOKED]; /* once for each device is enough */
	uint32_t told_count;
};

static void once(struct search *search, struct process *process, uint32_t kind, uint64_t device)
{
	for (uint32_t i = 0; i < process->told_count; i++)
		if (process->told[i] == device)
			return;
	if (process->told_count < SD_MOST_LOOKED)
		process->told[process->told_count++] = device;
	tell(search, process->task, process->pid, kind, device, "");
}

static void descriptor(struct search *search, int dir, const char *name, void *what)
{
	struct statx file;
	if (!syscall(SYS_statx, dir, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &file)) {
		uint64_t device = makedev(file.stx_dev_major, file.stx_dev_minor);
		/* a directory of that tmpfs is what the daemon has of it */
		if (!S_ISDIR(file.stx_mode) && wanted(search, device))
			once(search, what, SD_HELD_OPEN, device);
	}
}

/* Threads may have tables of their own. */
static void thread(struct search *search, int dir, const char *name, void *what)
{
	char path[32];
	snprintf(path, sizeof path, "%.16s/fd", name);
	numbers(dir, path, descriptor, search, what);
}

static FILE *open_file(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	if (fd >= 0 && !file)
		close(fd);
	return file;
}

static void mappings(struct search *search, struct process *process)
{
	FILE *maps = open_file(process->task, "maps");
	char *line = NULL;
	size_t size = 0;
	unsigned int major, minor;
	while (maps && getline(&line, &size, maps) > 0)
		if (sscanf(line, "%*s %*s %*s %x:%x", &major, &minor) == 2 &&
		    wanted(search, makedev(major, minor)))
			once(search, process, SD_HELD_MAPPED, makedev(major, minor));
	free(line);
	if (maps)
		fclose(maps);
}

static void mounts(struct search *search, const struct process *process)
{
	struct sd_mount_line line = {0};
	struct view view = {0}; /* it is compared whole */
	struct stat ns;
	struct statx root;
	if (fstatat(process->task, "ns/mnt", &ns, 0) ||
	    syscall(SYS_statx, process->task, "root", AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
		    STATX_INO | STATX_MNT_ID, &root))
		return;
	view.namespace = ns.st_ino;
	view.root = root.stx_ino;
	view.root_mount = root.stx_mnt_id;
	for (uint32_t i = 0; i < search->seen_count; i++)
		if (!memcmp(&search->seen[i], &view, sizeof view))
			return;
	if (search->seen_count < MOST_NAMESPACES)
		search->seen[search->seen_count++] = view;
	FILE *file = open_file(process->task, "mountinfo");
	while (file && sd_next_mount(file, &line))
		if (wanted(search, line.device))
			tell(search, process->task, process->pid, SD_HELD_MOUNTED, line.device,
			     line.path);
		else if (view.namespace == search->look->within && line.whole &&
			 line.device == search->look->block)
			tell(search, process->task, process->pid, SD_HELD_MOUNTED,
			     search->look->devices[0], line.path);
	if (file)
		fclose(file);
}

static void look_at(struct search *search, int dir, const char *name, void *nothing)
{
	static struct process process;
	(void)nothing;
	process = (struct process){.pid = (uint32_t)strtoul(name, NULL, 10)};
	process.task = openat(dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (process.task < 0)
		return;
	mounts(search, &process);
	if (!search->look->mounts_of) {
		numbers(process.task, "task", thread, search, &process);
		mappings(search, &process);
	}
	close(process.task);
}

int sd_find_holders(int sock, const struct sd_look *look)
{
	static struct search search;
	struct sd_holder end = {.kind = SD_HELD_END};
	char name[16];
	int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return -errno;
	if (look->count > SD_MOST_LOOKED)
		return -EINVAL;
	search = (struct search){.sock = sock, .look = look};
	snprintf(name, sizeof name, "%u", look->mounts_of);
	if (look->mounts_of)
		look_at(&search, proc, name, NULL);
	else
		numbers(proc, ".", look_at, &search, NULL);
	int sent = search.failed ? -EPIPE : sd_send_fds(sock, &end, sizeof end, NULL, 0);
	return sent < 0 ? sent : 0;
}
