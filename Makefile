# Each of these works alone, on a machine with only Python 3.11, 3.12 or 3.13.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= runs/demo
PORT ?= 7860
TRAIN_DEMO_DIR ?= runs/train-demo
PICTURES_DIR ?= docs/pictures
# Tests of the release's numbers, which compile as users do; the others compile faster.
NUMBERS := tests/test_parity.py
# One process per core of the smallest machine; a worker that dies is a failure.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --max-worker-restart=0
# ensurepip: where making the environment was cut off, Python is there and pip is not.
PIP := { $(BIN)/python -m pip --version || $(BIN)/python -m ensurepip; } > /dev/null 2>&1 && \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo page train-demo pictures test parity long install clean

help:
	@echo "make demo     translate drawn scenes with the model that comes with it; a picture, figures"
	@echo "make page     the same model as a web page on this machine: paint, edit, makeup, matches"
	@echo "make train-demo  train on drawn landscapes for minutes, show how far it got"
	@echo "make pictures edit, makeup, correspondence on drawn scenes: the pictures of the docs"
	@echo "make test     style, types and tests, with one case of the release's numbers"
	@echo "make parity   the release's numbers and files in full, in float64, float32 and bfloat16;"
	@echo "              a training step on eight devices beside one on one; a run with an exemplar;"
	@echo "              the metrics' figures"
	@echo "make long     runs that are killed, in a bucket, of several processes, of small batches"
	@echo "make install  the environment alone, in $(VENV)"
	@echo "make clean    remove the environment; runs/ stays"
	@echo "PYTHON=...    which Python makes the environment (3.11 to 3.13)"

demo: $(VENV)/.run
	$(BIN)/python -m cocosnet_jax.apps.demo --folder=$(DEMO_DIR)

page: $(VENV)/.page
	@# Ctrl-C is the page's usual end, with status 130.
	$(BIN)/python -m cocosnet_jax.demo --port=$(PORT) || [ $$? = 130 ]

train-demo: $(VENV)/.run
	$(BIN)/python -m cocosnet_jax.apps.train_demo --workdir=$(TRAIN_DEMO_DIR)

pictures: $(VENV)/.run
	$(BIN)/python -m cocosnet_jax.apps.gallery --folder=$(PICTURES_DIR)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not parity and not long or quick" --dist=loadfile --no-loadscope-reorder

parity: $(VENV)/.test
	COCOSNET_XLA_DEFAULT=1 $(PYTEST) -m parity --dist=loadgroup --durations=8 $(NUMBERS)
	$(PYTEST) -m parity --dist=loadgroup --durations=12 $(NUMBERS:%=--ignore=%)

long: $(VENV)/.test
	$(PYTEST) -m long --dist=loadgroup --durations=12

install: $(VENV)/.run

clean:
	rm -rf $(VENV)

# The stamps are written last: an installation that was cut off is taken up again.
$(VENV)/.run: requirements.txt | $(BIN)/python
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.page: requirements.txt requirements-page.txt | $(BIN)/python
	$(PIP) -r requirements-page.txt
	@touch $(VENV)/.run $@

$(VENV)/.test: requirements.txt requirements-page.txt requirements-dev.txt | $(BIN)/python
	$(PIP) -r requirements-dev.txt
	@touch $(VENV)/.run $(VENV)/.page $@

$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c 'import sys, ensurepip, venv; \
	      sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" --version); installing takes a few minutes."; \
	    exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "error: no Python 3.11, 3.12 or 3.13 with venv found (tried:" \
	  "$(or $(PYTHON),python3 python3.13 python3.12 python3.11)); install one, on Debian also" \
	  "python3-venv, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1
