/* Sockets, opens, and devices for a container that runs. See shim.h. */
#ifndef SECCOMPD_SHIM_DESCRIPTORS_H
#define SECCOMPD_SHIM_DESCRIPTORS_H

/* cdef begin */

/* ---- opening.c: what a session asks resolvers and makers about opens ---- */

enum sd_open_flag {
	SD_OPEN_NOFOLLOW = 1,
	SD_OPEN_DECIDED = 4, /* what is given is opened whatever the path leads to now */
	SD_OPEN_NET = 2, /* what is given is opened in the caller's network namespace */
	SD_OPEN_PLACE = 16, /* what is given is a SD_NODE_PLACE; set by sd_open_ask */
	SD_OPEN_NEW = 8, /* nothing may be there, a symbolic link neither */
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
 * `granted`, open `node` (NULL: nothing). 0 or -errno. */
struct sd_node;
int sd_open_ask(int resolver, const struct sd_waiting *call, int task, const struct sd_node *node,
		struct sd_opening *opening);
/* 1: it has answered; 0: not within `linger_us`; -EPIPE: it has gone */
int sd_open_told(int resolver, struct sd_opening *opening, int linger_us);
/* 1: for the caller of `call` this absolute path, in which nothing has to be cleaned, leads to itself,
 * whether something is there or not; 0: that takes a resolver to tell. Never waits. */
int sd_open_is_plain(const struct sd_waiting *call, uint32_t tid, const char *path, size_t length);
enum sd_node_kind { /* what a descriptor (O_PATH) is of */
	SD_NODE_ITSELF,    /* what is opened */
	SD_NODE_FITTED,    /* the same, for callers of the same cgroups as one, for a while */
	SD_NODE_PLACE,     /* a directory of a maker's, where that has SD_LENT_NAME */
	SD_NODE_DIRECTORY, /* what is opened, a directory */
	SD_NODE_HOSTS,     /* what is opened, the host's own: as the caller could alone */
};
/* What is opened again for each caller: a descriptor, and how many hold it. The last one to drop it
 * closes it. */
struct sd_node {
	int fd;
	int holders;
	enum sd_node_kind kind;
	int32_t bare_nsec; /* it has no access list, as long as it was last changed then; 0 s: not known */
	int64_t bare_sec;
	uint64_t serial; /* no two have the same */
	char *cgroups;     /* of SD_NODE_FITTED: those, as /proc/TID/cgroup has them; NULL: it is for nobody */
	uint64_t until_ns; /* and until when (sd_now_ns) */
	uint64_t seen_until_ns; /* that this one is in them */
	uint32_t seen_tid;
};
/* Takes the descriptor over; NULL: there is no memory, and it was closed */
struct sd_node *sd_node_new(int fd, enum sd_node_kind kind);
void sd_node_drop(struct sd_node *node);
/* One of SD_NODE_FITTED is for callers of the cgroups that `tid` is in, from now on for so long. 0 or -errno */
int sd_node_fit(struct sd_node *node, uint32_t tid, uint32_t lifetime_ms);
/* Opens it: a descriptor or -errno. By a name, so that it has all of `flags`; but SD_NODE_ITSELF, _FITTED and _HOSTS,
 * which can be opened by a link of /proc alone, where O_NOFOLLOW would be ELOOP: they are without that. */
int sd_node_open(const struct sd_node *node, uint32_t flags);
/* Whether it does not matter that it is we who open it, or an opener of ours, and not the caller, as things
 * are now. Whether that was the caller its call says, which has to be asked, or answered, after it. */
enum sd_node_for {
	SD_NODE_NO = 0,     /* it does, or may do so */
	SD_NODE_EVERYBODYS, /* nor whoever else calls */
	SD_NODE_OURS,       /* the caller has the ids that we have */
	SD_NODE_OURS_ALONE, /* the same, where capabilities could matter: we use none */
};
enum sd_node_for sd_node_is_for(struct sd_node *node, uint32_t tid, uint32_t flags);
/* Opens it, where that does not matter */
int sd_node_open_for(const struct sd_node *node, enum sd_node_for why, uint32_t flags);
/* Opens what an O_PATH descriptor stands for: a descriptor or -errno */
int sd_open_again(int fd, uint32_t flags);
/* Asks a maker for the `index`th thing of its ceiling: of a device SD_NODE_PLACE; of a file or directory what
 * `flags` open, or with O_PATH that, too, or SD_NODE_DIRECTORY (-EOPNOTSUPP: that cannot be). 0 or
 * -errno */
int sd_lend_ask(int maker, uint32_t index, uint32_t flags);
/* 1: `*fd` is it; 0: not within `linger_us`; -errno: why there is none; -EPIPE: the maker has gone.
 * `*fd` is -1 at the start. */
int sd_lend_told(int maker, int *fd, int linger_us);

/* ---- openers.c: who opens what a maker lends, and gives it; opener_calls.c: what a session asks ---- */

enum sd_opener { /* with whose rights, and where */
	SD_OPENER_NONE = 0,
	SD_OPENER_FILES,   /* the host root's, over files alone */
	SD_OPENER_DEVICES, /* nobody's, in the target's user namespace */
	SD_OPENER_NET,     /* the same, in one network namespace */
	SD_OPENERS,
};

/* Has a maker fork one; `netns` is where, -1: where we are. The maker's answer is heard by sd_lend_told, and
 * then the opener's by the same, on `*sock`; descriptors do not come with them. 0 or -errno, and `*sock` is
 * the caller's if it is not -1. The one of this kind that was there is asked no more. */
int sd_opener_ask(int maker, enum sd_opener kind, int netns, int *sock);
/* From now on `sock` is asked, which is ready; -1: nobody. `on_error` is for who has it gone before the
 * answer. */
void sd_opener_by(enum sd_opener kind, int sock, int on_error);
/* Whether there is one, where that caller would open it. */
int sd_opener_is_there(enum sd_opener kind, uint32_t tid);
/* Whether that caller's network namespace is ours. */
int sd_network_is_ours(uint32_t tid);
/* Has it open something and send it to us: sd_lend_told. `node`: the host's that is behind that number, where
 * there are no makers; NULL. 0 or -errno */
int sd_opener_open(enum sd_opener kind, uint32_t index, uint32_t flags, const struct sd_node *node);
/* Without makers: forks one, which opens nodes of the host's with our ids and no capabilities. `netns` as
 * above; it says by itself that it is ready. As sd_resolver_spawn */
int sd_opener_spawn(enum sd_opener kind, int netns, struct sd_child *child);

/* ---- loop_calls.c: what a session asks about loop devices; loops.c: what a maker answers ---- */

enum {
	SD_LOOP_CONFIG = 304, /* sizeof(struct loop_config), a loop_info64 from INFO_AT on */
	SD_LOOP_INFO = 232,   /* sizeof(struct loop_info64) */
	SD_LOOP_INFO_AT = 8,
};

enum sd_loop_what {
	SD_LOOP_FREE = 1, /* the number of one that is not attached */
	SD_LOOP_ATTACH,   /* [image] -> [the device]: it goes with its last user */
	SD_LOOP_OPEN,     /* [] -> [the device]; here and below -ENXIO where it was not attached for this container */
	SD_LOOP_STATUS,
	SD_LOOP_CHANGE,   /* offset and size limit */
	SD_LOOP_CAPACITY, /* the image has another size */
};

struct sd_loop_order {
	uint32_t op, cpu;    /* filled in when it is sent */
	uint32_t what;       /* enum sd_loop_what */
	uint32_t number;
	uint32_t flags;      /* O_* of the device */
	uint32_t block_size; /* of ATTACH */
	char info[SD_LOOP_INFO];
};

struct sd_loop_answer {
	int32_t error;       /* 0 or -errno */
	uint32_t number;
	char info[SD_LOOP_INFO];
};

/* `image` -1: none. 0 or -errno */
int sd_loop_ask(int maker, struct sd_loop_order *order, int image);
/* 1: it has answered, `*fd` is the device or -1; 0: not within `linger_us`; -EPIPE: it has gone. `*fd` is
 * -1 at the start. */
int sd_loop_told(int maker, struct sd_loop_answer *answer, int *fd, int linger_us);
/* What a descriptor of a thread's is, without a question to whoever serves it. `id` says whether its call
 * still waits. */
struct sd_held_file {
	uint64_t device, inode; /* of the file */
	uint64_t block_device;  /* 0: it is none */
	uint32_t flags;         /* O_*, O_CLOEXEC too */
};
/* 0; -EBADF: there is no such descriptor; -ESRCH: the caller has gone */
int sd_held_look(const struct sd_waiting *call, uint32_t tid, int number, struct sd_held_file *file);
/* Puts a copy of `fd` in the place of the caller's descriptor `number`. 0 or -errno */
int sd_held_put(const struct sd_waiting *call, int number, int fd, int closes_on_exec);

/* ---- porters.c: the helper that calls on sockets; socket_calls.c: what a session asks of it ---- */

/* Porters are threads of one process: each does one call at a time, for as long as that takes. Their
 * process hears of new ones, and of those that are to let go of a call, on its own socket. */
int sd_porters_spawn(struct sd_child *child);
/* One more: the socket that it answers on; it ends when that is closed. */
int sd_porter_new(int porters, uint32_t number);
/* Interrupts the call that this one is in, if it is in one that can be interrupted. */
int sd_porter_kick(int porters, uint32_t number);

/* Options of sockets by name (socket_options.c). */
enum sd_option_form {
	SD_OPTION_NUMBER = 1, /* these two a rule can set */
	SD_OPTION_TEXT,
	SD_OPTION_PLAIN,      /* other bytes; as the former it means the same whoever passes it */
	SD_OPTION_OTHER,      /* it has to do with memory, descriptors or processes of who calls */
};
struct sd_option {
	const char *name;
	int32_t level, number, form;
};
/* The `at`th of those that are known; NULL: there are no more */
const struct sd_option *sd_option_known(uint32_t at);
/* Whether it can be set or asked for by somebody else than who wants that. */
int sd_option_is_plain(int32_t level, int32_t number);

enum { SD_MOST_SET = 8, SD_SET_MAX = 16 };

struct sd_set_option { /* one that is to be set */
	int32_t level, number, length;
	char value[SD_SET_MAX];
};

enum sd_socket_op {
	SD_SOCKET_CONNECT = 1,
	SD_SOCKET_BIND,
	SD_SOCKET_SEND,
	SD_SOCKET_LOOK, /* only what kind of socket it is; options are set */
	SD_SOCKET_PEER, /* the same, and whether it is connected */
	SD_SOCKET_NAME, /* the same, and what it is bound to (`peer`) and connected to, if it is (`value`) */
	SD_SOCKET_LISTEN, /* call_flags is how many may wait */
	SD_SOCKET_ACCEPT, /* call_flags are SOCK_*; wait_ms is what is left of the caller's time, 0: all of it */
	SD_SOCKET_SET_OPTION, /* AS_CALLER: the payload is what was read of its value, and call_flags how long
			       * the caller says that is */
	SD_SOCKET_GET_OPTION, /* the same: call_flags is how long the value may be */
};

enum sd_socket_flag {
	SD_SOCKET_AS_CALLER = 1,   /* with the caller's ids and capabilities; else with none at all */
	SD_SOCKET_NO_ADDRESS = 2,
	SD_SOCKET_UNSPECIFIED = 4, /* the address was AF_UNSPEC, and is AF_INET to some sockets alone */
	SD_SOCKET_CUT = 8,         /* there is more data than comes along */
	SD_SOCKET_REDIRECTED = 16, /* the address is not the caller's own: an IPv6 socket takes an IPv4 one, and
				    * where that is not enough another socket takes the caller's place */
	SD_SOCKET_WATCHED = 32,    /* a set is to know the socket if it is connected, or about to be */
	SD_SOCKET_HOST = 64,       /* the call is made in our own network, by a socket of that: for callers in
				    * the container's, not in another one that they have made */
	SD_SOCKET_GUARDED = 128,   /* callers may have such sockets: only HOST is made with one, of who is in
				    * another network */
	SD_SOCKET_NARROW = 256,    /* of SET_OPTION and GET_OPTION: the caller is a 32-bit one */
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
	SD_SOCKET_WHO,          /* nothing was done: it has to be asked AS_CALLER */
	SD_SOCKET_KIND,         /* no socket of another domain can do what this one does */
	SD_SOCKET_NETWORK,      /* none can be made in its network namespace */
	SD_SOCKET_CARRY,        /* what was set on it cannot be set on the new one */
	SD_SOCKET_PLACE,        /* the new one cannot be put in its place */
	SD_SOCKET_SET,          /* what is to be set on it cannot be */
	SD_SOCKET_HOSTS,        /* it is of the host's network, and no rule has the call made there */
};

struct sd_socket { /* one call on a socket */
	int32_t listener;
	uint32_t tid;
	uint64_t id;
	int32_t number;       /* of the socket in the caller's table */
	int32_t by_thread;    /* the kernel has pidfds of threads, and they are not hidden */
	int32_t anew;         /* what is known of the caller's number is of somebody who has gone */
	uint32_t op, flags;
	int32_t on_error;     /* for who has a settled one's porter gone before its answer */
	int32_t call_flags;   /* MSG_* */
	int32_t address_length;
	int32_t asked_family, asked_length; /* of the caller's own address */
	int32_t control_length, payload_length;
	int32_t task;         /* /proc/TID of AS_CALLER; -1 */
	int32_t path;         /* what the address of a unix socket leads to, O_PATH; -1 */
	uint32_t wait_ms;     /* 0: a connect takes as long as it takes; else it ends by then, and one that
			       * does not block is refused where that is known at once */
	int32_t watch;        /* of WATCHED: an epoll set ... */
	uint64_t mark;        /* ... and as what it is to know the socket */
	uint64_t network;     /* the inode of the container's network namespace; 0: not known */
	const char *control, *payload;
	int32_t level, option; /* of SET_OPTION and GET_OPTION */
	uint32_t set_count;   /* options that are set first */
	struct sd_set_option set[SD_MOST_SET];
	char address[SD_ADDRESS_MAX];
	/* what it came to */
	int64_t result;       /* of the call, or -errno */
	int32_t why;          /* enum sd_socket_why */
	int32_t domain, type; /* of the socket */
	int32_t patient;      /* of -EINTR: a call on it waits for ever: no timeout is set (SO_SNDTIMEO);
			       * of a connection that was accepted: the listener blocks */
	int32_t replaced;     /* another one was, or was to be, put in its place */
	int32_t hosted;       /* it was made in the host's network */
	uint64_t cookie;      /* SO_COOKIE of the socket that the caller has now */
	uint32_t mss;         /* of a TCP connection that is there (TCP_INFO); 0: of none */
	uint32_t rtt_us, pmtu, retransmits;
	int32_t taken;        /* the connection that was accepted, for whoever asked; -1 */
	uint32_t left_ms;     /* of the time that its caller waits for one; 0: it waits for ever */
	int32_t peer_length;
	char peer[SD_ADDRESS_MAX];
	int32_t value_length; /* of GET_OPTION */
	char value[SD_VALUE_MAX];
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
/* Closes a connection, and over TCP has the other end told that nobody took it (RST). */
void sd_socket_refuse(int sock);
/* Closes a connection that nobody gets, and does not wait for its end, whatever its listener was told
 * (SO_LINGER). It may be another file, too. */
void sd_socket_lose(int sock);
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
	uint64_t block;     /* a block device whose filesystem may be mounted, for devices[0]; 0: none */
	uint64_t within;    /* in the mount namespace with that inode */
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

/* cdef end */

#endif
