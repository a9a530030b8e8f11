/* Reads addresses and messages out of a caller's memory, each once: what calls on sockets pass. */
#include "memory.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

_Static_assert(sizeof(struct sockaddr_storage) == SD_ADDRESS_MAX, "the kernel's longest address");
_Static_assert(SD_ADDRESS_MAX <= SD_PATH_MAX, "an address fits where a string does");

enum { VECTORS = 1024 }; /* UIO_MAXIOV */

struct narrow_message { /* as a 32-bit caller has it */
	uint32_t name;
	int32_t name_length;
	uint32_t vectors, vector_count, control, control_length, flags;
};

struct narrow_vector {
	uint32_t base, length;
};

struct narrow_control { /* and its data, to four bytes */
	uint32_t length;
	int32_t level, type;
};

static int is_narrow(const struct sd_call *call)
{
	return call->arch != SD_ARCH_X86_64;
}

/* All of it, or an errno. */
static int copy(uint32_t tid, uint64_t address, void *into, size_t size)
{
	struct iovec local = {into, size}, remote = {(void *)(uintptr_t)address, size};
	if (!size)
		return 0;
	ssize_t got = process_vm_readv((pid_t)tid, &local, 1, &remote, 1, 0);
	if (got < 0)
		return -errno;
	return (size_t)got == size ? 0 : -EFAULT;
}

/* ---- socketcall ---- */

int sd_is_socketcall(const struct sd_call *call, const uint64_t *args)
{
	return call->arch == SD_ARCH_I386 && call->nr == SD_SOCKETCALL && (uint32_t)args[0] < 1U << 8;
}

int32_t sd_socketcall_number(const uint64_t *args)
{
	return SD_SOCKETCALL | (int32_t)(uint32_t)args[0] << 16;
}

int sd_unwrap_socketcall(struct sd_call *call, uint64_t *args, int unread)
{
	/* how many the kernel reads: those of bind, connect, listen, accept, getsockname, getpeername, sendto,
	 * setsockopt, getsockopt, sendmsg, accept4, sendmmsg */
	static const unsigned char count[] = {[2] = 3,	[3] = 3,  [4] = 2,  [5] = 3,  [6] = 3,  [7] = 3, [11] = 6,
					      [14] = 5, [15] = 5, [16] = 3, [18] = 4, [20] = 4};
	uint32_t words[6] = {0}, which = (uint32_t)args[0];
	if (which >= sizeof count || !count[which])
		unread = 1;
	if (!unread && copy(call->tid, (uint32_t)args[1], words, count[which] * sizeof *words)) {
		memset(words, 0, sizeof words);
		unread = 1;
	}
	call->nr = sd_socketcall_number(args);
	for (int i = 0; i < 6; i++)
		args[i] = words[i];
	return unread;
}

/* ---- addresses and data ---- */

/* move_addr_to_kernel() */
static int read_address(const struct sd_call *call, uint64_t address, int32_t length, char *text)
{
	if (length < 0 || length > SD_ADDRESS_MAX)
		return -EINVAL;
	int error = copy(call->tid, address, text, (size_t)length);
	return error ? error : length;
}

void sd_read_payload(struct sd_call *call, int at)
{
	struct sd_message *message = &call->message;
	uint64_t size = call->args[at + 1];
	memset(message, 0, offsetof(struct sd_message, control));
	message->cut = size > SD_PAYLOAD_MAX;
	message->payload_length = message->cut ? SD_PAYLOAD_MAX : (int32_t)size;
	message->error = copy(call->tid, call->args[at], message->payload,
			      (size_t)message->payload_length);
}

/* The vectors that begin in the first SD_PAYLOAD_MAX bytes, and what they point to. */
static int read_vectors(struct sd_call *call, uint64_t address, uint64_t count)
{
	static struct iovec remote[VECTORS];
	struct narrow_vector narrow[VECTORS];
	struct sd_message *message = &call->message;
	size_t size = 0, used = 0;
	if (count > VECTORS)
		return -EMSGSIZE;
	int error = is_narrow(call) ? copy(call->tid, address, narrow, count * sizeof *narrow)
				    : copy(call->tid, address, remote, count * sizeof *remote);
	for (size_t i = 0; !error && i < count; i++) {
		if (is_narrow(call))
			remote[i] = (struct iovec){(void *)(uintptr_t)narrow[i].base, narrow[i].length};
		if (remote[i].iov_len > (is_narrow(call) ? INT_MAX : SSIZE_MAX))
			return -EINVAL;
		if (message->cut || !remote[i].iov_len)
			continue;
		if (remote[i].iov_len > SD_PAYLOAD_MAX - size) {
			remote[i].iov_len = SD_PAYLOAD_MAX - size;
			message->cut = 1;
		}
		size += remote[i].iov_len;
		remote[used++] = remote[i];
	}
	if (error || !size)
		return error;
	struct iovec local = {message->payload, size};
	ssize_t got = process_vm_readv((pid_t)call->tid, &local, 1, remote, used, 0);
	if (got != (ssize_t)size)
		return got < 0 ? -errno : -EFAULT;
	message->payload_length = (int32_t)size;
	return 0;
}

/* ---- control messages ---- */

/* Those of a 32-bit caller as a 64-bit one would have them: cmsghdr_from_user_compat(). Of one of 64 bits
 * what is behind the last one is nothing; here it is malformed. */
static int widen(struct sd_message *message, const char *narrow, size_t size)
{
	size_t at = 0, used = 0;
	while (at < size) {
		struct narrow_control from;
		struct cmsghdr to;
		if (size - at < sizeof from)
			return -EINVAL;
		memcpy(&from, narrow + at, sizeof from);
		if (from.length < sizeof from || from.length > size - at)
			return -EINVAL;
		size_t length = from.length - sizeof from;
		if (used + CMSG_SPACE(length) > SD_CONTROL_MAX)
			return -ENOBUFS;
		memset(&to, 0, sizeof to);
		to.cmsg_len = CMSG_LEN(length);
		to.cmsg_level = from.level;
		to.cmsg_type = from.type;
		memset(message->control + used, 0, CMSG_SPACE(length));
		memcpy(message->control + used, &to, sizeof to);
		memcpy(message->control + used + CMSG_LEN(0), narrow + at + sizeof from, length);
		used += CMSG_SPACE(length);
		at += (from.length + 3U) & ~3U;
	}
	message->control_length = (int32_t)used;
	return 0;
}

static int read_control(struct sd_call *call, uint64_t address, uint64_t size)
{
	struct sd_message *message = &call->message;
	char narrow[SD_CONTROL_MAX];
	if (size > SD_CONTROL_MAX)
		return -ENOBUFS;
	if (is_narrow(call) && !address)
		return -EINVAL;
	int error = copy(call->tid, address, is_narrow(call) ? narrow : message->control, size);
	if (error || is_narrow(call))
		return error ? error : widen(message, narrow, size);
	message->control_length = (int32_t)size;
	return 0;
}

/* ---- options ---- */

/* do_sock_setsockopt(). As much as there is, for an option may need less than the caller says: who sets it
 * says what that comes to. Where nothing can be read, that is so many bytes, too. */
static int read_value(const struct sd_call *call, int at, char *text)
{
	int32_t length = (int32_t)call->args[at + 1];
	if (length > SD_VALUE_MAX)
		length = SD_VALUE_MAX;
	if (length <= 0)
		return 0;
	struct iovec local = {text, (size_t)length};
	struct iovec remote = {(void *)(uintptr_t)call->args[at], (size_t)length};
	ssize_t got = process_vm_readv((pid_t)call->tid, &local, 1, &remote, 1, 0);
	if (got < 0)
		return errno == EFAULT ? 0 : -errno;
	return (int)got;
}

static int read_room(const struct sd_call *call, int at, char *text)
{
	struct sd_room room = {.length_at = call->args[at]};
	int error = copy(call->tid, call->args[at], &room.length, sizeof room.length);
	if (error)
		return error;
	memcpy(text, &room, sizeof room);
	return (int)sizeof room;
}

/* ---- messages ---- */

static int read_header(const struct sd_call *call, uint64_t address, struct msghdr *header)
{
	struct narrow_message narrow;
	if (!is_narrow(call))
		return copy(call->tid, address, header, sizeof *header);
	int error = copy(call->tid, address, &narrow, sizeof narrow);
	*header = (struct msghdr){
		.msg_name = (void *)(uintptr_t)narrow.name,
		.msg_namelen = (socklen_t)narrow.name_length,
		.msg_iov = (void *)(uintptr_t)narrow.vectors,
		.msg_iovlen = narrow.vector_count,
		.msg_control = (void *)(uintptr_t)narrow.control,
		.msg_controllen = narrow.control_length,
	};
	return error;
}

/* copy_msghdr_from_user() */
static int read_message(struct sd_call *call, uint64_t address, char *name, int several)
{
	struct sd_message *message = &call->message;
	struct msghdr header;
	memset(message, 0, offsetof(struct sd_message, control));
	int error = read_header(call, address, &header);
	if (error)
		return error;
	int32_t length = header.msg_name ? (int32_t)header.msg_namelen : 0;
	if (length < 0)
		return -EINVAL;
	if (length > SD_ADDRESS_MAX)
		length = SD_ADDRESS_MAX;
	error = copy(call->tid, (uintptr_t)header.msg_name, name, (size_t)length);
	if (error)
		return error;
	if (several)
		message->told_at = address + (is_narrow(call) ? sizeof(struct narrow_message)
							      : sizeof(struct msghdr));
	message->error = read_vectors(call, (uintptr_t)header.msg_iov, header.msg_iovlen);
	if (!message->error && header.msg_controllen)
		message->error = read_control(call, (uintptr_t)header.msg_control,
					      header.msg_controllen);
	return length ? length : SD_NULL;
}

int sd_read_of_socket(struct sd_call *call, int at, int kind, char *text)
{
	uint64_t address = call->args[at];
	switch (kind) {
	case SD_DESTINATION:
		if (!address)
			return SD_NULL;
		return read_address(call, address, (int32_t)call->args[at + 1], text);
	case SD_ADDRESS:
		return read_address(call, address, (int32_t)call->args[at + 1], text);
	case SD_VALUE:
		return read_value(call, at, text);
	case SD_ROOM:
		return read_room(call, at, text);
	case SD_MESSAGES:
		if (!(uint32_t)call->args[at + 1]) { /* none at all */
			memset(&call->message, 0, offsetof(struct sd_message, control));
			return SD_NULL;
		}
		return read_message(call, address, text, 1);
	default:
		return read_message(call, address, text, 0);
	}
}
