/* setsockopt(2) and getsockopt(2): made from what was read of the caller's arguments, on the socket that
 * was fetched, with the caller's rights. */
#include "porters.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct narrow_time { /* struct timeval of a 32-bit caller */
	int32_t seconds, microseconds;
};

struct wide_time { /* what the options with times beyond 2038 take of everybody */
	int64_t seconds, microseconds;
};

/* The option that takes a struct wide_time where this one takes a struct timeval of a 32-bit caller; 0: it
 * takes none. */
static int timeout_of(const struct sd_errand *errand)
{
	if (errand->level != SOL_SOCKET || !(errand->flags & SD_SOCKET_NARROW))
		return 0;
	return errand->option == SO_RCVTIMEO_OLD   ? SO_RCVTIMEO_NEW
	       : errand->option == SO_SNDTIMEO_OLD ? SO_SNDTIMEO_NEW
						   : 0;
}

/* `said`: how long the caller says it is; `length`: what could be read of that. */
static int64_t set_timeout(int sock, int option, const char *value, size_t length, size_t said)
{
	struct narrow_time narrow;
	if (length < sizeof narrow)
		return said < sizeof narrow ? -EINVAL : -EFAULT;
	memcpy(&narrow, value, sizeof narrow);
	const struct wide_time wide = {narrow.seconds, narrow.microseconds};
	return setsockopt(sock, SOL_SOCKET, option, &wide, sizeof wide) ? -errno : 0;
}

static int64_t get_timeout(int sock, int option, char *value, socklen_t *length)
{
	struct wide_time wide;
	socklen_t size = sizeof wide;
	if (getsockopt(sock, SOL_SOCKET, option, &wide, &size))
		return -errno;
	if ((int32_t)*length < 0)
		return -EINVAL;
	const struct narrow_time narrow = {(int32_t)wide.seconds, (int32_t)wide.microseconds};
	if (*length > sizeof narrow)
		*length = sizeof narrow;
	memcpy(value, &narrow, *length);
	return 0;
}

/* With nothing behind what was read: where an option needs more, the kernel says so of that memory as it
 * would of the caller's. */
static int64_t set_at_edge(int sock, int level, int option, const char *value, size_t length, socklen_t said)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *room = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return -ENOMEM;
	char *at = memcpy(room + page - length, value, length);
	int64_t result = 0;
	if (mprotect(room + page, page, PROT_NONE) || setsockopt(sock, level, option, at, said))
		result = -errno;
	munmap(room, 2 * page);
	return result;
}

static int64_t set(const struct sd_errand *errand, const struct sd_hold *hold)
{
	int timeout = timeout_of(errand);
	const char *value = hold->more + errand->control_length;
	const size_t length = (size_t)errand->payload_length;
	const socklen_t said = (socklen_t)errand->call_flags;
	if (length > SD_VALUE_MAX || errand->call_flags < errand->payload_length) /* it may be negative */
		return -EINVAL;
	if (timeout)
		return set_timeout(hold->sock, timeout, value, length, said);
	if (said > length)
		return set_at_edge(hold->sock, errand->level, errand->option, value, length, said);
	return setsockopt(hold->sock, errand->level, errand->option, value, said) ? -errno : 0;
}

static int64_t get(const struct sd_errand *errand, int sock, struct sd_errand_done *done)
{
	int timeout = timeout_of(errand);
	const int32_t room = errand->call_flags < SD_VALUE_MAX ? errand->call_flags : SD_VALUE_MAX;
	socklen_t length = (socklen_t)room; /* what is negative is the kernel's to refuse */
	int64_t error = 0;
	if (timeout)
		error = get_timeout(sock, timeout, done->value, &length);
	else if (getsockopt(sock, errand->level, errand->option, done->value, &length))
		error = -errno;
	/* of some options the kernel says how long the value is, and not how much of it there was room for */
	if (!error && room >= 0 && length > (socklen_t)room)
		length = (socklen_t)room;
	/* more than was asked for, which the caller would have had */
	if (!error && length >= SD_VALUE_MAX && errand->call_flags > SD_VALUE_MAX)
		error = -ENOPROTOOPT;
	if (!error)
		done->value_length = (int32_t)length;
	return error;
}

int64_t sd_call_option(const struct sd_errand *errand, const int *fds, struct sd_hold *hold,
		       struct sd_errand_done *done)
{
	if (!(errand->flags & SD_SOCKET_AS_CALLER))
		return -EINVAL;
	/* else it would be about our memory, descriptors and processes */
	if (!sd_option_is_plain(errand->level, errand->option))
		return -ENOPROTOOPT;
	int64_t result = sd_porter_become(errand->id, fds[1], fds[2], &hold->caller);
	if (result)
		done->why = result == -ESRCH ? SD_SOCKET_GONE : SD_SOCKET_RIGHTS;
	else if (errand->op == SD_SOCKET_SET_OPTION)
		result = set(errand, hold);
	else
		result = get(errand, hold->sock, done);
	sd_porter_come_back();
	return result;
}
