/* The least that any agent of a runtime does: takes listeners in, and refuses all that is asked.
 *
 *     agent SOCKET ERRNO
 *
 * It writes one byte to standard output once it listens. */
#define _GNU_SOURCE
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listener_of(int connection)
{
	char data[65536], control[CMSG_SPACE(sizeof(int))];
	struct iovec io = {data, sizeof data};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
				 .msg_controllen = sizeof control};
	int fd = -1;

	if (recvmsg(connection, &message, 0) > 0 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

static void serve(int listener, int error)
{
	struct pollfd p = {listener, POLLIN, 0};

	while (poll(&p, 1, -1) > 0 && p.revents & POLLIN) {
		struct seccomp_notif call;
		memset(&call, 0, sizeof call);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
			continue;
		struct seccomp_notif_resp answer = {.id = call.id, .error = -error};
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path)
		return 2;
	strcpy(address.sun_path, argv[1]);
	if (bind(door, (struct sockaddr *)&address, sizeof address) || listen(door, 64))
		return 1;
	signal(SIGCHLD, SIG_IGN);
	if (write(1, "\n", 1) != 1)
		return 1;
	for (;;) {
		int connection = accept(door, NULL, NULL);
		if (connection < 0)
			continue;
		if (fork() == 0) {
			int listener = listener_of(connection);
			if (listener >= 0)
				serve(listener, atoi(argv[2]));
			_exit(0);
		}
		close(connection);
	}
}
