/* A helper inherits all memory of the Python process that it was forked from, and uses none of it. Of
 * each page that its parent writes to it would hold the only copy of what was there before. */
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Python's arenas are larger; what the dynamic linker made (stacks, thread-local storage) is not. */
enum { ARENA = 256 * 1024 };

/* Memory that belongs neither to this module nor to libc, by a line of the maps. What libc keeps in an
 * interpreter's own .bss (its copies of environ and the standard streams) stays. The heap of malloc()
 * has a name in brackets, and stays: helpers use it. */
static void let_go(const char *line)
{
	static char ours;
	uintptr_t from, to;
	unsigned long inode;
	char mode[8], name[8] = "";
	if (sscanf(line, "%lx-%lx %7s %*x %*x:%*x %lu %7s", &from, &to, mode, &inode, name) < 4)
		return;
	if (strcmp(mode, "rw-p") || to - from < ARENA || *name == '[')
		return;
	if (inode) { /* the interpreter's .data: as in its file; .bss may begin on the last page */
		madvise((void *)from, to - from - (uintptr_t)getpagesize(), MADV_DONTNEED);
		return;
	}
	const void *const needed[] = {&ours, &errno, &environ, &stdout, line};
	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
		if (from <= (uintptr_t)needed[i] && (uintptr_t)needed[i] < to)
			return;
	munmap((void *)from, to - from);
}

/* What a helper goes by is made in mappings of its own: with that, nobody who was forked has a part in the
 * heap that changes once it is given back. Sealed they can be told from what helpers let go of, and each
 * has them as they were then, whatever another one does to its own. */
struct chunk {
	struct chunk *next;
	size_t size, used;
	_Alignas(16) char data[];
};

enum { CHUNK = 64 * 1024 };

static struct chunk *unsealed;

void *sd_kept_new(size_t size)
{
	size = (size + 15) & ~(size_t)15;
	if (!unsealed || unsealed->size - unsealed->used < size) {
		size_t whole = size + sizeof(struct chunk) > CHUNK ? size + sizeof(struct chunk) : CHUNK;
		struct chunk *chunk = mmap(NULL, whole, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (chunk == MAP_FAILED)
			return NULL;
		chunk->next = unsealed;
		chunk->size = whole;
		chunk->used = sizeof *chunk;
		unsealed = chunk;
	}
	void *piece = (char *)unsealed + unsealed->used;
	unsealed->used += size;
	return piece;
}

void *sd_kept_seal(void)
{
	struct chunk *first = unsealed;
	unsealed = NULL;
	for (struct chunk *chunk = first; chunk; chunk = chunk->next)
		if (mprotect(chunk, chunk->size, PROT_READ)) {
			sd_kept_free(first);
			return NULL;
		}
	return first;
}

void sd_kept_free(void *kept)
{
	for (struct chunk *chunk = kept, *next; chunk; chunk = next) {
		next = chunk->next;
		munmap(chunk, chunk->size);
	}
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
