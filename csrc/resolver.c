/* The resolver: one question at a time, asked by the session it was forked from. It becomes the
 * caller, does the path work, and comes back; see identity.c, walk.c, nodes.c, directories.c and
 * companions.c. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

const char *sd_ask_text(const struct sd_ask *ask, int which)
{
	const char *text = ask->text;
	for (int i = 0; i < which; i++)
		if (i > 1 || ask->length[i] != SD_NO_TEXT)
			text += ask->length[i] + 1;
	return text;
}

static void answer_one(struct sd_home *home, const struct sd_ask *ask, struct sd_told *told,
		       int *held, int *give)
{
	struct sd_caller caller = {.task = held[0], .status = -1};
	int listener = -1;
	if (ask->listener && ask->listener < SD_HELD) {
		listener = held[ask->listener];
		held[ask->listener] = -1;
		if (listener < 0) {
			told->error = -EBADF;
			return;
		}
	}
	int places = 1;
	if (ask->op == SD_ASK_RENAME || ask->op == SD_ASK_LINK)
		places = 2;
	else if (ask->op == SD_ASK_PLACE || ask->op == SD_ASK_ATTACH ||
		 (held[1] >= 0 && ask->op != SD_ASK_OPEN))
		places = 0;
	int result = sd_enter(home, &caller, ask, places, listener);
	if (result == SD_TOLD_RETIRE) {
		told->flags = SD_TOLD_RETIRE;
	} else if (result) {
		told->error = result;
		/* the caller has gone in between: what was made for it must not stay */
		if (ask->op == SD_ASK_ATTACH && held[1] >= 0 && held[2] >= 0 &&
		    !sd_act_as_self(home)) {
			sd_take_back(held[1], sd_ask_text(ask, 0), held[2]);
			sd_drop_node(home, ask, told, held[3]);
		}
	} else {
		told->fsuid = caller.fsuid;
		told->fsgid = caller.fsgid;
		told->umask = caller.umask;
		told->group_count = caller.group_count;
		memcpy(told->groups, caller.groups, caller.group_count * sizeof *told->groups);
		switch (ask->op) {
		case SD_ASK_RESOLVE:
			sd_do_resolve(&caller, home, ask, told, give);
			break;
		case SD_ASK_BIND:
			sd_do_bind(&caller, home, ask, told, held[1]);
			break;
		case SD_ASK_PLACE:
			sd_do_place(&caller, home, ask, told, held[1], give);
			break;
		case SD_ASK_ATTACH:
			sd_do_attach(&caller, home, ask, told, held);
			break;
		case SD_ASK_DIRECTORY:
			sd_do_directory(&caller, home, ask, told, held[1], give);
			break;
		case SD_ASK_OPEN:
			sd_do_open(&caller, home, ask, told, held, give);
			break;
		case SD_ASK_XATTR:
			sd_do_xattr(&caller, home, ask, told, held, give);
			break;
		default:
			sd_do_companion(&caller, home, ask, told);
		}
	}
	sd_leave(home, &caller);
}

static void serve(struct sd_home *home)
{
	static struct sd_xattr_ask asked; /* the longest of all questions */
	static struct sd_told told;
	const struct sd_ask *ask = &asked.ask;
	for (;;) {
		int held[SD_HELD], give = -1;
		int size = sd_receive_fds(0, &asked, sizeof asked, held, SD_HELD);
		if (size <= 0)
			_exit(0);
		sd_follow(ask->cpu);
		if (ask->op >= SD_ASK_MOUNT_LOOK) {
			if (sd_answer_mount(home, ask, held) < 0)
				_exit(1);
			continue;
		}
		memset(&told, 0, offsetof(struct sd_told, path));
		told.path_length = -1;
		if (held[0] < 0)
			told.error = -EBADF;
		else if (ask->op == SD_ASK_HOME) /* no caller is concerned yet */
			give = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
		else
			answer_one(home, ask, &told, held, &give);
		for (int i = 0; i < SD_HELD; i++)
			if (held[i] >= 0)
				close(held[i]);
		size_t length = offsetof(struct sd_told, path);
		if (told.path_length > 0)
			length += (size_t)told.path_length;
		if (sd_reply(0, &told, length, give) < 0)
			_exit(1);
	}
}

/* Forks a resolver. Its first message says whether it could make itself a home: 0 or -errno. */
int sd_resolver_spawn(struct sd_child *child)
{
	int pid = sd_fork_helper(child, "seccompd-path", 0);
	if (pid)
		return pid;
	/* /proc is read before the root is left, so these come first */
	static struct sd_home home;
	int maps = sd_own_maps();
	int32_t ready = sd_home_init(&home);
	if (sd_send_fds(0, &ready, sizeof ready, NULL, 0) < 0 || ready)
		_exit(1);
	sd_forget_parent(maps); /* now: nobody waits for that */
	serve(&home);
	_exit(0);
}
