# Needs Python 3.11 or newer, make, and a package index; everything else goes into .venv.

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
READY := .venv/ready
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# Two workers with one thread each: results and timings do not depend on how many cores there are.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 DDE_BACKEND=pytorch $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env demo test lint format types check coverage scipy-suites notebooks peers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

env: $(READY) ## create .venv with the versions of constraints.txt, once

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "precondlab needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ": run make with PYTHON=/path/to/python3.11")'
	@echo "Preparing .venv: a few minutes, only when pyproject.toml or constraints.txt changed"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[all]'
	@touch $@

demo: $(READY) ## run the main job; tables on the terminal, pictures in demo-output/
	$(BIN)/precondlab demo --out demo-output $(ARGS)

test: $(READY) ## run tests, doctests and notebooks; ARGS='-k lanczos' selects
	$(PYTEST) --nbmake tests precondlab $(NOTEBOOKS) $(ARGS)

lint: $(READY) ## check style, format and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

format: $(READY) ## repair style and format where it can be done automatically
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(READY) ## check the types of the package
	$(BIN)/pyright precondlab

check: lint types test ## everything a change must pass

coverage: $(READY) ## run the tests and list the lines they do not reach
	$(PYTEST) --cov --cov-report=term tests precondlab $(ARGS)

scipy-suites: $(READY) ## run SciPy's own tests, whole, with our operators and solvers in place of SciPy's; minutes
	SCIPY_SUITES=whole $(PYTEST) tests/contract/test_scipy_suites.py tests/krylov/test_scipy_solver_suite.py $(ARGS)

notebooks: $(READY) ## bring each notebook's .py and .ipynb together, then run them
	$(BIN)/jupytext --sync notebooks/*.py
	$(PYTEST) --nbmake notebooks $(ARGS)

peers: .venv-peers/ready ## create .venv-peers with the libraries that `precondlab bench` compares with

.venv-peers/ready: tests/benchmarks/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --pre -c tests/benchmarks/peers.txt -r tests/benchmarks/peers.txt
	@touch $@

clean: ## remove everything make created, .venv included
	rm -rf .venv .venv-peers demo-output bench-output build dist precondlab.egg-info .coverage .coverage.* htmlcov
	rm -rf .pytest_cache .hypothesis .ruff_cache .import_linter_cache notebooks/.ipynb_checkpoints
	find precondlab tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
