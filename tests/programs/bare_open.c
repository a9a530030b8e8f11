/* A program without any C library, as Go's are: opens its argument by the system call itself, and writes
 * out what is there. Every call that fails ends it with that errno. */
#include <stddef.h>

enum { READ = 0, WRITE = 1, EXIT = 60, OPENAT = 257, CWD = -100 };

static long call(long number, long a, long b, long c, long d)
{
	long result;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static long checked(long result)
{
	if (result < 0)
		call(EXIT, -result, 0, 0, 0);
	return result;
}

__attribute__((used)) static void run(long *stack)
{
	char data[4096];
	long file = checked(call(OPENAT, CWD, stack[2], 0, 0)), got;
	while ((got = checked(call(READ, file, (long)data, sizeof data, 0))))
		checked(call(WRITE, 1, (long)data, got, 0));
	call(EXIT, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tandq $-16, %rsp\n\tcall run\n");
