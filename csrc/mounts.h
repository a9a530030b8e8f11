/* What the files about mounts share: lock.c, mount_paths.c (resolver), filesystems.c (maker),
 * programs.c (FUSE). */
#ifndef SECCOMPD_MOUNTS_H
#define SECCOMPD_MOUNTS_H

#include "paths.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

enum sd_mount_attr_flag { SD_ATTR_RDONLY = 0x1, SD_ATTR_IDMAP = 0x100000 };

/* ---- lock.c ---- */

/* A detached copy of the mount at `path`: a descriptor or -errno. */
SD_HIDDEN int sd_open_tree(int dir, const char *path);
SD_HIDDEN int sd_change_mount(int fd, uint64_t set, uint64_t clear, int userns);
SD_HIDDEN int sd_move_tree(int tree, int target);
/* A mount namespace whose user namespace nobody is in; `proc` is a descriptor of /proc. */
SD_HIDDEN int sd_lock_namespace(int proc);
/* A detached copy, with its flags locked, of the mount at /stage in `lock_ns`, in which we are; it
 * is unmounted there, and we are home: a descriptor or -errno. */
SD_HIDDEN int sd_copy_locked(int lock_ns, int home_ns);
/* Puts in place of the detached `*tree` a copy of it whose flags are locked; of an error only -1 is
 * left. Needs CAP_SYS_ADMIN and CAP_SYS_CHROOT. */
SD_HIDDEN int sd_lock_flags(int lock_ns, int home_ns, int *tree);

/* ---- mount_paths.c: the resolver's questions about mounts ---- */

enum sd_mount_ask_op {
	SD_ASK_MOUNT_LOOK = 32, /* [task] -> [target, mount namespace, source] */
	SD_ASK_MOUNT_ATTACH,    /* [mount namespace, target, tree] */
	SD_ASK_MOUNT_ADOPT,     /* [mount namespace, target, the program's /proc/PID, its pidfd, inotify] */
	SD_ASK_MOUNT_CHANGE,    /* [mount namespace, target]: the flags of a mount */
};

/* Answers one of them, descriptors included. 0, or -errno where the session has gone. */
SD_HIDDEN int sd_answer_mount(struct sd_home *home, const struct sd_ask *ask, int *held);

/* ---- filesystems.c: the maker's ---- */

struct sd_loop { /* an image and the device that it is attached to */
	uint64_t dev, ino;
	int number, read_only;
};

struct sd_mounting {
	const struct sd_ceiling *ceiling;
	int home_ns, lock_ns;
	int userns; /* of the target; -1: none */
	int loop_control;
	int sys_block; /* /sys/dev/block */
	uint32_t made_count;
	uint64_t made[64]; /* devices of the superblocks we mounted, the last ones */
	uint32_t loop_count;
	struct sd_loop loops[64]; /* the last ones */
};

SD_HIDDEN int sd_mounting_prepare(struct sd_mounting *mounting, const struct sd_ceiling *ceiling);
/* Once the root directory is our own. */
SD_HIDDEN int sd_mounting_settle(struct sd_mounting *mounting, int proc);
SD_HIDDEN void sd_mount_filesystem(struct sd_mounting *mounting, struct sd_new_mount *new, int fd,
				   struct sd_mounted *mounted, int *tree);

#endif
