# Set TORCH to another requirement for another build of torch, e.g. make setup TORCH="torch==2.13.0 --index-url ...".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch
ARGS ?=
SCALE ?= paper
BENCH ?= cpu
SEEDS ?= 1
DATA ?=
MODEL ?=
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint docs format bench reproduce-table1 wheel clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## train GRADE-STE on the embedded reviews, from nothing, and show before and after
	$(BIN)/python -m grade_lightning.run method=grade_ste $(ARGS)
	@echo "next: . $(BIN)/activate, then python -m grade_lightning.run --help, or docs/own-model.md for your own prompts and reward"

test: $(STAMP) ## the quick tests: no network, GPU or data needed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: $(STAMP) ## all tests
	$(BIN)/python -m pytest

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## build the documentation into build/site; any warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(STAMP) ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## ratios of this machine (about 7 minutes): BENCH=gpu for CUDA, MODEL=FOLDER instead of random weights
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m experiments.benchmarks.run --device $(BENCH) $(if $(MODEL),--model '$(MODEL)') $(ARGS)

reproduce-table1: $(STAMP) ## the paper's Table 1: SCALE=paper (GPU, hub) or small; DATA=, MODEL= local folders; SEEDS=1,2,3
	$(BIN)/python experiments/table1/reproduce.py --scale $(SCALE) --data '$(DATA)' --model '$(MODEL)' --seeds $(SEEDS) $(ARGS)

wheel: $(STAMP) ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## remove the virtual environment and build products
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
