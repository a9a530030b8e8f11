"""seccompd: answers chosen system calls of less privileged processes in user space."""
