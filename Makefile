# `make train` and `make test` each work alone on a fresh clone: they create .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ENV ?= HalfCheetah-v4
# The fast tests compile thousands of small programs and run each once. Less optimisation takes half the time, and
# without XLA's fusion emitters half of that. XLA aborts at an option that its version does not know, and JAX 0.12's
# does not know the last one: it is tried first.
known = $(shell { XLA_FLAGS=$(1) JAX_PLATFORMS=cpu $(BIN)/python -c 'import jax; jax.devices()' && echo $(1); } 2>&-)
FAST_COMPILE = XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
  $(call known,--xla_cpu_use_fusion_emitters=false)"
# A file stays with one worker, so that what its tests share is compiled once.
TWO_WORKERS := -n 2 --dist loadfile

.PHONY: train test test-all lint bench docs clean

train: $(VENV)/.train
	$(BIN)/policy-gradients train ppo --env $(ENV)

test: $(VENV)/.dev lint
	$(FAST_COMPILE) $(BIN)/python -m pytest -m "not slow" $(TWO_WORKERS)

test-all: $(VENV)/.dev lint
	$(BIN)/python -m pytest $(TWO_WORKERS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/throughput.py

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W -q -b html docs docs/_build
	@echo "Open docs/_build/index.html"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "policy-gradients needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[video]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.train

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .ruff_cache
