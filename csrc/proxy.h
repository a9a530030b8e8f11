/* What listener.c and receiver.c need of proxy.c; nothing of it is seen from Python. */
#ifndef SECCOMPD_PROXY_H
#define SECCOMPD_PROXY_H

#include "shim.h"

#include <linux/seccomp.h>

enum { LOWEST_ERRNO = -4095 };

/* The next request, its notification in the watch. Its listener, where one came, takes the place of
 * `listener`. 0: there; -EAGAIN: none; -ENOTCONN: nobody is there, or it is none of the protocol's */
int sd_proxy_receive(int proxy, int listener, struct sd_watch *watch);
/* The one answer to it. 0, or -ENOENT: nobody waits for it any more. */
int sd_proxy_answer(int proxy, struct sd_watch *watch, const struct seccomp_notif_resp *answer,
		    uint64_t received_ns);
uint64_t sd_now_ns(void);

#endif
