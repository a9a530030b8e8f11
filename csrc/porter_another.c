/* A socket in the place of a caller's: where a rule leads to an address that the caller's own socket
 * cannot be connected to, one of the other domain is made, gets all that was set on the first, is
 * connected, and put at the caller's number. Until it is, the caller's own stays as it was. */
#include "compat.h"
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STACK = 64 * 1024 };

static int option(int sock, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof value;
	return getsockopt(sock, level, name, &value, &size) ? -errno : value;
}

uint64_t sd_socket_cookie(int sock)
{
	uint64_t cookie = 0;
	socklen_t size = sizeof cookie;
	return getsockopt(sock, SOL_SOCKET, SO_COOKIE, &cookie, &size) ? 0 : cookie;
}

int sd_is_v6only(int sock)
{
	return option(sock, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
}

int sd_another_is_needed(int sock, int domain, int family)
{
	/* one of IPv6 takes IPv4 addresses as well, unless it was told not to */
	if (domain == AF_INET6 && family == AF_INET)
		return sd_is_v6only(sock);
	return domain != family;
}

/* ---- what can be replaced ---- */

/* The errno that the kernel has for a connect in that state; 0: nothing has come of the socket yet. */
static int state_of(int sock, int type)
{
	struct sockaddr_storage peer;
	struct tcp_info info = {0};
	socklen_t size = sizeof peer, info_size = sizeof info;
	int waiting = 0;
	char byte;
	if (!getpeername(sock, (struct sockaddr *)&peer, &size))
		return -EISCONN;
	if (option(sock, SOL_SOCKET, SO_ACCEPTCONN) > 0)
		return -EISCONN;
	if (type == SOCK_STREAM && !getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &info_size)) {
		if (info.tcpi_state == TCP_SYN_SENT)
			return -EALREADY;
		return info.tcpi_state == TCP_CLOSE ? 0 : -EISCONN;
	}
	/* what has come in already cannot be put back */
	if (type == SOCK_DGRAM && recv(sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0)
		waiting = 1;
	return waiting ? -EISCONN : 0;
}

/* TCP and UDP are the same over IPv4 and IPv6, and a stream is one over a unix socket, too. */
static int kind_of(int sock, int domain, int family, int *type, int *protocol)
{
	*type = option(sock, SOL_SOCKET, SO_TYPE);
	*protocol = option(sock, SOL_SOCKET, SO_PROTOCOL);
	int is_tcp = *type == SOCK_STREAM && (*protocol == IPPROTO_TCP || domain == AF_UNIX);
	int is_udp = *type == SOCK_DGRAM && *protocol == IPPROTO_UDP;
	if (family == AF_UNIX || domain == AF_UNIX) {
		*protocol = 0;
		return is_tcp ? 0 : -EPROTOTYPE;
	}
	return is_tcp || is_udp ? 0 : -EPROTOTYPE;
}

/* ---- the address that it is bound to ---- */

static int to_inet6(const struct sockaddr_in *from, struct sockaddr_in6 *to)
{
	*to = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = from->sin_port};
	if (from->sin_addr.s_addr == htonl(INADDR_LOOPBACK))
		to->sin6_addr = in6addr_loopback;
	else if (from->sin_addr.s_addr != htonl(INADDR_ANY))
		return -EADDRNOTAVAIL;
	return 0;
}

static int to_inet(const struct sockaddr_in6 *from, struct sockaddr_in *to)
{
	*to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = from->sin6_port};
	if (IN6_IS_ADDR_LOOPBACK(&from->sin6_addr))
		to->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (!IN6_IS_ADDR_UNSPECIFIED(&from->sin6_addr))
		return -EADDRNOTAVAIL;
	return 0;
}

/* Binds the new socket to what is the same in its protocol: any address, or the loopback's. */
static int carry_address(int from, int to, int family)
{
	struct sockaddr_in inet;
	struct sockaddr_in6 inet6;
	int four = family == AF_INET6, only = 1;
	struct sockaddr *theirs = four ? (struct sockaddr *)&inet : (struct sockaddr *)&inet6;
	struct sockaddr *ours = four ? (struct sockaddr *)&inet6 : (struct sockaddr *)&inet;
	socklen_t size = four ? sizeof inet : sizeof inet6;
	if (getsockname(from, theirs, &size))
		return -errno;
	if (four ? !inet.sin_port && inet.sin_addr.s_addr == htonl(INADDR_ANY)
		 : !inet6.sin6_port && IN6_IS_ADDR_UNSPECIFIED(&inet6.sin6_addr))
		return 0;
	int error = four ? to_inet6(&inet, &inet6) : to_inet(&inet6, &inet);
	/* the old one has the port of the other protocol still */
	if (!error && four && setsockopt(to, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only))
		error = -errno;
	size = four ? sizeof inet6 : sizeof inet;
	return error ? error : bind(to, ours, size) ? -errno : 0;
}

/* ---- the network namespace ---- */

/* 1: it is; 0: it is not; -errno: nobody knows. */
static int same_network(int one, int other)
{
	uint64_t here, there;
	socklen_t size = sizeof here;
	if (getsockopt(one, SOL_SOCKET, SO_NETNS_COOKIE, &here, &size) ||
	    getsockopt(other, SOL_SOCKET, SO_NETNS_COOKIE, &there, &size))
		return -errno;
	return here == there;
}

struct making {
	int net_ns, family, type, protocol;
	const struct sd_caller *caller;
	int result;
};

static void *make_there(void *argument)
{
	struct making *making = argument;
	making->result = sd_porter_go_to(making->net_ns, making->caller);
	if (making->result)
		return NULL;
	making->result = socket(making->family, making->type | SOCK_CLOEXEC, making->protocol);
	if (making->result < 0)
		making->result = -errno;
	return NULL;
}

/* There is no way back from another network namespace: a thread goes there, and ends. */
static int in_a_thread(struct making *making)
{
	pthread_attr_t small;
	pthread_t thread;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, STACK);
	int error = pthread_create(&thread, &small, make_there, making);
	pthread_attr_destroy(&small);
	if (error)
		return -error;
	pthread_join(thread, NULL);
	return making->result;
}

int sd_is_our_network(int net_ns)
{
	struct stat theirs, ours;
	return !fstat(net_ns, &theirs) && !stat("/proc/self/ns/net", &ours) &&
	       theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
}

int sd_is_of_our_network(int sock)
{
	int own = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (own < 0)
		return -errno;
	int same = same_network(own, sock);
	close(own);
	return same;
}

/* In the caller's network namespace, if that is its socket's, too: one of elsewhere, which somebody has
 * passed on, is no way to more sockets there. */
static int in_its_network(const struct sd_another *another, struct making *making)
{
	if (another->net_ns < 0)
		return -EPERM;
	int sock;
	if (another->hosted) {
		sock = socket(making->family, making->type | SOCK_CLOEXEC, making->protocol);
		return sock < 0 ? -errno : sock;
	}
	if (sd_is_our_network(another->net_ns)) {
		sock = socket(making->family, making->type | SOCK_CLOEXEC, making->protocol);
		sock = sock < 0 ? -errno : sock;
	} else {
		sock = in_a_thread(making);
	}
	if (sock < 0 || same_network(sock, another->old) > 0)
		return sock;
	close(sock);
	return -EPERM;
}

/* ---- */

static int refuse(int error, int32_t *why, int32_t reason)
{
	*why = reason;
	return error;
}

int sd_another_make(struct sd_another *another, int family, const struct sd_caller *caller,
		    int32_t *why)
{
	int type, protocol, old = another->old;
	int error = kind_of(old, another->domain, family, &type, &protocol);
	if (error)
		return refuse(error, why, SD_SOCKET_KIND);
	error = state_of(old, type);
	if (error)
		return refuse(error, why, SD_SOCKET_KERNEL);
	int flags = fcntl(old, F_GETFL);
	if (flags < 0)
		return refuse(-errno, why, SD_SOCKET_RIGHTS);
	struct making making = {another->net_ns, family, type | (flags & O_NONBLOCK), protocol, caller, 0};
	another->sock = in_its_network(another, &making);
	if (another->sock < 0)
		return refuse(another->sock, why, SD_SOCKET_NETWORK);
	error = sd_options_carry(old, another->sock, another->domain, family);
	/* what it is bound to is an address of its own network */
	if (!error && !another->hosted && another->domain != AF_UNIX && family != AF_UNIX)
		error = carry_address(old, another->sock, family);
	return error ? refuse(error, why, SD_SOCKET_CARRY) : 0;
}

/* Whether a descriptor of the caller's is closed when it executes a program. */
static int closes_on_exec(int task, int number)
{
	char name[32], text[256] = "", *line;
	snprintf(name, sizeof name, "fdinfo/%d", number);
	int fd = openat(task, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -EBADF;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	line = got > 0 ? strstr(text, "flags:") : NULL;
	return line ? !!(strtoul(line + strlen("flags:"), NULL, 8) & O_CLOEXEC) : -EBADF;
}

int sd_another_install(const struct sd_another *another, int listener, uint64_t id, int pidfd,
		       int task, int number)
{
	int there = sd_take_descriptor(pidfd, number);
	int same = there >= 0 && sd_socket_cookie(there) &&
		   sd_socket_cookie(there) == sd_socket_cookie(another->old);
	if (there >= 0)
		close(there);
	int closes = closes_on_exec(task, number);
	if (!same || closes < 0)
		return -EBADF;
	/* That the call waits still, and so whose table it is, is the kernel's to say. */
	struct seccomp_notif_addfd give = {
		.id = id,
		.flags = SECCOMP_ADDFD_FLAG_SETFD,
		.srcfd = (uint32_t)another->sock,
		.newfd = (uint32_t)number,
		.newfd_flags = closes ? O_CLOEXEC : 0,
	};
	while (ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &give) < 0)
		if (errno != EINTR)
			return errno == ENOENT ? -ESRCH : -errno;
	sd_keep_cookie(SD_MADE, sd_socket_cookie(another->sock));
	return 0;
}
