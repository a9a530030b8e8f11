/* Files that fit a cgroup: one is for those who are in the same cgroups as the caller that it was made
 * for, and not for long, since limits change and memory is used. */
#include "callers.h"
#include "proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cgroups {
	char text[SD_PATH_MAX]; /* as /proc/TID/cgroup has them */
};

static int read_cgroups(struct sd_known *one, void *result, const void *nothing)
{
	struct cgroups *of = result;
	(void)nothing;
	int fd = openat(one->task, "cgroup", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	size_t used = 0;
	ssize_t got;
	while ((got = read(fd, of->text + used, sizeof of->text - used)) > 0)
		used += (size_t)got;
	int error = got < 0 ? -errno : used == sizeof of->text ? -ENAMETOOLONG : 0;
	close(fd);
	of->text[error ? 0 : used] = 0;
	return error;
}

int sd_node_fit(struct sd_node *node, uint32_t tid, uint32_t lifetime_ms)
{
	struct cgroups of;
	int error = sd_with_known(tid, read_cgroups, &of, NULL);
	if (error)
		return error;
	free(node->cgroups);
	node->cgroups = strdup(of.text);
	if (!node->cgroups)
		return -ENOMEM;
	node->until_ns = sd_now_ns() + lifetime_ms * UINT64_C(1000000);
	return 0;
}

int sd_node_fits(const struct sd_node *node, uint32_t tid)
{
	struct cgroups of;
	return node->cgroups && sd_now_ns() < node->until_ns &&
	       !sd_with_known(tid, read_cgroups, &of, NULL) && !strcmp(of.text, node->cgroups);
}
