/* The maker: the one process of a session that keeps CAP_MKNOD, outside of the target's user
 * namespace. It works on descriptors alone, in a mount namespace that holds nothing but its own
 * tmpfs, and below a ceiling that its parent set: devices and ids that it was not born with cannot
 * be asked of it by anybody. */
#include "maker.h"
#include "openers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_GIVEN = SD_OPENER_FDS };
enum { NICENESS = 5 }; /* of a share of its own: a third of a usual one */

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* Until the session has let go of the channel: its caller has been answered then, or never will be. To
 * tidy up earlier would take the processor from those who bring the mount to its place. */
static void wait_for_session(int channel)
{
	struct pollfd other_end = {.fd = channel};
	while (poll(&other_end, 1, -1) < 0 && errno == EINTR)
		;
}

/* With the capabilities of root that mounting takes, while it takes them. The mount goes to the
 * resolver behind `channel`, which brings it to its place once nothing more can come there: our answer
 * is there by then, and nobody is woken for it. After the answer comes a single byte, once we have
 * tidied up and hold nothing of it any more; but for AGAIN. 0, or -errno where the session has gone. */
static int answer_mount(struct maker *maker, struct sd_new_mount *new, int *fds)
{
	struct sd_mounted mounted = {0};
	int again = new->kind == SD_NEW_AGAIN, channel = again ? -1 : fds[0];
	int tree = -EPERM;
	sd_follow(new->cpu);
	if (!sd_maker_become_root(maker) && !sd_set_caps(maker->permitted, maker->permitted))
		tree = sd_mount_filesystem(&maker->mounting, new, again ? fds[0] : fds[1], &mounted);
	if (tree > 0) {
		int sent = sd_send_fds(channel, "t", 1, &tree, 1);
		close(tree);
		tree = sent < 0 ? sent : 0;
	}
	for (int i = 0; i < MOST_GIVEN; i++)
		if (fds[i] >= 0 && fds[i] != channel)
			close(fds[i]);
	mounted.error = tree;
	int sent = sd_send_fds(0, &mounted, sizeof mounted, NULL, 0);
	if (channel >= 0) {
		shutdown(channel, SHUT_WR);
		wait_for_session(channel);
		close(channel);
	}
	sd_mounting_clear(&maker->mounting);
	sd_set_caps(0, maker->permitted);
	if (sent >= 0 && !again)
		sent = sd_send_fds(0, "c", 1, NULL, 0);
	return sent < 0 ? sent : 0;
}

/* With the capabilities of root as well. The image is let go of before the answer is there. */
static int answer_loop(struct maker *maker, const struct sd_loop_order *order, int image)
{
	struct sd_loop_answer answer = {.error = -EPERM};
	int give = -1;
	sd_follow(order->cpu);
	if (!sd_maker_become_root(maker) && !sd_set_caps(maker->permitted, maker->permitted))
		answer.error = sd_loop(order, image, &answer, &give);
	sd_set_caps(0, maker->permitted);
	if (image >= 0)
		close(image);
	return sd_reply(0, &answer, sizeof answer, give);
}

static int answer_opener(struct maker *maker, const struct sd_make *make, int *fds)
{
	struct sd_made made;
	sd_follow(make->cpu);
	made.error = sd_maker_become_root(maker);
	if (!made.error)
		made.error = sd_opener_start(make, fds, maker->mounting.userns, maker->permitted);
	close_all(fds, MOST_GIVEN);
	return sd_reply(0, &made, sizeof made, -1);
}

/* As root, with the capability that these attributes are for and no other. */
static int answer_xattr(struct maker *maker, const struct sd_xattr_order *order, int file)
{
	struct sd_made made = {-EPERM};
	sd_follow(order->cpu);
	if (!sd_maker_become_root(maker) && !sd_set_caps(CAP(CAP_SYS_ADMIN), maker->permitted))
		made.error = sd_xattr_as_root(maker->ceiling, order, file);
	sd_set_caps(0, maker->permitted);
	if (file >= 0)
		close(file);
	return sd_reply(0, &made, sizeof made, -1);
}

static void serve(struct maker *maker)
{
	static union {
		struct sd_make make;
		struct sd_new_mount mount;
		struct sd_loop_order loop;
		struct sd_xattr_order xattr;
	} asked;
	for (;;) {
		struct sd_made made = {-EINVAL};
		int fds[MOST_GIVEN], give = -1;
		int size = sd_receive_fds(0, &asked, sizeof asked, fds, MOST_GIVEN);
		if (size <= 0)
			_exit(0);
		if (asked.mount.op == SD_MAKE_MOUNT && size == (int)sizeof asked.mount) {
			if (answer_mount(maker, &asked.mount, fds) < 0)
				_exit(1);
			continue;
		}
		if (asked.make.op == SD_MAKE_OPENER && size == (int)sizeof asked.make) {
			if (answer_opener(maker, &asked.make, fds) < 0)
				_exit(1);
			continue;
		}
		int fd = fds[0];
		close_all(fds + 1, MOST_GIVEN - 1);
		if (asked.loop.op == SD_MAKE_LOOP && size == (int)sizeof asked.loop) {
			if (answer_loop(maker, &asked.loop, fd) < 0)
				_exit(1);
			continue;
		}
		if (asked.xattr.op == SD_MAKE_XATTR && asked.xattr.size <= SD_XATTR_MAX &&
		    size == (int)(offsetof(struct sd_xattr_order, value) + asked.xattr.size)) {
			if (answer_xattr(maker, &asked.xattr, fd) < 0)
				_exit(1);
			continue;
		}
		struct sd_make make = asked.make;
		make.name[sizeof make.name - 1] = 0;
		if (make.op == SD_MAKE_DROP || make.op == SD_MAKE_LINK) {
			if (size == (int)sizeof make)
				sd_change_links(maker, &make);
			if (fd >= 0)
				close(fd);
			continue;
		}
		sd_follow(make.cpu);
		if (size != (int)sizeof make || !make.name[0])
			made.error = -EINVAL;
		else if (make.op == SD_MAKE_LEND)
			made.error = sd_maker_become_root(maker) ? -EPERM
								 : sd_lend(&make, maker->permitted, &give);
		else if (!sd_allowed(maker->ceiling, make.mode, make.device))
			made.error = -EPERM;
		else if (make.op == SD_MAKE_NODE)
			made.error = sd_make_real_node(maker, &make, fd);
		else if (make.op == SD_MAKE_PRIVATE)
			made.error = sd_make_private_node(maker, &make, &give);
		else if (make.op == SD_MAKE_AT)
			made.error = sd_make_node_at(maker, &make, fd, &give);
		sd_set_caps(0, maker->permitted);
		if (give >= 0 && made.error != SD_NEEDS_BIND && make.op != SD_MAKE_PRIVATE &&
		    make.op != SD_MAKE_LEND) {
			if (give != fd)
				close(give);
			give = -1;
		}
		if (fd >= 0 && fd != give)
			close(fd);
		if (sd_reply(0, &made, sizeof made, give) < 0)
			_exit(1);
	}
}

static int make_home(struct maker *maker)
{
	struct stat own;
	char options[64];
	snprintf(options, sizeof options, "mode=0777,size=64k,nr_inodes=%u",
		 maker->ceiling->most_private ? maker->ceiling->most_private : 65536);
	if (unshare(CLONE_NEWNS))
		return -errno;
	int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	sd_lend_prepare(maker->ceiling, maker->mounting.userns);
	sd_loops_prepare(maker->ceiling);
	int error = sd_xattrs_prepare(maker->ceiling);
	if (!error)
		error = sd_mounting_prepare(&maker->mounting, maker->ceiling);
	if (!error)
		error = sd_pivot_into(options, NULL);
	if (!error)
		error = sd_mounting_settle(&maker->mounting, proc);
	if (!error)
		error = sd_lend_settle();
	if (proc >= 0)
		close(proc);
	if (error)
		return error;
	if (stat("/", &own))
		return -errno;
	maker->own_dev = own.st_dev;
	maker->mask = 0;
	umask(0);
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT, 0, 0, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_setgroups, 0, NULL))
		return -errno;
	maker->permitted = CAP(CAP_MKNOD) | CAP(CAP_SYS_ADMIN) | CAP(CAP_DAC_OVERRIDE) |
			   CAP(CAP_FSETID) | CAP(CAP_FOWNER) | CAP(CAP_SETUID) | CAP(CAP_SETGID);
	if (maker->ceiling->mount_count) /* to come and go between its own mount namespaces */
		maker->permitted |= CAP(CAP_SYS_CHROOT);
	error = sd_set_caps(0, maker->permitted);
	sd_harden();
	return error;
}

/* Where the kernel shares processors by sessions (autogroup, sched(7)), who is of another session than the
 * one that asks it for something has a whole share beside that. Its openers would go before the session then,
 * with a smaller one they do not. */
static void have_a_share(void)
{
	int own = setsid() < 0 ? -1 : open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	if (own < 0)
		return;
	dprintf(own, "%d", NICENESS);
	close(own);
}

/* Forks a maker below `ceiling`, which is made of sd_kept_new() and has to stay as it is until it is ready:
 * one that shares the processors with us and is our parent's child as we are, or our own child, which has a
 * share of its own. Its first message says whether it is ready: 0 or -errno. Needs real root. */
int sd_maker_spawn(const struct sd_ceiling *ceiling, int sibling, struct sd_child *child)
{
	int pid = sd_fork_helper(child, "seccompd-make", sibling);
	int joins = ceiling->mount_count || ceiling->lent_count;
	if (pid > 0 && joins) /* no descriptor but its socket lives through the fork */
		sd_send_fds(child->sock, "u", 1, &ceiling->userns, ceiling->userns >= 0);
	if (pid)
		return pid;
	static struct maker maker;
	char word;
	if (!sibling)
		have_a_share();
	maker.ceiling = ceiling;
	maker.mounting.userns = -1;
	if (joins)
		sd_receive_fds(0, &word, 1, &maker.mounting.userns, 1);
	int maps = sd_own_maps();
	int32_t ready = make_home(&maker);
	if (sd_send_fds(0, &ready, sizeof ready, NULL, 0) < 0 || ready)
		_exit(1);
	sd_forget_parent(maps);
	serve(&maker);
	_exit(0);
}
