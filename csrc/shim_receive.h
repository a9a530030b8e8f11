/* Calls that are received and answered, and who makes them. See shim.h. */
#ifndef SECCOMPD_SHIM_RECEIVE_H
#define SECCOMPD_SHIM_RECEIVE_H

/* cdef begin */

/* ---- listener.c, receiver.c, answers.c, arguments.c, memory.c: one notification at a time ---- */

struct sd_reads { /* which arguments of one system call are what */
	uint32_t arch;
	int32_t nr;
	uint8_t kind[6]; /* enum sd_kind */
};

enum sd_kind {
	SD_UNUSED = 0,  /* not a parameter of this call: left out of the key */
	SD_U32 = 1,     /* int, unsigned int, dev_t as the kernel takes it: the low 32 bits */
	SD_U16 = 2,     /* umode_t: the low 16 bits */
	SD_LONG = 3,    /* as wide as the caller's registers */
	SD_STRING = 4,  /* a path: read from the caller's memory, once; so are the next ones */
	SD_TEXT = 5,    /* a string that may be NULL, and is EINVAL where it is too long */
	SD_DATA = 6,    /* mount(2)'s options: may be NULL, and end where memory does */
	/* what follows is about sockets; all but BUFFER are, to a decision, the address alone */
	SD_ADDRESS = 7,     /* its length is the next argument */
	SD_DESTINATION = 8, /* the same, and may be NULL */
	SD_MESSAGE = 9,     /* a struct msghdr */
	SD_MESSAGES = 10,   /* several struct mmsghdr, of which the first one counts */
	SD_BUFFER = 11,     /* data, its length is the next argument: no part of the key */
	SD_HOW = 12,        /* struct open_how of openat2(2), whose size is the next argument */
	SD_LOOP = 13,       /* what an ioctl of a loop device takes, by the argument before: a struct, or the register */
	/* of options of sockets */
	SD_VALUE = 14,      /* what is set, as much of it as can be read: its length is the next argument */
	SD_ROOM = 15,       /* how much may be told: struct sd_room */
	SD_NAME = 16,       /* the name of an extended attribute */
	SD_XATTR = 17,      /* its value, whose size is the next argument: into `message`, its beginning into the key */
};

enum {
	SD_STRINGS = 4,     /* most strings a call has */
	SD_PATH_MAX = 4096, /* PATH_MAX, the NUL included */
	SD_PENDING = 256,   /* most calls received and not yet answered, in one session */
	SD_UNREAD = 1 << 20,
	SD_AT_ONCE = 64,    /* most calls that sd_receive answers by itself before it returns */
	SD_STALLS = 8,      /* most stalled readers a session may leave behind */
	SD_WATCHES = 256,   /* most listeners of a session: each has a watch in the memfd */
	SD_WATCH_SIZE = 4096,
	SD_ALSO = 15,       /* most other descriptors that sd_receive looks at */
	SD_NULL = -4096,    /* the length of a string that is a NULL pointer: no errno */
	SD_ADDRESS_MAX = 128,      /* sizeof(struct sockaddr_storage) */
	SD_CONTROL_MAX = 4096,     /* most bytes of control messages */
	SD_PAYLOAD_MAX = 1 << 17,  /* most data that is sent with one call */
	SD_XATTR_NAME = 256,       /* XATTR_NAME_MAX, and the NUL */
	SD_XATTR_MAX = 1 << 16,    /* XATTR_SIZE_MAX */
	SD_XATTR_SHOWN = 256,      /* so much of a value is in the key */
	SD_VALUE_MAX = 512,        /* most bytes of an option of a socket that is set or told */
	/* What socketcall(2) is about lies in memory: its calls are known by a number of their own, that
	 * of socketcall and, 16 bits higher, the one that it takes. */
	SD_SOCKETCALL = 102,
};

struct sd_room { /* the last argument of getsockopt(2), and what it points to */
	uint64_t length_at;
	int32_t length;
	int32_t reserved;
};

struct sd_message { /* what a call sends, beside its address; in the caller's memory */
	int32_t control_length;
	int32_t payload_length;
	int32_t cut;       /* there is more than that */
	int32_t error;     /* 0, or -errno: it could not be read */
	uint64_t told_at;  /* where sendmmsg(2) says how much was sent; 0: nowhere */
	char control[SD_CONTROL_MAX]; /* as a 64-bit caller has it */
	char payload[SD_PAYLOAD_MAX];
};

struct sd_call {
	uint64_t id;
	uint64_t ip;
	uint64_t args[6]; /* cut to the width of the type */
	uint32_t tid;
	uint32_t arch;
	int32_t nr;
	int32_t slot;                 /* in the watch, to be given back with the answer */
	int32_t length[SD_STRINGS];   /* of each string without its NUL, SD_NULL, or -errno */
	int32_t key_length;
	int32_t head_length;          /* how much of the key comes before its strings */
	int32_t settled;              /* how many calls before this one sd_receive answered by itself */
	int32_t begun;                /* a porter makes it, as sd_settle_errand said, and has not yet done so */
	char text[SD_STRINGS][SD_PATH_MAX];
	/* what a decision may depend on, for a cache: arch, nr, the other arguments, then the strings,
	 * each after its length */
	char key[SD_STRINGS * SD_PATH_MAX + 128];
	struct sd_message message; /* of the last call that had a SD_MESSAGE or SD_BUFFER */
};

struct sd_stall {
	uint32_t tgid;
	uint32_t reserved;
	uint64_t start_time; /* clock ticks since boot, as in /proc/PID/stat */
};

/* A memfd or a file that a session writes and its watchdog reads: it outlives the session, and a daemon
 * may leave it to the next one (another layout is another FORMAT in supervisor/daemon/kept.py). */
struct sd_watch {
	uint8_t received[256];        /* NOTIF_RECV writes here, so that no id can be lost in between */
	uint64_t reading_since;       /* CLOCK_MONOTONIC, ns; 0: no memory is being read */
	uint64_t reading_id;
	uint64_t armed_at;            /* when the deadline timer was last armed; 0: it is not */
	uint64_t carried;             /* id of a call that the watchdog received; 0: none */
	uint64_t carried_at;          /* CLOCK_MONOTONIC, ns; of a proxy's client */
	uint64_t answering;           /* id of a call whose answer may be on its way to a proxy's client */
	uint32_t reading_tid;
	uint32_t stalls;              /* written by the watchdog, as the next line */
	struct sd_stall stalled[SD_STALLS];
	uint64_t pending[SD_PENDING]; /* ids received and not answered; 0: free */
	uint64_t turns;               /* how often the session has looked for a call: it lives */
	uint64_t calls;               /* received, and how many of those did not get what they asked for */
	uint64_t refused;
};

struct sd_receiver;
struct sd_socket; /* shim_descriptors.h, as the next one */
struct sd_node;

struct sd_gift_from { /* who opens what is given */
	struct sd_node *node; /* we do, by this one; NULL: an opener does; with one of the host's either */
	uint32_t by, index;   /* enum sd_opener, 0: none; the `index`th thing of its ceiling */
};

/* All the watches of a memfd that has room for them; NULL: they cannot be mapped, see errno. */
char *sd_watches_map(int memfd);
void sd_watches_unmap(char *watches);

extern const uint32_t SD_ARCH_X86_64;
extern const uint32_t SD_ARCH_I386;

/* `proxy`: a connection of LXC's monitor, see proxy.c, to which `listener` becomes one of our own; -1 */
struct sd_receiver *sd_receiver_new(int listener, int proxy, int timer, struct sd_watch *watch,
				    const struct sd_reads *reads, size_t count, uint64_t deadline_ns);
void sd_receiver_free(struct sd_receiver *receiver);
/* Other arguments are read from now on, of other calls, within another deadline. 0, or -ENOMEM and
 * nothing has changed */
int sd_receiver_reads(struct sd_receiver *receiver, const struct sd_reads *reads, size_t count,
		      uint64_t deadline_ns);
/* > 0: a call, the length of its key, plus SD_UNREAD where the caller stalled before and nothing of
 * its memory was read; 0: none came within linger_us or up to twice as long, or one of `also` is
 * readable, or SD_AT_ONCE calls were answered; -ENOTCONN: no caller is left; -ENOBUFS: SD_PENDING calls wait for their answers */
int sd_receive(struct sd_receiver *receiver, struct sd_call *call, int linger_us, const int *also,
	       size_t also_count);
/* 0; -ENOENT: the caller is gone or was interrupted; `error` is <= 0, `proceed` is CONTINUE */
int sd_answer(struct sd_receiver *receiver, uint64_t id, int slot, int64_t value, int error,
	      int proceed);
/* the same for the call that sd_receive gave last */
int sd_answer_last(struct sd_receiver *receiver, int64_t value, int error, int proceed);
/* From now on sd_receive gives that answer itself to calls with the same key as `call`, which it gave
 * last. `refuses`: they are counted as refused. It is forgotten with other arguments that are read. */
void sd_settle(struct sd_receiver *receiver, const struct sd_call *call, int64_t value, int error,
	       int proceed, int refuses);
/* The same for opens: what `from` says is opened with `flags`, and given, where the caller's path
 * surely leads to `path`; where that takes a resolver to tell, the call is given to who asks for calls. */
void sd_settle_gift(struct sd_receiver *receiver, const struct sd_call *call,
		    const struct sd_gift_from *from, uint32_t flags, const char *path, size_t length);
/* The same for connects, where `errand` was made for `call`: by the porter of sd_errands_by, which answers
 * them. Where one takes longer `begun` is set, and that porter makes it; where there is none, or it comes to
 * something that is not simply the kernel's result, the call is given to who asks for calls. */
void sd_settle_errand(struct sd_receiver *receiver, const struct sd_call *call,
		      const struct sd_socket *errand);
/* -1: none. It is none from the time on that a call of its is `begun`, or it has gone. */
void sd_errands_by(int porter, uint32_t number);
int sd_errands_porter(void);
void sd_settle_no_more(struct sd_receiver *receiver);
/* Answers with a copy of `fd`, which the caller gets as its lowest free descriptor, with `flags`
 * (O_CLOEXEC or 0): that number; -ENOENT as above; another errno, which the caller was told. */
int sd_give(struct sd_receiver *receiver, uint64_t id, int slot, int fd, uint32_t flags);
int sd_id_valid(int listener, uint64_t id);
/* Writes to the memory of a caller that waits; 0 or -errno */
int sd_receiver_write(struct sd_receiver *receiver, uint64_t id, uint32_t tid, uint64_t address,
		      const char *data, size_t size);
/* Writes an address of a socket there as getpeername(2) would; what does not fit is cut off. */
int sd_receiver_write_address(struct sd_receiver *receiver, uint64_t id, uint32_t tid,
			      uint64_t address, uint64_t length_at, const char *from, int32_t size);
int sd_listener_state(int listener); /* 0: nothing; 1: a call waits; -ENOTCONN: no caller is left */
int sd_set_sync_wake_up(int listener);
/* the watchdog's side: answers every id in the watch with `error`, and says how many those were */
int sd_refuse_pending(int listener, struct sd_watch *watch, int error);
/* Receives one call and answers it; by the watch, so that it is answered also where we die in between.
 * How many got the answer; -ENOTCONN: no caller is left */
int sd_refuse_next(int listener, struct sd_watch *watch, int error);
/* Before there is a session: receives one call for it, which will be the first that it gets.
 * 1: a call of thread `tid`; 0: none; -ENOTCONN: no caller is left */
int sd_receive_first(int listener, struct sd_watch *watch, uint32_t *tid);
int sd_deadline_timer(void); /* a timerfd that does not block */
int sd_arm_timer(int timer, uint64_t in_ns);
int sd_task_start(int tid, uint32_t *tgid, uint64_t *start_time);

/* ---- proxy.c: calls that LXC's monitor has received, and passes on ---- */

enum {
	SD_PROXY_SIZE = 136,     /* of a request without its cookie, and of an answer */
	SD_PROXY_SECONDS = 25,   /* the monitor waits 30, and takes a late answer for that of the next */
	SD_PROXY_COOKIE = 4096,  /* most bytes of a cookie */
};

struct sd_proxy_request {
	int32_t monitor, init;   /* their pids */
	uint32_t cookie_length;  /* after the SD_PROXY_SIZE bytes */
	uint32_t tid;
	uint64_t id;
};

/* What stands in a request; 0 or -EINVAL */
int sd_proxy_parse(const void *data, size_t size, struct sd_proxy_request *request);
/* Before there is a session: a request that was received for it */
void sd_proxy_carry(struct sd_watch *watch, const void *data);
/* as their namesakes in listener.c, for such a connection */
int sd_proxy_state(int proxy);
int sd_proxy_refuse_pending(int proxy, struct sd_watch *watch, int error);
int sd_proxy_refuse_next(int proxy, struct sd_watch *watch, int error);

/* ---- callers.c: who calls ---- */

struct sd_identity { /* all zero but what is said */
	uint32_t tid, tgid;
	int32_t own_tid;    /* in its own pid namespace; -1: not known */
	uint32_t uid, gid;  /* effective, as our user namespace numbers them */
	int32_t comm_length;
	char comm[64];
};

/* For a record. `by_pidfd`: the kernel has PIDFD_GET_INFO, and it is not hidden. 0 or -errno. */
int sd_identify(uint32_t tid, int by_pidfd, struct sd_identity *who);
/* Whether it has, for what is asked of callers later. */
void sd_known_by_pidfd(int by_pidfd);
/* Closes the files of callers that are kept open for their next call. */
void sd_forget_callers(void);

/* cdef end */

#endif
