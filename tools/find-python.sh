#!/bin/sh
# Prints a Python that can build seccompd: 3.11 or later, with venv and with its own C headers.
# PYTHON in the environment is tried first. The system's comes before others in PATH: a Python in
# somebody's home is out of reach for the other users that tests act as.
for python in ${PYTHON:-} /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
	"$python" - 2>/dev/null <<'END' && exit 0
import ensurepip, os, sys, sysconfig, venv
if sys.version_info < (3, 11):
    sys.exit(1)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit(1)
print(sys.executable)
END
done
exit 1
