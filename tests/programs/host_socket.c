/* Connects one UDP socket to 127.0.0.1, to a port and, once somebody has opened the fifo "go", to another;
 * writes the errno of each to "said", a line each. host_socket FOLDER PORT PORT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(FILE *out, int sock, const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int result = connect(sock, (struct sockaddr *)&to, sizeof to);
	fprintf(out, "%d\n", result ? errno : 0);
	fflush(out);
}

int main(int argc, char **argv)
{
	if (argc != 4 || chdir(argv[1]) || mkfifo("go", 0600))
		return 2;
	FILE *out = fopen("said", "w");
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	if (!out || sock < 0)
		return 2;
	say(out, sock, argv[2]);
	if (open("go", O_RDONLY) < 0)
		return 2;
	say(out, sock, argv[3]);
	pause();
	return 0;
}
