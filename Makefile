.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup study test test-slurm test-gpu check format bench reference figures clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## install everything into .venv

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tiebreak needs Python 3.11 or newer, got $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/tiebreak kernel
	@touch $@

study: setup ## the small true study on real digits; ends in results/demo/report.html
	$(BIN)/tiebreak study demo results=results/demo --workers $(WORKERS)

test: setup ## every test that needs no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not gpu and not slurm"

test-slurm: setup ## the tests on a real SLURM of one node; root, slurm-wlm and munge are needed
	$(BIN)/python -m pytest -m slurm tests/cluster

test-gpu: setup ## the tests that need a CUDA device, with that device
	$(BIN)/python -m pytest -m gpu

check: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: setup ## rewrite the code in the house's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## speed and memory against named baselines, beside the targets
	$(BIN)/python benchmarks/all.py --write docs/benchmarks.md

reference: setup ## run the committed reference study again, into results/
	$(BIN)/tiebreak study demo --workers $(WORKERS)

figures: setup ## make every committed table and figure again from records; git diff then shows nothing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement figures.txt
	git ls-files 'results/studies/*.json' | sed 's|results/studies/||; s|[.]json$$||' | \
	  while read -r name; do $(BIN)/tiebreak tabulate "$$name" && $(BIN)/tiebreak draw "$$name" || exit 1; done
	$(BIN)/tiebreak draw paper

clean: ## remove what make study made; the committed reference stays
	rm -rf results/demo .tiebreak
