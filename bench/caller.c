/* The caller: makes the system calls that the benchmark measures, and measures them.
 *
 * It reads one request a line from standard input and writes one line of JSON for each, so that one
 * supervisor serves many short rounds and two supervisors can take turns:
 *
 *     WHAT COUNT INTERVAL_US PROCESSES PATH
 *
 *     same      mknod(PATH, S_IFCHR | 0666, makedev(1, 3)), the same path each time
 *     new       the same for PATH and a running number: another path each time
 *     open      openat(PATH, O_RDONLY), and close
 *     openrw    the same for reading and writing
 *     opens     open for PATH and 0 to 199, one after the other
 *     fifo      mknod(PATH, S_IFIFO | 0666, 0), in batches
 *     getppid   getppid(), in batches
 *     connect   connect() of a TCP socket to a listener of the caller's own, on the loopback
 *
 * Each of PROCESSES makes COUNT calls, INTERVAL_US apart (0: back to back). A batch is 1,000 calls timed
 * as one, since reading the clock takes as long as the call. `errno` is the result that all calls had,
 * or -1 where they differ; `per_second` counts all processes, from the first start to the last end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 1000, MAX_PROCESSES = 16, MAX_COUNT = 1000000 };

struct result {
	uint64_t start, end;
	int error; /* -2: no call yet, -1: they differ */
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One connection to ourselves, taken in and ended: how long the connect took, or 0 with errno. */
static uint64_t connect_once(int listener, const struct sockaddr_in *address)
{
	const struct linger at_once = {1, 0}; /* else the ports would run out */
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	uint64_t before = now();
	int failed = connect(fd, (const struct sockaddr *)address, sizeof *address);
	uint64_t took = now() - before;
	int error = errno;

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	if (!failed)
		close(accept(listener, NULL, NULL));
	close(fd);
	errno = error;
	return failed ? 0 : took;
}

static void run_connects(long count, uint64_t *took, struct result *result)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	/* the floor knows nothing of bind, and policies may: listening takes a port by itself */
	if (listen(listener, 16) || getsockname(listener, (struct sockaddr *)&address, &size))
		perror("caller: listen");
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	result->error = 0;
	result->start = now();
	for (long i = 0; i < count; i++) {
		took[i] = connect_once(listener, &address);
		if (!took[i])
			result->error = result->error && result->error != errno ? -1 : errno;
	}
	result->end = now();
	close(listener);
}

static int ascending(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void run(const char *what, long count, long interval_us, const char *path, uint64_t *took,
		struct result *result, unsigned int serial)
{
	const int batched = !strcmp(what, "fifo") || !strcmp(what, "getppid");
	const long call = !strcmp(what, "getppid") ? SYS_getppid : SYS_mknod;
	const mode_t mode = (!strcmp(what, "fifo") ? S_IFIFO : S_IFCHR) | 0666;
	const unsigned long device = mode & S_IFCHR ? makedev(1, 3) : 0;
	const int numbered = !strcmp(what, "new"), many = !strcmp(what, "opens");
	const int writes = !strcmp(what, "openrw");
	const int opens = many || writes || !strcmp(what, "open");
	const struct timespec pause = {interval_us / 1000000, interval_us % 1000000 * 1000};
	char name[4200];

	snprintf(name, sizeof name, "%s", path);
	if (!strcmp(what, "connect")) {
		run_connects(count, took, result);
		return;
	}
	result->error = -2;
	result->start = now();
	for (long i = 0; i < count; i++) {
		long r = 0;

		if (numbered)
			snprintf(name, sizeof name, "%s%u.%ld", path, serial, i);
		if (many)
			snprintf(name, sizeof name, "%s%ld", path, i % 200);
		if (interval_us)
			nanosleep(&pause, NULL);
		uint64_t before = now();
		for (int k = batched ? BATCH : 1; k > 0 && !opens; k--)
			r = syscall(call, name, mode, device);
		if (opens) {
			r = syscall(SYS_openat, AT_FDCWD, name, writes ? O_RDWR : O_RDONLY);
			if (r >= 0)
				close((int)r);
		}
		took[i] = now() - before;
		const int error = r < 0 ? errno : 0;
		if (result->error == -2)
			result->error = error;
		else if (result->error != error)
			result->error = -1;
	}
	result->end = now();
}

int main(void)
{
	static unsigned int serial;
	char line[8192], what[32], path[4097];
	long count, interval_us;
	int processes;

	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "%31s %ld %ld %d %4096s", what, &count, &interval_us, &processes, path) != 5 ||
		    count < 1 || count > MAX_COUNT || processes < 1 || processes > MAX_PROCESSES) {
			fprintf(stderr, "caller: bad request: %s", line);
			return 2;
		}
		const size_t calls = (size_t)count * (size_t)processes;
		const size_t size = calls * sizeof(uint64_t) + MAX_PROCESSES * sizeof(struct result);
		struct result *results = mmap(NULL, size, PROT_READ | PROT_WRITE,
					      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		uint64_t *took = (uint64_t *)(results + MAX_PROCESSES);
		int gate[2];

		if (results == MAP_FAILED || pipe(gate)) {
			perror("caller");
			return 1;
		}
		if (processes == 1)
			run(what, count, interval_us, path, took, results, serial);
		for (int p = 0; processes > 1 && p < processes; p++) {
			pid_t child = fork();
			if (child < 0) {
				perror("caller: fork");
				return 1;
			}
			if (!child) {
				char byte;
				close(gate[1]);
				if (read(gate[0], &byte, 1) != 0) /* all start when the parent closes it */
					_exit(1);
				run(what, count, interval_us, path, took + (size_t)p * (size_t)count,
				    results + p, serial + (unsigned int)p);
				_exit(0);
			}
		}
		close(gate[0]);
		close(gate[1]);
		for (int p = 0, status; processes > 1 && p < processes; p++)
			if (wait(&status) < 0 || status) {
				fputs("caller: a process failed\n", stderr);
				return 1;
			}
		serial += (unsigned int)processes;

		uint64_t start = results[0].start, end = results[0].end;
		int error = results[0].error;
		for (int p = 1; p < processes; p++) {
			start = results[p].start < start ? results[p].start : start;
			end = results[p].end > end ? results[p].end : end;
			error = results[p].error == error ? error : -1;
		}
		const double batch = !strcmp(what, "fifo") || !strcmp(what, "getppid") ? BATCH : 1;
		qsort(took, calls, sizeof *took, ascending);
		printf("{\"median_us\": %.4f, \"p99_us\": %.4f, \"per_second\": %.0f, \"calls\": %zu, \"errno\": %d}\n",
		       (double)took[calls / 2] / batch / 1e3, (double)took[calls * 99 / 100] / batch / 1e3,
		       (double)calls * batch * 1e9 / (double)(end - start), calls, error);
		fflush(stdout);
		munmap(results, size);
	}
	return 0;
}
