# Everything a person types here. The first target that needs it makes .venv, once per change of what it is made from.
#
#   make demo     the main job on the embedded teacher and text; says where report.html is
#   make test     the tests; LIMBECK_TEST_DATA names a folder of real models and texts, without it their tests skip
#   make lint     style; make types: the type checker; make docs: every command of README and tutorial
#   make long     the tests that train several students or start processes, a minute or two
#   make cluster  the tests that start a Ray cluster, for which it installs the extra
#   make recipes  the tests that run a recipe of `limbeck reproduce` from end to end, minutes
#   make studies  the experiments behind docs/results, each anew; hours
#   make clean    away with .venv, runs and caches
#
# PYTHON chooses the interpreter, 3.11 or newer: make PYTHON=python3.12 test. pip's own variables (PIP_INDEX_URL, ...) hold.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs long cluster recipes studies clean
.DEFAULT_GOAL := demo

demo: .venv/.ready
	$(BIN)/limbeck distil --tokens 300k --out runs/demo

test: .venv/.ready
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready
	$(BIN)/mypy

docs: .venv/.ready
	$(BIN)/python -m pytest -m docs -n auto --dist load

long: .venv/.ready
	$(BIN)/python -m pytest -m long -n auto --dist load

cluster: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable '.[ray]'
	$(BIN)/python -m pytest -m cluster

recipes: .venv/.ready
	$(BIN)/python -m pytest -m recipe -n auto --dist loadfile

studies: .venv/.ready
	@set -e; for study in docs/results/*.sh; do echo "== $$study"; PATH="$(CURDIR)/$(BIN):$$PATH" bash "$$study"; done

.venv: .venv/.ready

.venv/.ready: pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "limbeck needs Python 3.11 or newer; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1 | head -n 1)." \
	       "Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/limbeck.egg-info
