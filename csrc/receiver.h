/* What the files that receive calls share: receiver.c, arguments.c, settled.c, patience.c,
 * listener.c. */
#ifndef SECCOMPD_RECEIVER_H
#define SECCOMPD_RECEIVER_H

#include "shim.h"

#include <linux/seccomp.h>

/* ---- patience.c ---- */

struct sd_patience {
	int timer;  /* as of sd_deadline_timer */
	int armed;  /* it is set, and has not been seen to have gone off */
	int called; /* a call has come since it was set */
	int there;  /* somebody has seen that one is there */
};

/* 1: fd has a call; 0: it has not, for linger_us or up to twice as long, or one of `also` is readable;
 * -ENOTCONN: nobody is left to call */
int sd_wait_for_call(struct sd_patience *patience, int fd, int linger_us, const int *also,
		     size_t also_count);

/* Sets the timer; 0 or -errno */
int sd_patience_arm(struct sd_patience *patience, int linger_us);

/* ---- arguments.c ---- */

/* Whether one of them is a string: then the caller's memory is to be read. */
int sd_has_strings(const struct sd_reads *reads);
/* Cuts the arguments to their types, reads the strings, and writes the key of what was found.
 * `reads` NULL: nothing is known of the call. `unread`: no memory is to be read. */
void sd_take_arguments(struct sd_call *call, const struct sd_reads *reads, const uint64_t *args,
		       int unread);

/* ---- settled.c ---- */

enum { SD_SETTLED = 256 };

struct sd_gift { /* what is opened anew for a caller, where its path surely leads to `path` */
	struct sd_node *node; /* NULL: an opener opens it, of what a maker lends */
	uint32_t by, index;   /* enum sd_opener, and what it knows it by; 0: we open it */
	uint32_t flags;
	size_t length;
	char path[];
};

struct sd_reply {
	int64_t value;
	int32_t error, proceed, refuses;
	struct sd_gift *gift; /* NULL: nothing is given */
	struct sd_socket *errand; /* NULL: nothing is to be done on a socket */
};

struct settled;
struct sd_settled {
	struct settled *at[SD_SETTLED];
	size_t count;
};

const struct sd_reply *sd_settled_find(const struct sd_settled *all, const char *key, size_t length);
/* Takes the gift and the errand over, whatever becomes of them. */
void sd_settled_add(struct sd_settled *all, const char *key, size_t length,
		    const struct sd_reply *reply);
void sd_settled_clear(struct sd_settled *all);

/* ---- receiver.c ---- */

struct sd_receiver {
	int listener;
	int proxy;            /* -1: calls come from the listener itself */
	int outstanding;      /* from a proxy, and not answered */
	uint64_t received_at; /* that one */
	int timer;
	struct sd_patience patience;
	struct sd_watch *watch;
	struct sd_reads *reads;
	size_t count;
	uint64_t deadline_ns;
	int next_slot;
	uint64_t last_id;
	int last_slot;
	struct sd_settled settled;
};

/* ---- answers.c ---- */

/* The caller has gone. A proxy's client waits for an answer all the same. */
void sd_abandon(struct sd_receiver *receiver, uint64_t id, int slot);
/* 1: the call received last is answered, as an equal one was, or `call` has begun; 0: none was settled, or
 * that takes more than a look. `others_wait`, and not for a call of this listener: nobody is waited for long */
int sd_answer_again(struct sd_receiver *receiver, struct sd_call *call, int others_wait);

/* ---- errands.c ---- */

enum sd_errand_end {
	SD_ERRAND_NOT = 0, /* nothing has come of it: to be done the long way */
	SD_ERRAND_DONE,    /* it is answered, or about to be */
	SD_ERRAND_BEGUN,   /* it takes longer; the porter that makes it is no more that of errands */
};

/* `there` is set where the next call has been seen to wait. */
enum sd_errand_end sd_errand_run(struct sd_socket *call, int others_wait, int *there);

/* ---- listener.c ---- */

/* 0 or -errno */
int sd_send_answer(int listener, struct seccomp_notif_resp *answer);

#endif
