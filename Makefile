# seccompd. `make help` lists what there is. Every target sets up what it needs by itself.

VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
# Most tests wait for processes: three at a time, whole files, in the order of their folders.
AT_ONCE := -n 3 --dist loadscope --no-loadscope-reorder
# As an installed package is: without the finder that other ways put before every import.
EDITABLE := --config-settings editable_mode=compat -e
SHIM := supervisor/_shim.abi3.so
C_SHIM := $(wildcard csrc/*.c)
C_PROGRAMS := $(wildcard bench/*.c tests/programs/*.c)
C_WARNINGS := -std=gnu11 -Wall -Wextra -Werror -Wshadow -Wvla -Wpointer-arith -O2
export PYTHONDONTWRITEBYTECODE ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# -- set-up. A stamp says that pip ran for this pyproject.toml; that the tools are there is looked at
# -- each time, since stamps outlive what they stand for.

.PHONY: packages-build packages-demo packages-examples packages-test packages-bench
packages-build packages-demo packages-examples packages-test packages-bench: packages-%:
	@tools/system-packages.sh build $(filter-out build,$*)

$(VENV)/.runtime: pyproject.toml setup.py tools/find-python.sh | packages-build
	@$(PY) -c '' 2>/dev/null || { rm -rf $(VENV) && "$$(tools/find-python.sh)" -m venv $(VENV); }
	@echo "Installing Python packages into $(VENV)"
	@$(PY) -m pip install -qq --disable-pip-version-check 'setuptools>=77' wheel 'cffi>=1.16'
	@$(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation $(EDITABLE) .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "Installing the test tools into $(VENV)"
	@$(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation $(EDITABLE) '.[test]'
	@touch $@

.PHONY: venv venv-test
venv: packages-build
	@$(PY) -c 'import cffi, prctl, pydantic, pyseccomp, trio, yaml' 2>/dev/null || rm -f $(VENV)/.runtime
	@$(MAKE) -s --no-print-directory $(VENV)/.runtime
venv-test: venv packages-test
	@$(PY) -c 'import hypothesis, jsonschema, mypy, pytest, pytest_timeout, xdist' 2>/dev/null || rm -f $(VENV)/.test
	@$(MAKE) -s --no-print-directory $(VENV)/.test

$(SHIM): $(wildcard csrc/*.c csrc/*.h) csrc/build_shim.py
	@echo "Building $@"
	@$(PY) csrc/build_shim.py >build-shim.log 2>&1 || { cat build-shim.log; rm -f build-shim.log; exit 1; }
	@rm -f build-shim.log

.PHONY: setup build
setup: venv build ## system packages, virtual environment, C module: all a first use needs
build: venv ## the C module, in place, and the bytecode that an installed package has
	@$(MAKE) -s --no-print-directory $(SHIM)
	@$(PY) -m compileall -q supervisor

.PHONY: wheel
wheel: venv ## one abi3 wheel in dist/
	$(PY) -m pip wheel -q --no-build-isolation --no-deps -w dist .

# -- use

.PHONY: demo doctor
demo: packages-demo setup ## what programs cannot do in a user namespace, and what they do under seccompd
	@$(PY) examples/demo.py
.PHONY: edit-image
edit-image: packages-demo setup ## an ordinary user edits a disk image
	@$(PY) examples/edit-image.py
.PHONY: examples
EXAMPLES := $(filter-out examples/demo.py examples/edit-image.py,$(wildcard examples/*.py))
examples: packages-examples demo edit-image ## every example, one after the other
	@for example in $(EXAMPLES); do echo; echo "== $$example"; $(PY) $$example || exit 1; done
doctor: setup ## what works on this machine, and what is missing
	@$(VENV)/bin/seccompd doctor

# -- tests

.PHONY: test test-fast attack soak fuzz
test: venv-test build ## all tests but the long attacks and the soak (some minutes; as root all of them run)
	@$(PYTEST) -q $(AT_ONCE) -m "not attack and not soak and not fuzz" $(ARGS)
test-fast: venv-test build ## the tests that take no time
	@$(PYTEST) -q -m "not slow and not attack and not soak and not fuzz" $(ARGS)
attack: venv-test build ## the long attacks: races, stalls, storms
	@$(PYTEST) -q -m attack $(ARGS)
fuzz: venv-test build ## 100,000 documents for the policy reader, a million messages for the daemon's doors
	@$(PYTEST) -q -s -m fuzz $(ARGS)
	@$(PY) -m tests.support.fuzzing $(or $(COUNT),1000000)
	@SECCOMPD_TEST_FUZZ=100000 $(PYTEST) -q --timeout 3600 tests/unit/intake/test_fuzz.py tests/unit/policy/test_records.py
soak: venv-test build ## minutes of load, then a count of what is left behind
	@$(PYTEST) -q -m soak --timeout 3600 $(ARGS)

.PHONY: test-pythons test-sanitize bare-debian
test-pythons: venv-test build ## the unit tests under each of Python 3.11 to 3.14 that is in PATH or in pyenv
	@tools/test-pythons.sh $(ARGS)
test-sanitize: venv-test build ## the tests over a C module that traps undefined behaviour
	@tools/test-sanitize.sh $(ARGS)
bare-debian: ## proof in a fresh minimal Debian (root, debootstrap): README's line, make demo, make test-fast
	@tools/bare-debian.sh $(ARGS)

.PHONY: lint
lint: venv-test build ## ruff, mypy --strict, gcc's warnings (and clang's, where it is there)
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@for compiler in gcc clang; do \
		command -v $$compiler >/dev/null || continue; \
		for file in $(C_SHIM); do \
			$$compiler $(C_WARNINGS) -D_GNU_SOURCE -Icsrc -c $$file -o /dev/null || exit 1; done; \
		for file in $(C_PROGRAMS); do $$compiler $(C_WARNINGS) -c $$file -o /dev/null || exit 1; done; \
	done
	@echo "lint: clean"

.PHONY: bench
bench: packages-bench setup ## median times, against a floor written in C
	@$(PY) -m bench $(ARGS)

.PHONY: clean
clean: ## removes what was built, and the virtual environment
	rm -rf build dist *.egg-info $(VENV) bench/floor
	rm -f supervisor/_shim.* supervisor/_shim.c
	find . -name __pycache__ -o -name .pytest_cache -o -name .mypy_cache -o -name .ruff_cache -o -name .hypothesis \
		| grep -v '^./.git/' | xargs -r rm -rf
