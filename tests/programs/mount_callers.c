/* Mounts and unmounts in unusual ways; the status is the errno, 0, or 255 where a test went wrong.
 *
 * mount_callers WHAT SOURCE TARGET TYPE     TYPE "-": an umount of TARGET
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRONG = 255 };

static const char *source, *target, *type;

static int of(long result)
{
	return result ? errno : 0;
}

static int plain(void)
{
	return of(strcmp(type, "-") ? mount(source, target, type, 0, NULL) : umount2(target, 0));
}

/* A name below the target's parent, with that as the working directory. */
static int go_above(char *name)
{
	char parent[4096];
	char *slash = strrchr(strcpy(parent, target), '/');
	if (!slash || strlen(slash + 1) > 255)
		return -1;
	*slash = 0;
	strcpy(name, slash + 1);
	return chdir(*parent ? parent : "/");
}

#ifdef __x86_64__
static long int80(long nr, const char *a, const char *b, const char *c, long d)
{
	static char *low;
	long at[3] = {0}, result;
	const char *const texts[] = {a, b, c};
	if (!low)
		low = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	for (int i = 0; i < 3; i++)
		if (texts[i])
			at[i] = (long)strcpy(low + 4096 * i, texts[i]);
	/* what is above 32 bits the 32-bit entry never sees; the fifth argument is a NULL pointer */
	__asm__ volatile("int $0x80" : "=a"(result)
			 : "a"(nr), "b"(at[0]), "c"(at[1]), "d"(at[2]), "S"(d), "D"(0L)
			 : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
	errno = result < 0 ? (int)-result : 0;
	return result < 0 ? -1 : result;
}
#endif

static void *in_thread(void *unused)
{
	static char name[256];
	(void)unused;
	if (unshare(CLONE_FS) || go_above(name))
		return (void *)(intptr_t)WRONG;
	target = name;
	return (void *)(intptr_t)plain();
}

/* Not the leader, with a working directory of its own. */
static int thread(void)
{
	pthread_t it;
	void *result;
	if (chdir("/proc") || pthread_create(&it, NULL, in_thread, NULL) || pthread_join(it, &result))
		return WRONG;
	return (int)(intptr_t)result;
}

static void *of_nobody(void *unused)
{
	(void)unused;
	usleep(200000); /* the leader is a zombie by now */
	_exit(plain());
}

/* The leader has ended, and its thread goes on. */
static int orphan(void)
{
	int status;
	pid_t child = fork();
	if (!child) {
		pthread_t it;
		pthread_create(&it, NULL, of_nobody, NULL);
		pthread_exit(NULL);
	}
	return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : WRONG;
}

/* In a root directory of its own: all names begin there. */
static int in_root(void)
{
	static char name[257] = "/";
	if (go_above(name + 1) || chroot("."))
		return WRONG;
	target = name;
	source = strrchr(source, '/');
	return source ? plain() : WRONG;
}

static int is_there(const char *mounts)
{
	char line[4096], word[4096];
	int found = 0;
	FILE *file = fopen(mounts, "r");
	snprintf(word, sizeof word, " %s ", target);
	while (file && fgets(line, sizeof line, file))
		found |= strstr(line, word) != NULL;
	if (file)
		fclose(file);
	return found;
}

/* In a mount namespace of its own: there it is, and nowhere else. */
static int in_namespace(int flags)
{
	char outside[64];
	int up[2], down[2], status;
	char word;
	if (pipe(up) || pipe(down))
		return WRONG;
	pid_t child = fork();
	if (!child) {
		if (unshare(flags) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
			_exit(WRONG);
		int error = plain();
		if (!error && !is_there("/proc/self/mounts"))
			error = WRONG;
		if (write(up[1], "x", 1) != 1 || read(down[0], &word, 1) != 1)
			_exit(WRONG);
		_exit(error);
	}
	snprintf(outside, sizeof outside, "/proc/%d/mounts", getpid());
	int wrong = read(up[0], &word, 1) != 1 || is_there(outside);
	if (write(down[1], "x", 1) != 1 || waitpid(child, &status, 0) != child || wrong)
		return WRONG;
	return WIFEXITED(status) ? WEXITSTATUS(status) : WRONG;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return WRONG;
	const char *what = argv[1];
	source = argv[2];
	target = argv[3];
	type = argv[4];
	if (!strcmp(what, "plain"))
		return plain();
	if (!strcmp(what, "thread"))
		return thread();
	if (!strcmp(what, "orphan"))
		return orphan();
	if (!strcmp(what, "chroot"))
		return in_root();
	if (!strcmp(what, "own-namespace"))
		return in_namespace(CLONE_NEWNS);
	if (!strcmp(what, "nested"))
		return in_namespace(CLONE_NEWUSER | CLONE_NEWNS);
#ifdef __x86_64__
	const uint64_t garbage = 0xdeadbeef00000000u;
	if (!strcmp(what, "i386-mount"))
		return of(int80(21, source, target, type, (long)garbage));
	if (!strcmp(what, "i386-umount2"))
		return of(int80(52, target, NULL, NULL, 0));
	if (!strcmp(what, "i386-umount"))
		return of(int80(22, target, NULL, NULL, 0));
	if (!strcmp(what, "x32-mount"))
		return of(syscall(0x40000000 + SYS_mount, source, target, type, 0, NULL));
	if (!strcmp(what, "x32-umount2"))
		return of(syscall(0x40000000 + SYS_umount2, target, 0));
#endif
	return WRONG;
}
