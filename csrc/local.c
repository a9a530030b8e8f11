/* Which file systems answer by themselves. A maker must not wait for anybody: it makes nodes only
 * on file systems that no process of a container can serve, and on overlays that the host mounted;
 * the layers of a container's own overlay may be anything, FUSE too. */
#include "work.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const uint64_t KINDS[] = {
	EXT4_SUPER_MAGIC, /* and ext2, ext3 */
	XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
	TMPFS_MAGIC, RAMFS_MAGIC, /* devtmpfs is one of them */
	SQUASHFS_MAGIC, EROFS_SUPER_MAGIC_V1,
};

static const char *const NAMES[] = {
	"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "ramfs", "devtmpfs", "overlay",
};

int sd_is_local(uint64_t fs_type)
{
	for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
		if (KINDS[i] == fs_type)
			return 1;
	return 0;
}

static uint64_t devices[256];
static size_t device_count;

static void add_line(const char *line)
{
	unsigned int major_number, minor_number;
	const char *kind = strstr(line, " - ");
	if (!kind || sscanf(line, "%*s %*s %u:%u", &major_number, &minor_number) != 2)
		return;
	kind += 3;
	size_t length = strcspn(kind, " \n");
	uint64_t device = makedev(major_number, minor_number);
	for (size_t i = 0; i < device_count; i++)
		if (devices[i] == device)
			return;
	for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
		if (strlen(NAMES[i]) == length && !memcmp(NAMES[i], kind, length) &&
		    device_count < sizeof devices / sizeof *devices)
			devices[device_count++] = device;
}

/* The host's mounts are those of our own mount namespace, where no container can add one. The
 * kernel tells by poll() that they have changed. */
size_t sd_host_devices(const uint64_t **list)
{
	static FILE *mounts;
	static char *line;
	static size_t size;
	int fresh = !mounts;
	if (fresh)
		mounts = fopen("/proc/thread-self/mountinfo", "re");
	*list = devices;
	if (!mounts)
		return 0;
	struct pollfd one = {.fd = fileno(mounts), .events = POLLPRI};
	if (poll(&one, 1, 0) == 0 && !fresh)
		return device_count;
	device_count = 0;
	rewind(mounts);
	while (getline(&line, &size, mounts) > 0)
		add_line(line);
	return device_count;
}

int sd_is_on_host(uint64_t device)
{
	const uint64_t *list;
	size_t count = sd_host_devices(&list);
	for (size_t i = 0; i < count; i++)
		if (list[i] == device)
			return 1;
	return 0;
}
