/* What the files that receive calls share: receiver.c, arguments.c, listener.c. */
#ifndef SECCOMPD_RECEIVER_H
#define SECCOMPD_RECEIVER_H

#include "shim.h"

#include <linux/seccomp.h>

/* ---- arguments.c ---- */

/* Whether one of them is a string: then the caller's memory is to be read. */
int sd_has_strings(const struct sd_reads *reads);
/* Cuts the arguments to their types, reads the strings, and writes the key of what was found.
 * `reads` NULL: nothing is known of the call. `unread`: no memory is to be read. */
void sd_take_arguments(struct sd_call *call, const struct sd_reads *reads, const uint64_t *args,
		       int unread);

/* ---- listener.c ---- */

/* 0 or -errno */
int sd_send_answer(int listener, struct seccomp_notif_resp *answer);

#endif
