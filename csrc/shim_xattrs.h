/* Extended attributes. See shim.h. */
#ifndef SECCOMPD_SHIM_XATTRS_H
#define SECCOMPD_SHIM_XATTRS_H

/* cdef begin */

/* ---- xattr_calls.c: what a session asks resolvers and makers about them ---- */

enum sd_xattr_flag {
	SD_XATTR_NOFOLLOW = 1,
	SD_XATTR_REMOVES = 2,
	/* What is to be done with the file. Nothing of these: the attribute is set, as the caller. */
	SD_XATTR_LOOK = 4,   /* only found: it comes back with its path */
	SD_XATTR_REFUSE = 8, /* not even that: what the kernel says where the caller has no right to it */
	SD_XATTR_ROOT = 16,  /* given back for a maker, where the caller may have one set it */
	SD_XATTR_NODES = 32, /* only where it is a node of ours; see sd_do_companion */
};

struct sd_xattr {
	uint32_t flags;
	uint32_t call_flags;  /* XATTR_CREATE, XATTR_REPLACE */
	int32_t dirfd;        /* where the path starts */
	int32_t length;       /* of the path; -1: the caller's descriptor `dirfd` itself */
	char path[SD_PATH_MAX];
	char name[SD_XATTR_NAME];
	uint32_t size;
	char value[SD_XATTR_MAX];
	/* what came of it */
	int32_t error;        /* 0 or -errno */
	int32_t retire;       /* this resolver cannot become that caller: ask a fresh one */
	int32_t left_alone;   /* of NODES: it is none of ours */
	int32_t foreign;      /* of ROOT: a file system that somebody serves, for whom no maker may wait */
	int32_t fd;           /* the file, O_PATH; -1: none */
	int32_t pending;      /* a descriptor whose message is still to come; -1 */
	uint32_t fsuid, fsgid;
	int32_t resolved_length; /* -1: it is not known where the path leads */
	char resolved[SD_PATH_MAX + 256];
};

/* Asks a resolver about the file that the path leads to, or about `file` (O_PATH, of an earlier answer; -1).
 * 0 or -errno */
int sd_xattr_ask(int resolver, const struct sd_waiting *call, int task, int file, struct sd_xattr *xattr);
/* 1: it has answered; 0: not within `linger_us`; -EPIPE: it has gone */
int sd_xattr_told(int resolver, struct sd_xattr *xattr, int linger_us);
/* Has a maker set, or remove, the attribute of `file` as the host's root. 0 or -errno */
int sd_xattr_order(int maker, const struct sd_xattr *xattr, int file);
/* 1: it has; 0: not within `linger_us`; -errno: why not; -EPIPE: the maker has gone */
int sd_xattr_ordered(int maker, int linger_us);

/* cdef end */

#endif
