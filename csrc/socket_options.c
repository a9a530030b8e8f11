/* Options of sockets: the one list of those that have a name here; what a rule sets; and what a program
 * has set on its socket, set on the one that takes its place. For that they are read from both, and set
 * where they differ: so nothing is set that was not asked for, and what is not known to a socket of the
 * other domain does not matter where it was never set. */
#include "compat.h"
#include "porters.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 64 };

#ifndef TCP_TX_DELAY
#define TCP_TX_DELAY 37
#endif
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif

#define NUMBER(level, name) {#name, level, name, SD_OPTION_NUMBER}
#define TEXT(level, name) {#name, level, name, SD_OPTION_TEXT}
#define OTHER(level, name) {#name, level, name, SD_OPTION_OTHER}

/* Not SO_DEBUG, which only says what the kernel prints; nor what is told of a socket, and not set. The
 * times and the linger are structures, the device is a name: all are so many bytes. */
static const struct sd_option of_all[] = {
	NUMBER(SOL_SOCKET, SO_REUSEADDR),
	NUMBER(SOL_SOCKET, SO_REUSEPORT),
	NUMBER(SOL_SOCKET, SO_KEEPALIVE),
	NUMBER(SOL_SOCKET, SO_DONTROUTE),
	NUMBER(SOL_SOCKET, SO_BROADCAST),
	NUMBER(SOL_SOCKET, SO_OOBINLINE),
	NUMBER(SOL_SOCKET, SO_NO_CHECK),
	NUMBER(SOL_SOCKET, SO_PRIORITY),
	OTHER(SOL_SOCKET, SO_LINGER),
	NUMBER(SOL_SOCKET, SO_RCVLOWAT),
	OTHER(SOL_SOCKET, SO_RCVTIMEO),
	OTHER(SOL_SOCKET, SO_SNDTIMEO),
	NUMBER(SOL_SOCKET, SO_TIMESTAMP),
	NUMBER(SOL_SOCKET, SO_TIMESTAMPNS),
	OTHER(SOL_SOCKET, SO_TIMESTAMPING),
	NUMBER(SOL_SOCKET, SO_MARK),
	NUMBER(SOL_SOCKET, SO_RXQ_OVFL),
	NUMBER(SOL_SOCKET, SO_SELECT_ERR_QUEUE),
	NUMBER(SOL_SOCKET, SO_BUSY_POLL),
	NUMBER(SOL_SOCKET, SO_PREFER_BUSY_POLL),
	NUMBER(SOL_SOCKET, SO_ZEROCOPY),
	OTHER(SOL_SOCKET, SO_MAX_PACING_RATE),
	NUMBER(SOL_SOCKET, SO_INCOMING_CPU),
	TEXT(SOL_SOCKET, SO_BINDTODEVICE),
	OTHER(SOL_SOCKET, SO_TXTIME),
	NUMBER(SOL_SOCKET, SO_BUSY_POLL_BUDGET),
};

static const struct sd_option of_tcp[] = {
	NUMBER(IPPROTO_TCP, TCP_NODELAY),
	NUMBER(IPPROTO_TCP, TCP_MAXSEG),
	NUMBER(IPPROTO_TCP, TCP_CORK),
	NUMBER(IPPROTO_TCP, TCP_KEEPIDLE),
	NUMBER(IPPROTO_TCP, TCP_KEEPINTVL),
	NUMBER(IPPROTO_TCP, TCP_KEEPCNT),
	NUMBER(IPPROTO_TCP, TCP_SYNCNT),
	NUMBER(IPPROTO_TCP, TCP_LINGER2),
	NUMBER(IPPROTO_TCP, TCP_WINDOW_CLAMP),
	TEXT(IPPROTO_TCP, TCP_CONGESTION),
	NUMBER(IPPROTO_TCP, TCP_USER_TIMEOUT),
	NUMBER(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS),
	NUMBER(IPPROTO_TCP, TCP_SAVE_SYN),
	NUMBER(IPPROTO_TCP, TCP_NOTSENT_LOWAT),
	NUMBER(IPPROTO_TCP, TCP_INQ),
	NUMBER(IPPROTO_TCP, TCP_TX_DELAY),
	NUMBER(IPPROTO_TCP, TCP_FASTOPEN_CONNECT),
};

/* Carried in other ways, or not at all. */
static const struct sd_option of_rules[] = {
	NUMBER(SOL_SOCKET, SO_SNDBUF),
	NUMBER(SOL_SOCKET, SO_RCVBUF),
	NUMBER(IPPROTO_TCP, TCP_QUICKACK),
	NUMBER(IPPROTO_TCP, TCP_DEFER_ACCEPT),
	NUMBER(IPPROTO_IP, IP_TOS),
	NUMBER(IPPROTO_IP, IP_TTL),
	NUMBER(IPPROTO_IP, IP_MTU_DISCOVER),
	NUMBER(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
	NUMBER(IPPROTO_IPV6, IPV6_TCLASS),
	NUMBER(IPPROTO_IPV6, IPV6_UNICAST_HOPS),
	NUMBER(IPPROTO_IPV6, IPV6_MTU_DISCOVER),
};

/* The same thing by the names of both protocols. */
static const struct {
	int inet, inet6;
} of_both[] = {
	{IP_TOS, IPV6_TCLASS},
	{IP_TTL, IPV6_UNICAST_HOPS},
	{IP_MTU_DISCOVER, IPV6_MTU_DISCOVER},
	{IP_RECVERR, IPV6_RECVERR},
	{IP_FREEBIND, IPV6_FREEBIND},
	{IP_TRANSPARENT, IPV6_TRANSPARENT},
	{IP_PKTINFO, IPV6_RECVPKTINFO},
};

/* One that the old socket does not have, or that nobody set, is none; and what a socket of the other
 * domain does not know means nothing there. */
static int carry(int from, struct sd_option old, int to, struct sd_option new)
{
	char theirs[LONGEST] = "", ours[LONGEST] = "";
	socklen_t size = sizeof theirs, size_now = sizeof ours;
	if (getsockopt(from, old.level, old.number, theirs, &size))
		return 0;
	if (!getsockopt(to, new.level, new.number, ours, &size_now) && size == size_now &&
	    !memcmp(theirs, ours, size))
		return 0;
	if (!setsockopt(to, new.level, new.number, theirs, size))
		return 0;
	return errno == ENOPROTOOPT || errno == EOPNOTSUPP ? 0 : -errno;
}

static int carry_all(int from, int to, const struct sd_option *options, size_t count)
{
	int error = 0;
	for (size_t i = 0; !error && i < count; i++)
		error = carry(from, options[i], to, options[i]);
	return error;
}

/* The kernel doubles what it is told, and says so of both. More than everybody may have is cut to that. */
static int carry_size(int from, int to, int name, int locks, int lock)
{
	int size;
	socklen_t length = sizeof size;
	if (!(locks & lock))
		return 0;
	if (getsockopt(from, SOL_SOCKET, name, &size, &length))
		return -errno;
	size /= 2;
	return setsockopt(to, SOL_SOCKET, name, &size, sizeof size) ? -errno : 0;
}

static int carry_sizes(int from, int to)
{
	int locks = 0;
	socklen_t length = sizeof locks;
	if (getsockopt(from, SOL_SOCKET, SO_BUF_LOCK, &locks, &length))
		return 0;
	int error = carry_size(from, to, SO_SNDBUF, locks, SOCK_SNDBUF_LOCK);
	return error ? error : carry_size(from, to, SO_RCVBUF, locks, SOCK_RCVBUF_LOCK);
}

/* A program of the caller's that looks at what comes in cannot be read back. */
static int is_filtered(int sock)
{
	socklen_t length = 0;
	return getsockopt(sock, SOL_SOCKET, SO_GET_FILTER, NULL, &length) || length;
}

int sd_options_carry(int from, int to, int from_domain, int to_domain)
{
	if (is_filtered(from))
		return -EOPNOTSUPP;
	int error = carry_all(from, to, of_all, sizeof of_all / sizeof *of_all);
	if (!error)
		error = carry_sizes(from, to);
	if (error || from_domain == AF_UNIX || to_domain == AF_UNIX)
		return error;
	error = carry_all(from, to, of_tcp, sizeof of_tcp / sizeof *of_tcp);
	/* of an IPv6 socket it is the option of this level, too */
	const struct sd_option late = NUMBER(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
	if (!error)
		error = carry(from, late, to, late);
	for (size_t i = 0; !error && i < sizeof of_both / sizeof *of_both; i++) {
		const struct sd_option inet = {"", IPPROTO_IP, of_both[i].inet, 0};
		const struct sd_option inet6 = {"", IPPROTO_IPV6, of_both[i].inet6, 0};
		error = carry(from, from_domain == AF_INET ? inet : inet6, to,
			      to_domain == AF_INET ? inet : inet6);
	}
	const struct sd_option only = {"", IPPROTO_IPV6, IPV6_V6ONLY, 0};
	if (!error && from_domain == AF_INET6 && to_domain == AF_INET6)
		error = carry(from, only, to, only);
	return error;
}

const struct sd_option *sd_option_known(uint32_t at)
{
	const size_t all = sizeof of_all / sizeof *of_all, tcp = sizeof of_tcp / sizeof *of_tcp;
	if (at < all)
		return &of_all[at];
	if (at < all + tcp)
		return &of_tcp[at - all];
	at -= (uint32_t)(all + tcp);
	return at < sizeof of_rules / sizeof *of_rules ? &of_rules[at] : NULL;
}

/* Sockets of other protocols than an option's do not have it, and need not. */
static int has(int level, int domain, int protocol)
{
	if (level == IPPROTO_TCP)
		return protocol == IPPROTO_TCP && domain != AF_UNIX;
	if (level == IPPROTO_IP)
		return domain == AF_INET;
	return level != IPPROTO_IPV6 || domain == AF_INET6;
}

int sd_options_set(int sock, const struct sd_set_option *options, uint32_t count)
{
	int domain = 0, protocol = 0;
	socklen_t size = sizeof domain;
	if (getsockopt(sock, SOL_SOCKET, SO_DOMAIN, &domain, &size) ||
	    getsockopt(sock, SOL_SOCKET, SO_PROTOCOL, &protocol, &size))
		return -errno;
	for (uint32_t i = 0; i < count; i++)
		if (has(options[i].level, domain, protocol) &&
		    setsockopt(sock, options[i].level, options[i].number, options[i].value,
			       (socklen_t)options[i].length))
			return -errno;
	return 0;
}
