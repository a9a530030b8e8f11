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

/* ---- porter_ids.c ---- */

/* Once, in the process of porters, before there is a thread. 0 or -errno. */
SD_HIDDEN int sd_porter_setup(void);
/* Reads who the caller is whose /proc/TID `task` is, asks `listener` whether call `id` still waits, and
 * takes on the ids that count (the effective ones, which a peer is shown, and those of the file system)
 * and the capabilities. 0 or -errno; sd_porter_come_back has to follow. */
SD_HIDDEN int sd_porter_become(uint64_t id, int listener, int task, struct sd_caller *caller);
/* May we say over a unix socket who the caller is? The kernel would say our own real uid. 1: we may, from
 * now on; 0: ours is the caller's; or -errno. */
SD_HIDDEN int sd_porter_speak(const struct sd_caller *caller);
/* Nobody's again. A thread that cannot be is of no use to the next caller: its process ends. */
SD_HIDDEN void sd_porter_come_back(void);

/* ---- porter_calls.c ---- */

/* Does an errand of `size` bytes with the `count` descriptors that came with it. */
SD_HIDDEN void sd_porter_call(struct sd_errand *errand, size_t size, const int *fds, size_t count,
			      struct sd_errand_done *done);

/* ---- netlink.c ---- */

/* Whether netlink messages only ask for what is there. */
SD_HIDDEN int sd_netlink_only_asks(int protocol, const char *messages, size_t size);

#endif
