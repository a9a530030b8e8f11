/* An argument that changes while a file system is mounted.
 *
 * mount_race SECONDS type ALLOWED REFUSED
 * mount_race SECONDS source ALLOWED REFUSED TYPE
 *
 * One thread mounts on the folder "here", for SECONDS or until REFUSED was mounted; another one
 * changes the type (or the source, of the type TYPE) in memory between ALLOWED and REFUSED (names of
 * equal length) all the time. A source that is mounted is told by the file "refused" in it.
 * Prints "done MOUNTED_ALLOWED MOUNTED_REFUSED FAILED TURNS".
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *names[2];
static char turned[4096];
static atomic_int over;
static long turns;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *turner(void *unused)
{
	(void)unused;
	while (!over) {
		const char *to = names[++turns % 2];
		for (size_t i = 0; to[i]; i++)
			((volatile char *)turned)[i] = to[i];
	}
	return NULL;
}

/* Whether what is mounted on "here" has the type `name`; -1 where nothing is. */
static int mounted(const char *name)
{
	char line[4096], found[64];
	int last = -1;
	FILE *mounts = fopen("/proc/self/mountinfo", "re");

	if (!mounts)
		exit(3);
	while (fgets(line, sizeof line, mounts)) {
		char *at = strstr(line, "/here "), *rest = strstr(line, " - ");
		if (at && rest && sscanf(rest, " - %63s", found) == 1)
			last = !strcmp(found, name);
	}
	fclose(mounts);
	return last;
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	double end = now() + atof(argv[1]);
	int by_source = !strcmp(argv[2], "source");
	long allowed = 0, refused = 0, failed = 0;
	pthread_t thread;

	if (argc != 5 + by_source || strlen(argv[3]) >= sizeof turned)
		return 2;
	names[0] = argv[3];
	names[1] = argv[4];
	strcpy(turned, argv[3]);
	mkdir("here", 0755);
	if (pthread_create(&thread, NULL, turner, NULL))
		return 4;
	while (now() < end && !refused) {
		const char *source = by_source ? turned : "none", *type = by_source ? argv[5] : turned;

		if (syscall(SYS_mount, source, "here", type, MS_RDONLY, "")) {
			failed++;
			continue;
		}
		if (by_source ? !access("here/refused", F_OK) : mounted(names[1]) == 1)
			refused++;
		else
			allowed++;
		umount2("here", MNT_DETACH);
	}
	over = 1;
	pthread_join(thread, NULL);
	printf("done %ld %ld %ld %ld\n", allowed, refused, failed, turns);
	return 0;
}
