# Everything a fresh machine needs is Python 3.11 or later (with its venv module) and make.
PYTHON ?= python3
REQUIREMENTS ?= requirements/dev.txt
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lock clean bench profile chaos

help: ## show this, as make alone does
	@echo "make TARGET [ARGS=...], of which each makes what it needs:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv with what all others need, which they do by themselves

.venv/.ready: $(REQUIREMENTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "towline needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## pull a real model between two daemons, with live bars
	$(BIN)/towline demo $(ARGS)

test: setup ## run the tests; ARGS="tests/cli -x" goes to pytest
	$(BIN)/python -m pytest $(ARGS)

profile: setup ## tell where the time of a pull goes
	$(BIN)/python -m bench.profile $(ARGS)

bench: setup ## measure it beside other programs; ARGS="--only link"
	$(BIN)/python -m bench $(ARGS)

chaos: setup ## kill, cut and fill until it breaks
	$(BIN)/python -m tests.chaos $(ARGS)

check: setup ## format, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## mend what the check of format and lint can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## pin every dependency with its hashes; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements/runtime.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" --extra demo --group dev pyproject.toml --output-file requirements/dev.txt

clean: ## remove .venv and the caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
