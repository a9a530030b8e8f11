/* A hostile caller: stalls whoever reads its memory or walks its paths, and tells what it got.
 *
 * stall userfault|page|lookup|overlay|directory DIR ROUNDS
 *
 *   userfault  the path lies in a page that a userfaultfd never fills
 *   page       the path lies in a mapped page of a FUSE file that is never read
 *   lookup     the path leads through a FUSE directory whose lookups are never answered
 *   overlay    the name is in an overlay whose lower layer is such a directory
 *   directory  what is made is a directory, right in such a one
 *
 * Beside it runs a bystander, a process of the same container that makes nodes in DIR all the time.
 * Prints, a line each: "attacker ERRNO MS" for each round, "bystander CALLS FAILED WORST_MS".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void die(const char *what)
{
	fprintf(stderr, "stall: %s: %s\n", what, strerror(errno));
	exit(3);
}

/* The environment names devices that the caller may open; the host's own are root's alone. */
static const char *device(const char *variable, const char *usual)
{
	const char *named = getenv(variable);
	return named ? named : usual;
}

static void fuse_reply(int fd, uint64_t unique, int error, const void *data, size_t size)
{
	char buffer[4096];
	struct fuse_out_header *out = (void *)buffer;
	*out = (struct fuse_out_header){.len = (uint32_t)(sizeof *out + size), .error = error, .unique = unique};
	if (size)
		memcpy(buffer + sizeof *out, data, size);
	if (write(fd, buffer, out->len) < 0 && errno != ENOENT)
		die("fuse write");
}

static void fuse_attributes(struct fuse_attr *attr, uint64_t node)
{
	*attr = (struct fuse_attr){.ino = node, .size = node == 1 ? 0 : 4096, .nlink = 1, .blksize = 4096,
				   .mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644};
}

/* Knows "page", a file that is never read, and never answers a lookup of "hang". */
static void fuse_serve(int fd)
{
	static char buffer[FUSE_MIN_READ_BUFFER + 65536];
	for (;;) {
		ssize_t got = read(fd, buffer, sizeof buffer);
		if (got < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (got <= 0)
			_exit(0);
		struct fuse_in_header *in = (void *)buffer;
		const char *argument = buffer + sizeof *in;
		if (in->opcode == FUSE_INIT) {
			struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
						    .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
			fuse_reply(fd, in->unique, 0, &out, sizeof out);
		} else if (in->opcode == FUSE_LOOKUP && !strcmp(argument, "page")) {
			struct fuse_entry_out out = {.nodeid = 2};
			fuse_attributes(&out.attr, 2);
			fuse_reply(fd, in->unique, 0, &out, sizeof out);
		} else if (in->opcode == FUSE_LOOKUP && !strcmp(argument, "hang")) {
			continue;
		} else if (in->opcode == FUSE_LOOKUP) {
			fuse_reply(fd, in->unique, -ENOENT, NULL, 0);
		} else if (in->opcode == FUSE_STATFS) {
			struct fuse_statfs_out out = {.st = {.namelen = 255, .bsize = 4096}};
			fuse_reply(fd, in->unique, 0, &out, sizeof out);
		} else if (in->opcode == FUSE_GETATTR) {
			struct fuse_attr_out out = {0};
			fuse_attributes(&out.attr, in->nodeid);
			fuse_reply(fd, in->unique, 0, &out, sizeof out);
		} else if (in->opcode == FUSE_OPEN) {
			struct fuse_open_out out = {.fh = 1};
			fuse_reply(fd, in->unique, 0, &out, sizeof out);
		} else if (in->opcode == FUSE_READ || in->opcode == FUSE_INTERRUPT || in->opcode == FUSE_FORGET) {
			continue;
		} else {
			fuse_reply(fd, in->unique, -ENOSYS, NULL, 0);
		}
	}
}

static pid_t fuse_mount(const char *where)
{
	int fd = open(device("FUSE_DEVICE", "/dev/fuse"), O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die("the FUSE device");
	char options[128];
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fd, getuid(), getgid());
	if (mkdir(where, 0755) && errno != EEXIST)
		die(where);
	if (mount("stall", where, "fuse", MS_NOSUID | MS_NODEV, options))
		die("mounting fuse");
	pid_t server = fork();
	if (!server)
		fuse_serve(fd);
	close(fd);
	return server;
}

/* Over the FUSE directory `lower`: a lookup there waits for it, whoever asks. */
static void overlay_mount(const char *directory, const char *lower)
{
	char top[4200], upper[4300], work[4300], options[16384];
	snprintf(top, sizeof top, "%s/layers", directory);
	if (mkdir(top, 0755) || mount("stall", top, "tmpfs", 0, NULL))
		die(top);
	snprintf(upper, sizeof upper, "%s/upper", top);
	snprintf(work, sizeof work, "%s/work", top);
	if (mkdir(upper, 0755) || mkdir(work, 0755))
		die(upper);
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,userxattr", lower, upper,
		 work);
	snprintf(top, sizeof top, "%s/overlay", directory);
	if (mkdir(top, 0755) || mount("stall", top, "overlay", 0, options))
		die(top);
}

static char *userfault_page(void)
{
	/* through the device, as faults from inside the kernel are to be caught without privileges */
	int opener = open(device("USERFAULT_DEVICE", "/dev/userfaultfd"), O_RDWR | O_CLOEXEC);
	int fd = opener < 0 ? -1 : ioctl(opener, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	if (fd < 0)
		die("the userfaultfd device");
	struct uffdio_api api = {.api = UFFD_API};
	if (ioctl(fd, UFFDIO_API, &api))
		die("UFFDIO_API");
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register range = {.range = {(uintptr_t)page, 4096},
					.mode = UFFDIO_REGISTER_MODE_MISSING};
	if (ioctl(fd, UFFDIO_REGISTER, &range))
		die("UFFDIO_REGISTER");
	return page;
}

/* Its calls so far, in memory that its parent reads, too. */
static long *calls;

static void bystander(const char *directory, int out)
{
	char path[4200];
	double worst = 0;
	long failed = 0;
	struct sigaction stop = {.sa_handler = SIG_DFL};
	sigaction(SIGTERM, &stop, NULL);
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
	for (;;) {
		sigset_t pending;
		sigpending(&pending);
		if (sigismember(&pending, SIGTERM))
			break;
		snprintf(path, sizeof path, "%s/by%ld", directory,
			 __atomic_fetch_add(calls, 1, __ATOMIC_RELAXED));
		double start = ms();
		if (mknod(path, S_IFCHR | 0666, makedev(1, 3)))
			failed++;
		double took = ms() - start;
		if (took > worst)
			worst = took;
		unlink(path);
		usleep(1000);
	}
	dprintf(out, "bystander %ld %ld %.1f\n", *calls, failed, worst);
	_exit(0);
}

/* It goes on, however busy the machine is; where it does not, whoever started us gives up. */
static void await_bystander(long more)
{
	long until = __atomic_load_n(calls, __ATOMIC_RELAXED) + more;
	while (__atomic_load_n(calls, __ATOMIC_RELAXED) < until)
		usleep(1000);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	const char *how = argv[1], *directory = argv[2];
	int rounds = atoi(argv[3]);
	char where[4096], file[4200];
	snprintf(where, sizeof where, "%s/fuse", directory);
	setvbuf(stdout, NULL, _IOLBF, 0);
	pid_t server = 0;
	const char *path;
	if (!strcmp(how, "userfault")) {
		path = userfault_page();
	} else {
		server = fuse_mount(where);
		snprintf(file, sizeof file, "%s/%s", where, !strcmp(how, "page") ? "page" : "hang/node");
		path = file;
		if (!strcmp(how, "directory"))
			snprintf(file, sizeof file, "%s/hang", where);
		if (!strcmp(how, "overlay")) {
			overlay_mount(directory, where);
			snprintf(file, sizeof file, "%s/overlay/hang", directory);
		}
		if (!strcmp(how, "page")) {
			int fd = open(file, O_RDONLY);
			if (fd < 0)
				die(file);
			path = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
			if (path == MAP_FAILED)
				die("mmap");
		}
	}
	calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (calls == MAP_FAILED)
		die("mmap");
	pid_t by = fork();
	if (!by)
		bystander(directory, 1);
	await_bystander(10);
	for (int i = 0; i < rounds; i++) {
		double start = ms();
		int result = !strcmp(how, "directory") ? mkdir(path, 0755)
						       : mknod(path, S_IFCHR | 0666, makedev(1, 3));
		printf("attacker %s %.1f\n", result ? strerrorname_np(errno) : "0", ms() - start);
	}
	await_bystander(11);
	kill(by, SIGTERM);
	waitpid(by, NULL, 0);
	if (server) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
		umount2(where, MNT_DETACH);
	}
	return 0;
}
