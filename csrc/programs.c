/* FUSE servers: a program that parses an image which nobody trusts.
 *
 * It runs in the target's user namespace, since whoever opens /dev/fuse and mounts has to be there,
 * but in mount, pid, network, ipc and uts namespaces of its own: it sees /usr, its image and nothing
 * of the container's, and no process but itself. Of capabilities it has what mounting takes and what
 * the image takes to be opened again; a filter keeps it from all ways to other namespaces. It is
 * pid 1 there, so that all it forks ends with it, and it ends with the session.
 *
 * The child shares our memory until it executes: a fork would copy the tables of a process of some
 * 60 MB. So it touches nothing but its own stack, and what is static here. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "no audit architecture"
#endif

enum { STACK = 256 * 1024, IMAGE = 3, FUSE_NODE = 4, MOST_FILES = 256 };
enum { ATTR_NOSUID = 0x2, ATTR_NODEV = 0x4 };

#define DENY(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define LACK(number) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS)

static struct sock_filter FILTER[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	DENY(setns), DENY(unshare), DENY(pivot_root), DENY(chroot), DENY(ptrace),
	DENY(process_vm_readv), DENY(process_vm_writev), DENY(bpf), DENY(userfaultfd),
	DENY(perf_event_open), DENY(keyctl), DENY(add_key), DENY(request_key), DENY(kexec_load),
	DENY(init_module), DENY(finit_module), DENY(delete_module), DENY(open_by_handle_at),
	DENY(swapon), DENY(swapoff), DENY(reboot), DENY(acct), DENY(quotactl), DENY(seccomp),
	/* io_uring_setup; and the new mount interface, so that libraries take mount(2) */
	LACK(425), LACK(428), LACK(429), LACK(430), LACK(431), LACK(432), LACK(433), LACK(442),
	LACK(435), /* clone3 hides its flags in memory */
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone, 0, 3),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
	BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x7e020080, 0, 1), /* CLONE_NEW* */
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

struct child {
	const struct sd_program *program;
	int messages; /* the writing end */
	int null;
	volatile int stage, error;
};

static int bind_here(const char *from, const char *to)
{
	struct sd_mount_attr attr = {.set = SD_ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV};
	if (mount(from, to, NULL, MS_BIND | MS_REC, NULL))
		return -1;
	return (int)syscall(SYS_mount_setattr, AT_FDCWD, to, AT_RECURSIVE, &attr, sizeof attr);
}

static int make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	return fd < 0 ? -1 : close(fd);
}

/* A tree with the host's programs and libraries in it, read-only; the working directory is it. */
static int make_root(void)
{
	static const char *const LIBRARIES[] = {"/bin", "/sbin", "/lib", "/lib32", "/lib64",
						"/libx32"};
	static const char *const DIRECTORIES[] = {"usr", "etc", "dev", "mnt", "proc", "tmp"};
	char link[PATH_MAX];
	struct stat found;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return -1;
	/* a tree of the new /proc, since the next mount covers it */
	int proc = sd_open_tree(AT_FDCWD, "/proc");
	if (proc < 0 || umount2("/proc", MNT_DETACH) ||
	    mount("seccompd", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") ||
	    chdir("/proc"))
		return -1;
	for (size_t i = 0; i < sizeof DIRECTORIES / sizeof *DIRECTORIES; i++)
		if (mkdir(DIRECTORIES[i], 0755))
			return -1;
	if (syscall(SYS_move_mount, proc, "", AT_FDCWD, "proc", MOVE_MOUNT_F_EMPTY_PATH) ||
	    close(proc) || bind_here("/usr", "usr"))
		return -1;
	for (size_t i = 0; i < sizeof LIBRARIES / sizeof *LIBRARIES; i++) {
		const char *name = LIBRARIES[i] + 1;
		if (lstat(LIBRARIES[i], &found))
			continue;
		if (S_ISLNK(found.st_mode)) {
			ssize_t length = readlink(LIBRARIES[i], link, sizeof link - 1);
			link[length < 0 ? 0 : length] = 0;
			if (symlink(link, name))
				return -1;
		} else if (mkdir(name, 0755) || bind_here(LIBRARIES[i], name)) {
			return -1;
		}
	}
	if (!stat("/etc/ld.so.cache", &found) &&
	    (make_file("etc/ld.so.cache") || bind_here("/etc/ld.so.cache", "etc/ld.so.cache")))
		return -1;
	return symlink("/proc/self/fd", "dev/fd");
}

static int make_devices(void)
{
	static const char *const DEVICES[] = {"/dev/null", "/dev/zero", "/dev/random",
					      "/dev/urandom"};
	for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++)
		if (make_file(DEVICES[i] + 1) ||
		    mount(DEVICES[i], DEVICES[i] + 1, NULL, MS_BIND, NULL))
			return -1;
	if (make_file("dev/fuse"))
		return -1;
	int target = open("dev/fuse", O_PATH | O_CLOEXEC);
	struct stat found;
	int result;
	if (target < 0)
		return -1;
	if (fstat(FUSE_NODE, &found) || !S_ISCHR(found.st_mode))
		result = mount("/dev/fuse", "dev/fuse", NULL, MS_BIND, NULL);
	else
		result = sd_move_tree(FUSE_NODE, target);
	int error = errno;
	close(target);
	close(FUSE_NODE);
	errno = error;
	return result ? -1 : 0;
}

static int limit(int which, uint64_t most)
{
	struct rlimit both = {most, most};
	return setrlimit((__rlimit_resource_t)which, &both);
}

static int give_up_rights(const struct sd_program *program)
{
	static const int KEEP[] = {CAP_SYS_ADMIN, CAP_DAC_OVERRIDE};
	const uint64_t keep = 1ULL << CAP_SYS_ADMIN | 1ULL << CAP_DAC_OVERRIDE;
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{(uint32_t)keep, (uint32_t)keep, (uint32_t)keep},
						 {0, 0, 0}};
	if ((program->memory && limit(RLIMIT_AS, program->memory)) || limit(RLIMIT_CORE, 0) ||
	    limit(RLIMIT_NOFILE, MOST_FILES))
		return -1;
	for (int cap = 0; cap < 64; cap++) {
		if (keep & 1ULL << cap)
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno != EINVAL)
			return -1;
	}
	if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
		  SECBIT_NO_SETUID_FIXUP_LOCKED, 0, 0, 0) ||
	    syscall(SYS_capset, &head, data))
		return -1;
	for (size_t i = 0; i < sizeof KEEP / sizeof *KEEP; i++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, KEEP[i], 0, 0))
			return -1;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int filtered(void)
{
	struct sock_fprog code = {sizeof FILTER / sizeof *FILTER, FILTER};
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &code, 0, 0);
}

/* The image becomes 3, the node for /dev/fuse 4, the rest is closed. */
static int order_descriptors(const struct child *child)
{
	const struct sd_program *program = child->program;
	int image = fcntl(program->image, F_DUPFD, 32);
	int fuse = program->fuse >= 0 ? fcntl(program->fuse, F_DUPFD, 32) : -1;
	int messages = fcntl(child->messages, F_DUPFD, 32), null = fcntl(child->null, F_DUPFD, 32);
	if (image < 0 || messages < 0 || null < 0 || dup2(null, 0) < 0 || dup2(messages, 1) < 0 ||
	    dup2(messages, 2) < 0 || dup2(image, IMAGE) < 0)
		return -1;
	if (fuse >= 0 ? dup2(fuse, FUSE_NODE) < 0 : (close(FUSE_NODE), 0))
		return -1;
	/* a program that opens it once more finds it as it was given */
	int flags = fcntl(IMAGE, F_GETFL);
	fcntl(IMAGE, F_SETFL, flags & ~O_NONBLOCK);
	return (int)syscall(SYS_close_range, FUSE_NODE + 1, ~0U, 0);
}

static int child_main(void *given)
{
	static const char *const ENVIRONMENT[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C",
						  "HOME=/", NULL};
	struct child *child = given;
	const struct sd_program *program = child->program;
	sigset_t none;
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	child->stage = SD_PROGRAM_ROOT;
	if (setsid() < 0 || order_descriptors(child) || make_root())
		goto failed;
	child->stage = SD_PROGRAM_DEVICE;
	if (make_devices())
		goto failed;
	child->stage = SD_PROGRAM_ROOT;
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		goto failed;
	child->stage = SD_PROGRAM_RIGHTS;
	umask(022);
	if (give_up_rights(program))
		goto failed;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* last, for changes of credentials clear it */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	child->stage = SD_PROGRAM_FILTER;
	if (filtered())
		goto failed;
	child->stage = SD_PROGRAM_EXEC;
	execve(program->argv[0], (char *const *)program->argv, (char *const *)ENVIRONMENT);
failed:
	child->error = errno;
	_exit(127);
}

int sd_program_start(struct sd_program *program)
{
	static char stack[STACK] __attribute__((aligned(64)));
	struct child child = {.program = program, .stage = SD_PROGRAM_CLONE};
	sigset_t all, before;
	int messages[2], error = 0, pidfd = -1;
	program->pid = program->pidfd = program->messages = -1;
	if (pipe2(messages, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	child.messages = messages[1];
	child.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	/* a handler of ours must not run in the child, which has our memory */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	int pid = clone(child_main, stack + sizeof stack,
			CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWPID |
			CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, &child, &pidfd);
	if (pid < 0)
		error = -errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(messages[1]);
	if (child.null >= 0)
		close(child.null);
	if (!error && child.error)
		error = -child.error;
	program->stage = child.stage;
	if (error) {
		close(messages[0]);
		if (pid > 0) {
			waitpid(pid, NULL, 0);
			close(pidfd);
		}
		return error;
	}
	program->pid = pid;
	program->pidfd = pidfd;
	program->messages = messages[0];
	return 0;
}
