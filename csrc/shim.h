/* The one declaration file of the C shim.
 *
 * What stands between "cdef begin" and "cdef end" is plain C: it is included here and given to cffi
 * by build_shim.py, so that the two can never drift apart. Everything returns >= 0 or -errno.
 */
#ifndef SECCOMPD_SHIM_H
#define SECCOMPD_SHIM_H

#include <stdint.h>
#include <sys/types.h>

/* cdef begin */

/* ---- listener.c, receiver.c, arguments.c, memory.c: one notification at a time ---- */

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
	/* What socketcall(2) is about lies in memory: its calls are known by a number of their own, that
	 * of socketcall and, 16 bits higher, the one that it takes. */
	SD_SOCKETCALL = 102,
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

/* A memfd that a session writes and its watchdog reads: it outlives the session, and a daemon may
 * leave it to the next one (another layout is another FORMAT in supervisor/daemon/kept.py). */
struct sd_watch {
	uint8_t received[256];        /* NOTIF_RECV writes here, so that no id can be lost in between */
	uint64_t reading_since;       /* CLOCK_MONOTONIC, ns; 0: no memory is being read */
	uint64_t reading_id;
	uint64_t armed_at;            /* when the deadline timer was last armed */
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
 * its memory was read; 0: none came within linger_us, or one of `also` is readable, or SD_AT_ONCE calls
 * were answered; -ENOTCONN: no caller is left; -ENOBUFS: SD_PENDING calls wait for their answers */
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
void sd_settle_no_more(struct sd_receiver *receiver);
/* Answers with a copy of `fd`, which the caller gets as its lowest free descriptor, with `flags`
 * (O_CLOEXEC or 0): that number; -ENOENT as above; another errno, which the caller was told. */
int sd_give(struct sd_receiver *receiver, uint64_t id, int slot, int fd, uint32_t flags);
int sd_id_valid(int listener, uint64_t id);
/* Writes a number to the memory of a caller that waits; 0 or -errno */
int sd_receiver_write(struct sd_receiver *receiver, uint64_t id, uint32_t tid, uint64_t address,
		      uint32_t value);
int sd_listener_state(int listener); /* 0: nothing; 1: a call waits; -ENOTCONN: no caller is left */
int sd_set_sync_wake_up(int listener);
/* the watchdog's side: answers every id in the watch with `error`, and says how many those were */
int sd_refuse_pending(int listener, struct sd_watch *watch, int error);
int sd_refuse_next(int listener, int error);
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
int sd_proxy_refuse_next(int proxy, int error);

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
/* Closes the files of callers that are kept open for their next call. */
void sd_forget_callers(void);

/* ---- session.c: what a session process does once ---- */

int sd_join_user_namespace(int userns, uint32_t uid, uint32_t gid);
/* a descriptor of the user namespace that this one was made in; -EPERM: that is not below ours */
int sd_parent_user_namespace(int userns);
/* who made it, as our user namespace numbers users */
int sd_owner_of_user_namespace(int userns, uint32_t *uid);
/* a descriptor of the user namespace that another namespace belongs to */
int sd_user_namespace_of(int ns);
/* a descriptor of another process's, as one of ours */
int sd_take_descriptor(int pidfd, int number);
/* a pidfd of who connected (SO_PEERPIDFD); -ENOPROTOOPT: this kernel has none */
int sd_peer_pidfd(int sock);
int sd_send_fds(int sock, const void *data, size_t size, const int *fds, size_t count);
/* the size of the message; 0: the other side has closed. Unused places of `fds` become -1 */
int sd_receive_fds(int sock, void *data, size_t size, int *fds, size_t count);

/* ---- launch.c, init.c, handover.c (LAUNCH) ---- */

enum sd_namespace {
	SD_NS_USER = 1,
	SD_NS_MOUNT = 2,
	SD_NS_PID = 4,
	SD_NS_NET = 8,
	SD_NS_IPC = 16,
	SD_NS_UTS = 32,
	SD_NS_CGROUP = 64,
	SD_NS_TIME = 128,
};

struct sd_launch_spec {
	uint32_t namespaces;     /* enum sd_namespace; 0: CMD is filtered and nothing else */
	uint32_t uid, gid;       /* who CMD is in its user namespace; without one they are unused */
	int32_t drop_groups;     /* empty the list of supplementary groups */
	int32_t held;            /* after the event with the listener: CMD waits for another sd_launch_go */
	int32_t wait_killable;   /* the kernel has WAIT_KILLABLE_RECV, and it is not hidden */
	uint32_t preserve_fds;   /* how many descriptors after 0, 1 and 2 CMD inherits */
	const void *filter;      /* struct sock_filter[] */
	size_t filter_size;      /* in bytes */
	const char *const *argv; /* ends with NULL; argv[0] is looked up in PATH */
};

enum sd_launch_stage { /* where init was when something failed */
	SD_STAGE_IDENTITY = 1,
	SD_STAGE_MOUNTS,
	SD_STAGE_PROC,
	SD_STAGE_SYSFS,
	SD_STAGE_MQUEUE,
	SD_STAGE_LOOPBACK,
	SD_STAGE_TIME,
	SD_STAGE_FORK,
	SD_STAGE_NO_NEW_PRIVS,
	SD_STAGE_FILTER,
	SD_STAGE_HANDOVER,
	SD_STAGE_EXEC,
};

enum sd_launch_kind {
	SD_EVENT_LISTENER = 1, /* comes with the listener; value: CMD's pid as init sees it */
	SD_EVENT_NOTE,         /* stage, value: an errno; it goes on without that */
	SD_EVENT_FAILED,       /* stage, value: an errno; CMD never ran */
	SD_EVENT_STOPPED,      /* value: the signal */
	SD_EVENT_CONTINUED,
	SD_EVENT_EXITED,       /* CMD ended; value: its exit status, or 128 + the signal */
};

struct sd_launch_event {
	int32_t kind;
	int32_t stage;
	int32_t value;
};

struct sd_signal {
	int32_t number;
	int32_t code;   /* si_code: SI_KERNEL for what a terminal sends */
	int32_t sender; /* si_pid in our pid namespace */
};

/* Blocks all signals but SIGCHLD and those of errors, and gives a signalfd with them. What was
 * there before is kept for CMD. */
int sd_signals_open(void);
/* 1: a signal; 0: none */
int sd_signals_next(int signals, struct sd_signal *signal);
/* stops this process as `number` would have; returns once it has been continued */
int sd_signals_stop_self(int number);

/* Gives a SOCK_SEQPACKET to the init that it makes. Init waits for sd_launch_go, which is to come
 * once the id maps are written, and dies when the socket closes. */
int sd_launch_begin(const struct sd_launch_spec *spec, int32_t *init);
int sd_launch_go(int sock);
/* init sends `signal` to CMD, unless CMD got the same one already as a member of our group */
int sd_launch_kill(int sock, const struct sd_signal *signal);
/* 1: an event, and its descriptor or -1; 0: init has ended; -EAGAIN: nothing yet */
int sd_launch_next(int sock, struct sd_launch_event *event, int32_t *fd);
/* puts /dev/null in place of `fd`, so that what it was can end while we live */
int sd_detach_stream(int fd);
/* takes every capability away but those in `keep` (bit n: capability n) */
int sd_limit_capabilities(uint64_t keep);

/* ---- spawn.c, resolver.c, maker.c: the helpers; work.c: what a session asks of them ---- */

struct sd_child {
	int32_t pid;
	int32_t pidfd; /* -1 where the kernel has none */
	int32_t sock;
	int32_t reserved;
};

struct sd_range { /* as uid_map has it */
	uint32_t inside, outside, count;
};

struct sd_devices {
	uint32_t type; /* 'c' or 'b' */
	uint32_t major_low, major_high, minor_low, minor_high;
	uint32_t closed; /* made only where nobody can open them, if there is a user namespace */
};

struct sd_mount_rule { /* one fstype, what it may be mounted from, and how */
	const char *fstype;
	uint64_t force;             /* MOUNT_ATTR_* that it always gets */
	uint64_t flags;             /* MS_* that may be asked for */
	const char *const *names;   /* globs for the kernel's names of block devices, or for texts */
	const char *const *options; /* globs for the words of the data string */
	const struct sd_devices *devices;
	uint32_t name_count, option_count, device_count;
	uint32_t images, text;      /* may be mounted from a file, from what is no path */
	uint32_t shift;             /* may be idmapped */
};

struct sd_lent {        /* what a maker lends for opens: a device, or a file of the host's */
	const char *path;   /* NULL: a device */
	uint32_t type, major, minor; /* 'c' or 'b' */
	uint32_t writes;    /* for writing, too */
};

struct sd_ceiling { /* all that a maker can ever be asked for */
	const struct sd_range *uids; /* none: no user namespace */
	const struct sd_range *gids;
	const struct sd_devices *devices;
	uint32_t uid_count, gid_count, device_count;
	uint32_t most_private; /* nodes in its own tmpfs; 0: 65536 */
	const struct sd_mount_rule *mounts;
	uint32_t mount_count;
	/* options that hand over more than the source: only a glob that begins with `NAME=` allows one */
	const char *const *named_options;
	uint32_t named_count;
	int32_t userns;        /* of the target, for idmapped mounts; -1: none */
	int32_t no_real_nodes; /* that could be opened: only such as are mounted, and end with that */
	const struct sd_lent *lent;
	uint32_t lent_count;   /* at most SD_MOST_LENT */
};

/* Memory that helpers keep, see forget.c: all that a ceiling is made of. NULL: there is none */
void *sd_kept_new(size_t size);
void sd_kept_free(void *data);

/* Both return the pid. The helper's first message, an int32_t, is 0 or -errno (sd_helper_ready). */
int sd_resolver_spawn(struct sd_child *child);
int sd_maker_spawn(const struct sd_ceiling *ceiling, struct sd_child *child);
int sd_helper_ready(int sock, int timeout_ms);

enum { SD_HOST_NODE_MAX = 256, SD_MOST_LENT = 256 };

enum sd_work_op {
	SD_WORK_MAKE = 1,
	SD_WORK_REMOVE = 2,
	SD_WORK_RENAME = 3,
	SD_WORK_LINK = 4,
	SD_WORK_CHANGE = 5,
	/* The second path is a list of struct sd_mounted_device. `resolved`: the device and inode of
	 * each node that has gone; `fs_dev`: which of the list was unmounted. */
	SD_WORK_UMOUNT = 6,
};

enum sd_work_flag {
	SD_WORK_PROBE = 1,     /* only what mknod would answer a caller without CAP_MKNOD */
	SD_WORK_WANT_PATH = 2, /* stop at SD_WORK_DECIDE with fsuid, fsgid and the path */
	SD_WORK_NODE = 4,      /* a real node, even where it could not be opened */
	SD_WORK_BIND = 8,      /* a bind mount, even where a real node would do */
	SD_WORK_CLOSED = 16,   /* one that cannot be opened; with BIND, and by a maker */
	/* with WANT_PATH: granted where the path has no symlink, and need not be decided again there */
	SD_WORK_AS_WRITTEN = 32,
};

enum sd_work_result {
	SD_WORK_DONE = 0,   /* `error` and the outcome are there */
	SD_WORK_WAIT = 1,   /* step again when `waiting` is readable */
	SD_WORK_DECIDE = 2, /* sd_work_go, sd_work_close; with `guess` also sd_work_resolve */
	SD_WORK_RETIRE = 3, /* this resolver cannot serve this caller: start again with a fresh one */
	SD_WORK_LOST = 4,   /* the helper behind `waiting` has gone */
	SD_WORK_BUSY = 5,   /* another work waits for this maker: sd_work_go, perhaps with another */
	SD_WORK_LONG = 6,   /* it takes a resolver after all: fill in that and `task`, sd_work_go */
};

enum sd_work_outcome {
	SD_WAS_LEFT_ALONE = 1,
	SD_WAS_NODE = 2,
	SD_WAS_BOUND = 4,
	SD_WAS_UNBOUND = 8, /* `node_dev`, `node_ino`: for sd_maker_tell */
	SD_WAS_LINKED = 16, /* likewise */
};

struct sd_mounted_device { /* of a mount of ours */
	uint64_t device;
	uint64_t program; /* a FUSE program serves it; else MNT_FORCE has no meaning there */
};

struct sd_work {
	int32_t op;
	uint32_t flags;
	int32_t resolver, maker; /* sockets; -1: none (see SD_WORK_LONG) */
	int32_t *maker_busy;     /* shared by all works of that maker: one question at a time */
	int32_t listener;
	uint64_t id;             /* of the call: it must still wait when its caller has been read */
	uint32_t tid;            /* of MAKE */
	int32_t task;            /* /proc/TID, O_PATH */
	uint32_t mode;
	uint32_t major, minor;
	uint32_t call_flags;     /* of rename and link; of change: AT_SYMLINK_NOFOLLOW */
	int32_t capability;      /* of change: its number */
	int32_t dirfd[2];
	int32_t length[2];       /* of each path; -1: the file `dirfd` itself */
	char path[2][SD_PATH_MAX];
	char host_node[SD_HOST_NODE_MAX]; /* where there is no maker */
	/* the state, to be zero at the start */
	int32_t stage, waiting;
	int32_t parent, placeholder, home;
	int32_t failure;
	uint32_t wanted;
	int32_t pending;  /* a descriptor whose message is still to come */
	int32_t begun;    /* an umount is under way, and takes as long as there is to be written */
	int32_t guess;    /* at DECIDE: `resolved` holds if the path has no symlink, as will be seen */
	uint32_t told_flags, umask, group_count;
	uint32_t file_mode, file_uid, file_gid; /* of the placeholder */
	uint64_t fs_type, fs_id, fs_dev;
	uint32_t groups[64];
	char name[256];
	/* what it came to */
	int32_t error; /* 0 or -errno */
	uint32_t outcome;
	uint32_t fsuid, fsgid;
	uint64_t node_dev, node_ino;
	int32_t resolved_length; /* -1: not known */
	char resolved[SD_PATH_MAX + 256];
};

/* The device node of MAKE, filled in and started at once. */
int sd_work_make(struct sd_work *work, uint32_t flags, uint32_t mode, uint32_t major,
		 uint32_t minor, int dirfd, const char *path, size_t length, int linger_us);
/* All that was filled in before; the result is one of enum sd_work_result, here and below. */
int sd_work_start(struct sd_work *work, int linger_us);
int sd_work_step(struct sd_work *work, int linger_us);
int sd_work_go(struct sd_work *work, int linger_us);
/* The guess was not granted: what does the path really lead to? */
int sd_work_resolve(struct sd_work *work, int linger_us);
/* Keeps the link count of a private node; every maker is told, and knows its own. No answer. */
int sd_maker_tell(int maker, uint32_t outcome, uint64_t node_dev, uint64_t node_ino);
/* After the maker was lost: takes the placeholder back, if there is one; then DONE with `error`. */
int sd_work_undo(struct sd_work *work, int error, int linger_us);
/* Who still owes this work an answer, and is of no use to others until then: its socket, or -1. */
int sd_work_owed(const struct sd_work *work);
/* Lets go of what a work that did not end holds. */
void sd_work_close(struct sd_work *work);

/* ---- mounting.c: what a session asks resolvers and makers about mounts ---- */

enum {
	SD_FSTYPE_MAX = 64,
	SD_MOST_MOUNTS = 256, /* that a maker knows again */
};

enum sd_look_flag {
	SD_LOOK_SOURCE = 1, /* the source is a path */
	SD_LOOK_WRITE = 2,  /* it is to be opened for writing too */
	SD_LOOK_DEVICE = 4, /* a device is to be opened as well, not only an image */
	SD_LOOK_ROOT = 8,   /* the caller's root directory is wanted */
	SD_LOOK_ALONE = 16, /* nothing is to be mounted: where does the path lead? */
	SD_LOOK_PARENT = 32, /* with ALONE: to the directory that its last component is to be in */
};

enum sd_seen_flag {
	SD_SEEN_DEVICE = 1, /* the source is a block device: `major`, `minor` */
	SD_SEEN_IMAGE = 2,  /* the source is a regular file */
	SD_SEEN_RETIRE = 4, /* this resolver cannot become that caller: ask a fresh one */
	SD_SEEN_ROOT = 8,   /* the target is the root of a mount */
	SD_SEEN_FOREIGN = 16, /* the image lies where somebody may not answer when it is read */
	SD_SEEN_CALLERS_ROOT = 32, /* the caller's root directory comes with it */
};

struct sd_seen {
	int32_t error;        /* 0 or -errno: the target, and who the caller is */
	int32_t source_error;
	uint32_t flags;
	uint32_t fsuid, fsgid;
	uint32_t major, minor;
	uint64_t caps; /* effective, of the caller */
	uint64_t source_dev, source_ino;     /* of an image; 0 and the number of a device */
	uint64_t source_fs;                  /* where it lies, if that is an overlay; else 0 */
	uint32_t target_major, target_minor; /* of the filesystem that the target is on */
	int32_t target_length, source_length; /* -1: not known */
	char target[SD_PATH_MAX];
	char source[SD_PATH_MAX];
};

/* A call that has to wait still when its caller has been read, and before anything is mounted. */
struct sd_waiting {
	int32_t listener;
	uint64_t id;
};

/* Each of the questions is sent; the answer is there once the socket is readable. All return 0 or
 * -errno. */
int sd_mount_look(int resolver, const struct sd_waiting *call, int task, uint32_t flags,
		  const char *target, size_t target_length, const char *source,
		  size_t source_length);
/* fds: target, mount namespace, source, root directory; -1 where there is none */
int sd_mount_seen(int resolver, struct sd_seen *seen, int *fds);
struct sd_program;
/* Makes the mount that `program`, whose /proc/PID `task` is, asks for, and moves it to its place.
 * `force` is locked, `set` is not. `source` is what the caller calls the image. */
int sd_mount_adopt(int resolver, const struct sd_waiting *call, int mount_ns, int target, int task,
		   const struct sd_program *program, int inotify, uint64_t force, uint64_t set,
		   uint32_t flags, const char *source);
/* `only_try`: whether it could be done; nothing is changed */
int sd_mount_change(int resolver, const struct sd_waiting *call, int mount_ns, int target,
		    uint64_t set, uint64_t clear, int only_try);
/* The mount at `target` is to be replaced: the resolver remembers it, and nobody may hold it then.
 * `task` is some /proc/PID. */
int sd_mount_mark(int resolver, const struct sd_waiting *call, int mount_ns, int target, int task);
/* Whether nobody uses the one that was marked; else its answer is -EBUSY. */
int sd_mount_idle(int resolver, const struct sd_waiting *call, int mount_ns);
/* Binds a unix socket, number `number` of the table of `pidfd`, to `path` (as it was written), whose last
 * component is to be in `directory`. */
int sd_socket_bind(int resolver, const struct sd_waiting *call, int task, int directory, int pidfd,
		   int number, const char *path, size_t length);
struct sd_attached {
	int32_t error; /* 0 or -errno; -ECANCELED: the maker sent nothing */
	int32_t watch; /* of an adopted mount, in `inotify`; -1: it could not be watched */
	uint64_t device;
};

/* the answer to those, and to sd_mount_begin: 0, or -EPIPE: the resolver has gone */
int sd_mount_answer(int resolver, struct sd_attached *attached);
/* An inotify descriptor, and a watch whose filesystem is no longer mounted anywhere; -EAGAIN: none */
int sd_watch_new(void);
int sd_watch_next(int inotify);

enum sd_new_kind {
	SD_NEW_DEVICE = 1,
	SD_NEW_IMAGE = 2,
	SD_NEW_TEXT = 3,
	SD_NEW_AGAIN = 4, /* the superblock of a mount of ours gets other flags and data */
	SD_NEW_COPY = 5,  /* one more mount of a filesystem of ours, `major` and `minor` */
};
enum sd_new_shift { SD_SHIFT_FALSE = 0, SD_SHIFT_AUTO = 1, SD_SHIFT_TRUE = 2 };

struct sd_new_mount {
	uint32_t op, cpu;     /* filled in when it is sent */
	uint32_t kind;
	uint32_t shift;
	uint32_t major, minor;
	int32_t data_length;  /* -1: a NULL pointer, and `data` is empty */
	uint32_t most;        /* of filesystems from here that may be mounted at a time, this one too */
	uint64_t flags;       /* MS_*, for the superblock and its atime */
	uint64_t force, set;  /* MOUNT_ATTR_*: locked, and not locked */
	char fstype[SD_FSTYPE_MAX];
	char source[SD_PATH_MAX]; /* of TEXT */
	char data[SD_PATH_MAX];
};

enum sd_mounted_flag {
	SD_MOUNTED_SHIFTED = 1,
	SD_MOUNTED_NO_SHIFT = 2, /* it was refused because it cannot be idmapped */
	SD_MOUNTED_CEILING = 4,  /* it is beyond the ceiling */
	SD_MOUNTED_LOOP = 8,     /* there is no loop device to be had */
	SD_MOUNTED_LOCK = 16,    /* its flags could not be locked */
	SD_MOUNTED_STRANGER = 32, /* of AGAIN and COPY: it did not come from here, or that one has gone */
	SD_MOUNTED_FULL = 64,    /* it is one too many */
	SD_MOUNTED_JOURNAL = 128, /* it names another device as its journal */
};

struct sd_mounted {
	int32_t error; /* 0 or -errno */
	uint32_t flags;
	uint32_t major, minor; /* of the filesystem */
};

/* Asks the maker for a mount (of an image: its descriptor), and the resolver to bring it to its
 * place as soon as the maker has it. Both answer: sd_mount_made, sd_mount_answer. `target` -1: it
 * takes the place of the mount that was marked. */
int sd_mount_begin(int maker, struct sd_new_mount *make, int image, int resolver,
		   const struct sd_waiting *call, int mount_ns, int target);
/* AGAIN, of the mount at `target`; the maker alone answers */
int sd_mount_again(int maker, struct sd_new_mount *make, int target);
int sd_mount_made(int maker, struct sd_mounted *mounted);
/* After the answer to sd_mount_begin. 1: the maker holds nothing of the mount any more, and can be
 * asked again; 0: not yet; -EPIPE: it has gone */
int sd_mount_tidied(int maker);
/* 1: `fd` is readable; 0: it is not yet, and either the time is over or another call waits */
int sd_mount_wait(int fd, int listener, int linger_us);
/* a node for /dev/fuse, as a detached mount; its answer as above */
int sd_mount_fuse_node(int maker, uint32_t uid, uint32_t gid);
int sd_mount_fuse_made(int maker, int *tree);

/* ---- opening.c: what a session asks resolvers and makers about opens ---- */

enum sd_open_flag {
	SD_OPEN_NOFOLLOW = 1,
	SD_OPEN_DECIDED = 4, /* what is given is opened whatever the path leads to now */
	SD_OPEN_NET = 2, /* what is given is opened in the caller's network namespace */
};

struct sd_opening {
	uint32_t flags;       /* SD_OPEN_* */
	uint32_t open_flags;  /* O_*, for what is given */
	int32_t dirfd, length, granted_length;
	char path[SD_PATH_MAX];    /* as the caller wrote it */
	char granted[SD_PATH_MAX]; /* where it has to lead for anything to be given */
	/* what came of it */
	int32_t error;        /* 0 or -errno: of the path, or of opening what is given */
	int32_t retire;       /* this resolver cannot become that caller: ask a fresh one */
	int32_t leads;        /* the path led to `granted` */
	int32_t fd;           /* opened; -1: none */
	int32_t pending;
	uint32_t fsuid, fsgid;
	int32_t resolved_length; /* -1: it is not known where the path leads */
	char resolved[SD_PATH_MAX + 256];
};

/* Has a resolver see where a path leads, whether there is something or not; and where that is
 * `granted`, open what `thing` (O_PATH; -1: nothing) stands for. 0 or -errno. */
int sd_open_ask(int resolver, const struct sd_waiting *call, int task, int thing,
		struct sd_opening *opening);
/* 1: it has answered; 0: not within `linger_us`; -EPIPE: it has gone */
int sd_open_told(int resolver, struct sd_opening *opening, int linger_us);
/* 1: for the caller of `call` this absolute path, in which nothing has to be cleaned, leads to itself,
 * whether something is there or not; 0: that takes a resolver to tell. Never waits. */
int sd_open_is_plain(const struct sd_waiting *call, uint32_t tid, const char *path, size_t length);
/* Opens what an O_PATH descriptor stands for: a descriptor or -errno */
int sd_open_again(int fd, uint32_t flags);
/* Asks a maker for the `index`th thing of its ceiling: of a device a detached mount of a node, which
 * is for a resolver to open; of a file what `flags` open. 0 or -errno */
int sd_lend_ask(int maker, uint32_t index, uint32_t flags);
/* 1: `*fd` is it; 0: not within `linger_us`; -errno: why there is none; -EPIPE: the maker has gone.
 * `*fd` is -1 at the start. */
int sd_lend_told(int maker, int *fd, int linger_us);

/* ---- devices.c ---- */

enum { SD_DEVICE_NAME_MAX = 128 };

/* The kernel's own name of a block device, below /dev: its length, or -errno. No container can
 * choose it, as it can the name of a node. */
int sd_device_name(uint32_t major, uint32_t minor, char *name);

/* ---- programs.c: FUSE servers ---- */

struct sd_program {
	const char *const *argv; /* ends with NULL; the image is /dev/image */
	int32_t image;
	int32_t fuse;      /* a detached mount of a node for /dev/fuse; -1: the host's */
	int32_t mount_ns;  /* the caller's, where the image comes from */
	int32_t root;      /* the caller's root directory: the program is the container's own; or -1 */
	uint64_t memory;   /* most address space of each process in bytes; 0: no limit */
	uint32_t alone;    /* it makes no other process */
	uint32_t bounded;  /* filled in: of a spare one what could be given up ahead has been */
	/* of a program of the container's: who it is, and the most that it may do */
	uint64_t caps;
	uint32_t uid, gid;
	/* what it came to */
	int32_t pid, pidfd;
	int32_t messages;  /* what it writes to its standard streams */
	int32_t started;   /* readable when it is known whether the program runs */
	int32_t listener;  /* of its mount(2) */
	int32_t stage;     /* where it failed, enum sd_program_stage */
};

enum sd_program_stage {
	SD_PROGRAM_CLONE = 1,
	SD_PROGRAM_ROOT,
	SD_PROGRAM_DEVICE,
	SD_PROGRAM_RIGHTS,
	SD_PROGRAM_FILTER,
	SD_PROGRAM_EXEC,
};

/* Starts it in namespaces of its own, below the user namespace that this process is in. It has no
 * capability to mount: its mount(2) is answered by sd_mount_adopt. 0 or -errno. */
int sd_program_start(struct sd_program *program);
/* 1: it runs; 0: not known yet; -errno: it does not, because of `stage` */
int sd_program_started(struct sd_program *program);

/* ---- program_spare.c: the beginning of a program, made before anybody waits for it ---- */

/* Forks who makes them, one at a time: sd_spare_prepare to sd_spare_start or the spare's end. */
int sd_spare_spawn(struct sd_child *child);
/* `fuse` as in struct sd_program. 0 or -errno. */
int sd_spare_prepare(int starter, int fuse);
/* The pid of the spare one, which is a child of ours; -EAGAIN: not there yet; -errno. Once each. */
int sd_spare_made(int starter);
/* Has it execute a program of the host's; the rest is as after sd_program_start. 0 or -errno. */
int sd_spare_start(int starter, struct sd_program *program, int pid, int pidfd);

/* ---- porters.c: the helper that calls on sockets; socket_calls.c: what a session asks of it ---- */

/* Porters are threads of one process: each does one call at a time, for as long as that takes. Their
 * process hears of new ones, and of those that are to let go of a call, on its own socket. */
int sd_porters_spawn(struct sd_child *child);
/* One more: the socket that it answers on; it ends when that is closed. */
int sd_porter_new(int porters, uint32_t number);
/* Interrupts the call that this one is in, if it is in one that can be interrupted. */
int sd_porter_kick(int porters, uint32_t number);

enum sd_socket_op {
	SD_SOCKET_CONNECT = 1,
	SD_SOCKET_BIND,
	SD_SOCKET_SEND,
	SD_SOCKET_LOOK, /* only what kind of socket it is */
};

enum sd_socket_flag {
	SD_SOCKET_AS_CALLER = 1,   /* with the caller's ids and capabilities; else with none at all */
	SD_SOCKET_NO_ADDRESS = 2,
	SD_SOCKET_UNSPECIFIED = 4, /* the address was AF_UNSPEC, and is AF_INET to some sockets alone */
	SD_SOCKET_CUT = 8,         /* there is more data than comes along */
	SD_SOCKET_REDIRECTED = 16, /* the address is not the caller's own: an IPv6 socket takes an IPv4 one */
};

enum sd_socket_why { /* what an errno is about that the kernel has not said */
	SD_SOCKET_MADE = 0,     /* the kernel has said it: the call was made */
	SD_SOCKET_KERNEL,       /* it would have said it: no such descriptor, no socket */
	SD_SOCKET_GONE,         /* the caller has gone */
	SD_SOCKET_DOMAIN,       /* sockets of this domain are not served */
	SD_SOCKET_LONG,         /* more data than a datagram may have here */
	SD_SOCKET_NETLINK,      /* a netlink message that may change something */
	SD_SOCKET_CONTROL,      /* a control message */
	SD_SOCKET_OTHER,        /* it is another socket than the one that was looked at */
	SD_SOCKET_RIGHTS,       /* the caller's descriptors, or who it is, cannot be taken on */
};

struct sd_socket { /* one call on a socket */
	int32_t listener;
	uint32_t tid;
	uint64_t id;
	int32_t number;       /* of the socket in the caller's table */
	int32_t by_thread;    /* the kernel has pidfds of threads, and they are not hidden */
	int32_t anew;         /* what is known of the caller's number is of somebody who has gone */
	uint32_t op, flags;
	int32_t call_flags;   /* MSG_* */
	int32_t address_length;
	int32_t control_length, payload_length;
	int32_t task;         /* /proc/TID of AS_CALLER; -1 */
	int32_t path;         /* what the address of a unix socket leads to, O_PATH; -1 */
	const char *control, *payload;
	char address[SD_ADDRESS_MAX];
	/* what it came to */
	int64_t result;       /* of the call, or -errno */
	int32_t why;          /* enum sd_socket_why */
	int32_t domain, type; /* of the socket */
	int32_t patient;      /* a call on it waits for ever: no timeout is set (SO_SNDTIMEO) */
};

/* Who has the caller's table of descriptors, as a pidfd. -ESRCH: it has gone; -EPERM: its table cannot
 * be told from another's. */
int sd_socket_owner(const struct sd_socket *call);
/* Closes those that are kept open for the next calls of the same threads. */
void sd_socket_forget_owners(void);
/* Has a porter fetch the caller's socket, and make the call on that. 1: done, the result is there; 0:
 * not yet; -errno. */
int sd_socket_call(struct sd_socket *call, int porter, int linger_us);
/* The same, when the porter's socket is readable. */
int sd_socket_answer(struct sd_socket *call, int porter, int linger_us);
/* the thread `tid` of process `tgid` gets a signal */
int sd_signal_thread(uint32_t tgid, uint32_t tid, int number);

/* ---- giver.c, holders.c: devices for a container that runs, on an admin's word ---- */

enum sd_give_op {
	SD_GIVE_ADD = 1,  /* [mount namespace, user namespace] -> [our tmpfs], ahead of the answer */
	SD_GIVE_TAKE = 2, /* [our tmpfs, mount namespace, user namespace]; one that is left out is -1 */
	SD_GIVE_LOOK = 3, /* struct sd_look -> many struct sd_holder */
};

enum sd_give_stage { /* where it was when something failed */
	SD_GIVE_NODE = 1, /* the node itself */
	SD_GIVE_CGROUP,   /* the container's cgroup refuses it */
	SD_GIVE_ENTER,    /* the container's namespaces */
	SD_GIVE_PARENT,   /* the directory */
	SD_GIVE_PLACE,    /* the name in it */
	SD_GIVE_ATTACH,
};

enum { SD_GIVE_READ = 1, SD_GIVE_WRITE = 2 };

struct sd_give {
	uint32_t op;
	uint32_t mode;               /* with the type */
	uint32_t major, minor;
	uint32_t uid, gid;           /* as we number them; of TAKE those of nobody in the container */
	uint32_t root_uid, root_gid; /* who acts in the container, as that numbers them */
	uint64_t place_device, place_inode; /* of TAKE: as ADD has told */
	char path[SD_PATH_MAX];      /* from the container's root directory, without "." and ".." */
	char cgroup[SD_PATH_MAX];    /* of version 2; "": none */
	char device_cgroup[SD_PATH_MAX]; /* of version 1, in the hierarchy of these `controllers`; "" */
	char controllers[64];
};

struct sd_given {
	int32_t error;    /* 0 or -errno */
	uint32_t stage;
	uint32_t may;     /* what the cgroups allow; all where that is not known */
	uint32_t unknown; /* the errno why it is not */
	uint32_t detached, hidden; /* of TAKE: mounts that went, and such as could not be reached */
	uint64_t device;  /* of our tmpfs, which no other device is in */
	uint64_t place_device, place_inode; /* the file that it is mounted on */
};

enum { SD_MOST_LOOKED = 64 };

struct sd_look {
	uint32_t op;
	uint32_t count;
	uint32_t mounts_of; /* only the mounts that this process sees; 0: all of everybody */
	uint32_t reserved;
	uint64_t devices[SD_MOST_LOOKED]; /* as sd_given has told */
};

enum sd_held { SD_HELD_OPEN = 1, SD_HELD_MAPPED, SD_HELD_MOUNTED, SD_HELD_END };

struct sd_holder {
	uint32_t pid;
	uint32_t kind; /* enum sd_held; END: these were all */
	uint64_t device;
	uint64_t mounts;   /* the inode of its mount namespace */
	char comm[16];
	char path[4096];   /* of MOUNTED: where, as the process sees it */
};

/* The pid; who takes one order and ends. */
int sd_giver_spawn(struct sd_child *child);

/* ---- probe.c: what the kernel can do ---- */

enum sd_feature {
	SD_HAS_USER_NOTIF,    /* the filter action, 5.0 */
	SD_HAS_NEW_LISTENER,  /* the filter flag, 5.0 */
	SD_HAS_LISTENER,      /* a filter with a listener can be installed here and now */
	SD_HAS_WAIT_KILLABLE, /* 5.19 */
	SD_HAS_SYNC_WAKE_UP,  /* 6.6 */
	SD_HAS_NAMESPACES,    /* user, mount and pid namespaces, made and used, here and now */
	SD_HAS_PROC,          /* and in them a procfs of their own can be mounted */
	SD_HAS_PIDFD,         /* 5.3 */
	SD_HAS_OPENAT2,       /* 5.6 */
	SD_HAS_CLOSE_RANGE,   /* 5.9 */
	SD_HAS_STATX_MNT_ID,  /* 5.8 */
	SD_HAS_OPEN_TREE,     /* 5.2 */
	SD_HAS_MOVE_MOUNT,    /* 5.2 */
	SD_HAS_MOUNT_SETATTR, /* 5.12 */
	SD_HAS_PIDFD_INFO,    /* PIDFD_GET_INFO and PIDFD_THREAD, 6.13 */
	SD_HAS_PEER_PIDFD,    /* SO_PEERPIDFD, 6.5 */
};

/* 1: there; 0: not there; -errno: the kernel refused to let it be tried */
int sd_probe(int feature);

/* ---- end ---- */

/* cdef end */

#endif
