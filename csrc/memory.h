#ifndef SECCOMPD_MEMORY_H
#define SECCOMPD_MEMORY_H

#include "shim.h"

/* Reads a NUL-terminated string of at most SD_PATH_MAX bytes (its NUL included) into `text`.
 * `kind` is SD_STRING, SD_TEXT, SD_DATA or SD_NAME, which has at most SD_XATTR_NAME. Returns its length,
 * SD_NULL, -EFAULT, -ENAMETOOLONG, -EINVAL or -ERANGE as the kernel would, -E2BIG for data that the kernel
 * would cut, or what process_vm_readv gave (-ESRCH: the caller has gone; -EPERM: its memory is not ours to read). */
int sd_read_string(pid_t tid, uint64_t address, char *text, int kind);

/* The memory of a caller that waits, as a descriptor: of that very address space, whoever has the number
 * later. Or -errno. */
int sd_memory_of(int listener, uint64_t id, uint32_t tid);
/* Writes an address of a socket to it, and its length to `length_at`, as getpeername(2) does. */
int sd_write_address(int memory, uint64_t address, uint64_t length_at, const char *from, int32_t size);

/* ---- messages.c ---- */

/* Whether it is socketcall(2), and the number that we know its call by. */
int sd_is_socketcall(const struct sd_call *call, const uint64_t *args);
int32_t sd_socketcall_number(const uint64_t *args);
/* Makes it the call that it is about, with the arguments that lie in memory. 1: those could not be
 * read, or must not be (`unread`). */
int sd_unwrap_socketcall(struct sd_call *call, uint64_t *args, int unread);

/* The address that argument `at` leads to, into `text`: its length, SD_NULL, or the -errno that the
 * kernel would give. Of a message the rest goes into call->message. */
int sd_read_of_socket(struct sd_call *call, int at, int kind, char *text);
/* The data of argument `at`, into call->message. */
void sd_read_payload(struct sd_call *call, int at);

/* Reads the first SD_HOW_SIZE bytes of a struct open_how of `size` bytes into `text`. Returns that
 * size, or -EINVAL, -E2BIG, -EFAULT as openat2(2) would, or what process_vm_readv gave. */
enum { SD_HOW_SIZE = 24 };
int sd_read_how(pid_t tid, uint64_t address, uint64_t size, char *text);
/* What the ioctl `command` of a loop device has at `value`, into `text`: its size; sizeof(value) where the
 * register itself is all; or -errno. */
int sd_read_loop(pid_t tid, uint32_t command, uint64_t value, char *text);
/* The value of an extended attribute, argument `at`, into call->message; its first SD_XATTR_SHOWN bytes into
 * `text`: how many those are, -E2BIG or -EFAULT as setxattr(2) would, or what process_vm_readv gave. */
int sd_read_xattr(struct sd_call *call, int at, char *text);

#endif
