/* The floor: the least that any seccomp_unotify(2) supervisor has to do for a mknod, in plain C.
 *
 *     floor MODE [INSIDE:OUTSIDE:COUNT] CMD [ARG...]
 *
 * runs CMD, as `seccompd run` does, in a user, mount and pid namespace of its own under a filter that
 * looks at device nodes only, and treats each notified call as MODE says:
 *
 *     refuse     poll, receive, read the path, check the id, answer EPERM
 *     continue   the same, answered with SECCOMP_USER_NOTIF_FLAG_CONTINUE
 *     emulate    make the node as the caller would: its root, cwd, ids, groups, umask, CAP_MKNOD
 *     bare       make the node in the caller's cwd with our own rights: wrong, and the fastest there is
 *     connect    fetch the caller's socket (pidfd_getfd), and connect that to the address that was read
 *     open       of opens instead: give a descriptor of /dev/zero for GRANTED, continue all others
 *     open:PATH  the same with what PATH is, opened as the caller asks
 *     tun:PATH   the same in the caller's network namespace, which is one of its own; we go there once
 *     looked     as open, where no symbolic link of the caller's leads on from GRANTED
 *     looked:PATH  the same with what PATH is
 *     filter     no supervisor: the filter itself answers EPERM; what it lets pass is what is measured
 *
 * The listener is used as seccompd uses it: WAIT_KILLABLE_RECV and SYNC_WAKE_UP. As an ordinary user
 * the one id is mapped, and only refuse, continue and filter make sense. The exit status is CMD's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

enum { PATH_SIZE = 4096 };

enum mode { REFUSE, CONTINUE, EMULATE, BARE, CONNECT, OPEN, TUN, LOOKED, FILTER };
static const char *const mode_names[] = {"refuse", "continue", "emulate", "bare", "connect",
					 "open", "tun", "looked", "filter"};

_Noreturn void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(125);
}

#define INSTALL(filter, flags) install_all(filter, sizeof(filter) / sizeof *(filter), flags)

static int install_all(struct sock_filter *filter, unsigned short length, unsigned long flags)
{
	struct sock_fprog program = {length, filter};

	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* The smallest filter there is for the purpose: `action` for devices, everything else passes. */
static int install(uint32_t action, unsigned long flags)
{
	const uint32_t mode_of_mknod = offsetof(struct seccomp_data, args[1]);
	const uint32_t mode_of_mknodat = offsetof(struct seccomp_data, args[2]);
	struct sock_filter filter[] = {
		/*  0 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		/*  1 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 11),
		/*  2 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		/*  3 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mknod, 2, 0),
		/*  4 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mknodat, 3, 0),
		/*  5 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		/*  6 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, mode_of_mknod),
		/*  7 */ BPF_STMT(BPF_JMP | BPF_JA, 1),
		/*  8 */ BPF_STMT(BPF_LD | BPF_W | BPF_ABS, mode_of_mknodat),
		/*  9 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, S_IFMT),
		/* 10 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, S_IFCHR, 2, 0),
		/* 11 */ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, S_IFBLK, 1, 0),
		/* 12 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		/* 13 */ BPF_STMT(BPF_RET | BPF_K, action),
	};
	return INSTALL(filter, flags);
}

/* The same for connect. */
static int install_connect(unsigned long flags)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	return INSTALL(filter, flags);
}

static int install_for_opens(unsigned long flags)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	return INSTALL(filter, flags);
}

/* ---- what is decided and done ---- */

/* The caller's path, read once. Returns its length or -errno; the memory may end after the NUL. */
static ssize_t read_path(pid_t tid, uint64_t address, char path[PATH_SIZE])
{
	struct iovec here = {path, PATH_SIZE}, there = {(void *)(uintptr_t)address, PATH_SIZE};
	ssize_t size = process_vm_readv(tid, &here, 1, &there, 1, 0);

	if (size <= 0)
		return -EFAULT;
	const char *end = memchr(path, 0, (size_t)size);
	if (!end)
		return size < PATH_SIZE ? -EFAULT : -ENAMETOOLONG;
	return end - path;
}

static void serve(int listener, enum mode mode)
{
	static char path[PATH_SIZE];

	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) &&
	    errno != EINVAL)
		die("SECCOMP_IOCTL_NOTIF_SET_FLAGS");
	for (;;) {
		struct pollfd ready = {listener, POLLIN, 0};
		struct seccomp_notif request = {0};
		struct seccomp_notif_resp response = {0};

		if (poll(&ready, 1, -1) < 0 && errno != EINTR)
			die("poll");
		if (ready.revents & POLLHUP)
			return;
		if (!(ready.revents & POLLIN))
			continue;
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) {
			if (errno == ENOENT || errno == EINTR)
				continue;
			die("SECCOMP_IOCTL_NOTIF_RECV");
		}
		if (mode == CONNECT) {
			response.id = request.id;
			response.error = make_connect(listener, &request);
			if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT)
				die("SECCOMP_IOCTL_NOTIF_SEND");
			continue;
		}
		const int opens = mode == OPEN || mode == TUN || mode == LOOKED;
		const int at = request.data.nr == SYS_mknodat || opens;
		ssize_t length = read_path((pid_t)request.pid, request.data.args[at], path);
		int granted = opens && length >= 0 &&
			      (!strcmp(path, GRANTED) || !strcmp(path, GRANTED_IN_MEMORY));
		if (granted && mode == LOOKED)
			granted = leads_to_granted((pid_t)request.pid);
		if (granted && mode == TUN)
			go_to_network((pid_t)request.pid);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request.id))
			continue;
		response.id = request.id;
		if (length < 0)
			response.error = (int)length;
		else if (granted) {
			response.error = give_thing(listener, request.id, (int)request.data.args[2]);
			if (!response.error || response.error == -ENOENT)
				continue;
		} else if (mode == CONTINUE || opens)
			response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		else if (mode == REFUSE)
			response.error = -EPERM;
		else
			response.error = make_node(listener, &request, mode == BARE, path);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) && errno != ENOENT)
			die("SECCOMP_IOCTL_NOTIF_SEND");
	}
}

/* ---- launch ---- */

static void send_listener(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	if (sendmsg(socket, &message, 0) != 1)
		die("sendmsg");
}

static int receive_listener(int socket)
{
	int fd;
	char byte, control[CMSG_SPACE(sizeof fd)];
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof control};

	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&message))
		die("the child did not get as far as its filter");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

/* In the child: namespaces, the filter, the hand-over, CMD as pid 1. */
static _Noreturn void launch(int socket, enum mode mode, char **command)
{
	char byte = 0;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | (mode == TUN ? CLONE_NEWNET : 0)))
		die("unshare");
	if (write(socket, &byte, 1) != 1 || read(socket, &byte, 1) != 1)
		die("id map");
	if (setresgid(0, 0, 0) || setresuid(0, 0, 0))
		die("setresuid");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("mount");
	pid_t init = fork();
	if (init < 0)
		die("fork");
	if (init > 0) {
		int status;
		close(socket);
		while (waitpid(init, &status, 0) < 0)
			if (errno != EINTR)
				die("waitpid");
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (mode == FILTER) {
		if (install(SECCOMP_RET_ERRNO | EPERM, 0))
			die("seccomp");
	} else {
		const unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER |
					    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
		int fd = mode == CONNECT ? install_connect(flags)
			 : mode == OPEN || mode == TUN || mode == LOOKED
				 ? install_for_opens(flags)
				 : install(SECCOMP_RET_USER_NOTIF, flags);
		if (fd < 0)
			die("seccomp");
		send_listener(socket, fd);
		close(fd);
	}
	close(socket);
	execvp(command[0], command);
	die(command[0]);
}

static void write_file(pid_t pid, const char *file, const char *text)
{
	char name[64];

	snprintf(name, sizeof name, "/proc/%d/%s", pid, file);
	int fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(name);
	close(fd);
}

static void write_maps(pid_t pid, unsigned int inside, unsigned int outside, unsigned int count)
{
	char map[64];

	if (geteuid()) {
		write_file(pid, "setgroups", "deny");
		snprintf(map, sizeof map, "0 %u 1", geteuid());
		write_file(pid, "uid_map", map);
		snprintf(map, sizeof map, "0 %u 1", getegid());
		write_file(pid, "gid_map", map);
		return;
	}
	snprintf(map, sizeof map, "%u %u %u", inside, outside, count);
	write_file(pid, "uid_map", map);
	write_file(pid, "gid_map", map);
}

int main(int argc, char **argv)
{
	unsigned int inside = 0, outside = 1000000000, count = 65536;
	int mode = -1, at = 2, status, sockets[2];
	char byte = 0;

	char *colon = argc > 2 ? strchr(argv[1], ':') : NULL;
	if (colon) {
		*colon = 0;
		thing = colon + 1;
	}
	for (int i = 0; argc > 2 && i <= FILTER; i++)
		if (!strcmp(argv[1], mode_names[i]))
			mode = i;
	if (mode >= 0 && sscanf(argv[2], "%u:%u:%u", &inside, &outside, &count) == 3)
		at = 3;
	if (mode < 0 || at >= argc) {
		fputs("usage: floor refuse|continue|emulate|bare|connect|open[:PATH]|tun:PATH|looked[:PATH]|filter [INSIDE:OUTSIDE:COUNT] CMD ...\n", stderr);
		return 125;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		die("socketpair");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(sockets[0]);
		launch(sockets[1], (enum mode)mode, argv + at);
	}
	close(sockets[1]);
	if (read(sockets[0], &byte, 1) == 1) { /* else the child has said why */
		write_maps(child, inside, outside, count);
		if (write(sockets[0], &byte, 1) != 1)
			die("write");
		if (mode != FILTER) {
			int listener = receive_listener(sockets[0]);
			if (mode == EMULATE || mode == BARE)
				prepare_emulation();
			if (mode == BARE)
				umask(0);
			serve(listener, (enum mode)mode);
		}
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
