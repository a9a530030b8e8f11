#!/bin/sh
# Runs the unit tests under each Python from 3.11 on that is in PATH or in pyenv, with the one C
# module that `make build` has made: it is abi3, and has to load in all of them. More arguments go
# to pytest.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
status=0
for minor in 11 12 13 14; do
	python=
	for candidate in python3.$minor "$HOME"/.pyenv/versions/3.$minor.*/bin/python; do
		python=$(PYTHON="$candidate" tools/find-python.sh 2>/dev/null) || continue
		case $("$python" -c 'import sys; print(sys.version_info.minor)') in
		$minor) break ;;
		*) python= ;;
		esac
	done
	[ -n "$python" ] || { echo "Python 3.$minor: not here"; continue; }
	echo "Python 3.$minor: $python"
	venv=$(mktemp -d)
	chmod 755 "$venv" # some tests act as other users
	trap 'rm -rf "$venv"' EXIT
	"$python" -m venv "$venv"
	"$venv/bin/pip" install -qq --disable-pip-version-check 'setuptools>=77' wheel 'cffi>=1.16'
	# The dependencies alone: the project itself is this tree, with its module as it was built.
	"$venv/bin/python" - >"$venv/wanted" <<'END'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")
END
	"$venv/bin/pip" install -qq --disable-pip-version-check --no-build-isolation -r "$venv/wanted"
	"$venv/bin/python" -m pytest -q -m "not slow and not attack and not soak and not fuzz" tests/unit "$@" || status=1
	rm -rf "$venv"
done
exit $status
