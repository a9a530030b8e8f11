/* Files that fit a cgroup: one is for those who are in the same cgroups as the caller that it was made
 * for, and not for long, since limits change and memory is used. */
#include "callers.h"
#include "proxy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEEN_NS = 1000000 }; /* so long it is believed that a thread is where it was */

struct cgroups {
	char text[SD_PATH_MAX]; /* as /proc/TID/cgroup has them */
};

static int read_cgroups(struct sd_known *one, void *result, const void *nothing)
{
	struct cgroups *of = result;
	(void)nothing;
	if (one->cgroup <= 0)
		one->cgroup = openat(one->task, "cgroup", O_RDONLY | O_CLOEXEC);
	if (one->cgroup < 0)
		return -errno;
	/* of what does not fit there is less: then it is nobody's */
	ssize_t got = pread(one->cgroup, of->text, sizeof of->text - 1, 0);
	if (got <= 0 || got == (ssize_t)sizeof of->text - 1)
		return got < 0 ? -errno : -ENAMETOOLONG;
	of->text[got] = 0;
	return 0;
}

int sd_node_fit(struct sd_node *node, uint32_t tid, uint32_t lifetime_ms)
{
	struct cgroups of;
	free(node->cgroups);
	node->cgroups = NULL; /* what is there now is for nobody else, whatever comes */
	node->seen_until_ns = 0;
	int error = sd_with_known(tid, read_cgroups, &of, NULL);
	if (error)
		return error;
	node->cgroups = strdup(of.text);
	if (!node->cgroups)
		return -ENOMEM;
	node->until_ns = sd_now_ns() + lifetime_ms * UINT64_C(1000000);
	return 0;
}

int sd_node_fits(struct sd_node *node, uint32_t tid)
{
	struct cgroups of;
	const uint64_t now = sd_now_ns();
	if (!node->cgroups || now >= node->until_ns)
		return 0;
	if (node->seen_tid == tid && now < node->seen_until_ns)
		return 1;
	if (sd_with_known(tid, read_cgroups, &of, NULL) || strcmp(of.text, node->cgroups))
		return 0;
	node->seen_tid = tid;
	node->seen_until_ns = now + SEEN_NS;
	return 1;
}
