/* Makes calls below a seccomp filter and says what each came to. From standard input: the number of
 * the filter's instructions, the instructions, then calls of eight 64-bit words each: how (0: the
 * 64-bit entry, 1: int 0x80), the number, six arguments. To standard output for each call an int:
 * 0, or the errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static long entry64(const uint64_t *of)
{
	long result;
	register uint64_t r10 __asm__("r10") = of[5];
	register uint64_t r8 __asm__("r8") = of[6];
	register uint64_t r9 __asm__("r9") = of[7];
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(of[1]), "D"(of[2]), "S"(of[3]), "d"(of[4]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* The sixth argument is in rbp, which belongs to the compiler: no call here has one. */
static long entry32(const uint64_t *of)
{
	long result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(of[1]), "b"(of[2]), "c"(of[3]), "d"(of[4]), "S"(of[5]), "D"(of[6])
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static int whole(void *to, size_t size)
{
	char *at = to;
	while (size) {
		ssize_t got = read(0, at, size);
		if (got <= 0)
			return 0;
		at += got;
		size -= (size_t)got;
	}
	return 1;
}

int main(void)
{
	uint32_t count;
	uint64_t of[8];
	if (!whole(&count, sizeof count) || count > BPF_MAXINSNS)
		return 2;
	struct sock_filter *code = calloc(count, sizeof *code);
	struct sock_fprog program = {.len = (unsigned short)count, .filter = code};
	if (!code || !whole(code, count * sizeof *code))
		return 2;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		return 3;
	while (whole(of, sizeof of)) {
		long result = of[0] ? entry32(of) : entry64(of);
		int32_t said = result < 0 && result > -4096 ? (int32_t)-result : 0;
		if (write(1, &said, sizeof said) != sizeof said)
			return 4;
	}
	free(code);
	return 0;
}
