/* What the files of the maker share: maker.c and maker_nodes.c. */
#ifndef SECCOMPD_MAKER_H
#define SECCOMPD_MAKER_H

#include "mounts.h"

#define CAP(name) (1ULL << (name))

enum { SD_KNOWN_FS = 64 };

struct sd_known_fs {
	uint64_t fs_id;
	dev_t dev;
	int theirs;
};

struct maker {
	struct sd_known_fs known[SD_KNOWN_FS];
	const struct sd_ceiling *ceiling;
	uint64_t permitted;
	dev_t own_dev; /* of our tmpfs */
	uint32_t group_count;
	uint32_t groups[SD_GROUPS];
	uint64_t made;
	int ids_known;
	uint32_t fsuid, fsgid, mask; /* ours now */
	struct sd_mounting mounting;
};

/* ---- maker_nodes.c. 0 or -errno, where nothing else is said ---- */

/* Ids as the initial namespace numbers them. */
SD_HIDDEN int sd_maker_become(struct maker *maker, uint32_t uid, uint32_t gid);
/* Without groups; what a caller's ids were taken for is over. */
SD_HIDDEN int sd_maker_become_root(struct maker *maker);
/* Also SD_NEEDS_BIND: it could not be opened there. */
SD_HIDDEN int sd_make_real_node(struct maker *maker, const struct sd_make *make, int dir);
/* The same at the end of a path from `base`; `*parent` is where that is, perhaps `base` itself. */
SD_HIDDEN int sd_make_node_at(struct maker *maker, struct sd_make *make, int base, int *parent);
SD_HIDDEN int sd_make_private_node(struct maker *maker, const struct sd_make *make, int *tree);
SD_HIDDEN void sd_change_links(const struct maker *maker, const struct sd_make *make);

#endif
