#ifndef SECCOMPD_MEMORY_H
#define SECCOMPD_MEMORY_H

#include "shim.h"

/* Reads a NUL-terminated string of at most SD_PATH_MAX bytes (its NUL included) into `text`.
 * `kind` is SD_STRING, SD_TEXT or SD_DATA. Returns its length, SD_NULL, -EFAULT, -ENAMETOOLONG or
 * -EINVAL as the kernel would, -E2BIG for data that the kernel would cut, or what process_vm_readv
 * gave (-ESRCH: the caller has gone; -EPERM: its memory is not ours to read). */
int sd_read_string(pid_t tid, uint64_t address, char *text, int kind);

/* Reads the first SD_HOW_SIZE bytes of a struct open_how of `size` bytes into `text`. Returns that
 * size, or -EINVAL, -E2BIG, -EFAULT as openat2(2) would, or what process_vm_readv gave. */
enum { SD_HOW_SIZE = 24 };
int sd_read_how(pid_t tid, uint64_t address, uint64_t size, char *text);

#endif
