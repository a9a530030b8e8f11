/* What a program has set on its socket, set on the one that takes its place. Options are read from both,
 * and set where they differ: so nothing is set that was not asked for, and what is not known to a socket
 * of the other domain does not matter where it was never set. */
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

struct option {
	int level, name;
};

/* Not SO_DEBUG, which only says what the kernel prints; nor what is told of a socket, and not set. The
 * times and the linger are structures, the device is a name: all are so many bytes. */
static const struct option of_all[] = {
	{SOL_SOCKET, SO_REUSEADDR},    {SOL_SOCKET, SO_REUSEPORT},
	{SOL_SOCKET, SO_KEEPALIVE},    {SOL_SOCKET, SO_DONTROUTE},
	{SOL_SOCKET, SO_BROADCAST},    {SOL_SOCKET, SO_OOBINLINE},
	{SOL_SOCKET, SO_NO_CHECK},     {SOL_SOCKET, SO_PRIORITY},
	{SOL_SOCKET, SO_LINGER},       {SOL_SOCKET, SO_RCVLOWAT},
	{SOL_SOCKET, SO_RCVTIMEO},     {SOL_SOCKET, SO_SNDTIMEO},
	{SOL_SOCKET, SO_TIMESTAMP},    {SOL_SOCKET, SO_TIMESTAMPNS},
	{SOL_SOCKET, SO_TIMESTAMPING}, {SOL_SOCKET, SO_MARK},
	{SOL_SOCKET, SO_RXQ_OVFL},     {SOL_SOCKET, SO_SELECT_ERR_QUEUE},
	{SOL_SOCKET, SO_BUSY_POLL},    {SOL_SOCKET, SO_PREFER_BUSY_POLL},
	{SOL_SOCKET, SO_ZEROCOPY},     {SOL_SOCKET, SO_MAX_PACING_RATE},
	{SOL_SOCKET, SO_INCOMING_CPU}, {SOL_SOCKET, SO_BINDTODEVICE},
	{SOL_SOCKET, SO_TXTIME},       {SOL_SOCKET, SO_BUSY_POLL_BUDGET},
};

static const struct option of_tcp[] = {
	{IPPROTO_TCP, TCP_NODELAY},      {IPPROTO_TCP, TCP_MAXSEG},
	{IPPROTO_TCP, TCP_CORK},         {IPPROTO_TCP, TCP_KEEPIDLE},
	{IPPROTO_TCP, TCP_KEEPINTVL},    {IPPROTO_TCP, TCP_KEEPCNT},
	{IPPROTO_TCP, TCP_SYNCNT},       {IPPROTO_TCP, TCP_LINGER2},
	{IPPROTO_TCP, TCP_WINDOW_CLAMP}, {IPPROTO_TCP, TCP_CONGESTION},
	{IPPROTO_TCP, TCP_USER_TIMEOUT}, {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS},
	{IPPROTO_TCP, TCP_SAVE_SYN},     {IPPROTO_TCP, TCP_NOTSENT_LOWAT},
	{IPPROTO_TCP, TCP_INQ},          {IPPROTO_TCP, TCP_TX_DELAY},
	{IPPROTO_TCP, TCP_FASTOPEN_CONNECT},
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
static int carry(int from, struct option old, int to, struct option new)
{
	char theirs[LONGEST] = "", ours[LONGEST] = "";
	socklen_t size = sizeof theirs, size_now = sizeof ours;
	if (getsockopt(from, old.level, old.name, theirs, &size))
		return 0;
	if (!getsockopt(to, new.level, new.name, ours, &size_now) && size == size_now &&
	    !memcmp(theirs, ours, size))
		return 0;
	if (!setsockopt(to, new.level, new.name, theirs, size))
		return 0;
	return errno == ENOPROTOOPT || errno == EOPNOTSUPP ? 0 : -errno;
}

static int carry_all(int from, int to, const struct option *options, size_t count)
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
	const struct option late = {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT};
	if (!error)
		error = carry(from, late, to, late);
	for (size_t i = 0; !error && i < sizeof of_both / sizeof *of_both; i++) {
		const struct option inet = {IPPROTO_IP, of_both[i].inet};
		const struct option inet6 = {IPPROTO_IPV6, of_both[i].inet6};
		error = from_domain == AF_INET ? carry(from, inet, to, inet6)
					       : carry(from, inet6, to, inet);
	}
	return error;
}
