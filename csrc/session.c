/* What a session process does once: it becomes the root of its target's user namespace, and takes
 * descriptors from the front and the zygote. */
#include "shim.h"

#include "compat.h"

#include <errno.h>
#include <grp.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_FDS = 16, PAGE = 4096 };

void *sd_zeroed(size_t size)
{
	size_t *mapped = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			      -1, 0);
	if (mapped == MAP_FAILED)
		return NULL;
	*mapped = size + PAGE;
	return (char *)mapped + PAGE;
}

void sd_free(void *memory)
{
	if (memory) {
		size_t *mapped = (void *)((char *)memory - PAGE);
		munmap(mapped, *mapped);
	}
}

/* Full capabilities in that namespace, none outside of it, and no longer the user that we were. The
 * raw system calls act on this thread alone, which is the only one there is. Not dumpable comes
 * first: from setns on, the target's root has capabilities over us. */
int sd_join_user_namespace(int userns, uint32_t uid, uint32_t gid)
{
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || setns(userns, CLONE_NEWUSER))
		return -errno;
	/* refused where the namespace has setgroups off: then ours are the target's as well (as root we
	 * took them before) */
	if (setgroups(0, NULL) && errno != EPERM)
		return -errno;
	if (syscall(SYS_setresgid, gid, gid, gid) || prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) ||
	    syscall(SYS_setresuid, uid, uid, uid))
		return -errno;
	/* commit_creds() may have made us dumpable again by fs.suid_dumpable's rules */
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ? -errno : 0;
}

int sd_parent_user_namespace(int userns)
{
	int parent = ioctl(userns, NS_GET_PARENT);
	return parent < 0 ? -errno : parent;
}

int sd_owner_of_user_namespace(int userns, uint32_t *uid)
{
	uid_t owner;
	if (ioctl(userns, NS_GET_OWNER_UID, &owner))
		return -errno;
	*uid = owner;
	return 0;
}

int sd_user_namespace_of(int ns)
{
	int owner = ioctl(ns, NS_GET_USERNS);
	return owner < 0 ? -errno : owner;
}

int sd_take_descriptor(int pidfd, int number)
{
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0U);
	return fd < 0 ? -errno : fd;
}

int sd_peer_pidfd(int sock)
{
	int pidfd = -1;
	socklen_t size = sizeof pidfd;
	return getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) ? -errno : pidfd;
}

int sd_refuse_descriptors(int sock)
{
	int passes = 0;
	return setsockopt(sock, SOL_SOCKET, SO_PASSRIGHTS, &passes, sizeof passes) ? -errno : 0;
}

int sd_send_fds(int sock, const void *data, size_t size, const int *fds, size_t count)
{
	char control[CMSG_SPACE(sizeof(int) * MOST_FDS)];
	struct iovec io = {(void *)data, size};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
	if (count > MOST_FDS)
		return -EINVAL;
	if (count) {
		memset(control, 0, sizeof control);
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(rights), fds, sizeof(int) * count);
	}
	ssize_t sent = sendmsg(sock, &message, MSG_NOSIGNAL);
	return sent < 0 ? -errno : (int)sent;
}

int sd_receive_fds(int sock, void *data, size_t size, int *fds, size_t count)
{
	char control[CMSG_SPACE(sizeof(int) * MOST_FDS)];
	struct iovec io = {data, size};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1,
				 .msg_control = control, .msg_controllen = sizeof control};
	for (size_t i = 0; i < count; i++)
		fds[i] = -1;
	ssize_t got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
	if (got < 0)
		return -errno;
	size_t taken = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < here; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (taken < count)
				fds[taken++] = fd;
			else
				close(fd); /* more than anybody asked for */
		}
	}
	return (int)got;
}
