/* What the files of the session's side of path work share. */
#ifndef SECCOMPD_WORK_H
#define SECCOMPD_WORK_H

#include "paths.h"

/* What a work waits for. GUESSING and DECIDING wait for the policy, QUEUED for a maker, LATER for a
 * resolver; HOMING and CLOSED make a node that cannot be opened. */
enum sd_stage {
	IDLE, RESOLVING, DECIDING, QUEUED, LATER, GUESSING, DIRECT, MAKING, PLACING, PRIVATE, HOMING, CLOSED,
	ATTACHING, UNDOING, LAST,
};

/* 1, 0 after `linger_us`, or -errno */
SD_HIDDEN int sd_readable(int fd, int linger_us);
SD_HIDDEN void sd_drop(int *fd);
SD_HIDDEN int sd_done(struct sd_work *work, int error, uint32_t outcome);
/* With `more` (the parent first) the question is about the name in it, else about the paths. */
SD_HIDDEN int sd_ask_resolver(struct sd_work *work, uint32_t op, enum sd_stage stage,
			      const int *more, size_t count);
SD_HIDDEN int sd_ask_maker(struct sd_work *work, uint32_t op);
/* The size of a message, 0 where only its descriptor has come yet, or -EPIPE. */
SD_HIDDEN int sd_hear(struct sd_work *work, void *message, size_t size, size_t least, int *fd);
/* Whether a change cannot concern a node of ours, as far as that can be told without waiting. */
SD_HIDDEN int sd_plainly_foreign(const struct sd_work *work);
/* -errno: this call has to go the long way */
SD_HIDDEN int sd_go_direct(struct sd_work *work);

/* ---- opening.c ---- */

/* A resolver's answer, and the descriptor that came ahead of it, in `*fd` (-1 at the start). 1: it is there;
 * 0: not within `linger_us`; -EPIPE: the resolver has gone. */
SD_HIDDEN int sd_hear_told(int resolver, struct sd_told *told, int *fd, int linger_us);

/* ---- local.c ---- */

/* The devices of what the host has mounted, of kinds that answer by themselves. */
SD_HIDDEN size_t sd_host_devices(const uint64_t **list);
SD_HIDDEN int sd_is_on_host(uint64_t device);

#endif
