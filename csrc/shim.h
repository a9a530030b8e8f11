/* The declarations of the C shim, by subject.
 *
 * What stands between "cdef begin" and "cdef end" in each of these is plain C: it is included here and
 * given to cffi by build_shim.py, in this order, so that the two can never drift apart. Everything
 * returns >= 0 or -errno.
 */
#ifndef SECCOMPD_SHIM_H
#define SECCOMPD_SHIM_H

#include <stdint.h>
#include <sys/types.h>

#include "shim_receive.h"
#include "shim_launch.h"
#include "shim_work.h"
#include "shim_mounts.h"
#include "shim_descriptors.h"
#include "shim_xattrs.h"

#endif
