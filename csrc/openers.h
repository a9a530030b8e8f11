/* What a session and its openers say to each other: see openers.c. */
#ifndef SECCOMPD_OPENERS_H
#define SECCOMPD_OPENERS_H

#include "desks.h"

/* Over the socket, or at the desk. With it comes a listener, which is for the next ones, too, or none: then
 * what was opened is sent back, as what a maker lends. */
struct sd_open_order {
	uint32_t cpu;   /* the asker's, see sd_follow */
	uint32_t index; /* in the ceiling */
	uint32_t flags; /* O_*, O_CLOEXEC too */
	uint32_t brings; /* enum sd_brings: what comes with it, in this order */
	uint64_t id;    /* the call that is to be answered */
};

enum sd_brings {
	SD_BRINGS_LISTENER = 1,
	SD_BRINGS_NODE = 2, /* the host's node that has this index from now on, where there are no makers */
};

struct sd_opener_desk {
	struct sd_desk desk;
	struct sd_open_order order;
};

/* ---- openers.c: the maker's ---- */

enum { SD_OPENER_FDS = 3 }; /* its socket, a memfd with its desk, and of SD_OPENER_NET a network namespace */

/* Forks one: 0, or -errno. `userns`: of the target; -1: none. */
SD_HIDDEN int sd_opener_start(const struct sd_make *make, const int *fds, int userns,
			      uint64_t permitted);
/* The life of one that a session has forked. */
SD_HIDDEN _Noreturn void sd_opener_live(void);

/* What it is told first, by a session that has no makers, with its desk and a network namespace or none. */
struct sd_opener_birth {
	uint32_t kind; /* enum sd_opener */
};

/* ---- lend.c ---- */

/* Opens the `index`th thing of the ceiling with the rights that we have: a descriptor or -errno. */
SD_HIDDEN int sd_lend_open(uint64_t index, int flags);
/* Closes all descriptors but 0 and those of the directories. */
SD_HIDDEN void sd_lend_keep_alone(void);
/* Whether that is a file or a directory, and no device. */
SD_HIDDEN int sd_lend_is_file(uint64_t index);

/* ---- plain.c: the session's ---- */

/* As sd_open_is_plain, and the caller's root directory is held then until sd_open_leave, for the next look.
 * sd_open_stay leaves it where that could be in anybody's way. */
SD_HIDDEN int sd_open_look(const struct sd_waiting *call, uint32_t tid, const char *path, size_t length);
SD_HIDDEN void sd_open_stay(void);
SD_HIDDEN void sd_open_leave(void);
SD_HIDDEN int sd_open_stays(void); /* whether it is held still */

/* ---- opener_calls.c: the same ---- */

/* Has the opener of `gift` open it and give it to the caller of `call`. */
SD_HIDDEN enum sd_errand_end sd_opener_run(const struct sd_gift *gift, const struct sd_waiting *call,
					   int others_wait, int *there);
/* A listener may have come to have the number of one that was closed. */
SD_HIDDEN void sd_openers_forget_listeners(void);

#endif
