#ifndef SECCOMPD_MEMORY_H
#define SECCOMPD_MEMORY_H

#include "shim.h"

/* Reads a NUL-terminated string of at most SD_PATH_MAX bytes (its NUL included) into `text`.
 * Returns its length, -EFAULT or -ENAMETOOLONG as the kernel would, or what process_vm_readv gave
 * (-ESRCH: the caller has gone; -EPERM: its memory is not ours to read). */
int sd_read_string(pid_t tid, uint64_t address, char *text);

#endif
