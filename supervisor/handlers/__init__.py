"""One file per family of system calls, and the registry that lists them."""
