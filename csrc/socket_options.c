/* Options of sockets: the one list of those that have a name here; what a rule sets; and what a program
 * has set on its socket, set on the one that takes its place. For that they are read from both, and set
 * where they differ: so nothing is set that was not asked for, and what is not known to a socket of the
 * other domain does not matter where it was never set. */
#include "compat.h"
#include "porters.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 64 };

#ifndef TCP_TX_DELAY
#define TCP_TX_DELAY 37
#endif
#ifndef SO_RCVMARK
#define SO_RCVMARK 75
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#define SO_PEERPIDFD 77
#endif
#ifndef SO_RESERVE_MEM
#define SO_RESERVE_MEM 73
#endif
#ifndef SO_TXREHASH
#define SO_TXREHASH 74
#endif
/* Their headers (<linux/netfilter_ipv4/ip_tables.h> ...) cannot stand beside <netinet/in.h>. */
#define IPT_SO_SET_REPLACE 64
#define IPT_SO_SET_ADD_COUNTERS 65
#define IPT_SO_GET_INFO 64
#define IPT_SO_GET_ENTRIES 65
#define IP6T_SO_SET_REPLACE 64
#define IP6T_SO_SET_ADD_COUNTERS 65
#define IP6T_SO_GET_INFO 64
#define IP6T_SO_GET_ENTRIES 65
#define ARPT_SO_SET_REPLACE 96
#define EBT_SO_SET_ENTRIES 128
#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_CORK
#define UDP_CORK 1
#define UDP_ENCAP 100
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif
#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75
#endif
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif

#define NUMBER(level, name) {#name, level, name, SD_OPTION_NUMBER}
#define TEXT(level, name) {#name, level, name, SD_OPTION_TEXT}
#define PLAIN(level, name) {#name, level, name, SD_OPTION_PLAIN}
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
	PLAIN(SOL_SOCKET, SO_LINGER),
	NUMBER(SOL_SOCKET, SO_RCVLOWAT),
	PLAIN(SOL_SOCKET, SO_RCVTIMEO),
	PLAIN(SOL_SOCKET, SO_SNDTIMEO),
	NUMBER(SOL_SOCKET, SO_TIMESTAMP),
	NUMBER(SOL_SOCKET, SO_TIMESTAMPNS),
	PLAIN(SOL_SOCKET, SO_TIMESTAMPING),
	NUMBER(SOL_SOCKET, SO_MARK),
	NUMBER(SOL_SOCKET, SO_RXQ_OVFL),
	NUMBER(SOL_SOCKET, SO_SELECT_ERR_QUEUE),
	NUMBER(SOL_SOCKET, SO_BUSY_POLL),
	NUMBER(SOL_SOCKET, SO_PREFER_BUSY_POLL),
	NUMBER(SOL_SOCKET, SO_ZEROCOPY),
	PLAIN(SOL_SOCKET, SO_MAX_PACING_RATE),
	NUMBER(SOL_SOCKET, SO_INCOMING_CPU),
	TEXT(SOL_SOCKET, SO_BINDTODEVICE),
	PLAIN(SOL_SOCKET, SO_TXTIME),
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

/* What is only gated. */
static const struct sd_option of_gates[] = {
	/* the same with times beyond 2038, which 64-bit programs can set as well */
	PLAIN(SOL_SOCKET, SO_RCVTIMEO_NEW),
	PLAIN(SOL_SOCKET, SO_SNDTIMEO_NEW),
	PLAIN(SOL_SOCKET, SO_TIMESTAMP_NEW),
	PLAIN(SOL_SOCKET, SO_TIMESTAMPNS_NEW),
	PLAIN(SOL_SOCKET, SO_TIMESTAMPING_NEW),
	{"SO_RCVTIMEO", SOL_SOCKET, SO_RCVTIMEO_NEW, SD_OPTION_PLAIN},
	{"SO_SNDTIMEO", SOL_SOCKET, SO_SNDTIMEO_NEW, SD_OPTION_PLAIN},
	{"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP_NEW, SD_OPTION_PLAIN},
	{"SO_TIMESTAMPNS", SOL_SOCKET, SO_TIMESTAMPNS_NEW, SD_OPTION_PLAIN},
	{"SO_TIMESTAMPING", SOL_SOCKET, SO_TIMESTAMPING_NEW, SD_OPTION_PLAIN},
	PLAIN(SOL_SOCKET, SO_DEBUG),
	PLAIN(SOL_SOCKET, SO_TYPE),
	PLAIN(SOL_SOCKET, SO_ERROR),
	PLAIN(SOL_SOCKET, SO_DOMAIN),
	PLAIN(SOL_SOCKET, SO_PROTOCOL),
	PLAIN(SOL_SOCKET, SO_ACCEPTCONN),
	OTHER(SOL_SOCKET, SO_PEERCRED),
	OTHER(SOL_SOCKET, SO_PEERSEC),
	OTHER(SOL_SOCKET, SO_PEERGROUPS),
	OTHER(SOL_SOCKET, SO_PEERPIDFD),
	PLAIN(SOL_SOCKET, SO_PEERNAME),
	PLAIN(SOL_SOCKET, SO_COOKIE),
	PLAIN(SOL_SOCKET, SO_NETNS_COOKIE),
	PLAIN(SOL_SOCKET, SO_PASSCRED),
	PLAIN(SOL_SOCKET, SO_PASSSEC),
	PLAIN(SOL_SOCKET, SO_PASSPIDFD),
	PLAIN(SOL_SOCKET, SO_PEEK_OFF),
	PLAIN(SOL_SOCKET, SO_SNDLOWAT),
	PLAIN(SOL_SOCKET, SO_SNDBUFFORCE),
	PLAIN(SOL_SOCKET, SO_RCVBUFFORCE),
	PLAIN(SOL_SOCKET, SO_RESERVE_MEM),
	PLAIN(SOL_SOCKET, SO_BUF_LOCK),
	PLAIN(SOL_SOCKET, SO_TXREHASH),
	PLAIN(SOL_SOCKET, SO_RCVMARK),
	PLAIN(SOL_SOCKET, SO_BINDTOIFINDEX),
	OTHER(SOL_SOCKET, SO_ATTACH_FILTER),
	OTHER(SOL_SOCKET, SO_GET_FILTER),
	PLAIN(SOL_SOCKET, SO_DETACH_FILTER),
	PLAIN(SOL_SOCKET, SO_LOCK_FILTER),
	OTHER(SOL_SOCKET, SO_ATTACH_BPF),
	PLAIN(SOL_SOCKET, SO_DETACH_BPF),
	OTHER(SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF),
	OTHER(SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF),
	PLAIN(SOL_SOCKET, SO_DETACH_REUSEPORT_BPF),
	PLAIN(IPPROTO_TCP, TCP_INFO),
	PLAIN(IPPROTO_TCP, TCP_CC_INFO),
	PLAIN(IPPROTO_TCP, TCP_MD5SIG),
	PLAIN(IPPROTO_TCP, TCP_MD5SIG_EXT),
	PLAIN(IPPROTO_TCP, TCP_REPAIR),
	PLAIN(IPPROTO_TCP, TCP_REPAIR_QUEUE),
	PLAIN(IPPROTO_TCP, TCP_REPAIR_OPTIONS),
	PLAIN(IPPROTO_TCP, TCP_REPAIR_WINDOW),
	PLAIN(IPPROTO_TCP, TCP_QUEUE_SEQ),
	PLAIN(IPPROTO_TCP, TCP_TIMESTAMP),
	PLAIN(IPPROTO_TCP, TCP_FASTOPEN),
	PLAIN(IPPROTO_TCP, TCP_FASTOPEN_KEY),
	PLAIN(IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE),
	OTHER(IPPROTO_TCP, TCP_SAVED_SYN),
	PLAIN(IPPROTO_TCP, TCP_ULP),
	OTHER(IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE),
	PLAIN(IPPROTO_IP, IP_OPTIONS),
	PLAIN(IPPROTO_IP, IP_HDRINCL),
	PLAIN(IPPROTO_IP, IP_PKTINFO),
	PLAIN(IPPROTO_IP, IP_RECVERR),
	PLAIN(IPPROTO_IP, IP_FREEBIND),
	PLAIN(IPPROTO_IP, IP_TRANSPARENT),
	PLAIN(IPPROTO_IP, IP_RECVORIGDSTADDR),
	OTHER(IPPROTO_IP, IP_IPSEC_POLICY),
	OTHER(IPPROTO_IP, IP_XFRM_POLICY),
	PLAIN(IPPROTO_IP, IP_MULTICAST_IF),
	PLAIN(IPPROTO_IP, IP_MULTICAST_TTL),
	PLAIN(IPPROTO_IP, IP_MULTICAST_LOOP),
	PLAIN(IPPROTO_IP, IP_ADD_MEMBERSHIP),
	PLAIN(IPPROTO_IP, IP_DROP_MEMBERSHIP),
	PLAIN(IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP),
	PLAIN(IPPROTO_IP, IP_DROP_SOURCE_MEMBERSHIP),
	OTHER(IPPROTO_IP, MCAST_JOIN_GROUP),
	OTHER(IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP),
	PLAIN(IPPROTO_IPV6, IPV6_V6ONLY),
	PLAIN(IPPROTO_IPV6, IPV6_RECVERR),
	PLAIN(IPPROTO_IPV6, IPV6_RECVPKTINFO),
	PLAIN(IPPROTO_IPV6, IPV6_FREEBIND),
	PLAIN(IPPROTO_IPV6, IPV6_TRANSPARENT),
	PLAIN(IPPROTO_IPV6, IPV6_HDRINCL),
	PLAIN(IPPROTO_IPV6, IPV6_CHECKSUM),
	PLAIN(IPPROTO_IPV6, IPV6_RTHDR),
	PLAIN(IPPROTO_IPV6, IPV6_RECVORIGDSTADDR),
	OTHER(IPPROTO_IPV6, IPV6_IPSEC_POLICY),
	OTHER(IPPROTO_IPV6, IPV6_XFRM_POLICY),
	PLAIN(IPPROTO_IPV6, IPV6_ADDRFORM),
	PLAIN(IPPROTO_IPV6, IPV6_MULTICAST_IF),
	PLAIN(IPPROTO_IPV6, IPV6_JOIN_GROUP),
	PLAIN(IPPROTO_IPV6, IPV6_LEAVE_GROUP),
	/* tables of rules: of the same numbers, one for setsockopt and one for getsockopt */
	OTHER(IPPROTO_IP, IPT_SO_SET_REPLACE),
	OTHER(IPPROTO_IP, IPT_SO_SET_ADD_COUNTERS),
	OTHER(IPPROTO_IP, IPT_SO_GET_INFO),
	OTHER(IPPROTO_IP, IPT_SO_GET_ENTRIES),
	OTHER(IPPROTO_IPV6, IP6T_SO_SET_REPLACE),
	OTHER(IPPROTO_IPV6, IP6T_SO_SET_ADD_COUNTERS),
	OTHER(IPPROTO_IPV6, IP6T_SO_GET_INFO),
	OTHER(IPPROTO_IPV6, IP6T_SO_GET_ENTRIES),
	OTHER(IPPROTO_IP, ARPT_SO_SET_REPLACE),
	OTHER(IPPROTO_IP, EBT_SO_SET_ENTRIES),
	PLAIN(SOL_UDP, UDP_CORK),
	PLAIN(SOL_UDP, UDP_ENCAP),
	PLAIN(SOL_UDP, UDP_SEGMENT),
	PLAIN(SOL_UDP, UDP_GRO),
	OTHER(SOL_PACKET, PACKET_ADD_MEMBERSHIP),
	OTHER(SOL_PACKET, PACKET_FANOUT),
	OTHER(SOL_PACKET, PACKET_RX_RING),
	OTHER(SOL_PACKET, PACKET_TX_RING),
	PLAIN(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP),
	PLAIN(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID),
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
	if (at < sizeof of_rules / sizeof *of_rules)
		return &of_rules[at];
	at -= (uint32_t)(sizeof of_rules / sizeof *of_rules);
	return at < sizeof of_gates / sizeof *of_gates ? &of_gates[at] : NULL;
}

/* A number may have two names, one of which is no plain one. */
int sd_option_is_plain(int32_t level, int32_t number)
{
	const struct sd_option *one;
	int plain = 0;
	for (uint32_t at = 0; (one = sd_option_known(at)); at++)
		if (one->level == level && one->number == number) {
			if (one->form == SD_OPTION_OTHER)
				return 0;
			plain = 1;
		}
	return plain;
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
