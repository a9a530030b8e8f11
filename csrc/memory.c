/* Reads strings out of a caller's memory, and writes to it, as the kernel would have. */
#include "compat.h"
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Most strings end within so many bytes: to copy a page of memory that nobody has used for a while
 * takes longer than another call for those that do not. */
enum { SHORT = 256 };

/* getname() in the kernel copies up to PATH_MAX bytes; it fails with EFAULT where the string runs into
 * an unmapped page, with ENAMETOOLONG where no NUL is among the first PATH_MAX bytes. strndup_user(),
 * which takes the texts of mount(2), says EINVAL then. copy_mount_options() takes what is there of a
 * page, and cuts what is longer. Of the name of an extended attribute it copies so much that the
 * longest one fits; where there is no NUL in that, or nothing before it, it says ERANGE. The page behind
 * the string's end is never touched, here neither: it may be one that takes for ever to come. */
int sd_read_string(pid_t tid, uint64_t address, char *text, int kind)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	size_t have = 0, limit = kind == SD_NAME ? SD_XATTR_NAME : SD_PATH_MAX;
	if (!address && kind != SD_STRING && kind != SD_NAME)
		return SD_NULL;
	while (have < limit) {
		uint64_t from = address + have;
		if (from < address || from > UINTPTR_MAX)
			return kind == SD_DATA && have ? (int)have : -EFAULT;
		size_t want = page - from % page;
		size_t most = have ? limit - have : SHORT;
		if (want > most)
			want = most;
		struct iovec local = {text + have, want};
		struct iovec remote = {(void *)(uintptr_t)from, want};
		ssize_t got = process_vm_readv(tid, &local, 1, &remote, 1, 0);
		if (got < 0 && errno == EFAULT && kind == SD_DATA && have)
			return (int)have;
		if (got < 0)
			return -errno;
		const char *end = memchr(text + have, 0, (size_t)got);
		if (end)
			return kind == SD_NAME && end == text ? -ERANGE : (int)(end - text);
		if ((size_t)got < want)
			return kind == SD_DATA && have + (size_t)got ? (int)(have + (size_t)got) : -EFAULT;
		have += want;
	}
	switch (kind) {
	case SD_STRING:
		return -ENAMETOOLONG;
	case SD_TEXT:
		return -EINVAL;
	case SD_NAME:
		return -ERANGE;
	default:
		return -E2BIG;
	}
}

/* copy_from_user() */
static int read_all(pid_t tid, uint64_t address, uint64_t size, char *text)
{
	struct iovec local = {text, size};
	struct iovec remote = {(void *)(uintptr_t)address, size};
	ssize_t got = process_vm_readv(tid, &local, 1, &remote, 1, 0);
	if (got < 0)
		return -errno;
	return (uint64_t)got < size ? -EFAULT : 0;
}

int sd_read_loop(pid_t tid, uint32_t command, uint64_t value, char *text)
{
	int size = command == LOOP_CONFIGURE ? SD_LOOP_CONFIG
		   : command == LOOP_SET_STATUS64 ? SD_LOOP_INFO : (int)sizeof value;
	int error = 0;
	if (size == (int)sizeof value)
		memcpy(text, &value, sizeof value);
	else
		error = read_all(tid, value, (uint64_t)size, text);
	return error ? error : size;
}

/* copy_struct_from_user(): what is longer than the kernel knows has to be zero behind that. */
int sd_read_how(pid_t tid, uint64_t address, uint64_t size, char *text)
{
	if (size < SD_HOW_SIZE)
		return -EINVAL;
	if (size > SD_PATH_MAX)
		return -E2BIG;
	int error = read_all(tid, address, size, text);
	if (error)
		return error;
	for (uint64_t i = SD_HOW_SIZE; i < size; i++)
		if (text[i])
			return -E2BIG;
	return SD_HOW_SIZE;
}

int sd_read_xattr(struct sd_call *call, int at, char *text)
{
	struct sd_message *message = &call->message;
	uint64_t size = call->args[at + 1];
	memset(message, 0, offsetof(struct sd_message, control));
	if (size > SD_XATTR_MAX)
		return -E2BIG;
	int error = size ? read_all((pid_t)call->tid, call->args[at], size, message->payload) : 0;
	if (error)
		return error;
	message->payload_length = (int32_t)size;
	size_t shown = size < SD_XATTR_SHOWN ? size : SD_XATTR_SHOWN;
	memcpy(text, message->payload, shown);
	return (int)shown;
}

int sd_memory_of(int listener, uint64_t id, uint32_t tid)
{
	char name[32];
	snprintf(name, sizeof name, "/proc/%u/mem", tid);
	int memory = open(name, O_RDWR | O_CLOEXEC);
	if (memory < 0)
		return -errno;
	int error = sd_id_valid(listener, id);
	if (!error)
		return memory;
	close(memory);
	return error;
}

/* move_addr_to_user() */
int sd_write_address(int memory, uint64_t address, uint64_t length_at, const char *from, int32_t size)
{
	int32_t room;
	if (pread(memory, &room, sizeof room, (off_t)length_at) != (ssize_t)sizeof room)
		return -EFAULT;
	if (room < 0)
		return -EINVAL;
	/* what does not fit is cut off, and the length says how long it would be */
	size_t used = (size_t)(room < size ? room : size);
	if (used && pwrite(memory, from, used, (off_t)address) != (ssize_t)used)
		return -EFAULT;
	return pwrite(memory, &size, sizeof size, (off_t)length_at) == (ssize_t)sizeof size ? 0 : -EFAULT;
}
