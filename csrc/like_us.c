/* Whether a caller is who we are: then it does not matter who of us opens a file. */
#include "callers.h"
#include "compat.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
	int state; /* 0: not known; 1: known; -errno: nobody is taken for us */
	int by_pidfd; /* the kernel says ids so */
	int fixed_groups; /* nobody in our user namespace, or below it, ever has other groups than it has */
	char userns[64];
	uint32_t fsuid, fsgid, count, groups[SD_GROUPS];
} us;

void sd_known_by_pidfd(int by_pidfd)
{
	us.by_pidfd = by_pidfd;
}

/* "deny" stays, and holds in all user namespaces below. */
static int groups_are_fixed(void)
{
	char word[8] = "";
	int fd = open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, word, sizeof word - 1);
	close(fd);
	return got > 0 && !strncmp(word, "deny", 4);
}

/* Of a session, whose ids stay as they are from its first call on. */
static int look_at_us(void)
{
	uint64_t permitted;
	gid_t list[SD_GROUPS];
	int count = getgroups(SD_GROUPS, list);
	if (count < 0 || sd_permitted_caps(&permitted))
		return -EPERM;
	/* A resolver without it works for some callers alone (enter_plain); it is to look at them. */
	if (!(permitted & 1ULL << CAP_SYS_ADMIN))
		return -EPERM;
	if (readlink("/proc/thread-self/ns/user", us.userns, sizeof us.userns - 1) < 0)
		return -errno;
	us.fsuid = geteuid();
	us.fsgid = getegid();
	/* who else shows as that may be anybody */
	if (us.fsuid == sd_unmapped(0) || us.fsgid == sd_unmapped(1))
		return -EPERM;
	us.count = (uint32_t)count;
	memcpy(us.groups, list, (size_t)count * sizeof *list);
	us.fixed_groups = groups_are_fixed();
	return 1;
}

static int compare_by_pidfd(const struct sd_known *one)
{
	struct pidfd_info info = {.mask = PIDFD_INFO_CREDS};
	if (ioctl(one->pidfd, PIDFD_GET_INFO, &info))
		return -errno;
	if (info.pid != one->tid || !(info.mask & PIDFD_INFO_CREDS))
		return -ESRCH;
	return info.fsuid == us.fsuid && info.fsgid == us.fsgid;
}

/* The status tells all, and takes as long as half of a whole open. So groups are read again only of who could
 * have changed them. */
static int compare(struct sd_known *one, void *result, const void *any_groups)
{
	int *same = result;
	struct sd_caller caller = {.task = one->task, .status = one->status};
	if (us.by_pidfd && !one->pidfd)
		one->pidfd = (int)syscall(SYS_pidfd_open, one->tid, PIDFD_THREAD);
	if (us.by_pidfd && one->pidfd > 0 && (*(const int *)any_groups || one->has_our_groups)) {
		*same = compare_by_pidfd(one);
		return *same < 0 ? *same : 0;
	}
	/* What can be read here is of the thread that has had this number since before there was the pidfd:
	 * which is of the same one, then. */
	int error = sd_look_at(&caller, us.userns);
	if (error)
		return error;
	int groups = caller.group_count == us.count && !caller.groups_cut &&
		     !memcmp(caller.groups, us.groups, us.count * sizeof *us.groups);
	one->has_our_groups = groups && us.fixed_groups && caller.same_userns;
	*same = caller.fsuid == us.fsuid && caller.fsgid == us.fsgid &&
		(groups || *(const int *)any_groups);
	return 0;
}

int sd_is_like_us(uint32_t tid, int any_groups)
{
	int same = 0;
	if (!us.state)
		us.state = look_at_us();
	any_groups = any_groups && !us.count;
	return us.state > 0 && !sd_with_known(tid, compare, &same, &any_groups) && same;
}
