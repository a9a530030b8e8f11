/* A helper inherits all memory of the Python process that it was forked from, and uses none of it. Of
 * each page that its parent writes to it would hold the only copy of what was there before. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Python's arenas are larger; what the dynamic linker made (stacks, thread-local storage) is not. */
enum { ARENA = 256 * 1024 };

static int holds(uintptr_t from, uintptr_t to, const void *what)
{
	return from <= (uintptr_t)what && (uintptr_t)what < to;
}

/* Memory without a file or a name that belongs neither to this module nor to the thread. The heap of
 * malloc() has a name, and stays: helpers use it. */
static void let_go(const char *line)
{
	static char ours;
	uintptr_t from, to;
	unsigned long inode;
	char mode[8], name[8] = "";
	if (sscanf(line, "%lx-%lx %7s %*x %*x:%*x %lu %7s", &from, &to, mode, &inode, name) < 4)
		return;
	if (inode || *name || strcmp(mode, "rw-p") || to - from < ARENA)
		return;
	if (!holds(from, to, &ours) && !holds(from, to, &errno) && !holds(from, to, &from))
		munmap((void *)from, to - from);
}

int sd_own_maps(void)
{
	int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	return maps < 0 ? -errno : maps;
}

void sd_forget_parent(int maps)
{
	char text[4096];
	size_t have = 0;
	ssize_t got;
	/* The kernel goes on after the last address that it has told. */
	while ((got = read(maps, text + have, sizeof text - have - 1)) > 0) {
		char *line = text, *end;
		have += (size_t)got;
		text[have] = 0;
		while ((end = strchr(line, '\n'))) {
			*end = 0;
			let_go(line);
			line = end + 1;
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
	}
	close(maps);
}
