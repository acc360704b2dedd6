# Every target works from a fresh clone; each is one line that works without make too.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help setup parity parity-gpu selftest train-demo fuzz test lint format

help: ## show this
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/ready ## build .venv once, with every backend

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

parity: .venv/ready ## judge every installed backend by the oracle, on the CPU
	$(BIN)/parity run --jobs $(JOBS)

parity-gpu: .venv/ready ## the same on the GPU, for every framework that sees one: TF32 off, then on
	$(BIN)/parity run --jobs $(JOBS) --device gpu
	$(BIN)/parity run --jobs $(JOBS) --device gpu-tf32

selftest: .venv/ready ## make every classic mistake and see that the matrix catches it
	$(BIN)/parity selftest

train-demo: .venv/ready ## train a small network with each block on every backend, against the oracle
	$(BIN)/parity train-demo --jobs $(JOBS) --out docs/training

fuzz: .venv/ready ## ten thousand mutated files for each reader
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	for reader in $$($(BIN)/python -m fuzz --list); do $(BIN)/python -m fuzz $$reader || exit 1; done

test: .venv/ready ## run the tests
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile

lint: .venv/ready ## check style and types
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

format: .venv/ready ## put the style right
	$(BIN)/ruff check --fix && $(BIN)/ruff format
