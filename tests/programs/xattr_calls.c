/* Extended attributes by the 32-bit entry (int 0x80), whose registers have 32 bits; and by the calls of
 * Linux 6.13. One line for each call: its name, and an errno or 0. argv[1]: a file; argv[2]: the
 * beginning of a name. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long result)
{
	printf("%s %s\n", name, result < 0 && result > -4096 ? strerrorname_np((int)-result) : "0");
	fflush(stdout);
}

static long int80(long nr, long a, long b, long c, long d, long e)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

int main(int argc, char **argv)
{
	char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (argc < 3 || low == MAP_FAILED)
		return 2;
	char *path = low, *name = low + 4096, *value = low + 6000;
	uint64_t high = 0xdeadbeef00000000u;
	strcpy(path, argv[1]);
	strcpy(value, "value");
	int fd = open(path, O_RDONLY);
	snprintf(name, 64, "%s32", argv[2]);
	tell("setxattr", int80(226, (long)path, (long)name, (long)value, (long)(high | 5), (long)(high | 1)));
	tell("again", int80(226, (long)path, (long)name, (long)value, 5, 1));
	tell("lsetxattr", int80(227, (long)path, (long)name, (long)value, 5, 2));
	tell("fsetxattr", int80(228, (long)(high | (unsigned)fd), (long)name, (long)value, 4, 0));
	tell("large", int80(226, (long)path, (long)name, (long)value, 70000, 0));
	tell("removexattr", int80(235, (long)path, (long)name, 0, 0, 0));
	tell("lremovexattr", int80(236, (long)path, (long)name, 0, 0, 0));
	tell("fremovexattr", int80(237, fd, (long)name, 0, 0, 0));
	struct { uint64_t value; uint32_t size, flags; } args = {(uint64_t)(uintptr_t)value, 5, 0};
	tell("setxattrat", syscall(463, AT_FDCWD, path, 0, name, &args, sizeof args) ? -errno : 0);
	tell("setxattrat32", int80(463, AT_FDCWD, (long)path, 0, (long)name, (long)value));
	tell("removexattrat", syscall(466, AT_FDCWD, path, 0, name) ? -errno : 0);
	return 0;
}
