/* What a session asks resolvers and makers about mounts, and programs that mount. See shim.h. */
#ifndef SECCOMPD_SHIM_MOUNTS_H
#define SECCOMPD_SHIM_MOUNTS_H

/* cdef begin */

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
	SD_LOOK_FILE = 64,   /* see sd_look_at_image */
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
/* The same without a resolver, where the caller may what we may, and nobody can make us wait: 1, and `seen`
 * and `fds` as of sd_mount_seen; else 0. The paths end with a zero byte; `seen` was all zero. `writes`: an
 * image is opened for writing too. */
int sd_mount_glance(const struct sd_waiting *call, uint32_t tid, int writes, const char *target,
		    size_t target_length, const char *source, size_t source_length,
		    struct sd_seen *seen, int *fds);
/* Has the file looked at that the caller's descriptor `number` is of. Where it is on `device` (0: none) it is
 * opened anew, with the caller's rights, and comes first among the fds. */
int sd_look_at_image(int resolver, const struct sd_waiting *call, int task, int number, int writes,
		     uint64_t device);
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
 * place as soon as the maker has it. Both answer, the maker first: sd_mount_made, sd_mount_answer.
 * `target` -1: it takes the place of the mount that was marked. A descriptor, to be closed once the caller
 * has its answer: the maker tidies up then. */
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

/* ---- program_filter.c ---- */

enum { SD_FILTER_MOST = 256 };

/* The filter of a program, into a struct sock_filter[SD_FILTER_MOST]; `alone` as above. How many
 * instructions it has, or -errno. */
int sd_program_filter(void *code, int alone);

/* ---- program_spare.c: the beginning of a program, made before anybody waits for it ---- */

/* Forks who makes them, one at a time: sd_spare_prepare to sd_spare_start or the spare's end. */
int sd_spare_spawn(struct sd_child *child);
/* `fuse` as in struct sd_program. 0 or -errno. */
int sd_spare_prepare(int starter, int fuse);
/* The pid of the spare one, which is a child of ours; -EAGAIN: not there yet; -errno. Once each. */
int sd_spare_made(int starter);
/* Has it execute a program of the host's; the rest is as after sd_program_start. 0 or -errno. */
int sd_spare_start(int starter, struct sd_program *program, int pid, int pidfd);

/* cdef end */

#endif
