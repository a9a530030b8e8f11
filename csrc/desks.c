/* The word in memory that a session shares with who carries settled calls out. */
#include "desks.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

void sd_desk_bind(struct sd_desk *desk, uint32_t cpu)
{
	cpu_set_t only;
	if (cpu >= CPU_SETSIZE || desk->cpu == cpu + 1)
		return;
	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	if (!sched_setaffinity((pid_t)desk->tid, sizeof only, &only))
		desk->cpu = cpu + 1;
}

void sd_desk_set(struct sd_desk *desk, uint32_t state)
{
	uint32_t before = __atomic_exchange_n(&desk->state, state, __ATOMIC_ACQ_REL);
	if (before == SD_DESK_ASLEEP)
		syscall(SYS_futex, &desk->state, FUTEX_WAKE, 1, NULL, NULL, 0);
}

int sd_desk_wait(struct sd_desk *desk)
{
	while (sd_desk_is_answered(desk)) {
		sd_desk_change(desk, SD_DESK_ANSWERED, SD_DESK_ASLEEP);
		syscall(SYS_futex, &desk->state, FUTEX_WAIT, SD_DESK_ASLEEP, NULL, NULL, 0);
	}
	/* whoever answers: a session that has given up waiting has the result told */
	return __atomic_exchange_n(&desk->told, 0, __ATOMIC_ACQUIRE) != 0;
}
