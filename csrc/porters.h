/* What a session and its porters say to each other: one question and one answer at a time on each
 * porter's own socket. */
#ifndef SECCOMPD_PORTERS_H
#define SECCOMPD_PORTERS_H

#include "paths.h"

enum { SD_PORTER_FDS = SD_RIGHTS_MAX + 4 };

struct sd_errand { /* [sock], then of those that come along: listener and task, path, rights */
	uint32_t op, cpu, flags;
	int32_t call_flags, address_length;
	uint32_t uid, gid;
	int32_t control_length, payload_length;
	uint32_t right_count, with_path;
	uint32_t reserved;
	uint64_t id;
	char address[SD_ADDRESS_MAX];
	char more[SD_CONTROL_MAX + SD_PAYLOAD_MAX]; /* control messages, then the data */
};

enum sd_porters_op { SD_PORTER_NEW = 1, SD_PORTER_KICK };

struct sd_porters_order {
	uint32_t op, number;
};

#endif
