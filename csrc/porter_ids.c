/* As whom a porter acts: as nobody, or as a caller, with its ids and those of its capabilities that mean
 * something to a socket. All of that is a thread's own. */
#include "porters.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OVERFLOW_ID = 65534 };

#define CAP(name) (1ULL << (name))
/* What a caller's capabilities may do for it on a socket. */
static const uint64_t SOCKET_CAPS = CAP(CAP_DAC_OVERRIDE) | CAP(CAP_DAC_READ_SEARCH) |
				    CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_NET_BROADCAST) |
				    CAP(CAP_NET_ADMIN) | CAP(CAP_NET_RAW);

static pthread_mutex_t looking = PTHREAD_MUTEX_INITIALIZER; /* it reads into one place for all */
static uint64_t permitted;
static char userns[64];
static uid_t own_uid;
static gid_t own_gid;
static uint32_t own_groups[SD_GROUPS], own_count;

/* All that a porter has while it acts for nobody: it is what fetching a descriptor takes, and means
 * nothing to a socket. */
static int rest(void)
{
	return sd_set_caps(permitted & CAP(CAP_SYS_PTRACE), permitted);
}

/* Each call that waits holds half a dozen: a limit that was made for programs with select() is soon used up.
 * What callers have under way over unix sockets counts as this user's, which is that of the session and its
 * helpers, too. Beyond the sender's limit the kernel lets nobody send more: so ours ends before theirs, who
 * could do nothing any more. */
static int take_more_descriptors(void)
{
	struct rlimit most;
	if (getrlimit(RLIMIT_NOFILE, &most))
		return -errno;
	most.rlim_cur = most.rlim_max - most.rlim_max / 4;
	return setrlimit(RLIMIT_NOFILE, &most) ? -errno : 0;
}

int sd_porter_setup(void)
{
	own_uid = geteuid();
	own_gid = getegid();
	int count = getgroups(SD_GROUPS, own_groups), error = sd_permitted_caps(&permitted);
	if (error || count < 0)
		return error ? error : -errno;
	own_count = (uint32_t)count;
	if (readlink("/proc/thread-self/ns/user", userns, sizeof userns - 1) < 0)
		return -errno;
	/* a uid that becomes or leaves 0 must not change capabilities behind our back */
	if (permitted & CAP(CAP_SETPCAP) &&
	    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT, 0, 0, 0))
		return -errno;
	error = take_more_descriptors();
	return error ? error : rest();
}

/* Groups that are not mapped show as 65534 and cannot be set: a list that has some is left as it is
 * where it is the one that we were born with, and loses them elsewhere, which is fewer rights. */
static int take_groups(const uint32_t *groups, uint32_t count)
{
	uint32_t list[SD_GROUPS], used = 0;
	gid_t now[SD_GROUPS];
	int known = getgroups(SD_GROUPS, now);
	if (known == (int)count && !memcmp(now, groups, count * sizeof *groups))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (groups[i] != OVERFLOW_ID)
			list[used++] = groups[i];
	return syscall(SYS_setgroups, used, list) ? -errno : 0;
}

/* glibc's functions would change all threads at once. */
static int take_ids(uint32_t uid, uint32_t gid, const uint32_t *groups, uint32_t count)
{
	int error = take_groups(groups, count);
	if (!error && (syscall(SYS_setresgid, -1, gid, -1) || syscall(SYS_setresuid, -1, uid, -1)))
		error = -errno;
	return error;
}

int sd_porter_become(uint64_t id, int listener, int task, struct sd_caller *caller)
{
	caller->task = task;
	caller->status = -1;
	/* following the links of another's /proc directory takes a capability */
	int error = sd_set_caps(permitted, permitted);
	if (!error) {
		pthread_mutex_lock(&looking);
		error = sd_look_at(caller, userns);
		pthread_mutex_unlock(&looking);
	}
	if (!error && sd_id_valid(listener, id))
		error = -ESRCH;
	if (!error && permitted & CAP(CAP_SETUID))
		error = take_ids(caller->euid, caller->egid, caller->groups, caller->group_count);
	else if (!error && (caller->euid != own_uid || caller->egid != own_gid))
		error = -EPERM;
	if (!error) {
		setfsgid(caller->fsgid);
		setfsuid(caller->fsuid);
		if ((uint32_t)setfsuid((uid_t)-1) != caller->fsuid ||
		    (uint32_t)setfsgid((gid_t)-1) != caller->fsgid)
			error = -EPERM;
	}
	sd_harden();
	return error ? error : sd_porter_lower(caller);
}

void sd_porter_come_back(void)
{
	int error = sd_set_caps(permitted, permitted);
	if (!error && permitted & CAP(CAP_SETUID))
		error = take_ids(own_uid, own_gid, own_groups, own_count);
	if (error || rest())
		_exit(1);
	sd_harden();
}

int sd_porter_raise(void)
{
	int error = sd_set_caps(permitted & (CAP(CAP_NET_ADMIN) | CAP(CAP_NET_RAW)), permitted);
	sd_harden();
	return error;
}

int sd_porter_lower(const struct sd_caller *caller)
{
	return caller ? sd_set_caps(caller->caps & SOCKET_CAPS & permitted, permitted) : rest();
}

int sd_porter_go_to(int net_ns, const struct sd_caller *caller)
{
	int error = sd_set_caps(permitted, permitted);
	if (!error && setns(net_ns, CLONE_NEWNET))
		error = -errno;
	int again = sd_porter_lower(caller);
	sd_harden();
	return error ? error : again;
}

int sd_porter_speak(const struct sd_caller *caller)
{
	uint64_t caps = caller->caps & SOCKET_CAPS & permitted;
	if (!(permitted & CAP(CAP_SETUID)))
		return 0;
	int error = sd_set_caps(caps | CAP(CAP_SETUID) | CAP(CAP_SETGID), permitted);
	return error ? error : 1;
}
