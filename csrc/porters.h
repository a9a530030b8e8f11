/* What a session and its porters say to each other: one question and one answer at a time on each
 * porter's own socket. */
#ifndef SECCOMPD_PORTERS_H
#define SECCOMPD_PORTERS_H

#include "paths.h"

enum { SD_PORTER_FDS = 4, SD_RIGHTS_MAX = 240 };

struct sd_errand { /* [pidfd, listener], and where they come along: task, path */
	uint32_t op, cpu, flags;
	int32_t number, call_flags, address_length;
	int32_t control_length, payload_length;
	uint32_t with_path, reserved;
	uint64_t id;
	char address[SD_ADDRESS_MAX];
	char more[SD_CONTROL_MAX + SD_PAYLOAD_MAX]; /* control messages, then the data */
};

struct sd_errand_done {
	int64_t result;
	int32_t why, domain, type, patient;
};

enum sd_porters_op { SD_PORTER_NEW = 1, SD_PORTER_KICK };

struct sd_porters_order {
	uint32_t op, number;
};

/* ---- porter_calls.c ---- */

/* Once, in the process of porters, before there is a thread. 0 or -errno. */
SD_HIDDEN int sd_porter_setup(void);
/* Does an errand of `size` bytes with the `count` descriptors that came with it. */
SD_HIDDEN void sd_porter_call(struct sd_errand *errand, size_t size, const int *fds, size_t count,
			      struct sd_errand_done *done);

/* ---- netlink.c ---- */

/* Whether netlink messages only ask for what is there. */
SD_HIDDEN int sd_netlink_only_asks(int protocol, const char *messages, size_t size);

#endif
