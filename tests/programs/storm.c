/* Callers under a storm of signals: every call that completes was carried out exactly once.
 *
 * storm DIR CALLS PROCESSES restart|norestart PERIOD_US [kill]
 *
 * Each process makes CALLS nodes DIR/p<process>-<n> while a timer interrupts it all the time.
 * "norestart" repeats a call that came back with EINTR, as a program would. "kill": each process is
 * killed in the middle by its parent, and another one goes on with numbers of its own.
 * Prints "done COMPLETED EEXIST EINTR OTHER KILLED", and on standard error each other failure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

struct counts {
	atomic_long completed, exists, interrupted, other, killed;
};

static struct counts *counts;

static void on_alarm(int number)
{
	(void)number;
}

static void caller(const char *directory, int me, int generation, int calls, int restart, int period)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = restart ? SA_RESTART : 0};
	sigaction(SIGALRM, &action, NULL);
	struct itimerval every = {{0, period}, {0, period}};
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 0; i < calls; i++) {
		char path[4200];
		snprintf(path, sizeof path, "%s/p%d-%d-%d", directory, me, generation, i);
		int result;
		while ((result = mknod(path, S_IFCHR | 0666, makedev(1, 3))) && errno == EINTR)
			counts->interrupted++;
		if (!result)
			counts->completed++;
		else if (errno == EEXIST)
			counts->exists++;
		else {
			counts->other++;
			perror(path);
		}
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	int calls = atoi(argv[2]), processes = atoi(argv[3]), restart = !strcmp(argv[4], "restart");
	int period = atoi(argv[5]), killing = argc > 6;
	counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t children[64];
	/* A busy machine may take longer to start a session than all callers live: here we wait for it. */
	if (!mknod("/none/x", S_IFCHR | 0666, makedev(1, 3)))
		return 1;
	for (int generation = 0; generation <= (killing ? 20 : 0); generation++) {
		for (int i = 0; i < processes; i++)
			if (!(children[i] = fork()))
				caller(argv[1], i, generation, calls, restart, period);
		if (killing) {
			usleep(20000 + 1733 * (useconds_t)generation);
			for (int i = 0; i < processes; i++)
				kill(children[i], SIGKILL);
		}
		for (int i = 0; i < processes; i++) {
			int status;
			waitpid(children[i], &status, 0);
			if (WIFSIGNALED(status))
				counts->killed++;
		}
	}
	printf("done %ld %ld %ld %ld %ld\n", counts->completed, counts->exists, counts->interrupted,
	       counts->other, counts->killed);
	return 0;
}
