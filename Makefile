# What a person and CI run. `make` alone lists the targets.
# Needs only Python 3.11 or later (with venv), git and make; pip brings everything else, into .venv.

PYTHON ?= python3.11 python3
PYTEST_ARGS ?=
# Of tests, on two cores: up to a half of their time they wait for servers. Each takes up to 1.7 GB of memory.
WORKERS ?= 4
BENCH_ARGS ?=
DEMO_ARGS ?=
UP_ARGS ?=
SERVICES ?= .services

BIN := .venv/bin
RUN := .venv/.installed-run
WITH_SERVICES := .venv/.installed-services
DEV := .venv/.installed-dev
DOCS := .venv/.installed-docs
# A file's tests stay together, since they share what they prepare; files go in order, the many short ones last.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo demo-plan up down status test test-quick test-thorough test-services check format docs docs-commands bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(DEV) ## Install everything into .venv, test tools too (PYTHON=... chooses the interpreter)

demo: demo-plan $(RUN) ## Correct facts of the embedded model from request to served version (DEMO_ARGS=...)
	$(BIN)/python -m deployments.demo $(DEMO_ARGS)

demo-plan:
	@echo "make demo: installs what running needs into .venv if it is not there, then corrects facts of a language model:"
	@echo "requests, the job that writes and checks them, review, approval, questions before and after, rollback."

up: $(WITH_SERVICES) ## Start Postgres, S3, Prefect with a worker and MLflow on 127.0.0.1 (UP_ARGS="--auth" and others)
	$(BIN)/python -m deployments.services up --folder $(SERVICES) $(UP_ARGS)

down: $(WITH_SERVICES) ## End these services; their data stay in SERVICES=.services
	$(BIN)/python -m deployments.services down --folder $(SERVICES)

status: $(WITH_SERVICES) ## Say how these services are
	@$(BIN)/python -m deployments.services status --folder $(SERVICES)

test: $(DEV) ## Run a test of every law and show the slowest twenty (PYTEST_ARGS="tests/editing -x" narrows them)
	$(PYTEST) --durations=20 $(PYTEST_ARGS)

test-quick: WORKERS := 2 # nothing waits, and each worker finds all tests for itself
test-quick: $(DEV) ## Run what is neither slow nor talks to a server, two cases of each, for the loop of work
	ERRATA_TEST_EXTENT=quick $(PYTEST) -m 'not slow and not server' $(PYTEST_ARGS)

test-thorough: $(DEV) ## Run all tests: every place to kill a job at, every family of models, many more orders and races
	ERRATA_TEST_EXTENT=thorough $(PYTEST) --durations=20 $(PYTEST_ARGS)

test-services: $(DEV) ## Run the tests on real services, which they start on free ports
	$(BIN)/python -m pytest tests/services --durations=10 $(PYTEST_ARGS)

check: $(DEV) ## Lint, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## Repair what ruff can repair by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(DEV) ## Measure speed and quality (BENCH_ARGS=...)
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

docs: $(DOCS) ## Build docs/ into build/docs; a link that leads nowhere fails it
	$(BIN)/mkdocs build --strict --site-dir build/docs

docs-commands: $(DEV) ## Run the long commands that README and docs/ show
	$(BIN)/python -m tests.docs $(PYTEST_ARGS)

clean: ## Remove caches, demo and benchmark data, build output (.venv stays)
	rm -rf .demo .bench build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The installer writes the stamp, last: an install that was interrupted is simply run again.
.venv/.installed-%: pyproject.toml constraints.txt
	@for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec $$python deployments/install.py $* .venv; \
		fi; \
	done; \
	echo "Errata needs Python 3.11 or later; tried: $(PYTHON). Install one, or name it: make install PYTHON=/path/to/python3" >&2; \
	exit 1
