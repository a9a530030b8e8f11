/* What the two halves of the floor share. */
#ifndef FLOOR_H
#define FLOOR_H

#include <linux/seccomp.h>

_Noreturn void die(const char *what);

/* To be called once, before make_node(). */
void prepare_emulation(void);
/* One mknod or mknodat, carried out for the caller; `bare`: in its cwd, with our own rights.
 * Returns 0 or -errno. */
int make_node(int listener, const struct seccomp_notif *request, int bare, const char *path);

/* One connect, carried out on the caller's own socket. Returns 0 or -errno. */
int make_connect(int listener, const struct seccomp_notif *request);

#endif
