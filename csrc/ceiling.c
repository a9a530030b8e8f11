/* What a maker may ever be asked for: devices, and ids of the target's user namespace. (Of mounts see
 * mount_ceiling.c.) */
#include "paths.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int sd_outside(const struct sd_range *ranges, uint32_t count, uint32_t id, uint32_t *result)
{
	if (!count) { /* no user namespace */
		*result = id;
		return 0;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (id >= ranges[i].inside && id - ranges[i].inside < ranges[i].count) {
			*result = ranges[i].outside + (id - ranges[i].inside);
			return 0;
		}
	}
	return -EPERM;
}

int sd_is_mapped(const struct sd_range *ranges, uint32_t count, uint32_t id)
{
	for (uint32_t i = 0; i < count; i++)
		if (id >= ranges[i].outside && id - ranges[i].outside < ranges[i].count)
			return 1;
	return !count;
}

enum sd_allowed sd_allowed(const struct sd_ceiling *ceiling, uint32_t mode, uint64_t device)
{
	uint32_t type = S_ISCHR(mode) ? 'c' : S_ISBLK(mode) ? 'b' : 0;
	enum sd_allowed found = SD_NOT_ALLOWED;
	for (uint32_t i = 0; type && i < ceiling->device_count; i++) {
		const struct sd_devices *d = &ceiling->devices[i];
		if (d->type != type || major(device) < d->major_low ||
		    major(device) > d->major_high || minor(device) < d->minor_low ||
		    minor(device) > d->minor_high)
			continue;
		if (!d->closed || !ceiling->uid_count)
			return SD_OPEN;
		found = SD_CLOSED;
	}
	return found;
}
