/* What the two halves of the floor share. */
#ifndef FLOOR_H
#define FLOOR_H

#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/types.h>

_Noreturn void die(const char *what);

/* To be called once, before make_node(). */
void prepare_emulation(void);
/* One mknod or mknodat, carried out for the caller; `bare`: in its cwd, with our own rights.
 * Returns 0 or -errno. */
int make_node(int listener, const struct seccomp_notif *request, int bare, const char *path);

/* One connect, carried out on the caller's own socket. Returns 0 or -errno. */
int make_connect(int listener, const struct seccomp_notif *request);

/* What an open of GRANTED is given: a path, /dev/zero where none is said. */
#define GRANTED "/granted"
/* The same, in a directory whose filesystem does not remember what is missing there. */
#define GRANTED_IN_MEMORY "/dev/granted"
extern const char *thing;
/* Opens that as a caller asks for it with `flags`, and gives it to the one that waits: 0, or -errno where
 * somebody has to answer still. */
int give_thing(int listener, uint64_t id, int flags);
/* Whether GRANTED is there, or nothing, in what is the caller's root directory now: no symbolic link, which
 * would lead to another path than a rule is about. */
int leads_to_granted(pid_t tid);
/* Goes to the caller's network namespace. */
void go_to_network(pid_t tid);

#endif
