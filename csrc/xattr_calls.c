/* The session's side of extended attributes: questions to resolvers and makers, and their answers. */
#include "work.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>

static size_t put(char *text, size_t at, const char *from, size_t length)
{
	memcpy(text + at, from, length);
	text[at + length] = 0;
	return at + length + 1;
}

int sd_xattr_ask(int resolver, const struct sd_waiting *call, int task, int file, struct sd_xattr *xattr)
{
	struct sd_xattr_ask all;
	struct sd_ask *ask = &all.ask;
	char *text = (char *)&all + offsetof(struct sd_ask, text);
	int fds[3] = {task}, count = 1;
	size_t used = 0, name = strnlen(xattr->name, sizeof xattr->name);
	xattr->error = xattr->retire = xattr->left_alone = xattr->foreign = 0;
	xattr->fd = xattr->pending = xattr->resolved_length = -1;
	if (xattr->length >= SD_PATH_MAX)
		return -ENAMETOOLONG;
	if (name == sizeof xattr->name || xattr->size > SD_XATTR_MAX)
		return -EINVAL;
	memset(ask, 0, offsetof(struct sd_ask, text));
	ask->op = SD_ASK_XATTR;
	ask->cpu = (uint32_t)sched_getcpu();
	ask->flags = xattr->flags;
	ask->call_flags = xattr->call_flags;
	ask->dirfd[0] = xattr->dirfd;
	ask->length[0] = SD_NO_TEXT;
	if (xattr->length >= 0) {
		ask->length[0] = (uint16_t)xattr->length;
		used = put(text, used, xattr->path, (size_t)xattr->length);
	}
	ask->length[1] = (uint16_t)name;
	used = put(text, used, xattr->name, name);
	ask->mode = xattr->size;
	memcpy(text + used, xattr->value, xattr->size);
	used += xattr->size;
	if (file >= 0)
		fds[count++] = file;
	ask->id = call->id;
	ask->listener = (uint32_t)count;
	fds[count++] = call->listener;
	int sent = sd_send_fds(resolver, &all, offsetof(struct sd_ask, text) + used, fds, (size_t)count);
	return sent < 0 ? sent : 0;
}

int sd_xattr_told(int resolver, struct sd_xattr *xattr, int linger_us)
{
	struct sd_told told;
	int there = sd_hear_told(resolver, &told, &xattr->pending, linger_us);
	if (there <= 0)
		return there;
	xattr->error = told.error;
	xattr->retire = (told.flags & SD_TOLD_RETIRE) != 0;
	xattr->left_alone = (told.flags & SD_TOLD_LEFT_ALONE) != 0;
	/* an overlay that the host has mounted is not for anybody to serve */
	xattr->foreign = told.flags & SD_TOLD_FOREIGN && !(told.fs_dev && sd_is_on_host(told.fs_dev));
	xattr->fsuid = told.fsuid;
	xattr->fsgid = told.fsgid;
	xattr->resolved_length = told.path_length;
	if (told.path_length > 0)
		memcpy(xattr->resolved, told.path, (size_t)told.path_length);
	xattr->fd = xattr->pending;
	xattr->pending = -1;
	return 1;
}

int sd_xattr_order(int maker, const struct sd_xattr *xattr, int file)
{
	struct sd_xattr_order order;
	memset(&order, 0, offsetof(struct sd_xattr_order, value));
	if (xattr->size > SD_XATTR_MAX)
		return -E2BIG;
	order.op = SD_MAKE_XATTR;
	order.cpu = (uint32_t)sched_getcpu();
	order.removes = (xattr->flags & SD_XATTR_REMOVES) != 0;
	order.call_flags = xattr->call_flags;
	order.size = xattr->size;
	memcpy(order.name, xattr->name, sizeof order.name);
	memcpy(order.value, xattr->value, xattr->size);
	int sent = sd_send_fds(maker, &order, offsetof(struct sd_xattr_order, value) + order.size, &file, 1);
	return sent < 0 ? sent : 0;
}

int sd_xattr_ordered(int maker, int linger_us)
{
	struct sd_made made;
	int there = sd_readable(maker, linger_us);
	if (there <= 0)
		return there ? -EPIPE : 0;
	int fd, got = sd_receive_fds(maker, &made, sizeof made, &fd, 1);
	sd_drop(&fd);
	if (got != (int)sizeof made)
		return -EPIPE;
	/* the connection is there, whatever the kernel said of the attribute */
	return made.error == -EPIPE ? -EIO : made.error < 0 ? made.error : 1;
}
