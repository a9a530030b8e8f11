/* What init makes of its new namespaces before CMD starts: mounts that belong to them, and lo.
 *
 * A kernel that refuses one of these (proc and sysfs may be mounted only where nothing of the old
 * ones is covered) is no reason to stop: the front is told, and tells the user.
 */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

enum { QUIET = MS_NOSUID | MS_NODEV | MS_NOEXEC };

int sd_report(int sock, int kind, int stage, int value)
{
	struct sd_launch_event event = {.kind = kind, .stage = stage, .value = value};

	return sd_send_fds(sock, &event, sizeof event, NULL, 0);
}

static void note(int sock, int stage, int result)
{
	if (result < 0)
		sd_report(sock, SD_EVENT_NOTE, stage, errno);
}

/* The sysfs of the new network; what lies on /sys/fs/cgroup is carried over. */
static int fresh_sysfs(int own_cgroups)
{
	static const char groups[] = "/sys/fs/cgroup";
	int old = (int)syscall(SYS_open_tree, AT_FDCWD, groups,
			       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	int result = mount("sysfs", "/sys", "sysfs", QUIET, NULL);

	if (result == 0 && own_cgroups && mount("cgroup2", groups, "cgroup2", QUIET, NULL) == 0)
		; /* the view of the new cgroup namespace is the better one */
	else if (result == 0 && old >= 0)
		syscall(SYS_move_mount, old, "", AT_FDCWD, groups, MOVE_MOUNT_F_EMPTY_PATH);
	int error = errno;
	if (old >= 0)
		close(old);
	errno = error;
	return result;
}

static int loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return -1;
	int result = ioctl(sock, SIOCSIFFLAGS, &request);
	int error = errno;
	close(sock);
	errno = error;
	return result;
}

static void mounts(const struct sd_launch_spec *spec, int sock)
{
	struct stat queue;

	if (spec->namespaces & SD_NS_PID)
		note(sock, SD_STAGE_PROC, mount("proc", "/proc", "proc", QUIET, NULL));
	if (spec->namespaces & SD_NS_NET)
		note(sock, SD_STAGE_SYSFS, fresh_sysfs((spec->namespaces & SD_NS_CGROUP) != 0));
	if (spec->namespaces & SD_NS_IPC && stat("/dev/mqueue", &queue) == 0)
		note(sock, SD_STAGE_MQUEUE, mount("mqueue", "/dev/mqueue", "mqueue", QUIET, NULL));
}

/* 0, or -errno of what CMD must not run without (said to the front as well). */
int sd_surroundings(const struct sd_launch_spec *spec, int sock)
{
	if (spec->namespaces & SD_NS_MOUNT) {
		/* The host's later mounts are seen inside; ours never get out. */
		if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL)) {
			int error = errno;
			sd_report(sock, SD_EVENT_FAILED, SD_STAGE_MOUNTS, error);
			return -error;
		}
		mounts(spec, sock);
	}
	if (spec->namespaces & SD_NS_NET)
		note(sock, SD_STAGE_LOOPBACK, loopback_up());
	if (spec->namespaces & SD_NS_TIME)
		note(sock, SD_STAGE_TIME, (int)syscall(SYS_unshare, CLONE_NEWTIME));
	return 0;
}
