/* What is sent over a unix socket: the caller's descriptors come along, and who it is. */
#include "porters.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CAP(name) (1ULL << (name))

static int64_t refuse(struct sd_errand_done *done, int error, enum sd_socket_why why)
{
	done->why = (int32_t)why;
	return error;
}

int64_t sd_take_control(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
			struct sd_errand_done *done)
{
	size_t at = 0, size = (size_t)errand->control_length;
	while (size - at >= sizeof(struct cmsghdr)) {
		struct cmsghdr head;
		memcpy(&head, hold->more + at, sizeof head);
		if (head.cmsg_len < sizeof head || head.cmsg_len > size - at)
			return refuse(done, -EINVAL, SD_SOCKET_CONTROL);
		const char *data = hold->more + at + CMSG_LEN(0);
		size_t length = head.cmsg_len - CMSG_LEN(0);
		if (head.cmsg_level == SOL_SOCKET && head.cmsg_type == SCM_RIGHTS) {
			for (; length >= sizeof(int); length -= sizeof(int), data += sizeof(int)) {
				int number;
				memcpy(&number, data, sizeof number);
				if (hold->right_count >= SD_RIGHTS_MAX)
					return refuse(done, -EINVAL, SD_SOCKET_CONTROL);
				int fd = sd_take_descriptor(fds[0], number);
				if (fd < 0)
					return refuse(done, fd == -EBADF ? -EBADF : -EPERM, SD_SOCKET_RIGHTS);
				hold->rights[hold->right_count++] = fd;
			}
		} else if (head.cmsg_level == SOL_SOCKET && head.cmsg_type == SCM_CREDENTIALS &&
			   length == sizeof hold->said) {
			memcpy(&hold->said, data, length);
			hold->has_credentials = 1;
		} else if (head.cmsg_level == SOL_SOCKET) {
			return refuse(done, -EINVAL, SD_SOCKET_CONTROL);
		}
		if (CMSG_ALIGN(head.cmsg_len) >= size - at)
			break;
		at += CMSG_ALIGN(head.cmsg_len);
	}
	if (hold->right_count && sd_id_valid(fds[1], errand->id))
		return refuse(done, -ESRCH, SD_SOCKET_GONE);
	return 0;
}

static size_t add_control(char *control, size_t used, int type, const void *data, size_t size)
{
	struct cmsghdr head = {.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = type};
	memcpy(control + used, &head, sizeof head);
	memcpy(control + used + CMSG_LEN(0), data, size);
	return used + CMSG_SPACE(size);
}

/* Over a unix socket go the caller's descriptors, and who it is: the kernel would say that of us.
 * What number the caller has as a process only one of its own namespace could say. */
int64_t sd_send_unix(struct sd_errand *errand, struct msghdr *message, const struct sd_hold *hold,
		     struct sd_errand_done *done)
{
	char control[CMSG_SPACE(sizeof(int) * SD_RIGHTS_MAX) + CMSG_SPACE(sizeof(struct ucred))] = "";
	const struct sd_caller *caller = &hold->caller;
	struct ucred who = {getpid(), caller->uid, caller->gid};
	size_t used = 0;
	if (hold->has_credentials) {
		who.uid = hold->said.uid;
		who.gid = hold->said.gid;
		if ((who.uid != caller->uid && who.uid != caller->euid &&
		     !(caller->caps & CAP(CAP_SETUID))) ||
		    (who.gid != caller->gid && who.gid != caller->egid &&
		     !(caller->caps & CAP(CAP_SETGID))))
			return refuse(done, -EPERM, SD_SOCKET_RIGHTS);
	}
	if (hold->right_count)
		used = add_control(control, used, SCM_RIGHTS, hold->rights,
				   hold->right_count * sizeof *hold->rights);
	int speaks = sd_porter_speak(caller);
	if (speaks < 0)
		return refuse(done, -EPERM, SD_SOCKET_RIGHTS);
	if (speaks)
		used = add_control(control, used, SCM_CREDENTIALS, &who, sizeof who);
	message->msg_control = used ? control : NULL;
	message->msg_controllen = used;
	ssize_t sent = sendmsg(hold->sock, message, errand->call_flags | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}
