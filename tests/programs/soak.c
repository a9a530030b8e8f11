/* A load of everything at once: nodes, renames, links, changes, removals, signals, deaths.
 *
 * soak DIR SECONDS PROCESSES own|shared
 *
 * Each process works in DIR on a few names, its own or such that all of them share, while a timer
 * interrupts it; the parent kills one now and then, and starts another. A node that opens has to be the null device.
 * Prints "done CALLS FAILED KILLED WRONG", FAILED without what is to be expected of names that others
 * use as well (ENOENT, EEXIST), and then each errno of FAILED with the name of the call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NAMES = 12, KINDS = 9, ERRNOS = 200, PERIOD_US = 1500, MOST_PROCESSES = 32 };

static const char *const kinds[KINDS] = {
	"mknod", "mknodat", "open", "rename", "exchange", "link", "chmod", "utimensat", "unlink",
};

static struct shared {
	atomic_long calls, killed, wrong;
	atomic_long failed[KINDS][ERRNOS];
} *shared;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_alarm(int number)
{
	(void)number;
}

static int open_node(const char *name)
{
	int fd = open(name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -1;
	struct stat found;
	/* a name may be a placeholder for a moment; a node is never another one */
	if (fstat(fd, &found) ||
	    (S_ISCHR(found.st_mode) ? found.st_rdev != makedev(1, 3) : !S_ISREG(found.st_mode)))
		shared->wrong++;
	close(fd);
	return 0;
}

static int call(int kind, const char *one, const char *other)
{
	switch (kind) {
	case 0:
		return mknod(one, S_IFCHR | 0666, makedev(1, 3));
	case 1:
		return mknodat(AT_FDCWD, one, S_IFCHR | 0600, makedev(1, 3));
	case 2:
		return open_node(one);
	case 3:
		return rename(one, other);
	case 4:
		return (int)syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2);
	case 5:
		return link(one, other);
	case 6:
		return chmod(one, 0640);
	case 7:
		return utimensat(AT_FDCWD, one, NULL, 0);
	default:
		return unlink(one);
	}
}

static void worker(unsigned int seed, double end, int whose)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	sigaction(SIGALRM, &action, NULL);
	struct itimerval every = {{0, PERIOD_US}, {0, PERIOD_US}};
	setitimer(ITIMER_REAL, &every, NULL);
	while (now() < end) {
		char one[32], other[32];
		snprintf(one, sizeof one, "n%d-%d", whose, rand_r(&seed) % NAMES);
		snprintf(other, sizeof other, "n%d-%d", whose, rand_r(&seed) % NAMES);
		int kind = rand_r(&seed) % KINDS;
		shared->calls++;
		if (call(kind, one, other) && errno != ENOENT && errno != EEXIST && errno < ERRNOS)
			shared->failed[kind][errno]++;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 5 || chdir(argv[1]))
		return 2;
	double start = now(), end = start + atof(argv[2]);
	int processes = atoi(argv[3]), own = !strcmp(argv[4], "own"), born = 0;
	if (processes < 1 || processes > MOST_PROCESSES)
		return 2;
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 3;
	pid_t children[MOST_PROCESSES];
	unsigned int seed = (unsigned int)getpid();
	for (int i = 0; i < processes; i++, born++)
		if (!(children[i] = fork()))
			worker(seed + (unsigned int)i, end, own ? born : 0);
	/* who replaces a killed one has other names: a call of the dead may still be under way */
	while (now() + 0.3 < end) {
		usleep(20000 + (useconds_t)(rand_r(&seed) % 60000));
		int i = rand_r(&seed) % processes;
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
		shared->killed++;
		if (!(children[i] = fork()))
			worker((unsigned int)rand_r(&seed), end, own ? born : 0);
		born++;
	}
	for (int i = 0; i < processes; i++)
		waitpid(children[i], NULL, 0);
	long failed = 0;
	for (int kind = 0; kind < KINDS; kind++)
		for (int error = 0; error < ERRNOS; error++)
			failed += shared->failed[kind][error];
	printf("done %ld %ld %ld %ld", shared->calls, failed, shared->killed, shared->wrong);
	for (int kind = 0; kind < KINDS; kind++)
		for (int error = 0; error < ERRNOS; error++)
			if (shared->failed[kind][error])
				printf(" %s:%s:%ld", kinds[kind], strerrorname_np(error),
				       shared->failed[kind][error]);
	printf("\n");
	return 0;
}
