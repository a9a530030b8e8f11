/* What launch.c, init.c and handover.c share; nothing of it is seen from Python. */
#ifndef SECCOMPD_LAUNCH_H
#define SECCOMPD_LAUNCH_H

#include "shim.h"

enum sd_order_kind { SD_ORDER_GO = 1, SD_ORDER_KILL };

struct sd_order { /* from the front to init */
	int32_t kind;
	struct sd_signal signal;
};

/* Init's page with CMD's process, which shares init's descriptor table but not its memory. */
struct sd_handover {
	uint32_t step;      /* enum sd_step: a futex */
	int32_t listener;   /* its number, or -errno */
	int32_t stage;      /* where it failed: enum sd_launch_stage */
	int32_t exec_error; /* errno of execve, once it has failed */
	int32_t privileges; /* 1: no_new_privs had to be set */
	int32_t alone;      /* 1: it has a descriptor table of its own by now */
};

enum sd_step { SD_STEP_FILTER, SD_STEP_LISTENING, SD_STEP_RELEASED, SD_STEP_ALONE };

/* handover.c */
_Noreturn void sd_handover_command(struct sd_handover *page, const struct sd_launch_spec *spec);
int sd_handover_await(struct sd_handover *page, enum sd_step step, pid_t command);
void sd_handover_step(struct sd_handover *page, enum sd_step step);
void sd_signals_for_command(void);
void sd_signals_unblock(void);
void sd_signals_for_init(void);

/* init.c */
_Noreturn void sd_init(const struct sd_launch_spec *spec, int sock);

/* surroundings.c */
int sd_surroundings(const struct sd_launch_spec *spec, int sock);
int sd_report(int sock, int kind, int stage, int value);

#endif
