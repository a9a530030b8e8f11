/* mount(2) as it stands: SOURCE TARGET TYPE. (Programs named mount take a loop device for a file.) */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	if (mount(argv[1], argv[2], argv[3], 0, "")) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	return 0;
}
