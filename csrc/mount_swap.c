/* One mount in the place of another one of the same filesystem: for flags that the kernel has locked,
 * those of atime with the others. It comes below the one that is there, which then goes: so at no time
 * is the place empty. Who has a file or a directory of the old one would keep it; so nobody may.
 *
 * All this is in the caller's mount namespace, where its root may change what is mounted by itself:
 * who does so meanwhile has done it to itself. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x00000200
#endif

/* What is marked: nothing is held of it. */
static struct {
	char path[SD_PATH_MAX];
	uint64_t mount, device;
} marked;

int sd_swap_mark(int target, int task)
{
	marked.mount = sd_mount_of(target, &marked.device);
	int32_t length = marked.mount ? sd_name_of(task, target, marked.path) : -1;
	marked.path[length < 0 ? 0 : length] = 0;
	return length < 2 ? -EINVAL : 0;
}

static int is_there(void)
{
	int fd = open(marked.path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return 0;
	uint64_t mount = sd_mount_of(fd, NULL);
	close(fd);
	return mount && mount == marked.mount;
}

/* The first umount with MNT_EXPIRE changes nothing: it says whether an umount could succeed. That it
 * is the first one is certain, for to look at the mount takes the mark away. */
int sd_swap_idle(void)
{
	if (!is_there() || !umount2(marked.path, MNT_EXPIRE | UMOUNT_NOFOLLOW))
		return -EINVAL;
	return errno == EAGAIN ? 0 : -errno;
}

int sd_swap(int tree)
{
	uint64_t device;
	if (!sd_mount_of(tree, &device) || device != marked.device || !is_there())
		return -EINVAL;
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, marked.path,
		    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH))
		return -errno;
	/* whoever came to use it since then keeps what it has */
	if (umount2(marked.path, UMOUNT_NOFOLLOW) && umount2(marked.path, UMOUNT_NOFOLLOW | MNT_DETACH))
		return -errno;
	return 0;
}
