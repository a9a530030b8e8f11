/* The mount(2) of a FUSE program, made for it. The program has no capability to mount, so whoever
 * takes it over from a hostile image can do no more with its mount namespace than read it.
 *
 * It is made in our own mount namespace, where nothing is the program's to change, and as type fuse
 * even where the program wants a fuseblk: that one is for real root alone, and what is different of
 * it is that it has a block device for its name. */
#include "compat.h"
#include "memory.h"
#include "mounts.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What makes of mount(2) another call than that of a new mount. */
static const unsigned long OTHER = MS_REMOUNT | MS_BIND | MS_MOVE | MS_SHARED | MS_PRIVATE |
				   MS_SLAVE | MS_UNBINDABLE;

/* Of the flags that the caller asked for those that have to be there from the start: its programs do
 * not know them, and once others are locked they cannot be given any more. */
static const unsigned long CALLERS = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME |
				     MS_SYNCHRONOUS | MS_DIRSYNC | MS_LAZYTIME;

struct wish {
	char source[SD_PATH_MAX], target[SD_PATH_MAX], type[SD_PATH_MAX], data[SD_PATH_MAX];
	unsigned long flags;
	int fuse; /* the program's descriptor of /dev/fuse */
};

static int copy(pid_t tid, uint64_t address, char *text, int kind)
{
	int length = sd_read_string(tid, address, text, kind);
	if (length == SD_NULL)
		length = 0;
	if (length < 0)
		return length == -E2BIG ? -EINVAL : length;
	text[length] = 0;
	return 0;
}

static int read_wish(const struct seccomp_notif *call, struct wish *wish)
{
	const __u64 *args = call->data.args;
	int error = copy((pid_t)call->pid, args[2], wish->type, SD_TEXT);
	if (!error)
		error = copy((pid_t)call->pid, args[0], wish->source, SD_TEXT);
	if (!error)
		error = copy((pid_t)call->pid, args[4], wish->data, SD_DATA);
	wish->flags = (unsigned long)args[3];
	if ((wish->flags & MS_MGC_MSK) == MS_MGC_VAL)
		wish->flags &= ~(unsigned long)MS_MGC_MSK;
	return error;
}

/* The type as the kernel lets us mount it. */
static int plain_type(char *type)
{
	static const char BLOCK[] = "fuseblk";
	size_t length = strcspn(type, ".");
	if (length == sizeof BLOCK - 1 && !memcmp(type, BLOCK, length))
		memmove(type + 4, type + length, strlen(type + length) + 1);
	else if (length != 4 || memcmp(type, "fuse", 4))
		return -EPERM;
	return 0;
}

/* The options without those that have to be others here; `*fuse` is what fd= was. */
static int plain_options(char *data, int *fuse)
{
	char *from = data, *to = data, *word;
	*fuse = -1;
	while ((word = strsep(&from, ","))) {
		if (!strncmp(word, "fd=", 3))
			*fuse = atoi(word + 3);
		else if (*word && strncmp(word, "blksize=", 8)) { /* of a fuseblk alone */
			size_t length = strlen(word);
			memmove(to, word, length);
			to += length;
			*to++ = ',';
		}
	}
	*to = 0;
	return *fuse < 0 ? -EINVAL : 0;
}

static int mount_here(struct wish *wish, int fuse, const struct sd_fuse_terms *terms)
{
	/* those flags of a mount that are the same ones here */
	static const unsigned long SAME = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
	unsigned long flags = wish->flags | (terms->flags & CALLERS) |
			      ((unsigned long)terms->force & SAME);
	/* the program knows the image by our name for it, those who look at mounts by the caller's */
	const char *source = strcmp(wish->source, SD_IMAGE_NAME) ? wish->source : terms->source;
	size_t length = strlen(wish->data);
	if (snprintf(wish->data + length, sizeof wish->data - length, "fd=%d", fuse) >=
	    (int)(sizeof wish->data - length))
		return -EINVAL;
	return mount(source, SD_LOCK_STAGE, wish->type, flags, wish->data) ? -errno : 0;
}

/* Mounts what it asked for on the stage. 0 or -errno. */
static int grant(int listener, const struct seccomp_notif *call, const struct sd_fuse_terms *terms)
{
	static struct wish wish;
	__u64 id = call->id;
	int error = read_wish(call, &wish);
	if (!error && wish.flags & OTHER)
		error = -EPERM;
	if (!error)
		error = plain_type(wish.type);
	if (!error)
		error = plain_options(wish.data, &wish.fuse);
	int asker = error ? error : (int)syscall(SYS_pidfd_open, call->pid, 0);
	if (asker < 0)
		return error ? error : -errno;
	/* bound to the process first, then known to be the one that asks */
	int fuse = -EPERM;
	if (!ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id)) {
		fuse = (int)syscall(SYS_pidfd_getfd, asker, wish.fuse, 0);
		if (fuse < 0)
			fuse = -errno;
	}
	close(asker);
	if (fuse < 0)
		return fuse;
	error = mount_here(&wish, fuse, terms);
	/* one more of these would keep a connection alive whose program has gone */
	close(fuse);
	return error;
}

/* One call. 1: it was granted; 0: it was not; -errno. */
static int answer(int listener, const struct sd_fuse_terms *terms)
{
	struct {
		struct seccomp_notif call;
		char more[128]; /* of a newer kernel */
	} got;
	memset(&got, 0, sizeof got);
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &got.call))
		return errno == ENOENT || errno == EINTR ? 0 : -errno;
	int error = grant(listener, &got.call, terms);
	struct seccomp_notif_resp reply = {.id = got.call.id, .error = error};
	/* where who asked has gone, and that was all of them, the next look says so */
	if (!ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply) && !error)
		return 1;
	if (!error)
		sd_clear_stage();
	return 0;
}

int sd_fuse_mount(int listener, int pidfd, const struct sd_fuse_terms *terms)
{
	for (;;) {
		struct pollfd all[] = {
			{.fd = listener, .events = POLLIN},
			{.fd = pidfd, .events = POLLIN},
			{.fd = 0, .events = POLLIN}, /* the session does not ask twice: it has gone */
		};
		if (poll(all, 3, -1) < 0 && errno != EINTR)
			return -errno;
		if (all[2].revents)
			_exit(0);
		if (all[1].revents)
			return -EIO;
		if (all[0].revents & POLLIN) {
			int granted = answer(listener, terms);
			if (granted < 0)
				return granted;
			if (granted)
				return 0;
		} else if (all[0].revents) {
			listener = -1; /* nobody is left to ask; soon the program has ended, too */
		}
	}
}

int sd_fuse_watch(int tree, int task, int inotify, int32_t *watch)
{
	char link[32];
	snprintf(link, sizeof link, "../self/fd/%d", tree);
	*watch = fchdir(task) ? -1 : inotify_add_watch(inotify, link, IN_DELETE_SELF);
	int gone = *watch < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
	if (chdir("/"))
		return -errno;
	return gone ? -EIO : 0;
}
