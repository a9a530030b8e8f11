/* The session's side of opens: questions to resolvers and makers, and their answers. */
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct sd_node *sd_node_new(int fd, enum sd_node_kind kind)
{
	static uint64_t serial;
	struct sd_node *node = malloc(sizeof *node);
	if (node)
		*node = (struct sd_node){.fd = fd, .holders = 1, .kind = kind, .serial = ++serial};
	else
		close(fd);
	return node;
}

void sd_node_drop(struct sd_node *node)
{
	if (--node->holders)
		return;
	close(node->fd);
	free(node->cgroups);
	free(node);
}

int sd_open_again(int fd, uint32_t flags)
{
	static int ours = -1; /* a session's, which forks nobody who comes here */
	char link[16];
	if (ours < 0)
		ours = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ours < 0)
		return -errno;
	snprintf(link, sizeof link, "%d", fd);
	return sd_open_unblocking(ours, link, (int)flags & ~O_NOFOLLOW);
}

int sd_node_open(const struct sd_node *node, uint32_t flags)
{
	if (node->kind == SD_NODE_ITSELF || node->kind == SD_NODE_FITTED ||
	    node->kind == SD_NODE_HOSTS)
		return sd_open_again(node->fd, flags);
	return sd_open_unblocking(node->fd, node->kind == SD_NODE_PLACE ? SD_LENT_NAME : ".", (int)flags);
}

int sd_open_ask(int resolver, const struct sd_waiting *call, int task, const struct sd_node *node,
		struct sd_opening *opening)
{
	struct sd_ask ask;
	int fds[3] = {task}, count = 1;
	size_t used = (size_t)opening->length + 1;
	opening->error = opening->retire = opening->leads = 0;
	opening->fd = opening->pending = opening->resolved_length = -1;
	if (opening->length >= SD_PATH_MAX || opening->granted_length >= SD_PATH_MAX)
		return -ENAMETOOLONG;
	memset(&ask, 0, offsetof(struct sd_ask, text));
	ask.op = SD_ASK_OPEN;
	ask.cpu = (uint32_t)sched_getcpu();
	ask.flags = opening->flags;
	ask.call_flags = opening->open_flags;
	ask.dirfd[0] = opening->dirfd;
	ask.length[0] = (uint16_t)opening->length;
	ask.length[1] = SD_NO_TEXT;
	memcpy(ask.text, opening->path, (size_t)opening->length);
	ask.text[opening->length] = 0;
	if (opening->granted_length >= 0) {
		ask.length[1] = (uint16_t)opening->granted_length;
		memcpy(ask.text + used, opening->granted, (size_t)opening->granted_length);
		used += (size_t)opening->granted_length;
		ask.text[used++] = 0;
	}
	if (node) {
		fds[count++] = node->fd;
		ask.flags |= node->kind == SD_NODE_PLACE ? SD_OPEN_PLACE : 0;
	}
	ask.id = call->id;
	ask.listener = (uint32_t)count;
	fds[count++] = call->listener;
	int sent = sd_send_fds(resolver, &ask, offsetof(struct sd_ask, text) + used, fds,
			       (size_t)count);
	return sent < 0 ? sent : 0;
}

int sd_hear_told(int resolver, struct sd_told *told, int *fd, int linger_us)
{
	const int least = (int)offsetof(struct sd_told, path);
	for (;;) {
		int came, there = sd_readable(resolver, linger_us);
		if (there <= 0)
			return there ? -EPIPE : 0;
		int got = sd_receive_fds(resolver, told, sizeof *told, &came, 1);
		if (got == 1 && came >= 0 && *fd < 0) {
			*fd = came; /* it travels ahead of its message */
			continue;
		}
		sd_drop(&came);
		if (got >= least && told->path_length <= got - least)
			return 1;
		sd_drop(fd);
		return -EPIPE;
	}
}

int sd_open_told(int resolver, struct sd_opening *opening, int linger_us)
{
	struct sd_told told;
	int there = sd_hear_told(resolver, &told, &opening->pending, linger_us);
	if (there <= 0)
		return there;
	opening->retire = (told.flags & SD_TOLD_RETIRE) != 0;
	opening->leads = (told.flags & SD_TOLD_LEADS) != 0;
	opening->error = told.error;
	opening->fsuid = told.fsuid;
	opening->fsgid = told.fsgid;
	opening->resolved_length = told.path_length;
	if (told.path_length > 0)
		memcpy(opening->resolved, told.path, (size_t)told.path_length);
	opening->fd = opening->pending;
	opening->pending = -1;
	return 1;
}

int sd_lend_ask(int maker, uint32_t index, uint32_t flags)
{
	struct sd_make make;
	memset(&make, 0, sizeof make);
	make.op = SD_MAKE_LEND;
	make.cpu = (uint32_t)sched_getcpu();
	make.device = index;
	make.flags = flags;
	make.name[0] = 'l';
	int sent = sd_send_fds(maker, &make, sizeof make, NULL, 0);
	return sent < 0 ? sent : 0;
}

int sd_lend_told(int maker, int *fd, int linger_us)
{
	struct sd_made made;
	for (;;) {
		int given, there = sd_readable(maker, linger_us);
		if (there <= 0)
			return there ? -EPIPE : 0;
		int got = sd_receive_fds(maker, &made, sizeof made, &given, 1);
		if (got == 1 && given >= 0 && *fd < 0) {
			*fd = given;
			continue;
		}
		sd_drop(&given);
		if (got != (int)sizeof made)
			return -EPIPE;
		return made.error < 0 ? made.error : *fd < 0 ? -EPERM : 1;
	}
}
