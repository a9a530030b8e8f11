/* The maker's part of loop devices: those of a range of the policy's, for one container.
 *
 * A descriptor of a loop device is good for whatever image the device is attached to, whoever did that. So
 * nobody is given one but of a device that was attached for this container, and such a device stays attached
 * for as long as anybody has it open: it is made so that it goes with its last user, and there is no other
 * way. Which ones were attached here they say themselves, by a name that nobody else knows. */
#include "compat.h"
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

_Static_assert(sizeof(struct loop_config) == SD_LOOP_CONFIG, "as the session reads it");
_Static_assert(sizeof(struct loop_info64) == SD_LOOP_INFO, "as the session reads it");
_Static_assert(offsetof(struct loop_config, info) == SD_LOOP_INFO_AT, "as the session reads it");

enum { LOOP_MAJOR = 7 };

static const struct sd_ceiling *ceiling;
static int control = -1;

int sd_loop_is_lent(uint32_t major_number, uint32_t number)
{
	for (uint32_t i = 0; ceiling && major_number == LOOP_MAJOR && i < ceiling->lent_count; i++) {
		const struct sd_lent *lent = &ceiling->lent[i];
		if (lent->loops && number >= lent->minor && number - lent->minor < lent->loops)
			return 1;
	}
	return 0;
}

void sd_loops_prepare(const struct sd_ceiling *whole)
{
	for (uint32_t i = 0; i < whole->lent_count; i++)
		if (whole->lent[i].loops)
			ceiling = whole;
	if (ceiling) /* where it is missing, there are none to be had */
		control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
}

static int open_number(uint32_t number, int flags)
{
	char name[24];
	struct stat found;
	if (!sd_loop_is_lent(LOOP_MAJOR, number))
		return -EPERM;
	flags &= O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DIRECT | O_ASYNC | O_EXCL | O_NOFOLLOW;
	snprintf(name, sizeof name, "/loop.%u", number);
	if (lstat(name, &found)) {
		int error = sd_try_node(AT_FDCWD, name, S_IFBLK | 0600, makedev(LOOP_MAJOR, number));
		if (error)
			return error;
	}
	for (int known = 0;; known = 1) {
		int fd = open(name, flags | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		if (known || (errno != ENXIO && errno != ENODEV))
			return -errno;
		if (control < 0 || (ioctl(control, LOOP_CTL_ADD, (long)number) < 0 && errno != EEXIST))
			return -ENXIO;
	}
}

/* 0: it was attached for us; -ENXIO: it is not attached at all; -EBUSY: somebody else's */
static int whose(int fd, struct loop_info64 *info)
{
	if (ioctl(fd, LOOP_GET_STATUS64, info))
		return -errno;
	return strncmp((const char *)info->lo_file_name, ceiling->mark, LO_NAME_SIZE) ? -EBUSY : 0;
}

int sd_loop_own(uint32_t number, int flags)
{
	struct loop_info64 info;
	int fd = open_number(number, flags);
	int error = fd < 0 ? fd : whose(fd, &info);
	if (!error)
		return fd;
	if (fd >= 0)
		close(fd);
	return error == -EBUSY ? -ENXIO : error;
}

/* What a caller may say of its own device; the rest is ours. */
static int tame(struct loop_info64 *info, uint32_t allowed)
{
	struct loop_info64 asked = *info;
	if (asked.lo_encrypt_type || asked.lo_flags & ~(allowed | LO_FLAGS_AUTOCLEAR))
		return -EINVAL;
	memset(info, 0, sizeof *info);
	info->lo_offset = asked.lo_offset;
	info->lo_sizelimit = asked.lo_sizelimit;
	info->lo_flags = (asked.lo_flags & allowed) | LO_FLAGS_AUTOCLEAR;
	memcpy(info->lo_file_name, ceiling->mark, strlen(ceiling->mark));
	return 0;
}

static int first_free(struct sd_loop_answer *answer)
{
	struct loop_info64 info;
	for (uint32_t i = 0; i < ceiling->lent_count; i++) {
		const struct sd_lent *lent = &ceiling->lent[i];
		for (uint32_t n = lent->minor; lent->loops && n - lent->minor < lent->loops; n++) {
			int fd = open_number(n, O_RDONLY);
			int is_free = fd >= 0 && whose(fd, &info) == -ENXIO;
			if (fd >= 0)
				close(fd);
			if (is_free) {
				answer->number = n;
				return 0;
			}
		}
	}
	return -ENOSPC;
}

/* The kernel lets nobody attach a device that is attached: whoever is quicker has it. */
static int attach(const struct sd_loop_order *order, int image, int *give)
{
	struct loop_config config = {.fd = (uint32_t)image, .block_size = order->block_size};
	struct stat found;
	memcpy(&config.info, order->info, sizeof config.info);
	if (image < 0 || fstat(image, &found) || !S_ISREG(found.st_mode))
		return -EINVAL;
	int error = tame(&config.info, LO_FLAGS_READ_ONLY | LO_FLAGS_DIRECT_IO);
	if (error)
		return error;
	int fd = open_number(order->number, (int)order->flags);
	if (fd < 0)
		return fd;
	if (ioctl(fd, LOOP_CONFIGURE, &config)) {
		error = -errno;
		close(fd);
		return error;
	}
	*give = fd;
	return 0;
}

/* A change of one that was attached here. */
static int change(const struct sd_loop_order *order, struct sd_loop_answer *answer)
{
	struct loop_info64 info;
	int error, fd = sd_loop_own(order->number, (int)order->flags);
	if (fd < 0)
		return fd;
	if (order->what == SD_LOOP_STATUS) {
		error = whose(fd, &info);
		memcpy(answer->info, &info, sizeof info);
	} else if (order->what == SD_LOOP_CHANGE) {
		memcpy(&info, order->info, sizeof info);
		/* as the kernel: these are what can be set later, and others are passed over */
		info.lo_flags &= LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN;
		error = tame(&info, 0);
		if (!error && ioctl(fd, LOOP_SET_STATUS64, &info))
			error = -errno;
	} else {
		error = ioctl(fd, LOOP_SET_CAPACITY, 0) ? -errno : 0;
	}
	close(fd);
	return error;
}

int sd_loop(const struct sd_loop_order *order, int image, struct sd_loop_answer *answer, int *give)
{
	/* who is to have nothing that stays may hold the listener of its own filter, and let go on what we
	 * would not: no device is attached for it, so that none is ever its own */
	if (!ceiling || ceiling->no_real_nodes)
		return -EPERM;
	switch (order->what) {
	case SD_LOOP_FREE:
		return first_free(answer);
	case SD_LOOP_ATTACH:
		return attach(order, image, give);
	case SD_LOOP_OPEN:
		*give = sd_loop_own(order->number, (int)order->flags);
		return *give < 0 ? *give : 0;
	case SD_LOOP_STATUS:
	case SD_LOOP_CHANGE:
	case SD_LOOP_CAPACITY:
		return change(order, answer);
	}
	return -EINVAL;
}
