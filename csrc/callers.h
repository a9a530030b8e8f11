/* What is kept open of those who called lately: see callers.c. */
#ifndef SECCOMPD_CALLERS_H
#define SECCOMPD_CALLERS_H

#include "paths.h"

struct sd_known {
	uint32_t tid;
	int task, status;
	int comm, pidfd, cgroup; /* 0: not open yet */
	int has_our_groups; /* and cannot have others, see compare */
	int32_t own_tid;  /* which belongs to the thread as its descriptors do; 0: not known */
	uint64_t used;
};

/* What `look` makes of a thread, 0 or -errno; through descriptors that are open already, if they are still its. */
SD_HIDDEN int sd_with_known(uint32_t tid, int (*look)(struct sd_known *, void *, const void *),
			    void *result, const void *more);

#endif
