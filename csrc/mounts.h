/* What the files about mounts share: lock.c, mount_paths.c and fuse_mount.c (resolver); filesystems.c,
 * mount_ceiling.c, ext4.c and superblocks.c (maker); programs.c, program_filter.c,
 * program_root.c and program_spare.c (FUSE); umount.c, giver.c and holders.c. */
#ifndef SECCOMPD_MOUNTS_H
#define SECCOMPD_MOUNTS_H

#include <stdio.h>

#include "paths.h"

#include <linux/capability.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

enum sd_mount_attr_flag { SD_ATTR_RDONLY = 0x1, SD_ATTR_IDMAP = 0x100000 };

/* ---- mountinfo.c ---- */

struct sd_mount_line { /* all zero before the first one */
	unsigned long long id, parent;
	uint64_t device; /* of the filesystem */
	int memory;      /* that is all in memory: nothing is there that the kernel has not looked up */
	int shared;      /* what is mounted on it is mounted on its peers, too */
	int whole;       /* from its root directory on */
	char *path;      /* below the root directory of who reads it; good until the next one */
	char *text;
	size_t size;
};

/* 1: a mount; 0: there are no more, and `line` holds nothing */
SD_HIDDEN int sd_next_mount(FILE *mounts, struct sd_mount_line *line);

/* ---- lock.c ---- */

/* A detached copy of the mount at `path`: a descriptor or -errno. */
SD_HIDDEN int sd_open_tree(int dir, const char *path);
SD_HIDDEN int sd_change_mount(int fd, uint64_t set, uint64_t clear, int userns);
SD_HIDDEN int sd_move_tree(int tree, int target);
#define SD_LOCK_STAGE "/stage/in"
/* Makes SD_LOCK_STAGE, and a mount namespace whose user namespace nobody is in, where all that is mounted
 * on it comes too, with its flags locked. Once in a process; `proc` is a descriptor of /proc. */
SD_HIDDEN int sd_lock_namespace(int proc);
/* Moves a mount of ours there. */
SD_HIDDEN int sd_stage(int tree);
/* A detached copy of what is mounted there, its flags locked unless `lock_ns` is -1: a descriptor or
 * -errno. Needs CAP_SYS_ADMIN and CAP_SYS_CHROOT. */
SD_HIDDEN int sd_copy_stage(int lock_ns, int home_ns);
SD_HIDDEN void sd_clear_stage(void);
/* ---- mount_paths.c: the resolver's questions about mounts ---- */

enum sd_mount_ask_op {
	SD_ASK_MOUNT_LOOK = 32, /* [task] -> [target, mount namespace, source, root directory] */
	SD_ASK_MOUNT_ATTACH,    /* [mount namespace, channel, target]: a maker sends the mount there */
	/* [mount namespace, target, the program's /proc/PID, its pidfd, inotify, its listener] */
	SD_ASK_MOUNT_ADOPT,
	SD_ASK_MOUNT_CHANGE,    /* [mount namespace, target]: the flags of a mount */
	SD_ASK_MOUNT_MARK,      /* [mount namespace, target, some /proc/PID]: the one to be replaced */
	SD_ASK_MOUNT_IDLE,      /* [mount namespace]: may it be? */
	SD_ASK_MOUNT_SWAP,      /* [mount namespace, channel]: a maker sends the other one there */
	SD_ASK_SOCKET_BIND,     /* [task, directory, pidfd]: no mount, but made by way of one */
};

/* Answers one of them, descriptors included. 0, or -errno where the session has gone. */
SD_HIDDEN int sd_answer_mount(struct sd_home *home, const struct sd_ask *ask, int *held);

/* ---- mount_swap.c: the resolver's, in the caller's mount namespace. 0 or -errno ---- */

SD_HIDDEN int sd_swap_mark(int target, int task);
SD_HIDDEN int sd_swap_idle(void);
SD_HIDDEN int sd_swap(int tree);
/* ---- socket_paths.c ---- */

enum { SD_SUN_PATH = 108 }; /* sizeof(sun_path) */

/* 0 or -errno; -EAGAIN: this resolver cannot become that caller. Closes `listener`. */
SD_HIDDEN int sd_bind_path(struct sd_home *home, const struct sd_ask *ask, const int *held,
			   int listener);

/* ---- devices.c ---- */

/* As sd_device_name; `sys_block` is /sys/dev/block, or -1. */
SD_HIDDEN int sd_device_name_at(int sys_block, uint32_t major, uint32_t minor, char *name);

/* ---- fuse_mount.c: the resolver's ---- */

#define SD_IMAGE_NAME "/dev/image" /* as a program knows it */

struct sd_fuse_terms {
	uint64_t force;      /* MOUNT_ATTR_*, of which those are taken that can be locked */
	unsigned long flags; /* MS_*, of which those are taken that have to be there from the start */
	const char *source;  /* the caller's name for the image */
};

/* Waits for the mount(2) of a FUSE program, and makes it on our stage: 0 or -errno. -EIO: the program
 * has ended. Where the session has gone, so do we. */
SD_HIDDEN int sd_fuse_mount(int listener, int pidfd, const struct sd_fuse_terms *terms);
/* Waits until the program answers for that mount, which `tree` is: 0 or -errno, -EIO: nobody serves it.
 * `*watch`: what tells in `inotify` that it is mounted nowhere any more, or -1. `task` is some
 * /proc/PID. */
SD_HIDDEN int sd_fuse_watch(int tree, int task, int inotify, int32_t *watch);

/* ---- programs.c, for program_spare.c as well ---- */

/* The descriptors of a program that is about to be executed. SD_OWN: its own mount namespace. */
enum { SD_IMAGE = 3, SD_FUSE_NODE, SD_MOUNT_NS, SD_ROOT, SD_STARTED, SD_OWN, SD_AFTER };

/* Gives those `given` (-1: none) these numbers, and closes all else. 0 or -1. */
SD_HIDDEN int sd_order_descriptors(const int *given);
/* A child in namespaces of its own: its pid or -errno. `told` is for what `flags` says. */
SD_HIDDEN int sd_program_clone(int (*run)(void *), void *given, int flags, int *told);
#define SD_PROGRAM_CAPS (1ULL << CAP_DAC_OVERRIDE)
/* No execve gives any capability but those in `keep`. 0 or -1. */
SD_HIDDEN int sd_program_bound(uint64_t keep);
/* Once sd_program_frame is done and all descriptors are in order. */
SD_HIDDEN _Noreturn void sd_program_execute(const struct sd_program *program);
SD_HIDDEN _Noreturn void sd_program_failed(int started, int32_t stage, int error);
SD_HIDDEN void sd_program_nothing(struct sd_program *program);
/* A pipe for messages, and a socket pair that tells whether the program runs. 0 or -errno. */
SD_HIDDEN int sd_program_channels(int *messages, int *started);

/* ---- program_root.c ---- */

/* Makes a root directory in a mount namespace that is our own, goes there, and leaves that
 * namespace as SD_OWN. `host`: the path of a program of the host's, whose files are there then;
 * NULL: a container's, whose are not yet. 0 or -errno, and the stage then. */
SD_HIDDEN int sd_program_frame(const char *host, int32_t *stage);
/* Brings the image there, and the container's own files. All but SD_STARTED are closed. */
SD_HIDDEN int sd_program_image(const struct sd_program *program);
/* Whether a program of that path needs a directory of the host's that is not there for all. */
SD_HIDDEN int sd_program_elsewhere(const char *path);

/* ---- filesystems.c: the maker's ---- */

enum { SD_NODE_MAX = SD_DEVICE_NAME_MAX + 8 };

struct sd_loop { /* an image and the device that it is attached to */
	uint64_t dev, ino;
	int number, read_only;
};

struct sd_superblock { /* a filesystem: its device, and the watch that tells of its end */
	uint64_t dev;
	int watch;
	/* how it is mounted once more */
	int shifted;
	uint64_t force;
	char fstype[SD_FSTYPE_MAX];
	char source[SD_NODE_MAX]; /* "": it cannot be */
};

struct sd_mounting {
	const struct sd_ceiling *ceiling;
	int home_ns, lock_ns;
	int userns; /* of the target; -1: none */
	int loop_control;
	int sys_block; /* /sys/dev/block */
	int inotify; /* -1: not yet */
	struct sd_superblock made[SD_MOST_MOUNTS];
	uint32_t loop_count;
	struct sd_loop loops[SD_MOST_MOUNTS]; /* the last ones */
	/* until sd_mounting_clear */
	int staged; /* the mount is on the stage */
	int loop;   /* the image's device, or -1 */
	int own;    /* a loop device of the container's own, or -1 */
};

SD_HIDDEN int sd_mounting_prepare(struct sd_mounting *mounting, const struct sd_ceiling *ceiling);
/* Once the root directory is our own. */
SD_HIDDEN int sd_mounting_settle(struct sd_mounting *mounting, int proc);
/* Mounts it: a detached mount, or 0 for one that was changed, or -errno. What it took to get there
 * is let go of by sd_mounting_clear, which is to follow at once, and takes a grace period of RCU. */
SD_HIDDEN int sd_mount_filesystem(struct sd_mounting *mounting, struct sd_new_mount *new, int fd,
				  struct sd_mounted *mounted);
SD_HIDDEN void sd_mounting_clear(struct sd_mounting *mounting);

/* ---- mount_ceiling.c ---- */

/* Whether a rule grants it: as it is, and with `more`, one option that it does not have (or NULL).
 * `name` is the kernel's for the device, "" where there is none. */
SD_HIDDEN int sd_mount_granted(const struct sd_ceiling *ceiling, const struct sd_new_mount *new,
			       const char *name, const char *more);
/* Whether all rules grant these flags and options: nobody remembers which one a mount is from. */
SD_HIDDEN int sd_change_granted(const struct sd_ceiling *ceiling, const struct sd_new_mount *new);

/* ---- ext4.c ---- */

#define SD_TAME_ERRORS "errors=continue"

SD_HIDDEN int sd_is_ext(const struct sd_new_mount *new);
/* Looks at what is on `device`, whose name by the kernel is `name` (or in its `image`), and changes the options so that
 * it cannot halt the host. 0; -EPERM: its journal is elsewhere, and no rule grants that; -EINVAL. */
SD_HIDDEN int sd_tame_ext(struct sd_mounting *mounting, struct sd_new_mount *new, const char *name,
			  const char *device, int image, struct sd_mounted *mounted);

/* ---- holders.c: the giver's ---- */

/* Sends a struct sd_holder for each that is found, and one that says that this was all. 0, or -errno:
 * nobody hears it. */
SD_HIDDEN int sd_find_holders(int sock, const struct sd_look *look);

/* ---- superblocks.c ---- */

/* The filesystem `one`, which is mounted at `path`, came from here. 0 or -errno. */
SD_HIDDEN int sd_remember_superblock(struct sd_mounting *mounting, const char *path,
				     const struct sd_superblock *one);
/* The one with that device; NULL: none. */
SD_HIDDEN const struct sd_superblock *sd_superblock_of(struct sd_mounting *mounting, uint64_t dev);
/* How many there are. */
SD_HIDDEN uint32_t sd_superblocks(struct sd_mounting *mounting);
/* Makes the filesystem that `fd` is the root of one that can be written to. 0 or -errno. */
SD_HIDDEN int sd_make_writable(int fd);
/* Other flags and data for the one that `fd` is on, if it came from here. 0 or -errno. */
SD_HIDDEN int sd_reconfigure(struct sd_mounting *mounting, const struct sd_new_mount *new, int fd,
			     struct sd_mounted *mounted);

#endif
