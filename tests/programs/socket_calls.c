/* Callers that a library would not be: socketcall(2) by int 0x80, and tables of their own.
 *
 *     socket_calls socketcall ALLOWED REFUSED   a 32-bit caller, whose arguments lie in memory
 *     socket_calls direct ALLOWED REFUSED       the same calls by their own numbers
 *     socket_calls socketcall-name A B, socket_calls direct-name A B
 *                                               getpeername, where a connect to A is led to B
 *     socket_calls socketcall-accept A B, socket_calls direct-accept A B
 *                                               accept (by socketcall) and accept4, of 127.0.0.1 and .2
 *     socket_calls table ALLOWED REFUSED        a thread with a table of descriptors of its own
 *     socket_calls limit ALLOWED REFUSED        a table that is full
 *
 * The two are UDP ports of the loopback. Prints one line for each call: its name, and what it came to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct low { /* below 4 GiB */
	struct sockaddr_in allowed, refused;
	uint32_t args[6];
	uint32_t message[7], vector[2], several[8];
	char text[8];
};

static struct low *low;
static struct sockaddr_in allowed, refused;

static void say(const char *name, long result)
{
	if (result < 0)
		printf("%s %s\n", name, strerrorname_np((int)-result));
	else
		printf("%s %ld\n", name, result);
	fflush(stdout);
}

static uint32_t at(const void *pointer)
{
	return (uint32_t)(uintptr_t)pointer;
}

static long call32(uint32_t nr, uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f)
{
	long result;
	__asm__ volatile("push %%rbp; mov %[f], %%ebp; int $0x80; pop %%rbp"
			 : "=a"(result)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "r"(f)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

/* By socketcall the arguments are an array; else they are registers. */
static long call(int wrapped, uint32_t which, uint32_t nr, const uint32_t args[6])
{
	if (!wrapped)
		return call32(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
	memcpy(low->args, args, sizeof low->args);
	return call32(102, which, at(low->args), 0, 0, 0, 0);
}

static void as_32_bit(int wrapped)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), other = socket(AF_INET, SOCK_DGRAM, 0);
	uint32_t size = sizeof allowed, f = (uint32_t)fd, text;
	struct sockaddr_in mine = {.sin_family = AF_INET};
	low = mmap(NULL, sizeof *low, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1,
		   0);
	if (low == MAP_FAILED)
		exit(3);
	text = at(low->text);
	low->allowed = mine;
	say("bind", call(wrapped, 2, 361, (uint32_t[6]){f, at(&low->allowed), size}));
	low->allowed = allowed;
	low->refused = refused;
	strcpy(low->text, "thirty");
	f = (uint32_t)other;
	say("connect", call(wrapped, 3, 362, (uint32_t[6]){f, at(&low->allowed), size}));
	say("connect-refused", call(wrapped, 3, 362, (uint32_t[6]){f, at(&low->refused), size}));
	say("sendto", call(wrapped, 11, 369, (uint32_t[6]){f, text, 3, 0, at(&low->allowed), size}));
	say("sendto-refused",
	    call(wrapped, 11, 369, (uint32_t[6]){f, text, 3, 0, at(&low->refused), size}));
	say("send", call(wrapped, 11, 369, (uint32_t[6]){f, text, 4, 0, 0, 0}));
	low->vector[0] = text;
	low->vector[1] = 5;
	low->message[0] = at(&low->allowed);
	low->message[1] = size;
	low->message[2] = at(low->vector);
	low->message[3] = 1;
	say("sendmsg", call(wrapped, 16, 370, (uint32_t[6]){f, at(low->message), 0}));
	memcpy(low->several, low->message, sizeof low->message);
	say("sendmmsg", call(wrapped, 20, 345, (uint32_t[6]){f, at(low->several), 1, 0}));
	say("sent", low->several[7]);
	low->message[0] = at(&low->refused);
	say("sendmsg-refused", call(wrapped, 16, 370, (uint32_t[6]){f, at(low->message), 0}));
	say("nowhere", call(wrapped, 3, 362, (uint32_t[6]){f, 16, size}));
	if (wrapped)
		say("no-arguments", call32(102, 3, 16, 0, 0, 0, 0));
}

static void name_as_32_bit(int wrapped)
{
	uint32_t f = (uint32_t)socket(AF_INET, SOCK_DGRAM, 0);
	low = mmap(NULL, sizeof *low, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1,
		   0);
	if (low == MAP_FAILED)
		exit(3);
	low->allowed = allowed;
	say("connect", call(wrapped, 3, 362, (uint32_t[6]){f, at(&low->allowed), sizeof allowed}));
	low->vector[0] = 100;
	say("name", call(wrapped, 7, 368, (uint32_t[6]){f, at(&low->refused), at(&low->vector[0])}));
	say("length", low->vector[0]);
	say("asked", !memcmp(&low->refused, &allowed, sizeof allowed));
	say("nowhere", call(wrapped, 7, 368, (uint32_t[6]){f, 16, at(&low->vector[0])}));
}

static void connect_from(uint32_t source, const struct sockaddr_in *to)
{
	struct sockaddr_in mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(fd, (struct sockaddr *)&mine, sizeof mine) ||
	    connect(fd, (const struct sockaddr *)to, sizeof *to))
		exit(4);
}

static void accept_as_32_bit(int wrapped)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	uint32_t f = (uint32_t)fd;
	struct sockaddr_in mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof mine;
	low = mmap(NULL, sizeof *low, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1,
		   0);
	if (low == MAP_FAILED || bind(fd, (struct sockaddr *)&mine, sizeof mine) || listen(fd, 9) ||
	    getsockname(fd, (struct sockaddr *)&mine, &size) || fcntl(fd, F_SETFL, O_NONBLOCK))
		exit(3);
	const uint32_t args[6] = {f, at(&low->allowed), at(&low->vector[0]), SOCK_CLOEXEC};
	for (int i = wrapped ? 0 : 1; i < 2; i++) {
		connect_from(INADDR_LOOPBACK + 1, &mine);
		connect_from(INADDR_LOOPBACK, &mine);
		low->vector[0] = sizeof low->allowed;
		long got = call(wrapped, i ? 18 : 5, 364, args);
		say("accept", got < 0 ? got : fcntl((int)got, F_GETFD));
		say("length", low->vector[0]);
		say("peer", ntohl(low->allowed.sin_addr.s_addr) == INADDR_LOOPBACK);
		say("again", call(wrapped, i ? 18 : 5, 364, args));
	}
}

static void *own_table(void *inherited)
{
	int fd = *(int *)inherited;
	struct sockaddr_in peer = {0};
	socklen_t size = sizeof peer;
	if (unshare(CLONE_FILES) || dup2(socket(AF_INET, SOCK_DGRAM, 0), fd) < 0)
		exit(3);
	say("connect", connect(fd, (struct sockaddr *)&allowed, sizeof allowed) ? -errno : 0);
	say("refused", connect(fd, (struct sockaddr *)&refused, sizeof refused) ? -errno : 0);
	say("peer", getpeername(fd, (struct sockaddr *)&peer, &size) ? -errno
								     : peer.sin_port == allowed.sin_port);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	if (argc != 4)
		return 2;
	allowed = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2])),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	refused = allowed;
	refused.sin_port = htons((uint16_t)atoi(argv[3]));
	if (!strcmp(argv[1], "socketcall") || !strcmp(argv[1], "direct")) {
		as_32_bit(!strcmp(argv[1], "socketcall"));
	} else if (!strcmp(argv[1], "socketcall-name") || !strcmp(argv[1], "direct-name")) {
		name_as_32_bit(!strcmp(argv[1], "socketcall-name"));
	} else if (!strcmp(argv[1], "socketcall-accept") || !strcmp(argv[1], "direct-accept")) {
		accept_as_32_bit(!strcmp(argv[1], "socketcall-accept"));
	} else if (!strcmp(argv[1], "table")) {
		struct sockaddr_in peer;
		socklen_t size = sizeof peer;
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		if (pthread_create(&thread, NULL, own_table, &fd) || pthread_join(thread, NULL))
			return 3;
		say("the-leaders", getpeername(fd, (struct sockaddr *)&peer, &size) ? -errno : 0);
	} else {
		struct rlimit limit = {16, 16};
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		setrlimit(RLIMIT_NOFILE, &limit);
		while (dup(fd) >= 0)
			;
		say("full", -errno);
		say("connect", connect(fd, (struct sockaddr *)&allowed, sizeof allowed) ? -errno : 0);
	}
	return 0;
}
