/* What a session shares with whoever carries settled calls out for it, beside their socket: a word in
 * memory, by which the one that has answered a call gets the next, for a message takes longer. Porters do
 * so for connects (errands.c), openers for opens (opener_calls.c). */
#ifndef SECCOMPD_DESKS_H
#define SECCOMPD_DESKS_H

#include "paths.h"
#include "receiver.h"

struct sd_desk { /* what is asked for lies behind it */
	_Alignas(64) uint32_t state; /* enum sd_desk_state; who works there sleeps on it */
	uint32_t tid;  /* of who works there */
	uint32_t cpu;  /* where that runs, and nowhere else; + 1: 0 is anywhere */
	uint32_t told; /* the next one lies there; who takes it sets this back */
};

enum sd_desk_state { /* who answers the call that is carried out */
	SD_DESK_SESSIONS = 0, /* the session, once it has been told the result */
	SD_DESK_PORTERS,      /* who carries it out, if it still is so when there is a result */
	SD_DESK_ANSWERED,     /* that one has, or does so now; the session is told nothing */
	SD_DESK_ASLEEP,       /* the same, and has to be woken for the next one */
};

/* ---- desks.c ---- */

/* Has who works there run on a processor alone, by itself or before it is woken: who is woken on another
 * one, and finds there that it is to come to this, has been woken twice. */
SD_HIDDEN void sd_desk_bind(struct sd_desk *desk, uint32_t cpu);
/* Whether something lies at the desk, for one who has answered the last call: sleeps until the session
 * wants something again. */
SD_HIDDEN int sd_desk_wait(struct sd_desk *desk);
/* By the session, which wakes who sleeps there. */
SD_HIDDEN void sd_desk_set(struct sd_desk *desk, uint32_t state);

static inline int sd_desk_is_answered(const struct sd_desk *desk)
{
	return __atomic_load_n(&desk->state, __ATOMIC_ACQUIRE) >= SD_DESK_ANSWERED;
}

/* Whether it was so, and is changed now. */
static inline int sd_desk_change(struct sd_desk *desk, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&desk->state, &from, to, 0, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}

/* By the session: what lies there now is to be carried out, and answered. */
static inline void sd_desk_tell(struct sd_desk *desk)
{
	__atomic_store_n(&desk->told, 1, __ATOMIC_RELEASE);
	sd_desk_set(desk, SD_DESK_PORTERS);
}

/* ---- runners.c: the session's side ---- */

struct sd_asked { /* a call that somebody is asked for */
	uint64_t id;
	int listener, on_error;
};

struct sd_runner { /* who carries calls out and answers them */
	int sock;              /* -1: there is none */
	struct sd_desk *desk;
	int at_desk;           /* it has answered the last one, and waits for the next there */
	struct sd_asked last;  /* that one: who answers says so before it does. id 0: none */
};

/* Another one from now on; -1: none. The one before goes back to its socket. */
SD_HIDDEN void sd_runner_by(struct sd_runner *runner, int sock, struct sd_desk *desk);
/* Whether one can be asked. */
SD_HIDDEN int sd_runner_is_there(const struct sd_runner *runner);
/* Waits for what becomes of the call that was asked for: `error` of that, 0 or -errno. Nobody is waited for
 * long, `others_wait` for even less; `there` is set where the next call has been seen to wait. */
SD_HIDDEN enum sd_errand_end sd_runner_wait(struct sd_runner *runner, int error,
					    const struct sd_asked *asked, int others_wait, int *there);

#endif
