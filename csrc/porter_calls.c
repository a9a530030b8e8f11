/* The calls of porters: fetches a caller's socket, becomes the caller where that counts, and calls. */
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Where an address is a path, it was followed as the caller would have: what it led to is open, and
 * reached through that. */
static socklen_t by_descriptor(struct sockaddr_un *address, int path)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	int length = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d", path);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
}

static void let_go(struct sd_hold *hold)
{
	if (hold->sock >= 0)
		close(hold->sock);
	if (hold->another.sock >= 0)
		close(hold->another.sock);
	if (hold->another.net_ns >= 0)
		close(hold->another.net_ns);
	for (size_t i = 0; i < hold->right_count; i++)
		close(hold->rights[i]);
}

static int is_patient(int sock, uint32_t op)
{
	struct timeval timeout = {0};
	socklen_t size = sizeof timeout;
	int name = op == SD_SOCKET_ACCEPT ? SO_RCVTIMEO : SO_SNDTIMEO;
	return !getsockopt(sock, SOL_SOCKET, name, &timeout, &size) && !timeout.tv_sec &&
	       !timeout.tv_usec;
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

/* Sets what a rule sets. The rule may do what its caller could not, so it is not the caller's rights that
 * count; the values are the rule's. */
static int set_options(const struct sd_errand *errand, int sock, const struct sd_hold *hold,
		       struct sd_errand_done *done)
{
	if (!errand->set_count)
		return 0;
	/* over the host's network nobody has more rights than everybody */
	int error = done->hosted ? 0 : sd_porter_raise();
	if (!error)
		error = sd_options_set(sock, errand->set, errand->set_count);
	int lowered = sd_porter_lower(errand->flags & SD_SOCKET_AS_CALLER ? &hold->caller : NULL);
	if (error || lowered)
		done->why = SD_SOCKET_SET;
	return error ? error : lowered;
}

static int64_t call(struct sd_errand *errand, struct sd_hold *hold, int path, struct sd_errand_done *done)
{
	struct sockaddr_un by_path;
	int sock = hold->sock;
	int family = done->domain;
	if (sd_another_is_needed(sock, done->domain, sd_family_of(errand)))
		family = sd_family_of(errand);
	if (done->replaced) {
		int made = sd_another_make(&hold->another, family, &hold->caller, &done->why);
		if (made)
			return made;
		sock = hold->another.sock;
	}
	if (errand->flags & SD_SOCKET_REDIRECTED && family == AF_INET6)
		map_address(errand);
	int error = set_options(errand, sock, hold, done);
	if (error)
		return error;
	if (errand->op == SD_SOCKET_LISTEN)
		return sd_listen(sock, errand->call_flags, done);
	void *address = errand->address;
	socklen_t length = (socklen_t)errand->address_length;
	if (path >= 0) {
		length = by_descriptor(&by_path, path);
		address = &by_path;
	}
	if (errand->op == SD_SOCKET_CONNECT)
		return sd_connect(errand, sock, address, length);
	if (errand->op == SD_SOCKET_BIND)
		return bind(sock, address, length) ? -errno : 0;
	struct iovec data = {hold->more + errand->control_length, (size_t)errand->payload_length};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	if (!(errand->flags & SD_SOCKET_NO_ADDRESS)) {
		message.msg_name = address;
		message.msg_namelen = length;
	}
	if (done->domain == AF_UNIX)
		return sd_send_unix(errand, &message, hold, done);
	if (errand->control_length && done->domain != AF_NETLINK) {
		message.msg_control = hold->more;
		message.msg_controllen = (size_t)errand->control_length;
	}
	ssize_t sent = sendmsg(sock, &message, errand->call_flags | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}

/* Whether the message is one: its sender is ours, but what does not fit must not be read. */
static int is_whole(const struct sd_errand *errand, size_t size, size_t fds)
{
	size_t needed = 2 + (errand->flags & SD_SOCKET_AS_CALLER ? 1 : 0) + (errand->with_path ? 1 : 0) +
			(errand->flags & SD_SOCKET_WATCHED ? 1 : 0);
	return size >= sizeof *errand && fds == needed &&
	       errand->op >= SD_SOCKET_CONNECT && errand->op <= SD_SOCKET_GET_OPTION &&
	       (errand->op < SD_SOCKET_ACCEPT || errand->flags & SD_SOCKET_AS_CALLER) &&
	       errand->set_count <= SD_MOST_SET && errand->control_length >= 0 && errand->control_length <= SD_CONTROL_MAX &&
	       errand->payload_length >= 0 && errand->payload_length <= SD_PAYLOAD_MAX &&
	       errand->address_length >= 0 && errand->address_length <= SD_ADDRESS_MAX &&
	       size == sizeof *errand + (size_t)errand->control_length +
			       (size_t)errand->payload_length;
}

/* Fetches the socket. From here on it is that very one that is looked at and called on, whatever the
 * caller puts in its place. */
static int64_t fetch_socket(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
			    struct sd_errand_done *done)
{
	int sock = sd_take_descriptor(fds[0], errand->number);
	hold->sock = sock;
	/* the pidfd is of whoever has that number: the caller, if it still waits */
	if (sd_id_valid(fds[1], errand->id) || sock == -ESRCH)
		return sd_refuse_errand(done, -ESRCH, SD_SOCKET_GONE);
	if (sock < 0)
		return sd_refuse_errand(done, sock, sock == -EBADF ? SD_SOCKET_KERNEL : SD_SOCKET_RIGHTS);
	int64_t error = errand->op == SD_SOCKET_ACCEPT ? sd_accept_begins(errand, sock, fds[2]) : 0;
	if (error)
		return sd_refuse_errand(done, error, SD_SOCKET_KERNEL);
	done->domain = sd_socket_option(sock, SO_DOMAIN);
	if (done->domain < 0)
		return sd_refuse_errand(done, done->domain, SD_SOCKET_KERNEL);
	if (!errand->kept) /* else nobody asks for it, nor for what TCP says */
		done->cookie = sd_socket_cookie(sock);
	return 0;
}

/* The new socket takes the old one's place once it is connected, or about to be: until then the caller may
 * try another address on its own. A unix socket is connected, or it is not. */
static int64_t replace(const struct sd_errand *errand, const int *fds, const struct sd_hold *hold,
		       int64_t result, struct sd_errand_done *done)
{
	int begun = sd_family_of(errand) != AF_UNIX && !done->why &&
		    (result == -EINPROGRESS || result == -EINTR);
	if (result < 0 && !begun)
		return result;
	int error = sd_another_install(&hold->another, fds[1], errand->id, fds[0], fds[2], errand->number);
	if (error)
		return sd_refuse_errand(done, error, error == -ESRCH ? SD_SOCKET_GONE : SD_SOCKET_PLACE);
	done->cookie = sd_socket_cookie(hold->another.sock);
	return result;
}

static int64_t as_caller(struct sd_errand *errand, const int *fds, struct sd_hold *hold,
			 struct sd_errand_done *done)
{
	int64_t result = 0;
	/* before it is asked whether the caller still waits; used only after that */
	if (done->replaced && hold->another.net_ns < 0)
		hold->another.net_ns = openat(fds[2], "ns/net", O_RDONLY | O_CLOEXEC);
	if (done->domain == AF_UNIX && errand->control_length)
		result = sd_take_control(errand, fds, hold, done);
	if (!result) {
		result = sd_porter_become(errand->id, fds[1], fds[2], &hold->caller);
		if (result)
			sd_refuse_errand(done, 0, result == -ESRCH ? SD_SOCKET_GONE : SD_SOCKET_RIGHTS);
		else if (done->hosted)
			hold->caller.caps = 0; /* which mean nothing there, or too much */
		if (!result && done->hosted)
			result = sd_porter_lower(&hold->caller);
		if (!result)
			result = call(errand, hold, errand->with_path ? fds[3] : -1, done);
	}
	sd_porter_come_back();
	return done->replaced ? replace(errand, fds, hold, result, done) : result;
}

static int tell_names(int sock, struct sd_errand_done *done)
{
	socklen_t own = sizeof done->peer, other = SD_ADDRESS_MAX;
	if (getsockname(sock, (struct sockaddr *)done->peer, &own))
		return -errno;
	done->peer_length = own > sizeof done->peer ? (int32_t)sizeof done->peer : (int32_t)own;
	if (!getpeername(sock, (struct sockaddr *)done->value, &other))
		done->value_length = other > SD_ADDRESS_MAX ? SD_ADDRESS_MAX : (int32_t)other;
	return 0;
}

/* Does what the errand is about on the socket that was fetched. */
static int64_t act(struct sd_errand *errand, const int *fds, struct sd_hold *hold,
		   struct sd_errand_done *done)
{
	struct sockaddr_storage peer;
	socklen_t size = sizeof peer;
	if (errand->op == SD_SOCKET_LOOK) { /* as nobody, whoever it is for */
		done->type = sd_socket_option(hold->sock, SO_TYPE);
		return set_options(errand, hold->sock, hold, done);
	}
	if (errand->op == SD_SOCKET_PEER)
		return getpeername(hold->sock, (struct sockaddr *)&peer, &size) ? -errno : 0;
	if (errand->op == SD_SOCKET_NAME)
		return tell_names(hold->sock, done);
	if (errand->op == SD_SOCKET_ACCEPT)
		return done->domain != AF_INET && done->domain != AF_INET6 && done->domain != AF_UNIX
			       ? sd_refuse_errand(done, -EOPNOTSUPP, SD_SOCKET_DOMAIN)
			       : sd_accept(errand, fds, hold, done);
	if (errand->op == SD_SOCKET_SET_OPTION || errand->op == SD_SOCKET_GET_OPTION)
		return sd_call_option(errand, fds, hold, done);
	int task = errand->flags & SD_SOCKET_AS_CALLER ? fds[2] : -1;
	int64_t error = sd_which_network(errand, task, hold, done);
	if (!error && errand->op != SD_SOCKET_LISTEN)
		error = sd_socket_fits(errand, hold, done);
	if (error)
		return error;
	if (errand->flags & SD_SOCKET_AS_CALLER)
		return as_caller(errand, fds, hold, done);
	if (done->domain != AF_INET && done->domain != AF_INET6)
		/* an address of another family, which is no path: the kernel would have said so */
		return sd_refuse_errand(done, -EINVAL, SD_SOCKET_KERNEL);
	return call(errand, hold, -1, done);
}

int sd_porter_call(struct sd_parcel *parcel, size_t size, const int *fds, size_t count,
		   struct sd_desk *desk, struct sd_errand_done *done)
{
	struct sd_errand *errand = &parcel->errand;
	struct sd_hold hold = {
		.sock = -1, .more = parcel->more, .another = {.sock = -1, .net_ns = -1},
	};
	memset(done, 0, sizeof *done);
	done->taken = -1;
	if (!is_whole(errand, size, count)) {
		done->result = sd_refuse_errand(done, -EINVAL, SD_SOCKET_RIGHTS);
		return sd_desk_answer(desk, errand->id, -1, done);
	}
	int64_t result = fetch_socket(errand, fds, &hold, done);
	if (!result)
		result = act(errand, fds, &hold, done);
	int sock = done->replaced ? hold.another.sock : hold.sock;
	/* what is near is connected before a connect that does not block has come back */
	if (errand->op == SD_SOCKET_CONNECT && (!result || result == -EINPROGRESS) && !errand->kept)
		sd_tell_tcp(sock, done);
	if (errand->op == SD_SOCKET_BIND && !result && done->hosted)
		sd_keep_cookie(SD_BOUND, done->cookie);
	if (errand->flags & SD_SOCKET_WATCHED && !done->why) /* its set comes last */
		sd_watch(fds[count - 1], sock, errand->mark, result);
	if (result == -EINTR)
		done->patient = is_patient(hold.sock, errand->op);
	done->result = result;
	let_go(&hold); /* before the answer: once its caller closes the socket, nobody has it open */
	return sd_desk_answer(desk, errand->id, fds[1], done);
}
