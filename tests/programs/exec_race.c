/* Another thread's execve puts a set-user-id program in the place of a caller that waits.
 *
 * exec_race PROGRAM SECONDS PROCESSES mknod DIRECTORY
 * exec_race PROGRAM SECONDS PROCESSES exchange OLD NEW
 * exec_race PROGRAM SECONDS PROCESSES mount IMAGE DIRECTORY
 *
 * Each try is a process of its own. Its leader makes a node in DIRECTORY, exchanges OLD and NEW, or
 * mounts the ext4 of IMAGE on DIRECTORY;
 * another thread executes PROGRAM some 0 to 400 us later: this program itself, owned by root and
 * set-user-id, which then stays for a moment (as "exec_race stay"). The caller of a call that has
 * been received is gone then, and somebody more powerful goes by its thread id.
 * Prints "done TRIES GRANTED REFUSED CUT": CUT are calls that never came back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_US = 400, STAY_NS = 4000000, MOST_PROCESSES = 64 };

static struct counts {
	atomic_long tries, granted, refused, cut;
} *counts;

struct caller {
	const char *program;
	int delay_us;
	atomic_int go;
};

static long now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void *executes(void *data)
{
	struct caller *caller = data;
	while (!caller->go)
		;
	for (long end = now_us() + caller->delay_us; now_us() < end;)
		;
	execl(caller->program, caller->program, "stay", NULL);
	_exit(99);
}

static void call(const struct caller *what, char **argv, const char *name, atomic_int *result)
{
	struct caller caller = *what;
	pthread_t thread;
	if (pthread_create(&thread, NULL, executes, &caller))
		_exit(98);
	caller.go = 1;
	long error;
	if (!strcmp(argv[4], "mknod"))
		error = syscall(SYS_mknod, name, S_IFCHR | 0666, makedev(1, 3));
	else if (!strcmp(argv[4], "mount"))
		error = syscall(SYS_mount, argv[5], argv[6], "ext4", 0, NULL);
	else
		error = syscall(SYS_renameat2, -100, argv[5], -100, argv[6], 2);
	*result = error ? errno : -1;
	for (;;)
		pause();
}

static void tries(char **argv, int me, long end)
{
	atomic_int *result = mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int seed = (unsigned int)getpid();
	for (int i = 0; now_us() < end; i++) {
		struct caller caller = {.program = argv[1], .delay_us = rand_r(&seed) % LONGEST_US};
		char name[4200];
		snprintf(name, sizeof name, "%s/n%d-%d", argv[5], me, i);
		*result = 0;
		int status;
		pid_t child = fork();
		if (!child)
			call(&caller, argv, name, result);
		if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) ||
		    WEXITSTATUS(status) != 42)
			_exit(1);
		counts->tries++;
		atomic_fetch_add(!*result ? &counts->cut
				 : *result < 0 ? &counts->granted : &counts->refused, 1);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc == 2) {
		struct timespec moment = {0, STAY_NS};
		if (geteuid())
			return 97;
		nanosleep(&moment, NULL);
		return 42;
	}
	if (argc < 6 || (strcmp(argv[4], "mknod") && argc < 7) || !geteuid())
		return 2;
	counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long end = now_us() + (long)(atof(argv[2]) * 1e6);
	int processes = atoi(argv[3]), bad = 0;
	if (processes > MOST_PROCESSES)
		return 2;
	for (int i = 0; i < processes; i++)
		if (!fork())
			tries(argv, i, end);
	for (int i = 0; i < processes; i++) {
		int status;
		wait(&status);
		bad |= status;
	}
	printf("done %ld %ld %ld %ld\n", counts->tries, counts->granted, counts->refused, counts->cut);
	return bad ? 1 : 0;
}
