# The verbs. Each makes the environment first if it is missing or if the lock has changed.
#
#   make book    run the labs on this machine, render the book, print predicted against measured
#   make quick   ruff, pyright, import-linter, and the tests that start no rank and interpret no kernel: 2.5 minutes
#   make test    ruff, pyright, import-linter, pytest, nbval over the labs
#   make lab     open JupyterLab on 127.0.0.1
#   make labs    run the labs here and keep their outputs in the notebooks (for authors)
#   make lint    the first three of `make test`
#   make bench   measure what the project promises (book/benchmarks.md)
#   make lattice every legal plan of every family: tokens, the ledger's list, bytes (CI runs a sample)
#   make mutants every seeded mistake: the tests that have to notice it do (CI runs a few)
#   make gpu     on a machine with a GPU: check and time all kernels, whole-model decode, the tests that need one
#   make lock    resolve requirements.in again and write requirements.lock
#   make clean   remove what was built; `make distclean` removes the environment too

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.made-from-lock
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
PIP    := -m pip --disable-pip-version-check -qq

# Tests that start no ranks run side by side (tests/needs.py says which do), file by file: the tests of a file may share
# something slow to make. In the order of the folders, so that no long file is left for the end.
PYTEST  := $(BIN)/python -m pytest
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder
# $(call part,NAME,COMMAND): run it, and keep its seconds for the end. `clock` forgets those of the last time.
SECONDS_OF := build/seconds-of-each-part
part = @echo "==> $(1)"; mkdir -p build; start=`date +%s`; $(2); status=$$?; \
  printf '%6d s  %s\n' $$((`date +%s` - start)) "$(1)" >> $(SECONDS_OF); exit $$status

# The environment's own node, never one that happens to be on the path.
export PYRIGHT_PYTHON_GLOBAL_NODE := off
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help book test quick labs lint lab bench gpu lock clean distclean clock
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

# One recipe, one shell: the first failure stops it, and the stamp is written only at its end.
$(STAMP): requirements.lock pyproject.toml
	@set -e; \
	if [ -z "$(PYTHON)" ]; then echo "error: Python 3.11 or newer is needed, and no python3 was found." >&2; exit 1; fi; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; $(PYTHON) is `"$(PYTHON)" -V 2>&1`." >&2; \
	  echo "       Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make environments (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }; \
	if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  echo "Making the environment in $(VENV) (a few minutes, about 3 GB) ..."; \
	  "$(PYTHON)" -m venv --clear $(VENV); \
	else \
	  echo "Bringing the environment in $(VENV) up to the lock ..."; \
	fi; \
	$(BIN)/python $(PIP) install -r requirements.lock; \
	$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e .; \
	touch $@

book: $(STAMP)
	$(call part,book,$(BIN)/python book/build.py)

labs: $(STAMP)
	@$(BIN)/python book/run_labs.py labs/*.ipynb

clock: $(STAMP)
	@rm -f $(SECONDS_OF)

lint: clock
	$(call part,ruff check,$(BIN)/ruff check .)
	$(call part,ruff format,$(BIN)/ruff format --check .)
	$(call part,pyright,$(BIN)/pyright --pythonpath $(BIN)/python)
	$(call part,import-linter,$(BIN)/lint-imports --no-logo)

quick: lint
	$(call part,tests that need neither ranks nor kernels,$(PYTEST) tests $(TOGETHER) -m "not ranks and not kernels and not slow")
	@echo; cat $(SECONDS_OF)

# nbval compares the labs' stored outputs with what this machine computes. Its cells have their own time-out, and
# pytest-timeout must use a signal there: its thread method would end the whole run at one slow cell.
test: lint
	$(call part,tests without ranks side by side,$(PYTEST) tests $(TOGETHER) -m "not ranks")
	$(call part,tests on ranks in order,$(PYTEST) tests -m "ranks")
	$(call part,nbval,if ls labs/*.ipynb >/dev/null 2>&1; then \
	  $(PYTEST) --nbval labs/*.ipynb --nbval-current-env --nbval-cell-timeout=300 \
	    --timeout=600 --timeout-method=signal -p no:cacheprovider; fi)
	@echo; cat $(SECONDS_OF)

lab: $(STAMP)
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 labs

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

gpu: $(STAMP)
	@$(BIN)/python -m benchmarks.gpu

# A fresh environment decides, so that nothing that was once installed by hand stays in the lock. No local version
# (+cpu) and none of the CUDA libraries, which torch itself asks for by exact version: one lock serves CPU and CUDA.
lock:
	@set -e; scratch=`mktemp -d`; trap 'rm -rf "$$scratch"' EXIT; \
	echo "Resolving requirements.in in a fresh environment (minutes) ..."; \
	"$(PYTHON)" -m venv "$$scratch/venv"; \
	"$$scratch/venv/bin/python" $(PIP) install -r requirements.in; \
	{ sed -n '/^#/!q;p' requirements.lock; \
	  "$$scratch/venv/bin/python" $(PIP) freeze --all --exclude pip \
	  | sed -E -e '/^(nvidia-(cu|nccl|nvjit|nvsh|nvtx)|cuda-)/d' -e 's/\+[A-Za-z0-9.]+$$//' \
	           -e 's/^((triton|pyroute2)==.*)$$/\1 ; sys_platform == "linux"/'; } > "$$scratch/lock"; \
	cp "$$scratch/lock" requirements.lock; \
	echo "requirements.lock: `grep -c == requirements.lock` pins"

.PHONY: lattice mutants

lattice: $(STAMP)
	@SHARDLAB_LATTICE=all $(BIN)/python -m pytest -q tests/lattice

mutants: $(STAMP)
	@SHARDLAB_MUTANTS=all $(BIN)/python -m pytest -q tests/mutants

clean:
	@rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
