/* The session's side of mounts: questions to resolvers and makers, and their answers. */
#include "mounts.h"
#include "receiver.h"
#include "work.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int ask(int sock, const struct sd_waiting *call, struct sd_ask *ask, size_t text,
	       const int *fds, size_t count)
{
	int all[SD_HELD];
	memcpy(all, fds, count * sizeof *fds);
	all[count] = call->listener;
	ask->listener = (uint32_t)count;
	ask->id = call->id;
	ask->cpu = (uint32_t)sched_getcpu();
	int sent = sd_send_fds(sock, ask, offsetof(struct sd_ask, text) + text, all, count + 1);
	return sent < 0 ? sent : 0;
}

int sd_mount_look(int resolver, const struct sd_waiting *call, int task, uint32_t flags,
		  const char *target, size_t target_length, const char *source,
		  size_t source_length)
{
	struct sd_ask look;
	size_t used = target_length + 1;
	if (target_length >= SD_PATH_MAX || source_length >= SD_PATH_MAX)
		return -ENAMETOOLONG;
	memset(&look, 0, offsetof(struct sd_ask, text));
	look.op = SD_ASK_MOUNT_LOOK;
	look.call_flags = flags;
	look.dirfd[0] = look.dirfd[1] = -100; /* AT_FDCWD */
	look.length[0] = (uint16_t)target_length;
	look.length[1] = SD_NO_TEXT;
	memcpy(look.text, target, target_length);
	look.text[target_length] = 0;
	if (flags & SD_LOOK_SOURCE) {
		look.length[1] = (uint16_t)source_length;
		memcpy(look.text + used, source, source_length);
		look.text[used + source_length] = 0;
		used += source_length + 1;
	}
	return ask(resolver, call, &look, used, &task, 1);
}

int sd_look_at_image(int resolver, const struct sd_waiting *call, int task, int number, int writes,
		     uint64_t device)
{
	struct sd_ask look;
	memset(&look, 0, offsetof(struct sd_ask, text));
	look.op = SD_ASK_MOUNT_LOOK;
	look.call_flags = SD_LOOK_ALONE | SD_LOOK_FILE | (writes ? SD_LOOK_WRITE : 0);
	look.dirfd[0] = number;
	look.device = device;
	look.length[0] = look.length[1] = SD_NO_TEXT;
	return ask(resolver, call, &look, 0, &task, 1);
}

int sd_mount_seen(int resolver, struct sd_seen *seen, int *fds)
{
	int got[4];
	int size = sd_receive_fds(resolver, seen, sizeof *seen, got, 4);
	if (size != (int)sizeof *seen || seen->target_length >= SD_PATH_MAX ||
	    seen->source_length >= SD_PATH_MAX) {
		for (int i = 0; i < 4; i++)
			if (got[i] >= 0)
				close(got[i]);
		fds[0] = fds[1] = fds[2] = fds[3] = -1;
		return size < 0 ? size : -EPIPE;
	}
	int root = (seen->flags & SD_SEEN_CALLERS_ROOT) != 0;
	fds[0] = got[0];
	fds[1] = got[1];
	fds[2] = got[2 + root];
	fds[3] = root ? got[2] : got[3];
	/* what the layers of a container's own overlay are, nobody knows */
	if (seen->source_fs && sd_is_on_host(seen->source_fs))
		seen->flags &= ~(uint32_t)SD_SEEN_FOREIGN;
	return 0;
}

int sd_mount_adopt(int resolver, const struct sd_waiting *call, int mount_ns, int target, int task,
		   const struct sd_program *program, int inotify, uint64_t force, uint64_t set,
		   uint32_t flags, const char *source)
{
	struct sd_ask adopt = {.op = SD_ASK_MOUNT_ADOPT, .device = force, .mode = (uint32_t)set,
			       .call_flags = flags};
	int fds[] = {mount_ns, target, task, program->pidfd, inotify, program->listener};
	size_t length = strlen(source);
	if (length >= SD_PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(adopt.text, source, length + 1);
	return ask(resolver, call, &adopt, length + 1, fds, 6);
}

int sd_mount_change(int resolver, const struct sd_waiting *call, int mount_ns, int target,
		    uint64_t set, uint64_t clear, int only_try)
{
	struct sd_ask change = {.op = SD_ASK_MOUNT_CHANGE, .device = clear, .mode = (uint32_t)set,
				.flags = only_try != 0};
	int fds[] = {mount_ns, target};
	return ask(resolver, call, &change, 1, fds, 2);
}

int sd_mount_mark(int resolver, const struct sd_waiting *call, int mount_ns, int target, int task)
{
	struct sd_ask mark = {.op = SD_ASK_MOUNT_MARK};
	int fds[] = {mount_ns, target, task};
	return ask(resolver, call, &mark, 1, fds, 3);
}

int sd_mount_idle(int resolver, const struct sd_waiting *call, int mount_ns)
{
	struct sd_ask idle = {.op = SD_ASK_MOUNT_IDLE};
	return ask(resolver, call, &idle, 1, &mount_ns, 1);
}

int sd_socket_bind(int resolver, const struct sd_waiting *call, int task, int directory, int pidfd,
		   int number, const char *path, size_t length)
{
	struct sd_ask bind;
	int fds[] = {task, directory, pidfd};
	if (length > SD_SUN_PATH)
		return -ENAMETOOLONG;
	memset(&bind, 0, offsetof(struct sd_ask, text));
	bind.op = SD_ASK_SOCKET_BIND;
	bind.call_flags = (uint32_t)number;
	bind.length[0] = (uint16_t)length;
	bind.length[1] = SD_NO_TEXT;
	memcpy(bind.text, path, length);
	bind.text[length] = 0;
	return ask(resolver, call, &bind, length + 1, fds, 3);
}

int sd_mount_answer(int resolver, struct sd_attached *attached)
{
	int fd;
	int got = sd_receive_fds(resolver, attached, sizeof *attached, &fd, 1);
	if (fd >= 0)
		close(fd);
	return got == (int)sizeof *attached && attached->error <= 0 ? 0 : -EPIPE;
}

int sd_watch_new(void)
{
	int inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	return inotify < 0 ? -errno : inotify;
}

int sd_watch_next(int inotify)
{
	struct {
		struct inotify_event event;
		char name[NAME_MAX + 1];
	} one;
	for (;;) {
		ssize_t got = read(inotify, &one, sizeof one);
		if (got < 0)
			return -errno;
		if (got >= (ssize_t)sizeof one.event && one.event.mask & IN_UNMOUNT)
			return one.event.wd;
	}
}

static int make(int maker, struct sd_new_mount *make, const int *fds, size_t count)
{
	make->op = SD_MAKE_MOUNT;
	make->cpu = (uint32_t)sched_getcpu();
	int sent = sd_send_fds(maker, make, sizeof *make, fds, count);
	return sent < 0 ? sent : 0;
}

int sd_mount_begin(int maker, struct sd_new_mount *new, int image, int resolver,
		   const struct sd_waiting *call, int mount_ns, int target)
{
	struct sd_ask attach = {.op = target < 0 ? SD_ASK_MOUNT_SWAP : SD_ASK_MOUNT_ATTACH};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	int error = make(maker, new, (int[]){pair[0], image}, image < 0 ? 1 : 2);
	close(pair[0]);
	/* where the first failed, the second one ends by itself */
	int fds[] = {mount_ns, pair[1], target};
	int asked = ask(resolver, call, &attach, 1, fds, target < 0 ? 2 : 3);
	if (!error && !asked)
		return pair[1];
	close(pair[1]);
	return error ? error : asked;
}

int sd_mount_again(int maker, struct sd_new_mount *new, int target)
{
	new->kind = SD_NEW_AGAIN;
	return make(maker, new, &target, 1);
}

int sd_mount_made(int maker, struct sd_mounted *mounted)
{
	int got = sd_receive_fds(maker, mounted, sizeof *mounted, NULL, 0);
	return got == (int)sizeof *mounted ? 0 : got < 0 ? got : -EPIPE;
}

int sd_mount_tidied(int maker)
{
	char word;
	ssize_t got = recv(maker, &word, 1, MSG_DONTWAIT);
	return got == 1 ? 1 : got < 0 && errno == EAGAIN ? 0 : -EPIPE;
}

enum { BRIEF_US = 1000 };

/* By timers, as in patience.c; one that is set for long would keep a brief wait waiting. */
int sd_mount_wait(int fd, int listener, int linger_us)
{
	static struct sd_patience brief = {.timer = -1}, other = {.timer = -1};
	struct sd_patience *patience = linger_us < BRIEF_US ? &brief : &other;
	if (patience->timer < 0 && (patience->timer = sd_deadline_timer()) < 0)
		return 0;
	int there = sd_wait_for_call(patience, fd, linger_us, &listener, 1);
	return there == 1 || there == -ENOTCONN; /* what is read next says so */
}

/* A node for /dev/fuse that a target's root may open, where the host's may not be opened by it. */
int sd_mount_fuse_node(int maker, uint32_t uid, uint32_t gid)
{
	struct sd_make make;
	memset(&make, 0, sizeof make);
	make.op = SD_MAKE_PRIVATE;
	make.mode = S_IFCHR | 0666;
	make.device = makedev(10, 229);
	make.fsuid = uid;
	make.fsgid = gid;
	make.name[0] = 'f';
	int sent = sd_send_fds(maker, &make, sizeof make, NULL, 0);
	return sent < 0 ? sent : 0;
}

int sd_mount_fuse_made(int maker, int *tree)
{
	struct sd_made made;
	int fd;
	int got = sd_receive_fds(maker, &made, sizeof made, &fd, 1);
	if (got == 1 && fd >= 0 && *tree < 0) {
		*tree = fd;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	if (got != (int)sizeof made)
		return got < 0 ? got : -EPIPE;
	return made.error < 0 ? made.error : made.error > 0 || *tree < 0 ? -EPERM : 1;
}
