/* The calls of porters: fetches a caller's socket, sees whether the call is one that can be made for
 * somebody else, becomes the caller where that counts, and calls. */
#include "porters.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/securebits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { OVERFLOW_ID = 65534 };

#define CAP(name) (1ULL << (name))
/* What a caller's capabilities may do for it on a socket. */
static const uint64_t SOCKET_CAPS = CAP(CAP_DAC_OVERRIDE) | CAP(CAP_DAC_READ_SEARCH) |
				    CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_NET_BROADCAST) |
				    CAP(CAP_NET_ADMIN) | CAP(CAP_NET_RAW);

static pthread_mutex_t looking = PTHREAD_MUTEX_INITIALIZER; /* it reads into one place for all */
static uint64_t permitted;
static char userns[64];
static uid_t own_uid;
static gid_t own_gid;
static uint32_t own_groups[SD_GROUPS], own_count;

/* All that a porter has while it acts for nobody: it is what fetching a descriptor takes, and means
 * nothing to a socket. */
static int rest(void)
{
	return sd_set_caps(permitted & CAP(CAP_SYS_PTRACE), permitted);
}

int sd_porter_setup(void)
{
	own_uid = geteuid();
	own_gid = getegid();
	int count = getgroups(SD_GROUPS, own_groups), error = sd_permitted_caps(&permitted);
	if (error || count < 0)
		return error ? error : -errno;
	own_count = (uint32_t)count;
	if (readlink("/proc/thread-self/ns/user", userns, sizeof userns - 1) < 0)
		return -errno;
	/* a uid that becomes or leaves 0 must not change capabilities behind our back */
	if (permitted & CAP(CAP_SETPCAP) &&
	    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT, 0, 0, 0))
		return -errno;
	return rest();
}

/* ---- as whom ---- */

/* Groups that are not mapped show as 65534 and cannot be set: a list that has some is left as it is
 * where it is the one that we were born with, and loses them elsewhere, which is fewer rights. */
static int take_groups(const uint32_t *groups, uint32_t count)
{
	uint32_t list[SD_GROUPS], used = 0;
	gid_t now[SD_GROUPS];
	int known = getgroups(SD_GROUPS, now);
	if (known == (int)count && !memcmp(now, groups, count * sizeof *groups))
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (groups[i] != OVERFLOW_ID)
			list[used++] = groups[i];
	return syscall(SYS_setgroups, used, list) ? -errno : 0;
}

/* glibc's functions would change all threads at once. */
static int take_ids(uint32_t uid, uint32_t gid, const uint32_t *groups, uint32_t count)
{
	int error = take_groups(groups, count);
	if (!error && (syscall(SYS_setresgid, -1, gid, -1) || syscall(SYS_setresuid, -1, uid, -1)))
		error = -errno;
	return error;
}

/* The ids that count: the effective ones, which a peer is shown, and those of the file system. */
static int become(const struct sd_errand *errand, int listener, int task, struct sd_caller *caller)
{
	caller->task = task;
	caller->status = -1;
	/* following the links of another's /proc directory takes a capability */
	int error = sd_set_caps(permitted, permitted);
	if (!error) {
		pthread_mutex_lock(&looking);
		error = sd_look_at(caller, userns);
		pthread_mutex_unlock(&looking);
	}
	if (!error && sd_id_valid(listener, errand->id))
		error = -ESRCH;
	if (!error && permitted & CAP(CAP_SETUID))
		error = take_ids(caller->euid, caller->egid, caller->groups, caller->group_count);
	else if (!error && (caller->euid != own_uid || caller->egid != own_gid))
		error = -EPERM;
	if (!error) {
		setfsgid(caller->fsgid);
		setfsuid(caller->fsuid);
		if ((uint32_t)setfsuid((uid_t)-1) != caller->fsuid ||
		    (uint32_t)setfsgid((gid_t)-1) != caller->fsgid)
			error = -EPERM;
	}
	sd_harden();
	return error ? error : sd_set_caps(caller->caps & SOCKET_CAPS & permitted, permitted);
}

/* Nobody's again. A thread that cannot be is of no use to the next caller. */
static void come_back(void)
{
	int error = sd_set_caps(permitted, permitted);
	if (!error && permitted & CAP(CAP_SETUID))
		error = take_ids(own_uid, own_gid, own_groups, own_count);
	if (error || rest())
		_exit(1);
	sd_harden();
}

/* ---- the call ---- */

/* Where an address is a path, it was followed as the caller would have: what it led to is open, and
 * reached through that. */
static socklen_t by_descriptor(struct sockaddr_un *address, int path)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	int length = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d", path);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
}

/* What one errand holds besides what came with it. */
struct hold {
	int sock;
	int rights[SD_RIGHTS_MAX];
	size_t right_count;
	int has_credentials;
	struct ucred said; /* SCM_CREDENTIALS of the caller's own */
	struct sd_caller caller;
};

static void let_go(struct hold *hold)
{
	if (hold->sock >= 0)
		close(hold->sock);
	for (size_t i = 0; i < hold->right_count; i++)
		close(hold->rights[i]);
}

static int option(int sock, int name)
{
	int value;
	socklen_t size = sizeof value;
	return getsockopt(sock, SOL_SOCKET, name, &value, &size) ? -errno : value;
}

static int is_patient(int sock)
{
	struct timeval timeout = {0};
	socklen_t size = sizeof timeout;
	return !getsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &timeout, &size) && !timeout.tv_sec &&
	       !timeout.tv_usec;
}

/* A descriptor of the caller's, as one of ours; the caller is asked for afterwards. It is a porter that
 * takes it, and lets go of it: closing a file may wait for whoever serves it. */
static int fetch(int pidfd, int number)
{
	return sd_take_descriptor(pidfd, number);
}

static int64_t refuse(struct sd_errand_done *done, int error, enum sd_socket_why why)
{
	done->why = (int32_t)why;
	return error;
}

/* Takes the caller's descriptors, and what it says of itself, out of its control messages. */
static int64_t take_control(const struct sd_errand *errand, const int *fds, struct hold *hold,
			    struct sd_errand_done *done)
{
	size_t at = 0, size = (size_t)errand->control_length;
	while (size - at >= sizeof(struct cmsghdr)) {
		struct cmsghdr head;
		memcpy(&head, errand->more + at, sizeof head);
		if (head.cmsg_len < sizeof head || head.cmsg_len > size - at)
			return refuse(done, -EINVAL, SD_SOCKET_CONTROL);
		const char *data = errand->more + at + CMSG_LEN(0);
		size_t length = head.cmsg_len - CMSG_LEN(0);
		if (head.cmsg_level == SOL_SOCKET && head.cmsg_type == SCM_RIGHTS) {
			for (; length >= sizeof(int); length -= sizeof(int), data += sizeof(int)) {
				int number;
				memcpy(&number, data, sizeof number);
				if (hold->right_count >= SD_RIGHTS_MAX)
					return refuse(done, -EINVAL, SD_SOCKET_CONTROL);
				int fd = fetch(fds[0], number);
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

/* Whether this socket takes the address for what was decided on, and the call is one that can be made
 * for somebody else. 0, or the errno. */
static int64_t fits(struct sd_errand *errand, int sock, struct sd_errand_done *done)
{
	if (done->domain != AF_INET && done->domain != AF_INET6 && done->domain != AF_UNIX &&
	    done->domain != AF_NETLINK)
		return refuse(done, -EOPNOTSUPP, SD_SOCKET_DOMAIN);
	if (errand->op != SD_SOCKET_SEND && !(errand->flags & SD_SOCKET_UNSPECIFIED))
		return 0;
	int protocol = option(sock, SO_PROTOCOL);
	done->type = option(sock, SO_TYPE);
	/* only IPv4 sockets take AF_UNSPEC for IPv4; UDP ones of IPv6 for none at all */
	if (errand->flags & SD_SOCKET_UNSPECIFIED && done->domain == AF_INET6) {
		if (errand->op != SD_SOCKET_SEND || done->type != SOCK_DGRAM ||
		    (protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE))
			return refuse(done, -EAFNOSUPPORT, SD_SOCKET_KERNEL);
		errand->flags |= SD_SOCKET_NO_ADDRESS;
	}
	if (errand->op != SD_SOCKET_SEND)
		return 0;
	if (errand->flags & SD_SOCKET_CUT && done->type != SOCK_STREAM)
		return refuse(done, -EMSGSIZE, SD_SOCKET_LONG);
	if (done->domain == AF_NETLINK &&
	    !sd_netlink_only_asks(protocol, errand->more + errand->control_length,
				  (size_t)errand->payload_length))
		/* as for everybody in a container, who then knows that nobody audits there */
		return refuse(done, protocol == NETLINK_AUDIT ? -ECONNREFUSED : -EPERM,
			      SD_SOCKET_NETLINK);
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
static int64_t send_unix(struct sd_errand *errand, struct msghdr *message, const struct hold *hold,
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
	if (permitted & CAP(CAP_SETUID)) {
		/* our real uid is another one: saying theirs takes a capability */
		uint64_t caps = caller->caps & SOCKET_CAPS & permitted;
		if (sd_set_caps(caps | CAP(CAP_SETUID) | CAP(CAP_SETGID), permitted))
			return refuse(done, -EPERM, SD_SOCKET_RIGHTS);
		used = add_control(control, used, SCM_CREDENTIALS, &who, sizeof who);
	}
	message->msg_control = used ? control : NULL;
	message->msg_controllen = used;
	ssize_t sent = sendmsg(hold->sock, message, errand->call_flags | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}

/* The IPv4 address of an errand as one that IPv6 sockets take. */
static void map_address(struct sd_errand *errand)
{
	struct sockaddr_in from;
	struct sockaddr_in6 to = {.sin6_family = AF_INET6};
	memcpy(&from, errand->address, sizeof from);
	if (from.sin_family != AF_INET)
		return;
	to.sin6_port = from.sin_port;
	memset(to.sin6_addr.s6_addr + 10, 0xff, 2);
	memcpy(to.sin6_addr.s6_addr + 12, &from.sin_addr, sizeof from.sin_addr);
	memcpy(errand->address, &to, sizeof to);
	errand->address_length = sizeof to;
}

static int64_t call(struct sd_errand *errand, const struct hold *hold, int path,
		    struct sd_errand_done *done)
{
	struct sockaddr_un by_path;
	if (errand->flags & SD_SOCKET_REDIRECTED && done->domain == AF_INET6)
		map_address(errand);
	void *address = errand->address;
	socklen_t length = (socklen_t)errand->address_length;
	if (path >= 0) {
		length = by_descriptor(&by_path, path);
		address = &by_path;
	}
	if (errand->op == SD_SOCKET_CONNECT)
		return connect(hold->sock, address, length) ? -errno : 0;
	if (errand->op == SD_SOCKET_BIND)
		return bind(hold->sock, address, length) ? -errno : 0;
	struct iovec data = {errand->more + errand->control_length, (size_t)errand->payload_length};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	if (!(errand->flags & SD_SOCKET_NO_ADDRESS)) {
		message.msg_name = address;
		message.msg_namelen = length;
	}
	if (done->domain == AF_UNIX)
		return send_unix(errand, &message, hold, done);
	if (errand->control_length && done->domain != AF_NETLINK) {
		message.msg_control = errand->more;
		message.msg_controllen = (size_t)errand->control_length;
	}
	ssize_t sent = sendmsg(hold->sock, &message, errand->call_flags | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}

/* Whether the message is one: its sender is ours, but what does not fit must not be read. */
static int is_whole(const struct sd_errand *errand, size_t size, size_t fds)
{
	size_t needed = 2 + (errand->flags & SD_SOCKET_AS_CALLER ? 1 : 0) + (errand->with_path ? 1 : 0);
	return size >= offsetof(struct sd_errand, more) && fds == needed &&
	       errand->op >= SD_SOCKET_CONNECT && errand->op <= SD_SOCKET_LOOK &&
	       errand->control_length >= 0 && errand->control_length <= SD_CONTROL_MAX &&
	       errand->payload_length >= 0 && errand->payload_length <= SD_PAYLOAD_MAX &&
	       errand->address_length >= 0 && errand->address_length <= SD_ADDRESS_MAX &&
	       size == offsetof(struct sd_errand, more) + (size_t)errand->control_length +
			       (size_t)errand->payload_length;
}

/* Fetches the socket. From here on it is that very one that is looked at and called on, whatever the
 * caller puts in its place. */
static int64_t fetch_socket(const struct sd_errand *errand, const int *fds, struct hold *hold,
			    struct sd_errand_done *done)
{
	int sock = fetch(fds[0], errand->number);
	hold->sock = sock;
	/* the pidfd is of whoever has that number: the caller, if it still waits */
	if (sd_id_valid(fds[1], errand->id) || sock == -ESRCH)
		return refuse(done, -ESRCH, SD_SOCKET_GONE);
	if (sock < 0)
		return refuse(done, sock, sock == -EBADF ? SD_SOCKET_KERNEL : SD_SOCKET_RIGHTS);
	done->domain = option(sock, SO_DOMAIN);
	if (done->domain < 0)
		return refuse(done, done->domain, SD_SOCKET_KERNEL);
	return 0;
}

static int64_t as_caller(struct sd_errand *errand, const int *fds, struct hold *hold,
			 struct sd_errand_done *done)
{
	int64_t result = 0;
	if (done->domain == AF_UNIX && errand->control_length)
		result = take_control(errand, fds, hold, done);
	if (!result) {
		result = become(errand, fds[1], fds[2], &hold->caller);
		if (result)
			refuse(done, 0, result == -ESRCH ? SD_SOCKET_GONE : SD_SOCKET_RIGHTS);
		else
			result = call(errand, hold, errand->with_path ? fds[3] : -1, done);
	}
	come_back();
	return result;
}

void sd_porter_call(struct sd_errand *errand, size_t size, const int *fds, size_t count,
		struct sd_errand_done *done)
{
	struct hold hold = {.sock = -1};
	memset(done, 0, sizeof *done);
	if (!is_whole(errand, size, count)) {
		done->result = refuse(done, -EINVAL, SD_SOCKET_RIGHTS);
		return;
	}
	int64_t result = fetch_socket(errand, fds, &hold, done);
	if (!result && errand->op != SD_SOCKET_LOOK)
		result = fits(errand, hold.sock, done);
	if (!result && errand->flags & SD_SOCKET_AS_CALLER)
		result = as_caller(errand, fds, &hold, done);
	else if (!result && done->domain != AF_INET && done->domain != AF_INET6 &&
		 errand->op != SD_SOCKET_LOOK)
		/* an address of another family, which is no path: the kernel would have said so */
		result = refuse(done, done->domain == AF_UNIX ? -EINVAL : -EAFNOSUPPORT,
				SD_SOCKET_KERNEL);
	else if (!result && errand->op != SD_SOCKET_LOOK)
		result = call(errand, &hold, -1, done);
	if (result == -EINTR)
		done->patient = is_patient(hold.sock);
	let_go(&hold);
	done->result = result;
}
