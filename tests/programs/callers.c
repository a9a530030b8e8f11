/* Makes device nodes in unusual ways, and prints what came of each: "NAME RESULT", a line each.
 *
 * callers DIR WHAT...   DIR is where the nodes go; RESULT is 0 or the name of an errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define NULL_DEVICE 0x103

static void tell(const char *name, long result)
{
	printf("%s %s\n", name, result == -1 ? strerrorname_np(errno) : "0");
	fflush(stdout);
}

#ifdef __x86_64__
/* The 32-bit entry, which a 64-bit program may use as well; its arguments are 32 bits wide. */
static long int80(long nr, long a, long b, long c, long d)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

static void i386(void)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	strcpy(low, "i386-mknod");
	tell("i386-mknod", int80(14, (long)low, S_IFCHR | 0666, NULL_DEVICE, 0));
	strcpy(low, "i386-mknodat");
	tell("i386-mknodat", int80(297, AT_FDCWD, (long)low, S_IFCHR | 0666, NULL_DEVICE));
	strcpy(low, "i386-block");
	tell("i386-block", int80(14, (long)low, S_IFBLK | 0666, 0x800, 0));
}

static void i386_directories(void)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	strcpy(low, "i386-mkdir");
	tell("i386-mkdir", int80(39, (long)low, 0750, 0, 0));
	tell("i386-again", int80(39, (long)low, 0750, 0, 0));
	strcpy(low, "i386-mkdirat");
	tell("i386-mkdirat", int80(296, AT_FDCWD, (long)low, 0750, 0));
	strcpy(low, "/etc/i386");
	tell("i386-refused", int80(39, (long)low, 0750, 0, 0));
}

static void x32(void)
{
	tell("x32-mknod", syscall(0x40000000 + SYS_mknod, "x32", S_IFCHR | 0666, NULL_DEVICE));
	tell("x32-getpid", syscall(0x40000000 + SYS_getpid));
}
#endif

/* What is above the width of an argument's type is none of the kernel's business. */
static void garbage(void)
{
	uint64_t high = 0xdeadbeef00000000u;
	tell("garbage-mknod", syscall(SYS_mknod, "garbage", high | 0xabcd0000u | S_IFCHR | 0666,
				      high | NULL_DEVICE));
	tell("garbage-mknodat", syscall(SYS_mknodat, high | (uint32_t)AT_FDCWD, "garbageat",
					high | 0xabcd0000u | S_IFCHR | 0666, high | NULL_DEVICE));
}

static void *thread_body(void *arg)
{
	const char *own = arg;
	if (unshare(CLONE_FS) || chdir(own))
		return (void *)(intptr_t)errno;
	umask(077);
	tell("thread-mknod", mknod("thread", S_IFCHR | 0666, NULL_DEVICE));
	struct stat st;
	if (stat("thread", &st))
		return (void *)(intptr_t)errno;
	printf("thread-mode %o\n", st.st_mode & 07777);
	return NULL;
}

/* A thread that is not the leader, with a working directory and a umask of its own. */
static void thread(void)
{
	pthread_t it;
	void *result;
	mkdir("of-thread", 0755);
	umask(022);
	pthread_create(&it, NULL, thread_body, "of-thread");
	pthread_join(it, &result);
	if (result)
		printf("thread failed %s\n", strerrorname_np((int)(intptr_t)result));
}

static void *orphan_body(void *unused)
{
	(void)unused;
	usleep(200000); /* the leader is a zombie by now */
	tell("orphan-thread-mknod", mknod("orphan", S_IFCHR | 0666, NULL_DEVICE));
	_exit(0);
}

/* The leader has ended, and its thread goes on. */
static void orphan_thread(void)
{
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		pthread_t it;
		pthread_create(&it, NULL, orphan_body, NULL);
		pthread_exit(NULL);
	}
	waitpid(child, NULL, 0);
}

/* With a listener of its own a target could answer its own calls, once ours has gone. */
static void listener(void)
{
	struct sock_filter code[] = {{.code = BPF_RET | BPF_K, .k = SECCOMP_RET_ALLOW}};
	struct sock_fprog program = {1, code};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	tell("new-listener", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				     SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
	tell("plain-filter", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void uring(void)
{
	char parameters[256] = {0};
	tell("io-uring", syscall(SYS_io_uring_setup, 4, parameters));
}

static void nodes(void)
{
	tell("null", mknod("null", S_IFCHR | 0666, NULL_DEVICE));
	tell("disk", mknod("disk", S_IFBLK | 0666, makedev(8, 0)));
	tell("kmsg", mknod("kmsg", S_IFCHR | 0666, makedev(1, 11)));
	tell("whiteout", mknod("whiteout", S_IFCHR | 0666, 0));
	tell("fifo", mknod("fifo", S_IFIFO | 0666, 0));
	tell("socket", mknod("socket", S_IFSOCK | 0666, 0));
	tell("regular", mknod("regular", 0666, 0));
}

static void without_capability(void)
{
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		prctl(PR_CAPBSET_DROP, 27, 0, 0, 0); /* CAP_MKNOD */
		if (setresuid(0, 0, 0) || execl("/proc/self/exe", "callers", ".", "nodes", NULL))
			_exit(1);
	}
	waitpid(child, NULL, 0);
}

static void nested(void)
{
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
			_exit(1);
		tell("nested-null", mknod("nested", S_IFCHR | 0666, NULL_DEVICE));
		tell("nested-exists", mknod("nested-there", S_IFCHR | 0666, NULL_DEVICE));
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc < 3 || chdir(argv[1]))
		return 2;
	umask(0);
	for (int i = 2; i < argc; i++) {
		const char *what = argv[i];
		if (!strcmp(what, "garbage"))
			garbage();
		else if (!strcmp(what, "thread"))
			thread();
		else if (!strcmp(what, "orphan-thread"))
			orphan_thread();
		else if (!strcmp(what, "listener"))
			listener();
		else if (!strcmp(what, "uring"))
			uring();
		else if (!strcmp(what, "nodes"))
			nodes();
		else if (!strcmp(what, "without-capability"))
			without_capability();
		else if (!strcmp(what, "nested"))
			nested();
#ifdef __x86_64__
		else if (!strcmp(what, "i386"))
			i386();
		else if (!strcmp(what, "i386-directories"))
			i386_directories();
		else if (!strcmp(what, "x32"))
			x32();
#endif
		else
			return 2;
	}
	return 0;
}
