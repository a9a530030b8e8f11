#!/bin/sh
# Runs the tests over a C module in which undefined behaviour traps (SIGILL), built in a copy of the
# tree. Traps need no runtime library, which could not follow the helpers across namespaces and
# filters. More arguments go to pytest.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$top" && git ls-files -z --cached --others --exclude-standard |
	tar --null --ignore-failed-read -T - -c 2>/dev/null) | tar -x -C "$work"
cd "$work"
export SHIM_CFLAGS="-g -O1 -fsanitize=undefined,bounds -fsanitize-undefined-trap-on-error -fstack-protector-all -D_FORTIFY_SOURCE=2"
"$top/.venv/bin/python" csrc/build_shim.py >/dev/null
# The copy goes first: the environment's own entry leads to the tree.
PYTHONPATH=$work "$top/.venv/bin/python" -m pytest -q -m "not slow and not attack and not soak and not fuzz" "$@"
