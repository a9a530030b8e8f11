#!/bin/sh
# Prints a Python that can build seccompd: 3.11 or later, with venv and with its own C headers.
# PYTHON in the environment is tried first, then what is in PATH. One that every user may run is
# preferred: an interpreter below root's home would shut ordinary users out of what root installs.
found=
for python in ${PYTHON:-} python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
	candidate=$("$python" - 2>/dev/null <<'END'
import ensurepip, os, sys, sysconfig, venv
if sys.version_info < (3, 11):
    sys.exit(1)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit(1)
where = os.path.realpath(sys.executable)
open_to_all = True
while where != "/":
    open_to_all = open_to_all and bool(os.stat(where).st_mode & 0o001)
    where = os.path.dirname(where)
print("yes" if open_to_all else "no", sys.executable)
END
	) || continue
	if [ "${candidate%% *}" = yes ] || [ "$python" = "${PYTHON:-}" ]; then
		echo "${candidate#* }"
		exit 0
	fi
	found=${found:-${candidate#* }}
done
[ -n "$found" ] && echo "$found"
