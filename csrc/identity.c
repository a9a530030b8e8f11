/* Becoming the caller: its mount namespace, root directory, file system ids, groups, umask, and the
 * capabilities that path work may use. Everything that needs our own rights (the
 * links of /proc/TID) is opened first. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAP(name) (1ULL << (name))
/* What a caller's capabilities may do for it in path work. CAP_MKNOD is never among them: without
 * it a mknod goes through all the checks and ends in EPERM before anything happens. */
static const uint64_t PATH_CAPS = CAP(CAP_DAC_OVERRIDE) | CAP(CAP_DAC_READ_SEARCH) |
				  CAP(CAP_FOWNER) | CAP(CAP_FSETID) | CAP(CAP_SYS_PTRACE);

static uint32_t overflow_uid(void)
{
	char number[16] = "";
	int fd = open("/proc/sys/kernel/overflowuid", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, number, sizeof number - 1);
	if (fd >= 0)
		close(fd);
	return got > 0 ? (uint32_t)strtoul(number, NULL, 10) : SD_OVERFLOW_ID;
}

int sd_home_init(struct sd_home *home)
{
	memset(home, 0, sizeof *home);
	home->mount_ns = home->lock_ns = -1;
	int error = sd_permitted_caps(&home->permitted);
	if (error)
		return error;
	ssize_t got = readlink("/proc/thread-self/ns/user", home->userns, sizeof home->userns - 1);
	if (got < 0)
		return -errno;
	home->nobody = overflow_uid();
	home->plain = !(home->permitted & CAP(CAP_SYS_ADMIN));
	gid_t list[SD_GROUPS];
	int count = getgroups(SD_GROUPS, list);
	if (count < 0)
		return -errno;
	home->first_count = home->now_count = (uint32_t)count;
	memcpy(home->first_groups, list, sizeof list);
	memcpy(home->now_groups, list, sizeof list);
	if (home->plain)
		return 0;
	/* a uid that becomes or leaves 0 must not change capabilities behind our back */
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT, 0, 0, 0))
		return -errno;
	error = sd_act_as_self(home);
	if (error)
		return error;
	if (unshare(CLONE_NEWNS))
		return -errno;
	home->mount_ns = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (home->mount_ns < 0)
		return -errno;
	struct stat root;
	error = sd_pivot_into("mode=0755,size=4k,nr_inodes=4096", "/dev");
	if (!error && (mkdir("/stage", 0755) || stat("/", &root)))
		error = -errno;
	home->dev = error ? 0 : root.st_dev;
	return error;
}

static int take_caps(struct sd_home *home, uint64_t effective)
{
	if (home->plain || home->effective == effective)
		return 0;
	home->effective = 0;
	int error = sd_set_caps(effective, home->permitted);
	if (!error)
		home->effective = effective;
	return error;
}

int sd_act_as_self(struct sd_home *home)
{
	return take_caps(home, home->permitted);
}

int sd_act_as_caller(struct sd_home *home, const struct sd_caller *caller)
{
	return take_caps(home, caller->as_caller | (home->permitted & CAP(CAP_SYS_PTRACE)));
}

int sd_act_as_caller_alone(struct sd_home *home, const struct sd_caller *caller)
{
	return take_caps(home, caller->as_caller);
}

int sd_act_as_caller_with(struct sd_home *home, const struct sd_caller *caller, uint64_t more)
{
	return take_caps(home, caller->as_caller | (caller->caps & more & home->permitted));
}

/* What it takes to follow the links of /proc/TID. Its directory of descriptors wants more. */
static int act_to_look(struct sd_home *home)
{
	return home->effective & CAP(CAP_SYS_PTRACE) ? 0 : sd_act_as_self(home);
}

static int same_groups(const uint32_t *a, uint32_t count, const uint32_t *b, uint32_t other)
{
	return count == other && !memcmp(a, b, count * sizeof *a);
}

/* Groups that are not mapped show as 65534 and cannot be set. Where the list that shows is the one
 * we were born with, ours is left as it is, and has them too. */
static int take_groups(struct sd_home *home, const struct sd_caller *caller)
{
	uint32_t list[SD_GROUPS], count = 0;
	int unmapped = 0;
	if (!home->groups_changed && same_groups(caller->groups, caller->group_count,
						 home->first_groups, home->first_count))
		return 0;
	for (uint32_t i = 0; i < caller->group_count; i++) {
		if (caller->groups[i] == SD_OVERFLOW_ID)
			unmapped = 1;
		else
			list[count++] = caller->groups[i];
	}
	if (unmapped && home->groups_changed &&
	    same_groups(caller->groups, caller->group_count, home->first_groups, home->first_count))
		return SD_TOLD_RETIRE;
	if (same_groups(list, count, home->now_groups, home->now_count))
		return 0;
	int error = sd_act_as_self(home);
	if (error)
		return error;
	/* glibc's setgroups would look for other threads of ours */
	if (syscall(SYS_setgroups, count, list))
		return -errno;
	memcpy(home->now_groups, list, sizeof list);
	home->now_count = count;
	home->groups_changed = 1;
	return 0;
}

static int take_fs_ids(const struct sd_caller *caller)
{
	setfsgid(caller->fsgid);
	setfsuid(caller->fsuid);
	/* -1 is no id: a call that changes nothing and says what is */
	return (uint32_t)setfsuid((uid_t)-1) == caller->fsuid &&
	       (uint32_t)setfsgid((gid_t)-1) == caller->fsgid ? 0 : -EPERM;
}

static int take_ids(struct sd_home *home, struct sd_caller *caller)
{
	int result = take_groups(home, caller);
	if (result)
		return result;
	if (home->ids_known && home->fsuid == caller->fsuid && home->fsgid == caller->fsgid)
		return 0;
	home->ids_known = 0;
	result = sd_act_as_self(home);
	if (result)
		return result;
	if (take_fs_ids(caller))
		return -EPERM;
	sd_harden();
	home->fsuid = caller->fsuid;
	home->fsgid = caller->fsgid;
	home->ids_known = 1;
	return 0;
}

/* glibc's functions would look for other threads of ours. */
static int set_all_ids(const uid_t uids[3], const gid_t gids[3])
{
	return syscall(SYS_setresgid, gids[0], gids[1], gids[2]) ||
	       syscall(SYS_setresuid, uids[0], uids[1], uids[2]) ? -EPERM : 0;
}

int sd_take_all_ids(struct sd_home *home, struct sd_caller *caller)
{
	const uid_t uids[3] = {caller->uid, caller->euid, caller->suid};
	const gid_t gids[3] = {caller->gid, caller->egid, caller->sgid};
	uid_t own[3] = {0};
	gid_t groups[3] = {0};
	if (home->plain || getresuid(&own[0], &own[1], &own[2]) ||
	    getresgid(&groups[0], &groups[1], &groups[2]))
		return home->plain ? 0 : -errno;
	if (!memcmp(uids, own, sizeof own) && !memcmp(gids, groups, sizeof groups))
		return 0;
	int error = sd_act_as_self(home);
	if (error)
		return error;
	memcpy(home->own_uids, own, sizeof own);
	memcpy(home->own_gids, groups, sizeof groups);
	home->all_ids = 1;
	home->ids_known = 0; /* the file system ids have changed with the effective ones */
	error = set_all_ids(uids, gids);
	if (!error)
		error = take_fs_ids(caller);
	sd_harden();
	return error ? error : sd_act_as_caller(home, caller);
}

static void leave_all_ids(struct sd_home *home)
{
	if (!home->all_ids)
		return;
	/* one that stays somebody else is of no use */
	if (sd_act_as_self(home) || set_all_ids(home->own_uids, home->own_gids))
		_exit(1);
	sd_harden();
	home->all_ids = 0;
}

static int same_file(int fd, const char *path)
{
	struct stat a, b;
	return fd >= 0 && !fstat(fd, &a) && !stat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Without a capability there is no way into another root or namespace, nor does such a caller get
 * more than EPERM at the end. */
static int enter_plain(struct sd_caller *caller)
{
	if (!same_file(caller->mount_ns, "/proc/thread-self/ns/mnt") ||
	    !same_file(caller->root, "/") || caller->fsuid != geteuid() ||
	    caller->fsgid != getegid())
		return -EPERM;
	caller->there = 1;
	return 0;
}

/* Where a path starts; `path` NULL: the file `dirfd` itself. A file that is not open is the
 * caller's EBADF, for that path alone. */
int sd_open_base(const struct sd_caller *caller, const char *path, int dirfd)
{
	char name[32] = "cwd";
	if (path && path[0] == '/') {
		memcpy(name, "root", 5);
	} else if (!path || dirfd != AT_FDCWD) {
		unsigned int number = (unsigned int)dirfd;
		char digits[12];
		int n = 0;
		if (dirfd < 0)
			return -EBADF;
		do
			digits[n++] = (char)('0' + number % 10);
		while (number /= 10);
		memcpy(name, "fd/", 3);
		for (int i = 0; i < n; i++)
			name[3 + i] = digits[n - 1 - i];
		name[3 + n] = 0;
	}
	int fd = openat(caller->task, name, O_PATH | O_CLOEXEC);
	return fd >= 0 ? fd : errno == ENOENT ? -EBADF : -errno;
}

/* All that path work needs to know of a caller, and opens of it. */
static int look_closely(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask,
			int need_base)
{
	int result = act_to_look(home);
	if (!result)
		result = sd_look_at(caller, home->userns);
	if (result)
		return result;
	caller->as_caller = caller->caps & PATH_CAPS & home->permitted;
	caller->root = openat(caller->task, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (caller->root < 0)
		return -errno;
	for (int which = 0; which < need_base; which++) {
		const char *path = NULL;
		if (ask->length[which] != SD_NO_TEXT)
			path = sd_ask_text(ask, which);
		if (path && path[0] == '/') { /* a copy is cheaper than one more look at /proc */
			int root = fcntl(caller->root, F_DUPFD_CLOEXEC, 0);
			caller->base[which] = root < 0 ? -errno : root;
			continue;
		}
		/* the directory of descriptors lets only its owner in */
		if ((!path || ask->dirfd[which] >= 0) && sd_act_as_self(home))
			return -EPERM;
		caller->base[which] = sd_open_base(caller, path, ask->dirfd[which]);
		if (ask->op == SD_ASK_XATTR && !path && caller->base[which] >= 0 &&
		    sd_is_path_only(caller->task, ask->dirfd[which])) {
			close(caller->base[which]);
			caller->base[which] = -EBADF;
		}
	}
	if (sd_act_as_self(home))
		return -EPERM;
	caller->mount_ns = openat(caller->task, "ns/mnt", O_RDONLY | O_CLOEXEC);
	if (caller->mount_ns < 0)
		return -errno;
	if (ask->op == SD_ASK_OPEN && ask->flags & SD_OPEN_NET)
		caller->net_ns = openat(caller->task, "ns/net", O_RDONLY | O_CLOEXEC);
	if (ask->op == SD_ASK_UMOUNT)
		caller->mountinfo = openat(caller->task, "mountinfo", O_RDONLY | O_CLOEXEC);
	return 0;
}

int sd_enter(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask,
	     int need_base, int listener)
{
	caller->base[0] = caller->base[1] = -EBADF;
	caller->root = caller->mount_ns = caller->mountinfo = caller->net_ns = -1;
	int result = look_closely(home, caller, ask, need_base);
	if (listener >= 0) {
		if (!result && sd_id_valid(listener, ask->id))
			result = -ESRCH;
		close(listener); /* not to be kept through a lookup that may hang */
	}
	if (result)
		return result;
	umask(caller->umask);
	result = home->plain ? enter_plain(caller) : take_ids(home, caller);
	return result ? result : sd_act_as_caller(home, caller);
}

int sd_enter_mounts(struct sd_home *home, struct sd_caller *caller)
{
	if (home->plain)
		return -EPERM;
	int error = sd_act_as_self(home);
	if (error)
		return error;
	if (setns(caller->mount_ns, CLONE_NEWNS))
		return -errno;
	caller->away = 1;
	return 0;
}

int sd_be_there(struct sd_home *home, struct sd_caller *caller)
{
	if (caller->there)
		return 0;
	int error = sd_enter_mounts(home, caller);
	if (!error && (fchdir(caller->root) || chroot(".")))
		error = -errno;
	if (error)
		return error;
	caller->there = 1;
	return sd_act_as_caller(home, caller);
}

/* Home is where no placeholder is a mount point: unlink and rename then take the mount along or
 * away, as the kernel does for other namespaces. The caller's ids and capabilities are kept. */
int sd_go_home(struct sd_home *home, struct sd_caller *caller)
{
	if (!caller->away)
		return 0;
	int error = sd_act_as_self(home);
	if (!error && setns(home->mount_ns, CLONE_NEWNS))
		error = -errno;
	if (error)
		return error;
	caller->away = caller->there = 0;
	return sd_act_as_caller(home, caller);
}

/* Back home, with nothing of the caller's held: its next umount must not be busy because of us. */
void sd_leave(struct sd_home *home, struct sd_caller *caller)
{
	const int held[] = {caller->base[0], caller->base[1], caller->root, caller->mount_ns,
			    caller->mountinfo, caller->net_ns};
	for (size_t i = 0; i < sizeof held / sizeof *held; i++)
		if (held[i] >= 0)
			close(held[i]);
	leave_all_ids(home);
	/* one that cannot come home is of no use, and would hold what it stands on */
	if (home->plain ? chdir("/") : sd_go_home(home, caller))
		_exit(1);
}
