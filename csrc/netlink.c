/* Netlink messages that may be sent for somebody else.
 *
 * What is asked of the kernel is done by whoever sends it: processes, descriptors and namespaces that a
 * message names would be ours. What only asks names none. */
#include "porters.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <string.h>

static int only_asks(int protocol, int type)
{
	switch (protocol) {
	case NETLINK_ROUTE:
		/* of each four types: new, delete, get, set. This one may name a process. */
		return type >= RTM_BASE && type < RTM_BASE + 4 * RTM_NR_FAMILIES && (type & 3) == 2 &&
		       type != RTM_GETNSID;
	case NETLINK_SOCK_DIAG:
		return type == SOCK_DIAG_BY_FAMILY;
	case NETLINK_GENERIC:
		return type == GENL_ID_CTRL;
	}
	return 0;
}

int sd_netlink_only_asks(int protocol, const char *messages, size_t size)
{
	size_t at = 0;
	while (size - at >= sizeof(struct nlmsghdr)) {
		struct nlmsghdr head;
		memcpy(&head, messages + at, sizeof head);
		if (head.nlmsg_len < sizeof head || !only_asks(protocol, head.nlmsg_type))
			return 0;
		if (NLMSG_ALIGN((size_t)head.nlmsg_len) >= size - at)
			return 1;
		at += NLMSG_ALIGN((size_t)head.nlmsg_len);
	}
	return at > 0;
}
