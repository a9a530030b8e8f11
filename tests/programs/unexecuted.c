/* Calls prctl from tasks that have executed nothing since they were made: a thread, a child, a
 * child's thread, and a child that has its parent's parent. Prints the errno of each, one a line.
 * A runtime's own calls come from such a task as well, and go on where these must not. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *call(void *name)
{
	errno = 0;
	syscall(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
	printf("%s %d\n", (const char *)name, errno);
	fflush(stdout);
	return NULL;
}

static void from_thread(const char *name)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, call, (void *)name) || pthread_join(thread, NULL))
		exit(1);
}

int main(void)
{
	from_thread("thread");
	pid_t pid = fork();
	if (!pid) {
		call("child");
		from_thread("childs_thread");
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		return 1;
	/* a brother, as a runtime's own child would be; pid 1 of a namespace cannot have one */
	long brother = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
	if (!brother) {
		call("brother");
		_exit(0);
	}
	call("itself");
	sleep(1);
	return 0;
}
