# `make demo` and `make test` are all that a newcomer needs; both install what is missing first.

VENV ?= .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
MANIFESTS := $(wildcard packages/*/pyproject.toml apps/pyproject.toml) requirements/constraints.txt requirements/dev.txt
# One thread a process: the suite runs one process a core, and threads on top of that slow it down.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-heavy test-gpu lint format doctor clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Create .venv and install all packages in it (first time: 3-8 minutes; later: at once)

$(STAMP): $(MANIFESTS)
	@echo "install: all packages and their dependencies into $(VENV) (3-8 minutes the first time, mostly downloads)"
	@test -x $(VENV)/bin/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.11; run make install PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet -r requirements/dev.txt
	@touch $(STAMP)
	@echo "install: done"

demo: install ## Make data, train on two cores and show a picture with scores (13-16 minutes after installation)
	@echo "demo: makes shapes data, trains a small foundation, then one model for generation and editing (13-16 minutes on two cores)"
	@$(VENV)/bin/lightning run pretrain --config pretrain/demo
	@echo "demo: the picture, the scores and the checkpoint are where the lines above say"

test: install ## Run the fast tests (under 10 minutes on two cores)
	@echo "test: the fast tests of all packages (under 10 minutes on two cores)"
	@$(PYTEST) -n 2 -m "not slow and not heavy and not gpu and not multigpu"

# The longest files come first, in the order given, so that no core waits for the last of them.
test-slow: install ## Run the slow tests: fresh environments, whole runs, two processes
	@echo "test-slow: fresh environments, whole runs and two-process runs (about 14 minutes on two cores)"
	@$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not gpu and not multigpu" tests apps packages

test-heavy: install ## Run what takes minutes or downloads and seldom changes: the small preset, quantised weights
	@$(PYTEST) -m "heavy and not gpu and not multigpu" tests

test-gpu: install ## Run the tests that need a CUDA device
	@$(PYTEST) -m "gpu or multigpu"

lint: install ## Check style, layers and types (about a minute)
	@echo "lint: ruff check, ruff format --check, lint-imports, mypy (about a minute)"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/mypy

format: install ## Format the code and mend what ruff can mend
	@$(VENV)/bin/ruff check --fix --quiet . || true
	@$(VENV)/bin/ruff format .

doctor: install ## Say what is wrong with this environment, if anything
	@$(VENV)/bin/python -m unipic2_train.doctor

clean: ## Remove caches and build leftovers; keeps .venv and runs
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist packages/*/build apps/build packages/*/src/*.egg-info apps/src/*.egg-info
