/* The helpers, what a session asks of them, and what the kernel can do. See shim.h. */
#ifndef SECCOMPD_SHIM_WORK_H
#define SECCOMPD_SHIM_WORK_H

/* cdef begin */

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

struct sd_lent {        /* what a maker lends for opens: a device, or what the host has at a path */
	const char *path;   /* NULL: a device */
	uint32_t loops;     /* not 0: so many loop devices, from number `minor` on */
	uint32_t directory; /* a directory is there; else a regular file */
	uint32_t type, major, minor; /* 'c' or 'b' */
	uint32_t writes;    /* for writing, too */
};

struct sd_xattr_rule { /* an extended attribute that is set, or removed, as the host's root */
	const char *name;  /* a glob that begins with "trusted." */
	const char *value; /* the one value that it may be set to; NULL: any, and it may be removed */
	uint32_t size;     /* of the value */
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
	const struct sd_xattr_rule *xattrs;
	uint32_t xattr_count;
	const char *mark;      /* of the loop devices that are attached for this container: a secret */
};

/* Memory that helpers keep, see forget.c: all that a ceiling is made of. NULL: there is none. */
void *sd_kept_new(size_t size); /* zeroed */
/* all that is new since the last time; from then on nobody can write to it */
void *sd_kept_seal(void);
void sd_kept_free(void *sealed);

/* Both return the pid. The helper's first message, an int32_t, is 0 or -errno (sd_helper_ready). */
int sd_resolver_spawn(struct sd_child *child);
int sd_maker_spawn(const struct sd_ceiling *ceiling, int sibling, struct sd_child *child);
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
	SD_WORK_DIRECTORY = 7,
};

enum sd_work_flag {
	SD_WORK_PROBE = 1,     /* only what mknod would answer a caller without CAP_MKNOD */
	SD_WORK_WANT_PATH = 2, /* stop at SD_WORK_DECIDE with fsuid, fsgid and the path */
	SD_WORK_NODE = 4,      /* a real node, even where it could not be opened */
	SD_WORK_BIND = 8,      /* a bind mount, even where a real node would do */
	SD_WORK_CLOSED = 16,   /* one that cannot be opened; with BIND, and by a maker */
	/* with WANT_PATH: granted where the path has no symlink, and need not be decided again there */
	SD_WORK_AS_WRITTEN = 32,
	SD_WORK_ELSEWHERE = 64, /* of a directory that was decided on: the path is another one now */
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
	SD_WAS_COUNTED = 32, /* with either: the caller can see the link count */
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
/* Keeps the link count of a private node; every maker is told, and knows its own. No answer, but the
 * maker's copy of `until` is closed once it is done (-1: nobody waits). */
int sd_maker_tell(int maker, uint32_t outcome, uint64_t node_dev, uint64_t node_ino, int until);
/* After the maker was lost: takes the placeholder back, if there is one; then DONE with `error`. */
int sd_work_undo(struct sd_work *work, int error, int linger_us);
/* Who still owes this work an answer, and is of no use to others until then: its socket, or -1. */
int sd_work_owed(const struct sd_work *work);
/* Lets go of what a work that did not end holds. */
void sd_work_close(struct sd_work *work);

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
	SD_HAS_PASS_RIGHTS,   /* SO_PASSRIGHTS, 6.16 */
};

/* 1: there; 0: not there; -errno: the kernel refused to let it be tried */
int sd_probe(int feature);

/* cdef end */

#endif
