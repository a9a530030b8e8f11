/* The floor of a connect: the caller's socket by pidfd_getfd, and the address that was read once. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "floor.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

int make_connect(int listener, const struct seccomp_notif *request)
{
	struct sockaddr_storage address;
	const size_t size = (uint32_t)request->data.args[2];
	struct iovec here = {&address, size};
	struct iovec there = {(void *)(uintptr_t)request->data.args[1], size};

	if (size > sizeof address)
		return -EINVAL;
	if (process_vm_readv((pid_t)request->pid, &here, 1, &there, 1, 0) != (ssize_t)size)
		return -EFAULT;
	const int pidfd = (int)syscall(SYS_pidfd_open, request->pid, PIDFD_THREAD);
	if (pidfd < 0)
		return -errno;
	const int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)request->data.args[0], 0);
	int error = fd < 0 ? -errno : 0;
	if (!error && ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->id))
		error = -errno;
	if (!error && connect(fd, (struct sockaddr *)&address, (socklen_t)size))
		error = -errno;
	if (fd >= 0)
		close(fd);
	close(pidfd);
	return error;
}
