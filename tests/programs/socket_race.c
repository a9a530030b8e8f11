/* A hostile caller of connect and sendmsg: what it asks for changes while seccompd works with it.
 *
 *     socket_race address|table|send SECONDS ALLOWED_PORT REFUSED_PORT
 *
 * address  another thread flips the port in the struct sockaddr between the two
 * table    another thread puts one of two UDP sockets in the descriptor's place (dup2)
 * send     another thread flips the port that a struct msghdr leads to, and the pointer to it
 *
 * Prints "done GRANTED REFUSED TURNS": calls that came to 0, and to EACCES, and turns of the thread.
 * Who listens on the ports counts what comes to it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 15, ENOUGH = 10, TURNS = 1000 };

static struct sockaddr_in address = {.sin_family = AF_INET};
static struct sockaddr_in other;
static struct msghdr message;
static struct iovec data = {"x", 1};
static uint16_t allowed, refused;
static volatile int over;
static long turns;
static int first, second, slot;

static void *flip(void *how)
{
	while (!over) {
		if (!strcmp(how, "address")) {
			*(volatile uint16_t *)&address.sin_port = turns & 1 ? allowed : refused;
		} else if (!strcmp(how, "table")) {
			dup2(turns & 1 ? first : second, slot);
		} else {
			*(volatile uint16_t *)&address.sin_port = turns & 2 ? allowed : refused;
			*(struct sockaddr_in *volatile *)&message.msg_name = turns & 1 ? &address : &other;
		}
		turns++;
		sched_yield();
	}
	return NULL;
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	long granted = 0, denied = 0;
	if (argc != 5)
		return 2;
	const char *how = argv[1];
	double end = now() + atof(argv[2]);
	allowed = htons((uint16_t)atoi(argv[3]));
	refused = htons((uint16_t)atoi(argv[4]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = allowed;
	other = address;
	other.sin_port = refused;
	message = (struct msghdr){.msg_name = &address, .msg_namelen = sizeof address,
				  .msg_iov = &data, .msg_iovlen = 1};
	first = socket(AF_INET, SOCK_DGRAM, 0);
	second = socket(AF_INET, SOCK_DGRAM, 0);
	slot = dup(first);
	if (pthread_create(&thread, NULL, flip, argv[1]))
		return 3;
	/* a busy machine gets more time for a few calls of each kind */
	while (now() < end || (now() < end + PATIENCE && (granted < ENOUGH || denied < ENOUGH ||
						       __atomic_load_n(&turns, __ATOMIC_RELAXED) <= TURNS))) {
		int fd = slot, result;
		if (!strcmp(how, "send")) {
			result = sendmsg(first, &message, 0) < 0;
		} else if (!strcmp(how, "table")) {
			struct sockaddr_in to = (granted + denied) & 1 ? address : other;
			result = connect(fd, (struct sockaddr *)&to, sizeof to);
		} else {
			fd = socket(AF_INET, SOCK_DGRAM, 0);
			result = connect(fd, (struct sockaddr *)&address, sizeof address);
			if (!result && send(fd, "x", 1, 0) < 0)
				return 4;
			close(fd);
		}
		if (!result)
			granted++;
		else if (errno == EACCES)
			denied++;
		else if (errno != ECONNREFUSED)
			return 5;
		if (!strcmp(how, "table")) {
			send(first, "x", 1, 0);
			send(second, "x", 1, 0);
		}
	}
	over = 1;
	pthread_join(thread, NULL);
	printf("done %ld %ld %ld\n", granted, denied, turns);
	return 0;
}
