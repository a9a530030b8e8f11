/* How a session waits for the next call before it goes back to sleep in trio, which takes longer to wake
 * from.
 *
 * A timeout of poll() would be set and taken back for each call, and takes as long as all else that
 * poll() does. So there is a timer, which is set once and then goes off: where calls have come meanwhile
 * it is set again, so that the waiting ends after one span, or at most two, without a call. */
#include "receiver.h"

#include <errno.h>
#include <poll.h>

int sd_patience_arm(struct sd_patience *patience, int linger_us)
{
	int error = sd_arm_timer(patience->timer, (uint64_t)linger_us * 1000);
	patience->armed = !error;
	return error;
}

static int go_on(struct sd_patience *patience, int linger_us)
{
	int again = patience->called || !patience->armed;
	patience->called = 0;
	patience->armed = 0;
	return again && !sd_patience_arm(patience, linger_us);
}

int sd_wait_for_call(struct sd_patience *patience, int fd, int linger_us, const int *also,
		     size_t also_count)
{
	if (patience->there) {
		patience->there = 0;
		patience->called = 1;
		return 1;
	}
	struct pollfd polled[SD_ALSO + 2] = {{fd, POLLIN, 0}, {patience->timer, POLLIN, 0}};
	nfds_t count = 2;
	for (size_t i = 0; i < also_count && i < SD_ALSO; i++)
		polled[count++] = (struct pollfd){also[i], POLLIN, 0};
	int linger = linger_us && (patience->armed || go_on(patience, linger_us));
	for (;;) {
		int ready = poll(polled, count, linger ? -1 : 0);
		if (ready < 0)
			return errno == EINTR ? 0 : -errno;
		if (polled[0].revents & POLLIN) {
			patience->called = 1;
			return 1;
		}
		if (polled[0].revents & (POLLHUP | POLLERR | POLLNVAL))
			return -ENOTCONN;
		int gone_off = ready == 1 && polled[1].revents;
		if (!linger || !gone_off || !go_on(patience, linger_us))
			return 0;
	}
}
