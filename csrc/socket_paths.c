/* Binds a unix socket to a path, as the caller would, in the directory that was decided on.
 *
 * The address that the kernel remembers is the path as it is written: others answer to it. To have it
 * lead to that very directory and nowhere else, it is followed in a tree of our own, in which there is
 * nothing but its folders, and that directory mounted on the last one. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

static const char BASE[] = "/at";
enum { PLACE_MAX = sizeof BASE + SD_SUN_PATH + 1 };

/* A copy of the directory's mount. What is mounted below it may not be left out, where somebody else
 * has put it there. */
static int copy_of(int directory)
{
	int tree = sd_open_tree(directory, "");
	if (tree != -EINVAL)
		return tree;
	tree = (int)syscall(SYS_open_tree, directory, "",
			    AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | O_CLOEXEC);
	return tree < 0 ? -errno : tree;
}

/* The folders of `path` below BASE, made; `place` is the last one. */
static int make_folders(const char *path, char place[PLACE_MAX])
{
	size_t used = sizeof BASE - 1;
	memcpy(place, BASE, sizeof BASE);
	if (mkdir(BASE, 0755) && errno != EEXIST)
		return -errno;
	for (;;) {
		path += strspn(path, "/");
		size_t length = strcspn(path, "/");
		const char *rest = path + length;
		if (!rest[strspn(rest, "/")])
			return 0;
		if (length == 2 && !memcmp(path, "..", 2))
			return -EXDEV;
		if (length != 1 || *path != '.') {
			place[used++] = '/';
			memcpy(place + used, path, length);
			used += length;
			place[used] = 0;
			if (mkdir(place, 0755) && errno != EEXIST)
				return -errno;
		}
		path = rest;
	}
}

static void remove_folders(char place[PLACE_MAX])
{
	umount2(place, MNT_DETACH);
	while (!rmdir(place) && strlen(place) >= sizeof BASE)
		*strrchr(place, '/') = 0;
}

/* At home, with our own capabilities: `tree` on `place`, and BASE the root directory. */
static int go_there(int tree, const char *place)
{
	int at = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return -errno;
	int error = sd_move_tree(tree, at);
	close(at);
	if (!error && (chdir(BASE) || chroot(".")))
		error = -errno;
	return error;
}

static int bind_at(struct sd_home *home, struct sd_caller *caller, int tree, int sock,
		   const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char place[PLACE_MAX] = "/at";
	size_t length = strlen(path), whole = offsetof(struct sockaddr_un, sun_path) + length + 1;
	if (length > sizeof address.sun_path)
		return -ENAMETOOLONG;
	if (whole > sizeof address) /* the longest one has no NUL */
		whole = sizeof address;
	memcpy(address.sun_path, path, length);
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int error = root < 0 ? -errno : sd_act_as_self(home);
	umask(0);
	if (!error)
		error = make_folders(path, place);
	if (!error)
		error = go_there(tree, place);
	umask(caller->umask);
	if (!error)
		error = sd_act_as_caller_alone(home, caller);
	if (!error && bind(sock, (struct sockaddr *)&address, (socklen_t)whole))
		error = -errno;
	/* one that cannot come back is of no use */
	if (sd_act_as_self(home) || fchdir(root) || chroot("."))
		_exit(1);
	remove_folders(place);
	close(root);
	return error;
}

/* The caller's unix socket; whatever else the descriptor stands for by now is an error of the call's. */
static int take_socket(int pidfd, int number)
{
	int domain, fd = sd_take_descriptor(pidfd, number);
	socklen_t size = sizeof domain;
	if (fd < 0 || (!getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) && domain == AF_UNIX))
		return fd;
	close(fd);
	return -EINVAL;
}

int sd_bind_path(struct sd_home *home, const struct sd_ask *ask, const int *held, int listener)
{
	struct sd_caller caller = {.task = held[0], .status = -1};
	if (home->plain || listener < 0 || held[0] < 0 || held[1] < 0 || held[2] < 0) {
		if (listener >= 0)
			close(listener);
		return -EPERM;
	}
	/* before it is asked whose it is, which sd_enter does */
	int sock = sd_act_as_self(home) ? -EPERM : take_socket(held[2], (int)ask->call_flags);
	int result = sd_enter(home, &caller, ask, 0, listener);
	if (!result && sock < 0)
		result = sock;
	if (result == SD_TOLD_RETIRE)
		result = -EAGAIN;
	else if (!result)
		result = sd_enter_mounts(home, &caller);
	if (!result) {
		int tree = copy_of(held[1]);
		result = sd_go_home(home, &caller);
		if (!result)
			result = tree < 0 ? tree : bind_at(home, &caller, tree, sock,
							   sd_ask_text(ask, 0));
		if (tree >= 0)
			close(tree);
	}
	if (sock >= 0)
		close(sock);
	sd_leave(home, &caller);
	return result;
}
