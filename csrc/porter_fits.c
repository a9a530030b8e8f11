/* Whether a call is one that can be made for somebody else: its socket takes the address for what was
 * decided on, and the kernel would have taken it to be what it says. */
#include "porters.h"

#include <errno.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int sd_socket_option(int sock, int name)
{
	int value;
	socklen_t size = sizeof value;
	return getsockopt(sock, SOL_SOCKET, name, &value, &size) ? -errno : value;
}

int64_t sd_refuse_errand(struct sd_errand_done *done, int error, enum sd_socket_why why)
{
	done->why = (int32_t)why;
	return error;
}

int sd_family_of(const struct sd_errand *errand)
{
	sa_family_t family;
	memcpy(&family, errand->address, sizeof family);
	return family;
}

/* Whether a unix socket would follow the address as a path: here, where all paths are the host's. What it
 * leads to comes along where the caller's socket was a unix one when that was asked. */
static int leads_to_a_path(const struct sd_errand *errand)
{
	const size_t start = offsetof(struct sockaddr_un, sun_path);
	if (errand->flags & SD_SOCKET_NO_ADDRESS || errand->with_path ||
	    (size_t)errand->address_length <= start)
		return 0;
	return sd_family_of(errand) == AF_UNIX && errand->address[start];
}

/* What the kernel says to the caller's own address, which nobody asks it about where a rule leads
 * elsewhere. A TCP socket hears nothing of an address that something is sent to, but to open with it. */
static int as_asked(const struct sd_errand *errand, int sock, int domain)
{
	int family = errand->asked_family, is_stream = sd_socket_option(sock, SO_TYPE) == SOCK_STREAM;
	int sends = errand->op == SD_SOCKET_SEND;
	if (errand->flags & SD_SOCKET_UNSPECIFIED)
		return 0; /* that is asked later */
	if (domain != AF_INET && domain != AF_INET6)
		return family == domain ? 0 : -EINVAL;
	if (sends && is_stream && !(errand->call_flags & MSG_FASTOPEN))
		return 0;
	if (domain == AF_INET6 && !is_stream) {
		if (sends && family != AF_INET && family != AF_INET6)
			return -EINVAL;
		if (family == AF_INET)
			return !sd_is_v6only(sock) ? 0 : sends ? -ENETUNREACH : -EAFNOSUPPORT;
	}
	size_t least = domain == AF_INET ? sizeof(struct sockaddr_in)
					 : offsetof(struct sockaddr_in6, sin6_scope_id); /* SIN6_LEN_RFC2133 */
	if ((size_t)errand->asked_length < least)
		return -EINVAL;
	return family == domain ? 0 : -EAFNOSUPPORT;
}

/* Where a rule leads a call to what the caller's own socket cannot be connected to. 0: it is connected in
 * another one's place, or nothing of that is needed; or the errno. */
static int64_t lead_elsewhere(const struct sd_errand *errand, int sock, struct sd_hold *hold,
			      struct sd_errand_done *done)
{
	int is_led = errand->flags & SD_SOCKET_REDIRECTED;
	/* nor is the kernel asked about a path that only a unix socket would have followed */
	int refused = is_led || errand->asked_family == AF_UNIX ? as_asked(errand, sock, done->domain) : 0;
	if (refused && !sd_has_cookie(SD_MADE, done->cookie))
		return sd_refuse_errand(done, refused, SD_SOCKET_KERNEL);
	if (done->replaced) /* by one of another network, whose family may be another one, too */
		return 0;
	if (!is_led || !sd_another_is_needed(sock, done->domain, sd_family_of(errand)))
		return 0;
	/* a socket that sends here and there cannot be one of both protocols */
	if (errand->op != SD_SOCKET_CONNECT || done->domain == AF_NETLINK)
		return sd_refuse_errand(done, -ENETUNREACH, SD_SOCKET_KIND);
	/* the new one is the caller's from the start: who that is has to be known */
	if (!(errand->flags & SD_SOCKET_AS_CALLER))
		return sd_refuse_errand(done, -EINVAL, SD_SOCKET_WHO);
	hold->another.old = sock;
	hold->another.domain = done->domain;
	done->replaced = 1;
	return 0;
}

int64_t sd_socket_fits(struct sd_errand *errand, struct sd_hold *hold, struct sd_errand_done *done)
{
	int sock = hold->sock;
	if (done->domain != AF_INET && done->domain != AF_INET6 && done->domain != AF_UNIX &&
	    done->domain != AF_NETLINK)
		return sd_refuse_errand(done, -EOPNOTSUPP, SD_SOCKET_DOMAIN);
	if (done->domain == AF_UNIX && leads_to_a_path(errand))
		return sd_refuse_errand(done, -EINVAL, SD_SOCKET_OTHER);
	/* raw_bind() takes an address of any family for one of IPv4 */
	if (errand->op == SD_SOCKET_BIND && done->domain == AF_INET && sd_family_of(errand) != AF_INET)
		return sd_refuse_errand(done, errand->asked_length < (int)sizeof(struct sockaddr_in) ? -EINVAL : -EAFNOSUPPORT,
			      SD_SOCKET_KERNEL);
	int64_t error = lead_elsewhere(errand, sock, hold, done);
	if (error)
		return error;
	if (errand->op != SD_SOCKET_SEND && !(errand->flags & SD_SOCKET_UNSPECIFIED))
		return 0;
	int protocol = sd_socket_option(sock, SO_PROTOCOL);
	done->type = sd_socket_option(sock, SO_TYPE);
	/* only IPv4 sockets take AF_UNSPEC for IPv4; UDP ones of IPv6 for none at all */
	if (errand->flags & SD_SOCKET_UNSPECIFIED && done->domain == AF_INET6) {
		if (errand->op != SD_SOCKET_SEND || done->type != SOCK_DGRAM ||
		    (protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE))
			return sd_refuse_errand(done, -EAFNOSUPPORT, SD_SOCKET_KERNEL);
		errand->flags |= SD_SOCKET_NO_ADDRESS;
	}
	if (errand->op != SD_SOCKET_SEND)
		return 0;
	if (errand->flags & SD_SOCKET_CUT && done->type != SOCK_STREAM)
		return sd_refuse_errand(done, -EMSGSIZE, SD_SOCKET_LONG);
	if (done->domain == AF_NETLINK &&
	    !sd_netlink_only_asks(protocol, hold->more + errand->control_length,
				  (size_t)errand->payload_length))
		/* as for everybody in a container, who then knows that nobody audits there */
		return sd_refuse_errand(done, protocol == NETLINK_AUDIT ? -ECONNREFUSED : -EPERM,
			      SD_SOCKET_NETLINK);
	return 0;
}
