/* A caller whose descriptor is now a unix socket, now another one, while it connects to a path.
 *
 *     socket_kinds SECONDS PATH
 *
 * Prints "done GRANTED OTHERWISE TURNS": connects that came to 0, and to anything else. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static volatile int over;
static int kinds[2], slot;
static long turns;

static void *flip(void *unused)
{
	while (!over) {
		dup2(kinds[turns & 1], slot);
		turns++;
		sched_yield();
	}
	return unused;
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	long granted = 0, otherwise = 0;
	pthread_t thread;
	if (argc != 3)
		return 2;
	strncpy(to.sun_path, argv[2], sizeof to.sun_path - 1);
	kinds[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
	kinds[1] = socket(AF_INET, SOCK_DGRAM, 0);
	slot = dup(kinds[0]);
	time_t end = time(NULL) + atol(argv[1]);
	if (pthread_create(&thread, NULL, flip, NULL))
		return 3;
	while (time(NULL) < end || (otherwise < 200 && time(NULL) < end + 15)) {
		if (connect(slot, (struct sockaddr *)&to, sizeof to))
			otherwise++;
		else
			granted++;
	}
	over = 1;
	pthread_join(thread, NULL);
	printf("done %ld %ld %ld\n", granted, otherwise, turns);
	return 0;
}
