/* The host's own nodes, which an ordinary user's callers are given: opened by the session, or an opener of
 * its own, where the kernel would say the same to the caller. Elsewhere it is a resolver who becomes that one. */
#include "compat.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { LASTING_S = 2 }; /* a change within one tick of the clock is not seen by its time */

static uint32_t wanted(uint32_t flags)
{
	switch (flags & O_ACCMODE) {
	case O_RDONLY:
		return flags & O_TRUNC ? S_IROTH | S_IWOTH : S_IROTH;
	case O_WRONLY:
		return S_IWOTH;
	default:
		return S_IROTH | S_IWOTH;
	}
}

/* Whether it has no access list. That is believed until something of it is changed. */
static int is_bare(struct sd_node *node, const struct stat *file)
{
	char link[32];
	struct timespec now;
	if (node->bare_sec && node->bare_sec == file->st_ctim.tv_sec &&
	    node->bare_nsec == (int32_t)file->st_ctim.tv_nsec)
		return 1;
	snprintf(link, sizeof link, "/proc/self/fd/%d", node->fd);
	if (getxattr(link, "system.posix_acl_access", NULL, 0) >= 0 ||
	    (errno != ENODATA && errno != EOPNOTSUPP))
		return 0;
	if (!clock_gettime(CLOCK_REALTIME, &now) && now.tv_sec - file->st_ctim.tv_sec > LASTING_S) {
		node->bare_sec = file->st_ctim.tv_sec;
		node->bare_nsec = (int32_t)file->st_ctim.tv_nsec;
	}
	return 1;
}

static uint32_t number_in(const char *name)
{
	unsigned int number = SD_OVERFLOW_ID;
	FILE *file = fopen(name, "re");
	if (file && fscanf(file, "%u", &number) != 1)
		number = SD_OVERFLOW_ID;
	if (file)
		fclose(file);
	return number;
}

uint32_t sd_unmapped(int group)
{
	static int64_t known[2] = {-1, -1};
	if (known[group] < 0)
		known[group] = number_in(group ? "/proc/sys/kernel/overflowgid"
					       : "/proc/sys/kernel/overflowuid");
	return (uint32_t)known[group];
}

/* Whether an id that shows as that can be a mapped one as well. */
static int is_mapped_too(int group)
{
	static int known[2]; /* 1: no; 2: yes, or it cannot be told */
	unsigned int inside, outside, count;
	if (known[group])
		return known[group] > 1;
	known[group] = 2;
	FILE *map = fopen(group ? "/proc/self/gid_map" : "/proc/self/uid_map", "re");
	if (!map)
		return 1;
	int got, mapped = 0;
	while ((got = fscanf(map, "%u %u %u", &inside, &outside, &count)) == 3)
		mapped |= sd_unmapped(group) - inside < count;
	if (got == EOF && !ferror(map) && !mapped)
		known[group] = 1;
	fclose(map);
	return known[group] > 1;
}

/* Whether no capability of ours, nor of any caller's, counts for it: it takes that both ids are mapped. */
static int is_foreign(const struct stat *file)
{
	return (file->st_uid == sd_unmapped(0) && !is_mapped_too(0)) ||
	       (file->st_gid == sd_unmapped(1) && !is_mapped_too(1));
}

/* Where the mode lets everybody in, a caller that is in more groups than we are may yet be one that an access
 * list, or the mode, keeps out. Where others may not do that, we could by what such a caller has as well. */
enum sd_node_for sd_node_is_for(struct sd_node *node, uint32_t tid, uint32_t flags)
{
	struct stat file;
	if (node->kind == SD_NODE_FITTED)
		return sd_node_fits(node, tid) ? SD_NODE_EVERYBODYS : SD_NODE_NO;
	if (node->kind != SD_NODE_HOSTS)
		return SD_NODE_EVERYBODYS;
	if (fstat(node->fd, &file) || !file.st_nlink) /* or there is another one by now, of other rights */
		return SD_NODE_NO;
	const uint32_t want = wanted(flags), all = want * 0111;
	if ((file.st_mode & all) == all && is_bare(node, &file))
		return SD_NODE_EVERYBODYS;
	if (!sd_is_like_us(tid, (file.st_mode & want) != want))
		return SD_NODE_NO;
	return is_foreign(&file) ? SD_NODE_OURS : SD_NODE_OURS_ALONE;
}

/* Our capabilities would reach farther over a file of mapped ids than some callers' do. */
int sd_node_open_for(const struct sd_node *node, enum sd_node_for why, uint32_t flags)
{
	static uint64_t permitted; /* of a session, once it is who it will be */
	if (why == SD_NODE_NO)
		return -EPERM;
	if (why != SD_NODE_OURS_ALONE)
		return sd_node_open(node, flags);
	int error = permitted ? 0 : sd_permitted_caps(&permitted);
	if (!error && permitted)
		error = sd_set_caps(0, permitted);
	if (error)
		return error;
	int fd = sd_node_open(node, flags);
	if (permitted && sd_set_caps(permitted, permitted))
		_exit(1); /* of no use without */
	return fd;
}
