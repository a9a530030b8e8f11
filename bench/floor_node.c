/* The floor's emulated mknod: one process does for the caller what the caller would have done. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "floor.h"

enum { GROUPS_MAX = 65536 };

static int own_root = -1;
static gid_t groups[GROUPS_MAX], own_groups[GROUPS_MAX];
static int own_group_count;
static struct __user_cap_data_struct making_caps[2]; /* effective: no file system right but CAP_MKNOD */

void prepare_emulation(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	const uint32_t file_rights = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH |
				     1u << CAP_FOWNER | 1u << CAP_FSETID | 1u << CAP_LINUX_IMMUTABLE;

	own_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	own_group_count = getgroups(GROUPS_MAX, own_groups);
	if (own_root < 0 || own_group_count < 0 || syscall(SYS_capget, &header, making_caps))
		die("own identity");
	making_caps[0].effective &= ~file_rights;
}

struct identity {
	unsigned int umask;
	uid_t fsuid;
	gid_t fsgid;
	int group_count;
	int may_mknod;
};

/* From /proc/TID/status, read through the directory `task`. Returns 0 or -errno. */
static int read_identity(int task, struct identity *who)
{
	static char text[1 << 20];
	int fd = openat(task, "status", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	ssize_t size = read(fd, text, sizeof text - 1);
	close(fd);
	if (size <= 0)
		return -ESRCH;
	text[size] = 0;
	const char *mask = strstr(text, "\nUmask:"), *uid = strstr(text, "\nUid:");
	const char *gid = strstr(text, "\nGid:"), *list = strstr(text, "\nGroups:");
	const char *caps = strstr(text, "\nCapEff:");
	if (!mask || !uid || !gid || !list || !caps ||
	    sscanf(uid, "\nUid: %*u %*u %*u %u", &who->fsuid) != 1 ||
	    sscanf(gid, "\nGid: %*u %*u %*u %u", &who->fsgid) != 1)
		return -EINVAL;
	who->umask = (unsigned int)strtoul(mask + 7, NULL, 8);
	who->may_mknod = strtoull(caps + 8, NULL, 16) >> CAP_MKNOD & 1;
	who->group_count = 0;
	for (const char *at = list + 8; who->group_count < GROUPS_MAX;) {
		char *end;
		while (*at == ' ' || *at == '\t')
			at++;
		if (*at < '0' || *at > '9')
			break;
		groups[who->group_count++] = (gid_t)strtoul(at, &end, 10);
		at = end;
	}
	return 0;
}

static int set_effective(const struct __user_cap_data_struct caps[2])
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

	return (int)syscall(SYS_capset, &header, caps);
}

/* mknodat below the caller's root and cwd with its ids, groups and umask, and of ours CAP_MKNOD alone:
 * what is not mapped in its user namespace stays closed to it. Returns 0 or -errno. */
static int make_as_caller(int root, int cwd, const struct identity *who, const char *path, mode_t mode,
			  dev_t device)
{
	int result = -EACCES;

	if (!who->may_mknod)
		return -EPERM;
	if (fchdir(root) || chroot(".") || fchdir(cwd))
		goto out;
	if (setgroups((size_t)who->group_count, groups))
		goto out;
	umask(who->umask);
	setfsgid(who->fsgid);
	setfsuid(who->fsuid); /* leaving 0 drops CAP_MKNOD with the file system rights */
	if (!who->fsuid || !set_effective(making_caps))
		result = mknod(path, mode, device) ? -errno : 0;
	setfsuid(0); /* and coming back raises them */
	setfsgid(0);
out:
	if (setgroups((size_t)own_group_count, own_groups) || fchdir(own_root) || chroot("."))
		die("cannot come back from the caller's identity");
	return result;
}

int make_node(int listener, const struct seccomp_notif *request, int bare, const char *path)
{
	const int at = request->data.nr == SYS_mknodat;
	const mode_t mode = (mode_t)(request->data.args[1 + at] & 0xffff);
	const uint32_t number = (uint32_t)request->data.args[2 + at]; /* the kernel's new_decode_dev() */
	const dev_t device = makedev(number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xfff00));
	const int dirfd = at ? (int)request->data.args[0] : AT_FDCWD;
	struct identity who = {0};
	char name[64];
	int root = -1, cwd = -1, result;

	snprintf(name, sizeof name, "/proc/%u", request->pid);
	int task = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (task < 0)
		return -EPERM;
	if (dirfd == AT_FDCWD)
		strcpy(name, "cwd");
	else
		snprintf(name, sizeof name, "fd/%d", dirfd);
	cwd = openat(task, name, O_PATH | O_CLOEXEC);
	result = cwd < 0 ? -EBADF : 0;
	if (!result && !bare) {
		root = openat(task, "root", O_PATH | O_CLOEXEC);
		result = root < 0 ? -EPERM : read_identity(task, &who);
	}
	if (!result && ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->id))
		result = -ENOENT;
	if (!result && !bare)
		result = make_as_caller(root, cwd, &who, path, mode, device);
	else if (!result)
		result = mknodat(cwd, path, mode, device) ? -errno : 0;
	if (root >= 0)
		close(root);
	if (cwd >= 0)
		close(cwd);
	close(task);
	return result;
}
