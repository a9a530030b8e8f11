/* Opens of a granted path, as a hostile caller has them.
 *
 *   opens i386 PATH           by int 0x80: open, openat and openat2
 *   opens flip SECONDS A B    another thread turns the path between A/granted and B/granted (A and B
 *                             of equal length)
 *   opens links SECONDS A B   another process turns a symbolic link to directory A, or B, on its way
 *   opens pages SECONDS PATH  another thread takes the page with the path away, and puts it back
 *   opens limit PATH          with a full table of descriptors
 *   opens files PATH          two threads with tables of their own
 *   opens storm SECONDS PATH  under signals that interrupt whatever they can
 *   opens killed COUNT PATH   in children that are killed meanwhile
 *
 * Prints what came of it, in words and numbers; see tests/attack/test_opens.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int over;
static char path[256];
static const char *names[2];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static char first_byte(int fd)
{
	char byte = '?';
	if (read(fd, &byte, 1) < 0)
		byte = '!';
	return byte;
}

static int descriptors(void)
{
	int count = 0;
	for (int fd = 0; fd < 4096; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static long by_int80(long nr, long a, long b, long c, long d)
{
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static int i386(const char *name)
{
	char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct open_how *how = (void *)(low + 4096);
	strcpy(low, name);
	how->flags = O_RDONLY | O_CLOEXEC;
	long found[] = {
		by_int80(5, (long)low, O_RDONLY, 0, 0),
		by_int80(295, AT_FDCWD, (long)low, O_RDONLY, 0),
		by_int80(437, AT_FDCWD, (long)low, (long)how, sizeof *how),
	};
	for (int i = 0; i < 3; i++)
		printf("%c ", found[i] < 0 ? '-' : first_byte((int)found[i]));
	printf("%d\n", fcntl((int)found[2], F_GETFD));
	return 0;
}

static void *turn_string(void *unused)
{
	for (unsigned i = 0; !over; i++)
		for (size_t at = 0; names[i & 1][at]; at++) /* what comes behind is the same */
			((volatile char *)path)[at] = names[i & 1][at];
	return unused;
}

/* How often the granted thing was opened, its own file, nothing, and something else. */
static void count_opens(double seconds)
{
	int granted = 0, own = 0, refused = 0, wrong = 0;
	double end = now() + seconds;
	while (now() < end && (granted < 50 || own + refused < 50)) {
		int fd = (int)syscall(SYS_open, path, O_RDONLY);
		char byte = fd < 0 ? 0 : first_byte(fd);
		if (fd >= 0)
			close(fd);
		if (fd < 0)
			refused++;
		else if (byte == 'G')
			granted++;
		else if (byte == 'O')
			own++;
		else
			wrong++;
	}
	over = 1;
	printf("done %d %d %d %d\n", granted, own, refused, wrong);
}

static int flip(double seconds, char **name)
{
	pthread_t thread;
	names[0] = name[0];
	names[1] = name[1];
	snprintf(path, sizeof path, "%s/granted", name[0]);
	pthread_create(&thread, NULL, turn_string, NULL);
	count_opens(seconds);
	pthread_join(thread, NULL);
	return 0;
}

static int links(double seconds, char **name)
{
	strcpy(path, "link/granted");
	if (symlink(name[0], "link") || symlink(name[1], "other"))
		return 1;
	pid_t child = fork();
	if (!child)
		for (;;)
			syscall(SYS_renameat2, AT_FDCWD, "link", AT_FDCWD, "other", 2);
	count_opens(seconds);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}

static int limit(const char *name)
{
	struct rlimit some = {16, 16};
	int last = -1, fd, count = 0;
	setrlimit(RLIMIT_NOFILE, &some);
	while ((fd = open(name, O_RDONLY)) >= 0 && count++ < 100)
		last = fd;
	int error = errno;
	close(last);
	fd = open(name, O_RDONLY);
	printf("%d %d %d %c\n", last, error == EMFILE, fd == last, first_byte(fd));
	return 0;
}

static void *in_own_table(void *name)
{
	static char said[64];
	unshare(CLONE_FILES);
	int low = open("/", O_PATH); /* the tables now differ */
	int fd = open(name, O_RDONLY);
	snprintf(said, sizeof said, "%d %c", fd == low + 1, first_byte(fd));
	return said;
}

static int files(char *name)
{
	pthread_t thread;
	void *said;
	int before = descriptors();
	pthread_create(&thread, NULL, in_own_table, name);
	pthread_join(thread, &said);
	printf("%s %d\n", (char *)said, descriptors() - before);
	return 0;
}

static void nothing(int number)
{
	(void)number;
}

static int storm(double seconds, const char *name)
{
	struct sigaction act = {.sa_handler = nothing}; /* no SA_RESTART */
	struct itimerval often = {{0, 200}, {0, 200}};
	int opened = 0, interrupted = 0, wrong = 0, before = descriptors();
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (double end = now() + seconds; now() < end && opened < 500;) {
		int fd = open(name, O_RDONLY);
		if (fd >= 0)
			opened++;
		else if (errno == EINTR)
			interrupted++;
		else
			wrong++;
	}
	memset(&often, 0, sizeof often);
	setitimer(ITIMER_REAL, &often, NULL);
	printf("%d %d %d %d\n", opened, descriptors() - before - opened, wrong, interrupted >= 0);
	return 0;
}

static int killed(int count, const char *name)
{
	int died = 0;
	for (int i = 0; i < count; i++) {
		int status;
		pid_t child = fork();
		if (!child)
			for (;;)
				close(open(name, O_RDONLY));
		usleep((useconds_t)(1000 + i * 37 % 400));
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		died += WIFSIGNALED(status);
	}
	printf("%d\n", died);
	fflush(stdout);
	return getchar() == EOF; /* until somebody has looked at the session */
}

static void *take_away(void *page)
{
	int fd = memfd_create("path", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 4096) || pwrite(fd, path, sizeof path, 0) != sizeof path)
		exit(3);
	while (!over) {
		mmap(page, 4096, PROT_READ, MAP_FIXED | MAP_SHARED, fd, 0);
		for (volatile int i = 0; i < 3000; i++)
			;
		munmap(page, 4096);
		for (volatile int i = 0; i < 3000; i++)
			;
	}
	return NULL;
}

/* How many were opened, had an unreadable path, were refused. */
static int pages(double seconds, const char *name)
{
	char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int opened = 0, faults = 0, refused = 0;
	pthread_t other;
	snprintf(path, sizeof path, "%s", name);
	if (page == MAP_FAILED || pthread_create(&other, NULL, take_away, page))
		return 3;
	for (double end = now() + seconds; now() < end;) {
		int fd = (int)syscall(SYS_openat, AT_FDCWD, page, O_RDONLY);
		if (fd >= 0)
			close(fd);
		opened += fd >= 0;
		faults += fd < 0 && errno == EFAULT;
		refused += fd < 0 && errno == EIO;
	}
	over = 1;
	pthread_join(other, NULL);
	printf("%d %d %d\n", opened, faults, refused);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	if (!strcmp(what, "i386"))
		return i386(argv[2]);
	if (!strcmp(what, "pages") && argc == 4)
		return pages(atof(argv[2]), argv[3]);
	if (!strcmp(what, "limit"))
		return limit(argv[2]);
	if (!strcmp(what, "files"))
		return files(argv[2]);
	if (!strcmp(what, "storm") && argc == 4)
		return storm(atof(argv[2]), argv[3]);
	if (!strcmp(what, "killed") && argc == 4)
		return killed(atoi(argv[2]), argv[3]);
	if (!strcmp(what, "flip") && argc == 5)
		return flip(atof(argv[2]), argv + 3);
	if (!strcmp(what, "links") && argc == 5)
		return links(atof(argv[2]), argv + 3);
	return 2;
}
