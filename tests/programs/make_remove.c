/* One name, made and removed by several at once: each call comes to what a kernel would say.
 *
 * make_remove SECONDS
 *
 * In the working directory, for that long, and on until each call was done LEAST times. Prints how often each call came to what: "mknod:ok:5 unlink:ENOENT:7".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ERRNOS = 200, PROCESSES = 4, LEAST = 51 };

static atomic_long (*counts)[2][ERRNOS];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	double end = now() + atof(argv[1]);
	counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		return 3;
	for (int i = 0; i < PROCESSES; i++) {
		if (fork())
			continue;
		while (now() < end || (*counts)[0][0] < LEAST || (*counts)[1][0] < LEAST) {
			int result = i % 2 ? unlink("name")
					   : mknod("name", S_IFCHR | 0666, makedev(1, 3));
			(*counts)[i % 2][result ? errno : 0]++;
		}
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	for (int kind = 0; kind < 2; kind++)
		for (int error = 0; error < ERRNOS; error++)
			if ((*counts)[kind][error])
				printf("%s:%s:%ld ", kind ? "unlink" : "mknod",
				       error ? strerrorname_np(error) : "ok", (*counts)[kind][error]);
	printf("\n");
	return 0;
}
