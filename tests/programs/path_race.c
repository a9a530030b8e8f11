/* A path that changes its meaning while a node is made there.
 *
 * path_race HOW SECONDS GOOD BAD [MORE]
 *
 * One thread makes nodes, relative to the working directory, for SECONDS or until there are MOST
 * (and for up to MORE seconds, 30, until each side has won now and then);
 * another one turns what their path means between the directories GOOD and BAD all the time. HOW:
 *   string    the letters of the path in memory (names of equal length)
 *   symlink   a symbolic link, exchanged with another one
 *   cwd       the working directory, which threads share
 *   dirfd     the descriptor that the path starts from
 *   exchange  the two directories themselves, by their names
 * Prints "done MADE REFUSED TURNS APPEARED": APPEARED is how many names were ever created in what
 * was BAD at the start, gone again or not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 3000, ENOUGH = 10, TURNS = 50, EXCHANGE = 2 };

static const char *how, *names[2];
static char path[256];
static int folders[2], moving = -1;
static atomic_int over;
static long turns;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int is(const char *name)
{
	return !strcmp(how, name);
}

static void turn(int to)
{
	int error = 0;
	if (is("string"))
		for (size_t i = 0; names[to][i]; i++)
			((volatile char *)path)[i] = names[to][i];
	else if (is("symlink"))
		error = (int)syscall(SYS_renameat2, AT_FDCWD, "link", AT_FDCWD, "other", EXCHANGE);
	else if (is("cwd"))
		error = fchdir(folders[to]);
	else if (is("dirfd"))
		error = dup2(folders[to], moving) < 0;
	else
		error = (int)syscall(SYS_renameat2, AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE);
	if (error) {
		perror(how);
		exit(1);
	}
}

static void *turner(void *unused)
{
	(void)unused;
	while (!over)
		turn((int)(++turns % 2));
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 5 && argc != 6)
		return 2;
	how = argv[1];
	/* on a busy machine some time more */
	double end = now() + atof(argv[2]), last = end + (argc == 6 ? atof(argv[5]) : 30);
	for (int i = 0; i < 2; i++) {
		names[i] = argv[3 + i];
		folders[i] = open(names[i], O_PATH | O_DIRECTORY);
		if (folders[i] < 0)
			return 3;
	}
	int watch = inotify_init1(IN_NONBLOCK);
	if (watch < 0 || inotify_add_watch(watch, names[1], IN_CREATE | IN_MOVED_TO) < 0)
		return 4;
	if (is("symlink") && (symlink(names[0], "link") || symlink(names[1], "other")))
		return 5;
	moving = dup(folders[0]);
	int from = is("dirfd") ? moving : AT_FDCWD;
	const char *start = is("cwd") || is("dirfd") ? "." : is("symlink") ? "link" : names[0];
	size_t length = strlen(start);
	memcpy(path, start, length);

	pthread_t thread;
	if (pthread_create(&thread, NULL, turner, NULL))
		return 6;
	long made = 0, refused = 0;
	for (int i = 0; made < MOST; i++) {
		double time = now();
		if (time > last || (time > end && made > ENOUGH && refused > ENOUGH && turns > TURNS))
			break;
		snprintf(path + length, sizeof path - length, "/n%d", i);
		if (syscall(SYS_mknodat, from, path, S_IFCHR | 0666, makedev(1, 3)))
			refused++;
		else
			made++;
	}
	over = 1;
	pthread_join(thread, NULL);

	long appeared = 0;
	_Alignas(struct inotify_event) char events[65536];
	ssize_t got;
	while ((got = read(watch, events, sizeof events)) > 0)
		for (char *at = events; at < events + got; appeared++)
			at += sizeof(struct inotify_event) + ((struct inotify_event *)(void *)at)->len;
	printf("done %ld %ld %ld %ld\n", made, refused, turns, appeared);
	return 0;
}
