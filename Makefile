# secure-fedfm: `make` explains itself. Every target sets up what it needs in .venv.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' 2>/dev/null; \
	then command -v $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
DEMO ?=
JOBS ?= 2
MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak fuzz clean setup setup-lint setup-bench

help: ## this list
	@echo "secure-fedfm: federated fine-tuning that can be checked afterwards"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo
	@echo "Options: OUT=$(OUT)  DEMO=\"--clients 3 --rounds 1\"  MINUTES=$(MINUTES)  PYTHON=$(PYTHON)"

demo: $(VENV)/.demo ## a whole federation as separate processes on this machine
	$(BIN)/secure-fedfm demo --out $(OUT) $(DEMO)

test: $(VENV)/.test ## the test suite
	$(BIN)/pytest -n $(JOBS) --dist loadgroup -m "not soak" $(PYTEST)

lint: $(VENV)/.lint ## ruff, mypy --strict and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench ## benchmarks side by side with the peers
	$(BIN)/python -m benchmarks.secure_sum --values 1000000 --clients 10
	$(BIN)/python -m benchmarks.protection --values 1000000 --clients 10

soak: $(VENV)/.test ## large counts: seeded, resumable; see CONTRIBUTING.md
	$(BIN)/pytest -n $(JOBS) -m soak $(PYTEST)

fuzz: $(VENV)/.test ## hostile input with a new seed for MINUTES; see CONTRIBUTING.md
	$(BIN)/python -m tests.soak.fuzz --minutes $(MINUTES) $(FUZZ)

setup: $(VENV)/.test ## only set up, run nothing

clean: ## remove the virtual environment, caches and demo runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache runs build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: what is installed follows pyproject.toml.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; on Debian: apt-get install python3 python3-venv" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv; } || { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	@touch $@
