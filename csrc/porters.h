/* What a session and its porters say to each other: one question and one answer at a time on each
 * porter's own socket. */
#ifndef SECCOMPD_PORTERS_H
#define SECCOMPD_PORTERS_H

#include "desks.h"
#include "paths.h"

#include <sys/socket.h>

enum { SD_PORTER_FDS = 5, SD_RIGHTS_MAX = 240 };

struct sd_errand { /* [pidfd, listener], and where they come along: task, path, watch */
	uint32_t op, cpu, flags, set_count;
	int32_t number, call_flags, address_length;
	int32_t control_length, payload_length;
	uint32_t with_path, wait_ms;
	uint32_t kept, tid; /* enum sd_kept: what becomes of [pidfd, listener]; the calling thread */
	int32_t asked_family, asked_length;
	int32_t level, option;
	uint64_t id, mark, network;
	struct sd_set_option set[SD_MOST_SET];
	char address[SD_ADDRESS_MAX];
};

struct sd_parcel { /* what is sent to a porter */
	struct sd_errand errand;
	char more[SD_CONTROL_MAX + SD_PAYLOAD_MAX]; /* control messages, then the data */
};

struct sd_porter_desk { /* each has one; the session writes the errand */
	struct sd_desk desk;
	struct sd_errand errand;
};

enum sd_kept {
	SD_KEEP_NOT = 0,
	SD_KEEP,      /* they are for the next ones, too */
	SD_KEEP_USED, /* those of an earlier one: none comes along, and it lies at the desk */
};

struct sd_errand_done {
	int64_t result;
	int32_t why, domain, type, patient;
	uint64_t cookie;
	int32_t replaced, hosted;
	uint32_t mss, rtt_us, pmtu, retransmits;
	int32_t taken;    /* a connection that was accepted, which goes ahead in a message of one byte; -1 */
	uint32_t left_ms; /* of the time that the caller waits for one; 0: it waits for ever */
	int32_t peer_length;
	char peer[SD_ADDRESS_MAX];
	int32_t value_length;
	char value[SD_VALUE_MAX]; /* only so much is sent */
};

enum sd_porters_op { SD_PORTER_NEW = 1, SD_PORTER_KICK };

struct sd_porters_order {
	uint32_t op, number;
};

/* ---- porters.c ---- */

/* That of a porter; NULL: there is none. */
SD_HIDDEN struct sd_porter_desk *sd_porter_desk(uint32_t number);
struct sd_errand_done;
/* Whether a call has its answer: by the kernel's own result it is the porter's to give. All else is to be
 * looked at by the session, which then does so. */
SD_HIDDEN int sd_desk_answer(struct sd_desk *desk, uint64_t id, int listener,
			     const struct sd_errand_done *done);

/* ---- socket_calls.c ---- */

/* Asks a porter for a call, and does not wait for what it comes to. 0 or -errno */
SD_HIDDEN int sd_socket_ask(const struct sd_socket *call, int porter, enum sd_kept kept);
/* The same at its desk, where it has answered the last one: by a word that wakes it, which is quicker than
 * a message. No descriptors can come along. */
SD_HIDDEN void sd_socket_ask_at(const struct sd_socket *call, struct sd_porter_desk *desk);

/* ---- porter_ids.c ---- */

/* Once, in the process of porters, before there is a thread. 0 or -errno. */
SD_HIDDEN int sd_porter_setup(void);
/* Reads who the caller is whose /proc/TID `task` is, asks `listener` whether call `id` still waits, and
 * takes on the ids that count (the effective ones, which a peer is shown, and those of the file system)
 * and the capabilities. 0 or -errno; sd_porter_come_back has to follow. */
SD_HIDDEN int sd_porter_become(uint64_t id, int listener, int task, struct sd_caller *caller);
/* May we say over a unix socket who the caller is? The kernel would say our own real uid. 1: we may, from
 * now on; 0: ours is the caller's; or -errno. */
SD_HIDDEN int sd_porter_speak(const struct sd_caller *caller);
/* For a thread that ends with what it does there, for there is no way back: goes to a network namespace,
 * as the caller still. 0 or -errno */
SD_HIDDEN int sd_porter_go_to(int net_ns, const struct sd_caller *caller);
/* May do what a rule says, and no caller could: what takes CAP_NET_ADMIN over the container's network. */
SD_HIDDEN int sd_porter_raise(void);
/* As `caller` again, or as nobody (NULL). 0 or -errno */
SD_HIDDEN int sd_porter_lower(const struct sd_caller *caller);
/* Nobody's again. A thread that cannot be is of no use to the next caller: its process ends. */
SD_HIDDEN void sd_porter_come_back(void);

/* ---- porter_calls.c ---- */

/* Does what a parcel of `size` bytes is about with the `count` descriptors that came with it. Whether its
 * call has the answer, too. */
SD_HIDDEN int sd_porter_call(struct sd_parcel *parcel, size_t size, const int *fds, size_t count,
			     struct sd_desk *desk, struct sd_errand_done *done);

/* ---- porter_connect.c ---- */

/* connect(2). Where the errand has a time for it, one that blocks gives up then (-ETIMEDOUT), and one that
 * does not is refused where that is known at once. Either way the socket can be connected again. */
SD_HIDDEN int64_t sd_connect(const struct sd_errand *errand, int sock, const void *address,
			     socklen_t length);
/* Interrupts this thread after a time, and again and again then: it may not be in its call yet. The
 * timer's number (SYS_timer_delete ends it), or -errno. */
SD_HIDDEN int sd_alarm_after(uint32_t ms);
SD_HIDDEN int64_t sd_now_ms(void);
/* What is known of a connection that is there. */
SD_HIDDEN void sd_tell_tcp(int sock, struct sd_errand_done *done);
/* Has the epoll set `watch` know the socket by `mark` for as long as anybody has that open, if it is
 * connected, or about to be, as `result` says. The set does not keep it open. */
SD_HIDDEN void sd_watch(int watch, int sock, uint64_t mark, int64_t result);

/* ---- porter_accept.c ---- */

struct sd_hold;
/* What the kernel asks of accept4(2) before it looks whether `listener` is a socket: 0 or -errno. As
 * nobody; `task` is the caller's /proc/TID. */
SD_HIDDEN int64_t sd_accept_begins(const struct sd_errand *errand, int listener, int task);
/* accept4(2) on the listener that `hold` has, for as long as that would wait, and only while the caller
 * does: the connection is done->taken; done->patient: the listener blocks. `fds` are those of the errand.
 * 0 or -errno */
SD_HIDDEN int64_t sd_accept(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
			    struct sd_errand_done *done);

/* ---- porter_another.c ---- */

/* A socket in the place of a caller's. */
struct sd_another {
	int sock;   /* -1: there is none */
	int old;    /* the caller's own; lent */
	int domain; /* of the caller's */
	int net_ns; /* the caller's network namespace; -1 */
	int hosted; /* it is to be of ours, and not of that one */
};

/* Whether a socket, or a network namespace, is of our own network; -errno of a socket: nobody knows. */
SD_HIDDEN int sd_is_of_our_network(int sock);
SD_HIDDEN int sd_is_our_network(int net_ns);
/* Whether an IPv6 socket takes no IPv4 addresses. */
SD_HIDDEN int sd_is_v6only(int sock);
/* Whether what leads to an address of `family` cannot go by `sock`, which is of `domain`. */
SD_HIDDEN int sd_another_is_needed(int sock, int domain, int family);
/* Makes one for that, with all that was set on the old one; as `caller`, who has been taken on. 0 or
 * -errno: what the caller is told, and `*why` */
SD_HIDDEN int sd_another_make(struct sd_another *another, int family, const struct sd_caller *caller,
			      int32_t *why);
/* Puts it at `number` of the caller's table, if what is there is the old one still. 0 or -errno */
SD_HIDDEN int sd_another_install(const struct sd_another *another, int listener, uint64_t id,
				 int pidfd, int task, int number);
/* SO_COOKIE: no other socket ever has the same; 0: not known */
SD_HIDDEN uint64_t sd_socket_cookie(int sock);

/* ---- porter_hosts.c ---- */

struct sd_hold;
/* In which network the call is to be made: says so in `errand`, `hold` and `done`. `task`: the caller's,
 * -1 where that has not come along. 0 or the errno */
SD_HIDDEN int64_t sd_which_network(struct sd_errand *errand, int task, struct sd_hold *hold,
				   struct sd_errand_done *done);
/* The last few thousand sockets that porters have put in the place of a caller's (who may still take them
 * for ones of the first family), and that they have bound in the host's network: by SO_COOKIE. */
enum sd_cookies { SD_MADE, SD_BOUND, SD_COOKIE_KINDS };
SD_HIDDEN void sd_keep_cookie(enum sd_cookies what, uint64_t cookie);
SD_HIDDEN int sd_has_cookie(enum sd_cookies what, uint64_t cookie);
/* listen(2); of the host's network (done->hosted) no socket that no rule has bound. 0 or -errno */
SD_HIDDEN int64_t sd_listen(int sock, int most, struct sd_errand_done *done);

/* ---- porter_options.c ---- */

/* Sets an option of the caller's socket, or asks for one: as the caller, and as a 32-bit one. 0 or -errno */
SD_HIDDEN int64_t sd_call_option(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
				 struct sd_errand_done *done);

/* ---- porter_fits.c ---- */

/* An int of SOL_SOCKET, or -errno */
SD_HIDDEN int sd_socket_option(int sock, int name);
/* `error`, and says in `done` why. */
SD_HIDDEN int64_t sd_refuse_errand(struct sd_errand_done *done, int error, enum sd_socket_why why);
SD_HIDDEN int sd_family_of(const struct sd_errand *errand); /* of its address */
/* Whether this socket takes the address for what was decided on, and the call is one that can be made
 * for somebody else. 0, or the errno. */
SD_HIDDEN int64_t sd_socket_fits(struct sd_errand *errand, struct sd_hold *hold,
				 struct sd_errand_done *done);

/* ---- porter_unix.c ---- */

/* What one errand holds besides what came with it. */
struct sd_hold {
	int sock;
	char *more; /* of the parcel: lent */
	struct sd_another another; /* in the place of that one */
	int rights[SD_RIGHTS_MAX];
	size_t right_count;
	int has_credentials;
	struct ucred said; /* SCM_CREDENTIALS of the caller's own */
	struct sd_caller caller;
};

/* Takes the caller's descriptors, and what it says of itself, out of its control messages. 0 or -errno */
SD_HIDDEN int64_t sd_take_control(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
				  struct sd_errand_done *done);
/* Sends them with the data; how much, or -errno */
SD_HIDDEN int64_t sd_send_unix(struct sd_errand *errand, struct msghdr *message,
			       const struct sd_hold *hold, struct sd_errand_done *done);

/* ---- socket_options.c ---- */

/* Sets on `to` what was set on `from`, a socket of another domain. 0 or -errno */
SD_HIDDEN int sd_options_carry(int from, int to, int from_domain, int to_domain);
/* Sets those that such a socket has. 0 or -errno */
SD_HIDDEN int sd_options_set(int sock, const struct sd_set_option *options, uint32_t count);

/* ---- netlink.c ---- */

/* Whether netlink messages only ask for what is there. */
SD_HIDDEN int sd_netlink_only_asks(int protocol, const char *messages, size_t size);

#endif
