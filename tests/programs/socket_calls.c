/* Callers that a library would not be: socketcall(2) by int 0x80, and tables of their own.
 *
 *     socket_calls socketcall ALLOWED REFUSED   a 32-bit caller, whose arguments lie in memory
 *     socket_calls direct ALLOWED REFUSED       the same calls by their own numbers
 *     socket_calls socketcall-name A B, socket_calls direct-name A B
 *                                               getpeername and getsockname, where a connect to A is led
 *                                               to B
 *     socket_calls socketcall-accept A B, socket_calls direct-accept A B
 *                                               accept (by socketcall) and accept4, of 127.0.0.1 and .2
 *     socket_calls socketcall-option 0 0, socket_calls direct-option 0 0
 *                                               options that are set, and asked for
 *     socket_calls socketcall-options 0 0, socket_calls direct-options 0 0
 *                                               many of them, and what came of each to the byte
 *     socket_calls socketcall-rights 0 0, socket_calls direct-rights 0 0
 *                                               options that take a capability, with and without
 *     socket_calls socketcall-flip 0 0          a thread makes a refused option of an allowed one
 *     socket_calls table ALLOWED REFUSED        a thread with a table of descriptors of its own
 *     socket_calls limit ALLOWED REFUSED        a table that is full
 *
 * The two are UDP ports of the loopback. Prints one line for each call: its name, and what it came to. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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

/* A control message with nothing, or too little, around it; and none at all. */
static void control_as_32_bit(int wrapped, uint32_t f)
{
	static const struct {
		const char *name;
		int there;
		uint32_t length;
	} some[] = {{"control", 1, 16},	      {"control-behind", 1, 20}, {"control-cut", 1, 15},
		    {"control-short", 1, 8},  {"control-nowhere", 0, 16}};
	for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
		memcpy(low->several, (uint32_t[6]){16, IPPROTO_IP, IP_TTL, 9}, 6 * sizeof(uint32_t));
		low->message[4] = some[i].there ? at(low->several) : 0;
		low->message[5] = some[i].length;
		say(some[i].name, call(wrapped, 16, 370, (uint32_t[6]){f, at(low->message), 0}));
	}
	low->message[4] = low->message[5] = 0;
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
	low->message[0] = at(&low->allowed);
	control_as_32_bit(wrapped, f);
	/* MSG_CMSG_COMPAT, which the kernel says itself of what has 32 bits */
	say("flag", call(wrapped, 16, 370, (uint32_t[6]){f, at(low->message), 1U << 31}));
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
	low->vector[0] = 100;
	say("own", call(wrapped, 6, 367, (uint32_t[6]){f, at(&low->refused), at(&low->vector[0])}));
	say("own-length", low->vector[0]);
	say("own-family", low->refused.sin_family);
	say("own-loopback", low->refused.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
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

static void options_as_32_bit(int wrapped)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), kept = -1;
	uint32_t f = (uint32_t)fd, value, length;
	socklen_t size = sizeof kept;
	low = mmap(NULL, sizeof *low, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1,
		   0);
	if (low == MAP_FAILED)
		exit(3);
	value = at(&low->vector[0]);
	length = at(&low->vector[1]);
	low->vector[0] = 1;
	low->vector[1] = 4;
	say("refused", call(wrapped, 14, 366, (uint32_t[6]){f, SOL_SOCKET, SO_KEEPALIVE, value, 4}));
	say("allowed", call(wrapped, 14, 366, (uint32_t[6]){f, SOL_SOCKET, SO_REUSEADDR, value, 4}));
	say("by-who-calls", call(wrapped, 14, 366, (uint32_t[6]){f, IPPROTO_TCP, TCP_NODELAY, value, 4}));
	say("set", getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &kept, &size) ? -errno : kept);
	say("type", call(wrapped, 15, 365, (uint32_t[6]){f, SOL_SOCKET, SO_TYPE, value, length}));
	say("domain", call(wrapped, 15, 365, (uint32_t[6]){f, SOL_SOCKET, SO_DOMAIN, value, length}));
	if (wrapped)
		say("no-arguments", call32(102, 14, 16, 0, 0, 0, 0));
}

static void ask_for_rights(const char *how, int wrapped)
{
	static const struct {
		int level, name;
		uint32_t value;
	} options[] = {
		{SOL_SOCKET, SO_MARK, 7},	     {SOL_SOCKET, SO_PRIORITY, 7},
		{SOL_SOCKET, SO_SNDBUFFORCE, 1 << 20}, {SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20},
		{SOL_SOCKET, SO_DEBUG, 1},	     {SOL_SOCKET, SO_BINDTOIFINDEX, 1},
		{SOL_SOCKET, SO_BINDTOIFINDEX, 0},   {IPPROTO_IP, IP_TRANSPARENT, 1},
		{IPPROTO_TCP, TCP_REPAIR, 1},
	};
	uint32_t f = (uint32_t)socket(AF_INET, SOCK_STREAM, 0);
	for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
		char what[64];
		low->vector[0] = options[i].value;
		snprintf(what, sizeof what, "%s-%zu", how, i);
		say(what, call(wrapped, 14, 366,
			       (uint32_t[6]){f, (uint32_t)options[i].level, (uint32_t)options[i].name,
					     at(&low->vector[0]), 4}));
	}
}

static void rights_as_32_bit(int wrapped)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {0};
	low = mmap(NULL, sizeof *low, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1,
		   0);
	if (low == MAP_FAILED)
		exit(3);
	ask_for_rights("own", wrapped);
	if (syscall(SYS_capset, &head, none))
		exit(4);
	ask_for_rights("none", wrapped);
}

/* ---- many options, by socketcall ---- */

struct one_option {
	int level, name;
	int length;
	uint32_t value[4];
};

static const struct one_option several[] = {
	{SOL_SOCKET, SO_REUSEADDR, 4, {1}},	   {SOL_SOCKET, SO_REUSEADDR, 2, {0}},
	{SOL_SOCKET, SO_REUSEADDR, 16, {0}},	   {SOL_SOCKET, SO_REUSEADDR, -1, {1}},
	{SOL_SOCKET, SO_RCVBUF, 4, {70000}},	   {SOL_SOCKET, SO_LINGER, 8, {1, 7}},
	{SOL_SOCKET, SO_LINGER, 4, {1}},	   {SOL_SOCKET, SO_RCVTIMEO_OLD, 8, {3, 500000}},
	{SOL_SOCKET, SO_SNDTIMEO_OLD, 8, {4, 0}},  {SOL_SOCKET, SO_SNDTIMEO_OLD, 4, {4, 0}},
	{SOL_SOCKET, SO_RCVTIMEO_OLD, 8, {1, 1000000}}, {SOL_SOCKET, SO_RCVTIMEO_OLD, 8, {UINT32_MAX, 0}},
	{SOL_SOCKET, SO_RCVTIMEO_NEW, 16, {9, 0, 1000, 0}}, {SOL_SOCKET, SO_MAX_PACING_RATE, 4, {100000}},
	{SOL_SOCKET, SO_TYPE, 4, {1}},		   {SOL_SOCKET, SO_ERROR, 4, {1}},
	{SOL_SOCKET, SO_ACCEPTCONN, 4, {1}},	   {SOL_SOCKET, SO_INCOMING_CPU, 4, {0}},
	{SOL_SOCKET, SO_BINDTODEVICE, 16, {0}},	   {SOL_SOCKET, SO_PEERNAME, 16, {0}},
	{IPPROTO_TCP, TCP_NODELAY, 4, {1}},	   {IPPROTO_TCP, TCP_KEEPIDLE, 4, {33}},
	{IPPROTO_TCP, TCP_KEEPIDLE, 4, {0}},	   {IPPROTO_TCP, TCP_CONGESTION, 4, {0x6f6e6572}}, /* "reno" */
	{IPPROTO_TCP, TCP_CONGESTION, 3, {0x6f6e}}, {IPPROTO_TCP, TCP_USER_TIMEOUT, 4, {5000}},
	{IPPROTO_TCP, TCP_MAXSEG, 4, {1000}},	   {IPPROTO_IP, IP_TOS, 1, {16}},
	{IPPROTO_IP, IP_TTL, 4, {77}},		   {IPPROTO_IP, IP_TTL, 4, {256}},
	{IPPROTO_IP, IP_RECVERR, 4, {1}},	   {IPPROTO_IPV6, IPV6_V6ONLY, 4, {1}},
	{IPPROTO_UDP, 1, 4, {1}}, /* UDP_CORK */   {IPPROTO_IP, IP_OPTIONS, 4, {0x01010101}},
};

/* The value and its length as they are in memory afterwards; 0xee is what nobody has written. */
static void ask_for(int wrapped, uint32_t f, size_t number, const struct one_option *one, uint32_t room)
{
	unsigned char *value = (unsigned char *)low->several;
	memset(value, 0xee, 20);
	low->vector[1] = room;
	long result = call(wrapped, 15, 365,
			   (uint32_t[6]){f, (uint32_t)one->level, (uint32_t)one->name, at(value),
					 at(&low->vector[1])});
	printf("get-%zu-%d:%d-%d %ld,%u,", number, one->level, one->name, (int)room, result, low->vector[1]);
	for (int i = 0; i < 20; i++)
		printf("%02x", value[i]);
	printf("\n");
}

/* So much of a value is there, of how much is said to be; behind it there is nothing. */
static const struct {
	struct one_option one;
	uint32_t there;
} at_edge[] = {
	{{SOL_SOCKET, SO_REUSEADDR, 16, {1}}, 4},      {{SOL_SOCKET, SO_REUSEADDR, 4, {1}}, 2},
	{{SOL_SOCKET, SO_REUSEADDR, 100000, {0}}, 4},  {{SOL_SOCKET, SO_REUSEADDR, 4, {0}}, 0},
	{{SOL_SOCKET, SO_LINGER, 8, {1, 7}}, 4},       {{SOL_SOCKET, SO_LINGER, 600, {1, 7}}, 8},
	{{SOL_SOCKET, SO_RCVTIMEO_OLD, 8, {3, 0}}, 4}, {{SOL_SOCKET, SO_RCVTIMEO_OLD, 400, {3, 0}}, 8},
	{{SOL_SOCKET, SO_RCVTIMEO_OLD, 7, {3, 0}}, 4}, {{SOL_SOCKET, SO_BINDTODEVICE, 16, {0}}, 1},
	{{IPPROTO_TCP, TCP_CONGESTION, 16, {0x6f6e6572, 0}}, 5}, /* "reno" */
	{{IPPROTO_TCP, TCP_CONGESTION, 16, {0x6f6e6572}}, 4},
	{{IPPROTO_IP, IP_TTL, 4, {7}}, 1},	       {{IPPROTO_IP, IP_TTL, 1, {7}}, 1},
	{{IPPROTO_IP, IP_OPTIONS, 44, {0}}, 4},	       {{IPPROTO_TCP, 99, 8, {0}}, 4},
};

static void options_at_edge(int wrapped, uint32_t f)
{
	char *end = (char *)low + 4096;
	for (size_t i = 0; i < sizeof at_edge / sizeof *at_edge; i++) {
		const struct one_option *one = &at_edge[i].one;
		memcpy(end - at_edge[i].there, one->value, at_edge[i].there);
		long result = call(wrapped, 14, 366,
				   (uint32_t[6]){f, (uint32_t)one->level, (uint32_t)one->name,
						 at(end) - at_edge[i].there, (uint32_t)one->length});
		printf("edge-%zu-%d:%d %ld\n", i, one->level, one->name, result);
		ask_for(wrapped, f, i, one, 20);
	}
}

static void many_options(int wrapped)
{
	uint32_t f = (uint32_t)socket(AF_INET, SOCK_STREAM, 0);
	options_at_edge(wrapped, f);
	for (size_t i = 0; i < sizeof several / sizeof *several; i++) {
		const struct one_option *one = &several[i];
		memcpy(low->several, one->value, sizeof one->value);
		long result = call(wrapped, 14, 366,
				   (uint32_t[6]){f, (uint32_t)one->level, (uint32_t)one->name,
						 at(low->several), (uint32_t)one->length});
		printf("set-%zu-%d:%d %ld\n", i, one->level, one->name, result);
		ask_for(wrapped, f, i, one, 20);
		ask_for(wrapped, f, i, one, 2);
		ask_for(wrapped, f, i, one, 0);
		ask_for(wrapped, f, i, one, UINT32_MAX);
	}
	const uint32_t value = at(low->several), length = at(&low->vector[1]);
	low->vector[1] = 4;
	say("no-value", call(wrapped, 14, 366, (uint32_t[6]){f, SOL_SOCKET, SO_REUSEADDR, 16, 4}));
	say("no-place", call(wrapped, 15, 365, (uint32_t[6]){f, SOL_SOCKET, SO_TYPE, 16, length}));
	say("no-length", call(wrapped, 15, 365, (uint32_t[6]){f, SOL_SOCKET, SO_TYPE, value, 16}));
	say("no-socket", call(wrapped, 14, 366, (uint32_t[6]){0, SOL_SOCKET, SO_REUSEADDR, value, 4}));
	say("no-descriptor", call(wrapped, 14, 366, (uint32_t[6]){99, SOL_SOCKET, SO_REUSEADDR, value, 4}));
	if (!wrapped)
		return;
	say("no-arguments", call32(102, 14, 16, 0, 0, 0, 0));
	say("no-arguments-to-get", call32(102, 15, 16, 0, 0, 0, 0));
}

/* ---- a thread that changes the words ---- */

static volatile int over;

static void *flip(void *unused)
{
	volatile uint32_t *name = &low->args[2];
	while (!over) {
		*name = SO_REUSEADDR;
		*name = SO_KEEPALIVE;
		*name = SO_TYPE;
		*name = SO_DOMAIN;
	}
	return unused;
}

/* Both have to have been seen: what is allowed and what is refused; and nothing that is refused may have
 * come to anything. */
static void race(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), kept = -1;
	socklen_t size = sizeof kept;
	long done[2] = {0}, not_done[2] = {0}, result, leaked = 0;
	pthread_t thread;
	low->args[0] = (uint32_t)fd;
	low->args[1] = SOL_SOCKET;
	low->args[3] = at(&low->vector[0]);
	if (pthread_create(&thread, NULL, flip, NULL))
		exit(3);
	for (int i = 0; i < 50000 && (i < 600 || !done[0] || !done[1] || !not_done[0] || !not_done[1]); i++) {
		low->vector[0] = 1;
		low->args[4] = 4;
		result = call32(102, 14, at(low->args), 0, 0, 0, 0);
		done[0] += result == 0;
		not_done[0] += result == -EXDEV;
		low->vector[0] = 0;
		low->vector[1] = 4;
		low->args[4] = at(&low->vector[1]);
		result = call32(102, 15, at(low->args), 0, 0, 0, 0);
		done[1] += result == 0;
		not_done[1] += result == -EACCES;
		leaked += low->vector[0] == AF_INET;
	}
	over = 1;
	pthread_join(thread, NULL);
	say("done", done[0] && done[1]);
	say("refused", not_done[0] && not_done[1]);
	say("set", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &kept, &size) ? -errno : kept);
	say("leaked", leaked);
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
	} else if (!strcmp(argv[1], "socketcall-option") || !strcmp(argv[1], "direct-option")) {
		options_as_32_bit(!strcmp(argv[1], "socketcall-option"));
	} else if (!strcmp(argv[1], "socketcall-rights") || !strcmp(argv[1], "direct-rights")) {
		rights_as_32_bit(!strcmp(argv[1], "socketcall-rights"));
	} else if (!strcmp(argv[1], "socketcall-options") || !strcmp(argv[1], "direct-options") ||
		   !strcmp(argv[1], "socketcall-flip")) {
		low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1,
			   0);
		if (low == MAP_FAILED || mprotect((char *)low + 4096, 4096, PROT_NONE))
			return 3;
		if (!strcmp(argv[1], "socketcall-flip"))
			race();
		else
			many_options(!strcmp(argv[1], "socketcall-options"));
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
