/* The filter of a FUSE program, made from one table. The kernel runs a new filter once for each
 * number that there is, so what counts is how soon a number is found: the tests of it are a search
 * tree. And there is one filter alone, for each has its price. */
#include "mounts.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "no audit architecture"
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define IF(test, k, yes, no) BPF_JUMP(BPF_JMP | (test) | BPF_K, (k), (yes), (no))

enum {
	X32 = 0x40000000,
	NEW_NAMESPACES = 0x7e020080, /* all of CLONE_NEW* */
};

static const struct sock_filter ALLOW[] = {RETURN(SECCOMP_RET_ALLOW)};
static const struct sock_filter KILL[] = {RETURN(SECCOMP_RET_KILL_PROCESS)};
static const struct sock_filter DENY[] = {RETURN(SECCOMP_RET_ERRNO | EPERM)};
static const struct sock_filter LACK[] = {RETURN(SECCOMP_RET_ERRNO | ENOSYS)};
static const struct sock_filter ASK[] = {RETURN(SECCOMP_RET_USER_NOTIF)};

/* To have no groups: ntfs-3g insists on saying so, and it is so already. */
static const struct sock_filter NO_GROUPS[] = {
	LOAD(args[0]),
	IF(BPF_JEQ, 0, 0, 1),
	RETURN(SECCOMP_RET_ERRNO | 0),
	RETURN(SECCOMP_RET_ALLOW),
};

/* Of sockets those that end in its own network: of vsock, say, there is one for all, and through a
 * unix socket in its container's files it could hand on its /dev/fuse. */
static const struct sock_filter SOCKETS[] = {
	LOAD(args[0]),
	IF(BPF_JEQ, AF_INET, 3, 0),
	IF(BPF_JEQ, AF_INET6, 2, 0),
	IF(BPF_JEQ, AF_NETLINK, 1, 0),
	RETURN(SECCOMP_RET_ERRNO | EAFNOSUPPORT),
	RETURN(SECCOMP_RET_ALLOW),
};

static const struct sock_filter CHILDREN[] = {
	LOAD(args[0]),
	IF(BPF_JSET, NEW_NAMESPACES, 0, 1),
	RETURN(SECCOMP_RET_ERRNO | EPERM),
	RETURN(SECCOMP_RET_ALLOW),
};

static const struct sock_filter THREADS[] = {
	LOAD(args[0]),
	IF(BPF_JSET, NEW_NAMESPACES, 1, 0),
	IF(BPF_JSET, CLONE_THREAD, 1, 0),
	RETURN(SECCOMP_RET_ERRNO | EPERM),
	RETURN(SECCOMP_RET_ALLOW),
};

/* What comes of a call: the part that says so ends with a return. `alone`: of a program that makes no
 * other process, but threads. */
struct part {
	const struct sock_filter *code;
	size_t length;
};
#define PART(code) {(code), sizeof(code) / sizeof *(code)}
struct entry {
	uint32_t number;
	struct part part, alone;
};
#define BOTH(number, code) {(number), PART(code), PART(code)}

static const struct entry TABLE[] = {
	BOTH(__NR_mount, ASK),
	BOTH(__NR_setns, DENY), BOTH(__NR_unshare, DENY), BOTH(__NR_pivot_root, DENY),
	BOTH(__NR_chroot, DENY), BOTH(__NR_ptrace, DENY), BOTH(__NR_process_vm_readv, DENY),
	BOTH(__NR_process_vm_writev, DENY), BOTH(__NR_bpf, DENY), BOTH(__NR_userfaultfd, DENY),
	BOTH(__NR_perf_event_open, DENY), BOTH(__NR_keyctl, DENY), BOTH(__NR_add_key, DENY),
	BOTH(__NR_request_key, DENY), BOTH(__NR_kexec_load, DENY), BOTH(__NR_init_module, DENY),
	BOTH(__NR_finit_module, DENY), BOTH(__NR_delete_module, DENY),
	BOTH(__NR_open_by_handle_at, DENY), BOTH(__NR_swapon, DENY), BOTH(__NR_swapoff, DENY),
	BOTH(__NR_reboot, DENY), BOTH(__NR_acct, DENY), BOTH(__NR_quotactl, DENY),
	BOTH(__NR_seccomp, DENY),
	/* io_uring_setup; and the new mount interface, so that libraries take mount(2) */
	BOTH(425, LACK), BOTH(428, LACK), BOTH(429, LACK), BOTH(430, LACK), BOTH(431, LACK),
	BOTH(432, LACK), BOTH(433, LACK), BOTH(442, LACK),
	BOTH(435, LACK), /* clone3 hides its flags in memory */
	/* memory that no limit on a process counts; 447: memfd_secret */
	BOTH(__NR_memfd_create, LACK), BOTH(447, LACK), BOTH(__NR_shmget, LACK),
	BOTH(__NR_msgget, LACK), BOTH(__NR_semget, LACK), BOTH(__NR_mq_open, LACK),
	BOTH(__NR_setgroups, NO_GROUPS),
	BOTH(__NR_socket, SOCKETS),
	{__NR_clone, PART(CHILDREN), PART(THREADS)},
#ifdef __NR_fork
	{__NR_fork, PART(ALLOW), PART(DENY)},
	{__NR_vfork, PART(ALLOW), PART(DENY)},
#endif
};

enum { ENTRIES = sizeof TABLE / sizeof *TABLE };

/* The program grows from its end, since a jump has to know how far it is to what comes later. */
struct made {
	struct sock_filter *code; /* SD_FILTER_MOST of them */
	int first;                /* the first one that is there */
	int wrong;                /* it is too long, or a jump in it */
};

static int put(struct made *made, struct sock_filter one)
{
	if (made->first)
		made->code[--made->first] = one;
	else
		made->wrong = 1;
	return made->first;
}

/* A test that leads to these places. */
static int put_test(struct made *made, uint16_t test, uint32_t k, int yes, int no)
{
	int far_yes = yes - made->first, far_no = no - made->first;
	if (far_yes > UINT8_MAX || far_no > UINT8_MAX)
		made->wrong = 1;
	return put(made, (struct sock_filter)IF(test, k, (uint8_t)far_yes, (uint8_t)far_no));
}

static int put_part(struct made *made, const struct part *part)
{
	for (size_t i = part->length; i; i--)
		put(made, part->code[i - 1]);
	return made->first;
}

/* The place of that part, there already or not. */
static int place_of(struct made *made, const struct part *part)
{
	size_t size = part->length * sizeof *part->code;
	for (int at = made->first; at + (int)part->length <= SD_FILTER_MOST; at++)
		if (!memcmp(made->code + at, part->code, size))
			return at;
	return put_part(made, part);
}

struct leaf {
	uint32_t number;
	int place;
};

/* Tells `count` numbers apart, which are in order; what is none of them goes to `other`. */
static int put_search(struct made *made, const struct leaf *leaves, int count, int other)
{
	int half = count / 2;
	if (count == 1)
		return put_test(made, BPF_JEQ, leaves->number, leaves->place, other);
	int high = put_search(made, leaves + half, count - half, other);
	int low = put_search(made, leaves, half, other);
	return put_test(made, BPF_JGE, leaves[half].number, high, low);
}

int sd_program_filter(void *room, int alone)
{
	struct sock_filter *code = room;
	struct made made = {code, SD_FILTER_MOST, 0};
	struct leaf leaves[ENTRIES];
	const struct part allow = PART(ALLOW), kill = PART(KILL);
	const struct sock_filter arch = LOAD(arch), nr = LOAD(nr);
	int other = put_part(&made, &allow);
	for (int i = 0; i < ENTRIES; i++) {
		const struct entry *entry = &TABLE[i];
		struct leaf leaf = {entry->number,
				    place_of(&made, alone ? &entry->alone : &entry->part)};
		int at = i;
		for (; at && leaves[at - 1].number > leaf.number; at--)
			leaves[at] = leaves[at - 1];
		leaves[at] = leaf;
	}
	int killed = place_of(&made, &kill);
	int search = put_search(&made, leaves, ENTRIES, other);
	put_test(&made, BPF_JGE, X32, killed, search);
	put(&made, nr);
	put_test(&made, BPF_JEQ, OUR_ARCH, made.first, killed);
	put(&made, arch);
	if (made.wrong)
		return -E2BIG;
	memmove(code, code + made.first, (size_t)(SD_FILTER_MOST - made.first) * sizeof *code);
	return SD_FILTER_MOST - made.first;
}
