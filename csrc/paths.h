/* What the session's side (work.c), the resolver and the maker say to each other, and what their
 * files share. Messages are SOCK_SEQPACKET, one question and one answer at a time. */
#ifndef SECCOMPD_PATHS_H
#define SECCOMPD_PATHS_H

#include <stddef.h>

#include "shim.h"

#define SD_HIDDEN __attribute__((visibility("hidden")))

enum { SD_OVERFLOW_ID = 65534, SD_GROUPS = 64, SD_HELD = 7, SD_LOCAL = 24 };

/* A descriptor travels ahead of its message, alone in one of a single byte: so its sender has
 * closed its own copy before the message is there, and an umount after it finds nothing held. */
SD_HIDDEN int sd_reply(int sock, const void *message, size_t size, int give);

/* ---- resolver ---- */

enum sd_ask_op {
	SD_ASK_RESOLVE = 1, /* [task] -> [parent] */
	SD_ASK_BIND,        /* [task] or [task, parent]: the host's node, all in one */
	SD_ASK_PLACE,       /* [task, parent] -> [placeholder] */
	SD_ASK_ATTACH,      /* [task, parent, placeholder, tree]; [task, parent, placeholder]: undo */
	SD_ASK_REMOVE,      /* [task], as all below */
	SD_ASK_RENAME,
	SD_ASK_LINK,
	SD_ASK_CHANGE,
	SD_ASK_HOME,        /* [task] -> [home]: where nodes that cannot be opened are */
	SD_ASK_UMOUNT,
	SD_ASK_OPEN,        /* [task] or [task, what is given] -> [it, opened] */
	SD_ASK_DIRECTORY,   /* [task] or [task, parent] -> [parent], or nothing once it is made */
	SD_ASK_XATTR,       /* [task] or [task, file] -> [file]: struct sd_xattr_ask */
};

enum { SD_NO_TEXT = 0xffff };

struct sd_ask {
	uint32_t op;
	uint32_t listener; /* which descriptor it is; 0: who asks needs no caller that still waits */
	uint64_t id;       /* of the call */
	uint32_t cpu; /* the asker's, see sd_follow */
	uint32_t flags; /* SD_WORK_* */
	int32_t dirfd[2];
	uint16_t length[2]; /* of each path without its NUL; SD_NO_TEXT: the file `dirfd` itself */
	uint32_t mode;
	uint32_t call_flags;
	uint64_t device;
	char text[2 * SD_PATH_MAX + SD_HOST_NODE_MAX]; /* path, path, host's node, each with its NUL */
};

/* The name of an extended attribute is the second text, and the value, `mode` bytes, follows. */
struct sd_xattr_ask {
	struct sd_ask ask;
	char room[SD_XATTR_MAX];
};

enum sd_told_flag {
	SD_TOLD_PASSED = 1,      /* nothing but CAP_MKNOD stands in the way; a descriptor follows */
	SD_TOLD_LEFT_ALONE = 2,  /* nothing of ours */
	SD_TOLD_RETIRE = 4,      /* cannot take this caller's groups any more: ask a fresh resolver */
	SD_TOLD_DAC = 8,         /* the caller has CAP_DAC_OVERRIDE in the session's user namespace */
	SD_TOLD_FSETID = 16,
	SD_TOLD_NO_NODES = 32,   /* a real node could not be opened there (nodev, FUSE) */
	SD_TOLD_BOUND = 64,      /* one node more */
	SD_TOLD_UNBOUND = 128,   /* one node less: `node_dev`, `node_ino` */
	SD_TOLD_LINKED = 256,    /* one name more for `node_dev`, `node_ino` */
	SD_TOLD_OTHERS = 512,    /* that had other names, which show how many there are */
	SD_TOLD_BEGUN = 2048,    /* of an umount: not the answer yet, which may take long */
	SD_TOLD_LEADS = 4096,    /* of an open: the path leads where it is granted */
	SD_TOLD_FOREIGN = 1024,  /* a file system that a maker must not touch: it may not answer */
};

struct sd_told {
	int32_t error; /* 0 or -errno */
	uint32_t flags;
	uint32_t fsuid, fsgid, umask; /* as the session's user namespace numbers them */
	uint32_t mode, uid, gid;      /* of the placeholder */
	uint64_t node_dev, node_ino;
	uint64_t fs_type, fs_id;      /* of the directory, as statfs(2) has them */
	uint64_t fs_dev;              /* of an overlay, or of the FUSE program's that was unmounted */
	uint32_t group_count;
	uint32_t groups[SD_GROUPS];
	char name[256];               /* the last component of what was resolved */
	int32_t path_length; /* -1: not known */
	char path[SD_PATH_MAX + 256];
};

/* ---- maker ---- */

enum sd_make_op {
	SD_MAKE_NODE = 1, /* [dirfd] */
	SD_MAKE_PRIVATE,  /* [] -> [tree]: owned by fsuid and fsgid */
	SD_MAKE_DROP,     /* [what is closed once it is done]; no answer */
	SD_MAKE_LINK,     /* likewise */
	SD_MAKE_AT,       /* [where a path starts] -> [parent], with SD_NEEDS_BIND */
	SD_MAKE_LEND,     /* [] -> [file], or what it is opened by: `device` is the index in the ceiling */
	SD_MAKE_MOUNT,    /* [channel], [channel, image], of AGAIN [mount]: struct sd_new_mount */
	SD_MAKE_LOOP,     /* [] or [image] -> [] or [device]: struct sd_loop_order */
	SD_MAKE_OPENER,   /* [socket, desk], [socket, desk, network namespace]: `device` is an enum
			   * sd_opener, fsuid and fsgid the root of the target's user namespace in it */
	SD_MAKE_XATTR,    /* [file, O_PATH]: struct sd_xattr_order */
};

enum { SD_MAKE_ANYWHERE = 1 }; /* a node even where it could not be opened */

struct sd_make {
	uint32_t op;
	uint32_t cpu; /* the asker's, see sd_follow */
	uint32_t flags; /* SD_MAKE_*, SD_TOLD_DAC, SD_TOLD_FSETID */
	uint32_t mode, umask, fsuid, fsgid;
	uint64_t device;
	uint64_t node_dev, node_ino;
	uint64_t fs_type, fs_id; /* hints: what is wrong there makes a node that does not open */
	uint32_t group_count;
	uint32_t groups[SD_GROUPS];
	char name[256]; /* a name; of AT a path without "..", symlinks, or a slash in front */
	uint64_t local[SD_LOCAL]; /* of AT: the file systems to work on, by their device; 0: none */
};

enum { SD_NEEDS_BIND = 1 }; /* the maker's answer beside 0 and -errno */

struct sd_made {
	int32_t error;
};

struct sd_xattr_order { /* an extended attribute of the host's root */
	uint32_t op;
	uint32_t cpu;
	uint32_t removes;
	uint32_t call_flags; /* XATTR_CREATE, XATTR_REPLACE */
	uint32_t size;
	char name[SD_XATTR_NAME];
	char value[SD_XATTR_MAX]; /* `size` bytes of it are sent */
};

/* ---- forget.c ---- */

/* /proc/self/maps as a descriptor, or -errno */
SD_HIDDEN int sd_own_maps(void);
/* In a helper: unmaps what is its parent's alone. Closes `maps`, which may be an error */
SD_HIDDEN void sd_forget_parent(int maps);

/* ---- ceiling.c ---- */

enum sd_allowed { SD_NOT_ALLOWED, SD_CLOSED, SD_OPEN };

SD_HIDDEN enum sd_allowed sd_allowed(const struct sd_ceiling *ceiling, uint32_t mode,
				     uint64_t device);
/* An id inside as the initial namespace numbers it: 0, or -EPERM where it is not mapped. */
SD_HIDDEN int sd_outside(const struct sd_range *ranges, uint32_t count, uint32_t id,
			 uint32_t *result);
/* Whether an id of the initial namespace is mapped. */
SD_HIDDEN int sd_is_mapped(const struct sd_range *ranges, uint32_t count, uint32_t id);

/* ---- spawn.c ---- */

/* Forks a helper that has nothing but its socket, as descriptor 0: a child of ours, or of our parent's. In
 * the helper returns 0. */
SD_HIDDEN int sd_fork_helper(struct sd_child *child, const char *name, int sibling);
/* What every change of credentials undoes: not dumpable, and dying with the parent. */
SD_HIDDEN void sd_harden(void);
/* Moves this helper to the processor of who asks it, and waits for it: there it runs at once, while
 * another one would have to be woken from idle first, which takes longer than most of the work. */
SD_HIDDEN void sd_follow(uint32_t cpu);
/* Lets it run anywhere again, before a wait that is not short: bound to a processor that others keep
 * busy it would have to wait for them, however idle the other ones are. */
SD_HIDDEN void sd_roam(void);
SD_HIDDEN int sd_set_caps(uint64_t effective, uint64_t permitted);
SD_HIDDEN int sd_permitted_caps(uint64_t *permitted);
SD_HIDDEN int sd_pivot_into(const char *fstype_options, const char *keep);

/* ---- callers.c, identity.c ---- */

struct sd_caller {
	int task;
	int status;  /* its file of that name, or -1: not open */
	int base[2]; /* where each path starts: a descriptor, or -errno */
	int root, mount_ns;
	int mountinfo; /* for an umount alone */
	int net_ns;    /* for some opens alone */
	int away;    /* in the caller's mount namespace */
	int there;   /* and in its root directory */
	uint32_t fsuid, fsgid, umask;
	uint32_t uid, gid, euid, egid, suid, sgid;
	uint64_t caps;     /* effective, of the caller, in its own user namespace */
	int same_userns;
	uint32_t group_count;
	int groups_cut;
	uint32_t groups[SD_GROUPS];
	int pid, tgid;       /* in the caller's own pid namespace */
	uint64_t as_caller;  /* the capabilities the resolver has while it acts as the caller */
};

struct sd_home {
	int lock_ns;   /* lock.c; -1: not made yet */
	int plain;     /* no capability: works only for callers that share root and namespaces */
	int mount_ns;  /* the staging mount namespace */
	uint64_t permitted, effective;
	dev_t dev;       /* of its root: a tmpfs of the session's user namespace */
	uint32_t nobody; /* who owns what belongs to somebody that is not mapped, and perhaps others */
	char userns[64];
	uint32_t first_count, now_count;
	int groups_changed;
	int all_ids; /* those of a caller: our own are `own_uids` and `own_gids` */
	uint32_t own_uids[3], own_gids[3];
	int ids_known;
	uint32_t fsuid, fsgid; /* ours now */
	uint32_t first_groups[SD_GROUPS], now_groups[SD_GROUPS];
};

SD_HIDDEN int sd_home_init(struct sd_home *home);
/* Reads who the caller is; the namespace it compares with is `userns`. 0 or -errno. */
SD_HIDDEN int sd_look_at(struct sd_caller *caller, const char *userns);
/* The same by number; `task` and `status` are lent, and good until the next one is asked for. */
SD_HIDDEN int sd_look_at_known(struct sd_caller *caller, uint32_t tid, const char *userns);
/* Its root directory, O_PATH: a descriptor or -errno; and its network namespace. 0 or -errno. Whether that
 * is the caller's its call says, which has to be asked, or answered, after it. */
SD_HIDDEN int sd_root_of_known(uint32_t tid);
#define SD_LOOK_STATX (STATX_MODE | STATX_INO | STATX_BTIME | STATX_MNT_ID)
struct statx; /* of that: mode, inode, birth and mount, without waiting */
SD_HIDDEN int sd_stat_root_of_known(uint32_t tid, struct statx *root);
SD_HIDDEN int sd_mounts_of_known(uint32_t tid); /* its mountinfo */
SD_HIDDEN int sd_network_of_known(uint32_t tid, uint64_t *network); /* by its inode, in nsfs */
/* Whether whatever file it opens we open as well: it has our file system ids, and our groups, or of
 * `any_groups` more than these. Not where that cannot be told; capabilities are left aside. */
SD_HIDDEN int sd_is_like_us(uint32_t tid, int any_groups);
/* Whether a node of SD_NODE_FITTED is for that caller still. */
SD_HIDDEN int sd_node_fits(struct sd_node *node, uint32_t tid);
SD_HIDDEN int sd_open_base(const struct sd_caller *caller, const char *path, int dirfd);
/* Reads who the caller is and takes it on: ids, groups, umask, and those of its capabilities that
 * path work may use; opens where its paths start. Then it asks `listener` (-1: nobody) whether the
 * call still waits: another thread's execve may have put a set-id program in the caller's place
 * behind the same /proc/TID. Nothing of the caller is read after that. 0, -errno, SD_TOLD_RETIRE. */
SD_HIDDEN int sd_enter(struct sd_home *home, struct sd_caller *caller, const struct sd_ask *ask,
		       int need_base, int listener);
/* Its real, effective and saved ids as well, until sd_leave: a FUSE file system that is its mounter's
 * alone goes by these. For no longer than it takes: where processes of that user see this one, they
 * may send it signals meanwhile. 0 or -errno. */
SD_HIDDEN int sd_take_all_ids(struct sd_home *home, struct sd_caller *caller);
/* Its mount namespace and root directory, for whatever cannot do without. */
SD_HIDDEN int sd_be_there(struct sd_home *home, struct sd_caller *caller);
/* Its mount namespace alone, with our own capabilities. */
SD_HIDDEN int sd_enter_mounts(struct sd_home *home, struct sd_caller *caller);
SD_HIDDEN int sd_go_home(struct sd_home *home, struct sd_caller *caller);
SD_HIDDEN void sd_leave(struct sd_home *home, struct sd_caller *caller);
/* Whose capabilities are in effect: the caller's (and the one to look at it in /proc, which gives
 * nothing where no magic link is followed), the caller's alone, or all of ours. */
SD_HIDDEN int sd_act_as_caller(struct sd_home *home, const struct sd_caller *caller);
SD_HIDDEN int sd_act_as_caller_alone(struct sd_home *home, const struct sd_caller *caller);
/* The caller's, and those of `more` that the caller has as well. */
SD_HIDDEN int sd_act_as_caller_with(struct sd_home *home, const struct sd_caller *caller, uint64_t more);
SD_HIDDEN int sd_act_as_self(struct sd_home *home);

/* ---- walk.c ---- */

/* Opens what `path`, the `which`th of the call, names, as the caller would reach it. `directory`: as the parent of a name,
 * where a last symlink is followed without the protection of sticky directories. */
SD_HIDDEN int sd_walk(struct sd_home *home, struct sd_caller *caller, int which,
		      const char *path, int directory, int follow);
/* The parent directory of `path`; `*last` is the rest of it, slashes at its end included. */
SD_HIDDEN int sd_walk_parent(struct sd_home *home, struct sd_caller *caller, int which,
			     const char *path, const char **last);

/* ---- host_nodes.c: the session's ---- */

/* What an id shows as that our user namespace does not map: of users, or of groups. */
SD_HIDDEN uint32_t sd_unmapped(int group);

/* ---- opening.c: the session's ---- */

/* O_PATH, through no link, and from what the kernel has in its caches: so nobody can make us wait. A
 * descriptor or -errno. */
SD_HIDDEN int sd_open_cached(int dir, const char *path, uint64_t flags);

/* ---- local.c ---- */

/* Whether this kind of file system (statfs(2)) is nobody's to serve. */
SD_HIDDEN int sd_is_local(uint64_t fs_type);

/* ---- nodes.c ---- */

enum { SD_ST_NOSYMFOLLOW = 0x2000 }; /* of statfs(2): the mark of a mount of ours */

struct sd_mount_attr { /* mount_setattr(2); older headers lack it */
	uint64_t set, clear, propagation, userns;
};

SD_HIDDEN void sd_do_resolve(struct sd_caller *caller, struct sd_home *home,
			     const struct sd_ask *ask, struct sd_told *told, int *give);
SD_HIDDEN void sd_do_bind(struct sd_caller *caller, struct sd_home *home,
			  const struct sd_ask *ask, struct sd_told *told, int parent);
SD_HIDDEN void sd_do_place(struct sd_caller *caller, struct sd_home *home,
			   const struct sd_ask *ask, struct sd_told *told, int parent, int *give);
/* The path of `parent` below the root directory that we have now, and the name. 0 or -errno. */
SD_HIDDEN int sd_resolved(int parent, const char *name, struct sd_told *told);
/* A node that was made for a caller which has gone. */
SD_HIDDEN void sd_drop_node(struct sd_home *home, const struct sd_ask *ask, struct sd_told *told,
			    int tree);
SD_HIDDEN void sd_do_attach(struct sd_caller *caller, struct sd_home *home,
			    const struct sd_ask *ask, struct sd_told *told, const int *held);
/* The name at home of a node that cannot be opened: "new" by its call, "node" by its inode. */
SD_HIDDEN void sd_closed_name(char name[32], const char *kind, uint64_t number);
/* An empty regular file, as the caller makes it: a descriptor or -errno. */
SD_HIDDEN int sd_place(int parent, const char *name, uint32_t mode);
SD_HIDDEN void sd_take_back(int parent, const char *name, int placeholder);
/* Mounts `tree` on `placeholder` in the caller's mount namespace, with our own capabilities; the
 * caller's are back afterwards. 0, -errno, or SD_GONE: somebody has removed the placeholder, and
 * with it the node that would be there. */
enum { SD_GONE = 1 };
SD_HIDDEN int sd_attach(struct sd_caller *caller, struct sd_home *home, int tree,
			int placeholder);
/* What mknod(2) would answer the caller: -EPERM where only CAP_MKNOD is missing. */
SD_HIDDEN int sd_try_node(int parent, const char *name, uint32_t mode, uint64_t device);

/* ---- companions.c ---- */

struct stat;
/* Whether `fd` is a mount of ours: then `node` is what it shows. */
SD_HIDDEN int sd_is_ours(int fd, struct stat *node);
/* Which mount, and which filesystem's, without a question to a FUSE server. 0: not known. */
SD_HIDDEN uint64_t sd_mount_of(int fd, uint64_t *device);
/* The name of what is open, below the root directory that we have now; -1: none. `task` is some
 * /proc/PID: no procfs but that one can be relied on here. */
SD_HIDDEN int32_t sd_name_of(int task, int fd, char *name);
/* Goes to the caller's root directory, and says the name of what is open where it really is there by
 * that name: -1 in `length` where it is not. The name alone may be one of another mount namespace, of a
 * mount that is gone, or one outside of a changed root directory. `name` has room for SD_PATH_MAX, and
 * is not terminated. 0 or -errno. */
SD_HIDDEN int sd_find_name(struct sd_caller *caller, struct sd_home *home, int fd, char *name, int32_t *length);
SD_HIDDEN void sd_remember(struct sd_told *told, const struct stat *node, uint32_t flags);
SD_HIDDEN void sd_count_closed(struct sd_caller *caller, struct sd_home *home,
			       const struct stat *node, int more);
/* umount.c; where nodes have gone, told->path has the device and inode of each, in 64 bits each */
SD_HIDDEN void sd_do_umount(struct sd_caller *caller, struct sd_home *home,
			    const struct sd_ask *ask, struct sd_told *told);
SD_HIDDEN void sd_do_companion(struct sd_caller *caller, struct sd_home *home,
			       const struct sd_ask *ask, struct sd_told *told);

/* ---- directories.c ---- */

/* WANT_PATH: where it would be, and nothing more; PROBE: what mkdir(2) would answer who may not write
 * there; else it is made, in `given` where that is known already. */
SD_HIDDEN void sd_do_directory(struct sd_caller *caller, struct sd_home *home,
			       const struct sd_ask *ask, struct sd_told *told, int given, int *give);

/* ---- opens.c ---- */

/* Where the path leads; and what held[1] stands for, opened, where that is the second text. */
SD_HIDDEN void sd_do_open(struct sd_caller *caller, struct sd_home *home, const struct sd_ask *ask,
			  struct sd_told *told, const int *held, int *give);

/* ---- xattrs.c ---- */

/* The resolver's: finds the file, and does with it what the SD_XATTR_* flags say. */
SD_HIDDEN void sd_do_xattr(struct sd_caller *caller, struct sd_home *home,
			   const struct sd_ask *ask, struct sd_told *told, const int *held, int *give);
/* Whether a descriptor was opened with O_PATH, by whose /proc/TID `task` is; -errno: nobody can tell. */
SD_HIDDEN int sd_is_path_only(int task, int fd);
/* The maker's. Before the host's mounts are let go of. 0 or -errno. */
SD_HIDDEN int sd_xattrs_prepare(const struct sd_ceiling *ceiling);
/* 0, or -EPERM where that is beyond the ceiling, or -errno of the kernel's. */
SD_HIDDEN int sd_xattr_as_root(const struct sd_ceiling *ceiling, const struct sd_xattr_order *order, int file);

/* ---- lend.c: the maker's ---- */

/* Before the host's mounts are let go of. `userns`: of the target; -1: none. */
SD_HIDDEN void sd_lend_prepare(const struct sd_ceiling *ceiling, int userns);
/* Once the root directory is our own. 0 or -errno. */
SD_HIDDEN int sd_lend_settle(void);
/* What a device or a file is called in the directory that it is lent by. */
#define SD_LENT_NAME "it"
/* What `make` asks for: 0 and `*give`, or -errno. */
SD_HIDDEN int sd_lend(const struct sd_make *make, uint64_t permitted, int *give);
/* Opens without waiting for anything, and clears O_NONBLOCK where `flags` have none. */
SD_HIDDEN int sd_open_unblocking(int dir, const char *path, int flags);

/* ---- loops.c: the maker's ---- */

/* Before the host's mounts are let go of. */
SD_HIDDEN void sd_loops_prepare(const struct sd_ceiling *whole);
/* Carries out an order: 0, and perhaps `*give`, or -errno. */
SD_HIDDEN int sd_loop(const struct sd_loop_order *order, int image, struct sd_loop_answer *answer,
		      int *give);
/* Whether a number is in a range of the policy's. */
SD_HIDDEN int sd_loop_is_lent(uint32_t major_number, uint32_t minor_number);
/* One that was attached for this container, opened; -ENXIO: it was not. */
SD_HIDDEN int sd_loop_own(uint32_t number, int flags);

SD_HIDDEN const char *sd_ask_text(const struct sd_ask *ask, int which);

#endif
