# Every target sets up what it needs in .venv first; see CONTRIBUTING.md.

PYTHON ?= python3
BIN := .venv/bin
NATIVE = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint format bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## create or update .venv for development
	@$(PYTHON) tools/bootstrap.py --extras dev,demo

# Tests share no state, and small tensors gain nothing from threads: one of each per core.
test: lint  ## check the sources, then run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

demo:  ## prune a real sentence encoder and report what changed
	@$(PYTHON) tools/bootstrap.py --extras demo
	$(BIN)/fastprune demo

lint: setup  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastprune tools
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)

format: setup  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

bench: setup  ## time every operation and the whole pipeline
	$(BIN)/python -m pytest benchmarks --benchmark-only

clean:  ## remove what was built and every cache; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .benchmarks .hypothesis
	rm -f fastprune/*.so fastprune/*/*.so .venv/fastprune-setup.json
	find fastprune tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
