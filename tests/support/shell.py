"""What scripts of tests begin with, for a shell that ends where a command fails (sh -e)."""

# `no COMMAND ...` ends the script where the command succeeds. Of "! COMMAND" the shell thinks
# nothing, whatever comes of it, but where it is the last one.
NO = 'no() { if "$@"; then echo "$*: it does"; exit 9; fi; }\n'
