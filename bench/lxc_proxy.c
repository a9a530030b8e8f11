/* The least that a server of LXC's notify proxy costs: answers every call with EPERM, unread.
 *
 *     lxc_proxy SOCKET
 *
 * One connection at a time. It prints a line once it listens.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct message {
	uint64_t reserved;
	int32_t monitor, init;
	struct seccomp_notif_sizes sizes;
	uint64_t cookie_length;
	struct seccomp_notif notif;
	struct seccomp_notif_resp resp;
	char cookie[4096];
};

enum { ANSWER = sizeof(struct message) - 4096, FDS = 3 };

static void serve(int connection)
{
	static struct message message;
	char control[CMSG_SPACE(sizeof(int) * FDS)];

	for (;;) {
		struct iovec part = {&message, sizeof message};
		struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1,
				      .msg_control = control, .msg_controllen = sizeof control};
		if (recvmsg(connection, &head, MSG_CMSG_CLOEXEC) < (ssize_t)ANSWER)
			return;
		struct cmsghdr *c = CMSG_FIRSTHDR(&head);
		for (size_t i = 0; c && i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			close(fd);
		}
		message.resp = (struct seccomp_notif_resp){.id = message.notif.id, .error = -EPERM};
		if (send(connection, &message, ANSWER, MSG_NOSIGNAL) != ANSWER)
			return;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (argc != 2 || strlen(argv[1]) >= sizeof name.sun_path) {
		fputs("usage: lxc_proxy SOCKET\n", stderr);
		return 2;
	}
	strcpy(name.sun_path, argv[1]);
	if (listening < 0 || bind(listening, (struct sockaddr *)&name, sizeof name) ||
	    listen(listening, 16)) {
		perror("lxc_proxy");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
		if (connection < 0)
			return 1;
		serve(connection);
		close(connection);
	}
}
