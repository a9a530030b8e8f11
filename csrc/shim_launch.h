/* What a session's process does once, and how a command is launched. See shim.h. */
#ifndef SECCOMPD_SHIM_LAUNCH_H
#define SECCOMPD_SHIM_LAUNCH_H

/* cdef begin */

/* ---- session.c: what a session process does once ---- */

/* zeroed memory whose pages are there once they are written to; sd_free() ends it */
void *sd_zeroed(size_t size);
void sd_free(void *memory);
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
/* who sends descriptors to the socket, or to what it accepts, gets EPERM (SO_PASSRIGHTS);
 * -ENOPROTOOPT: this kernel cannot do that */
int sd_refuse_descriptors(int sock);
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

/* cdef end */

#endif
