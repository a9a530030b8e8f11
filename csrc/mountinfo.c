/* The lines of /proc/PID/mountinfo. */
#include "mounts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* mountinfo writes space, tab, newline and backslash in octal */
static void unescape(char *text)
{
	char *to = text;
	for (; *text; text++) {
		if (text[0] == '\\' && text[1] && text[2] && text[3]) {
			*to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
				       (text[3] - '0'));
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = 0;
}

/* Of which dentries stay as long as what they name: shmem, and ramfs, which devtmpfs is one of. */
static int is_memory(const char *type)
{
	static const char *const names[] = {"tmpfs ", "devtmpfs ", "ramfs "};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strncmp(type, names[i], strlen(names[i])))
			return 1;
	return 0;
}

int sd_next_mount(FILE *mounts, struct sd_mount_line *line)
{
	while (getline(&line->text, &line->size, mounts) > 0) {
		unsigned int major, minor;
		int root = 0, start = 0, end = 0;
		/* only a space ends a name: what else scanf takes for white space may be part of one */
		if (sscanf(line->text, "%llu %llu %u:%u %n%*[^ ] %n%*[^ ]%n", &line->id, &line->parent,
			   &major, &minor, &root, &start, &end) < 4 ||
		    !end)
			continue;
		/* optional fields come after the path and the flags, and end with a dash */
		char *rest = line->text + end;
		char *dash = strstr(rest, " - ");
		char *shared = strstr(rest, " shared:");
		line->shared = shared && (!dash || shared < dash);
		line->memory = dash && is_memory(dash + 3);
		line->whole = !strncmp(line->text + root, "/ ", 2);
		line->text[end] = 0;
		line->path = line->text + start;
		line->device = makedev(major, minor);
		unescape(line->path);
		return 1;
	}
	free(line->text);
	line->text = NULL;
	return 0;
}
