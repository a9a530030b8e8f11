/* Sockets of the host's network for a container that has another one: which calls are made there, and what
 * such a socket is kept from in a caller's hands. Our own network is the host's. */
#include "porters.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t refuse(struct sd_errand_done *done, int error, enum sd_socket_why why)
{
	done->why = (int32_t)why;
	return error;
}

/* What is sent over a stream goes where that leads; what ends a connection leads nowhere. */
static int leads_somewhere(const struct sd_errand *errand, int sock)
{
	int type = 0;
	socklen_t size = sizeof type;
	sa_family_t family;
	memcpy(&family, errand->address, sizeof family);
	if (errand->op == SD_SOCKET_LISTEN)
		return 1;
	if (errand->flags & SD_SOCKET_NO_ADDRESS || family == AF_UNSPEC)
		return 0;
	return errand->op != SD_SOCKET_SEND || errand->call_flags & MSG_FASTOPEN ||
	       getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM;
}

static int is_the_containers(int net_ns, uint64_t network)
{
	struct stat found;
	return network && !fstat(net_ns, &found) && found.st_ino == network;
}

int64_t sd_which_network(struct sd_errand *errand, int task, struct sd_hold *hold,
			 struct sd_errand_done *done)
{
	int hosts = errand->flags & SD_SOCKET_HOST;
	if ((!hosts && !(errand->flags & SD_SOCKET_GUARDED)) ||
	    (done->domain != AF_INET && done->domain != AF_INET6) ||
	    !leads_somewhere(errand, hold->sock))
		return 0;
	int ours = sd_is_of_our_network(hold->sock);
	if (ours < 0)
		return refuse(done, -EPERM, SD_SOCKET_RIGHTS);
	if (!hosts && !ours)
		return 0;
	if (task < 0)
		return refuse(done, -EINVAL, SD_SOCKET_WHO);
	/* before it is asked whether the caller still waits; used for nothing else */
	hold->another.net_ns = openat(task, "ns/net", O_RDONLY | O_CLOEXEC);
	if (hold->another.net_ns < 0)
		return refuse(done, -EPERM, SD_SOCKET_RIGHTS);
	if (sd_is_our_network(hold->another.net_ns))
		return 0; /* it has no other */
	if (hosts && !errand->network)
		return refuse(done, -EPERM, SD_SOCKET_RIGHTS);
	/* in a network that the container has made it is in that one */
	hosts = hosts && is_the_containers(hold->another.net_ns, errand->network);
	if (errand->op == SD_SOCKET_LISTEN) {
		done->hosted = ours;
		return 0;
	}
	if (!hosts && ours)
		return refuse(done, errand->op == SD_SOCKET_BIND ? -EADDRNOTAVAIL : -ENETUNREACH,
			      SD_SOCKET_HOSTS);
	if (hosts && errand->op == SD_SOCKET_SEND && errand->call_flags & MSG_FASTOPEN && !ours)
		return refuse(done, -ENETUNREACH, SD_SOCKET_KIND);
	done->hosted = hosts;
	if (hosts && !ours) {
		hold->another.old = hold->sock;
		hold->another.domain = done->domain;
		hold->another.hosted = 1;
		done->replaced = 1;
	}
	return 0;
}

static int listens(int sock)
{
	int value = 0;
	socklen_t size = sizeof value;
	return !getsockopt(sock, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) && value;
}

int64_t sd_listen(int sock, int most, struct sd_errand_done *done)
{
	/* one that nobody has bound would get a port of the kernel's choice */
	if (done->hosted && !listens(sock) && !sd_has_cookie(SD_BOUND, done->cookie))
		return refuse(done, -EACCES, SD_SOCKET_HOSTS);
	return listen(sock, most) ? -errno : 0;
}

/* ---- which sockets are ours ---- */

enum { REMEMBERED = 4096 };
static struct {
	uint64_t cookies[REMEMBERED];
	uint32_t count;
} known[SD_COOKIE_KINDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void sd_keep_cookie(enum sd_cookies what, uint64_t cookie)
{
	pthread_mutex_lock(&lock);
	known[what].cookies[known[what].count++ % REMEMBERED] = cookie;
	pthread_mutex_unlock(&lock);
}

int sd_has_cookie(enum sd_cookies what, uint64_t cookie)
{
	int found = 0;
	pthread_mutex_lock(&lock);
	for (uint32_t i = 0; cookie && !found && i < REMEMBERED && i < known[what].count; i++)
		found = known[what].cookies[i] == cookie;
	pthread_mutex_unlock(&lock);
	return found;
}
