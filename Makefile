# `make help` lists what there is. Everything installs into .venv from requirements.lock; a second call needs no network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PYTHON_FILES := attacks benchmarks defences hauberk models service tests
RESOLVE := PATH="$(abspath $(BIN)):$$PATH" uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help install serve test check bench fuzz bento bundle lock format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv and install everything

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hauberk needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m hauberk.compile
	touch $@

serve: $(INSTALLED) ## serve the bundled MNIST classifier at http://127.0.0.1:3000, every defence on
	@$(BIN)/hauberk serve

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest

check: $(INSTALLED) ## what CI runs: format, lint, types, tests
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/mypy $(PYTHON_FILES)
	$(BIN)/python -m pytest

bench: $(INSTALLED) ## measure against stock BentoML and ART, about an hour on a quiet machine; writes docs/benchmarks.md
	$(BIN)/python -W ignore -m benchmarks

fuzz: $(INSTALLED) ## send 100,000 random and mutated requests to a server of its own, about 6 minutes
	$(BIN)/python -m benchmarks.fuzz

bundle: $(INSTALLED) ## train and calibrate the bundled MNIST classifier again
	$(BIN)/hauberk train --data models/data/mnist.npz --rows 0:55000 --epochs 10 --out build/mnist.keras
	$(BIN)/hauberk calibrate --classifier build/mnist.keras --data models/data/mnist.npz --rows 55000:60000 \
	  --confidence 0.95 --out models/bundles/mnist

bento: $(INSTALLED) ## build a Bento, which serves without this directory; see docs/bento.md
	BENTOML_DO_NOT_TRACK=True $(BIN)/python -m bentoml build

lock: ## resolve requirements.lock again, and the part of it that serving needs
	$(RESOLVE) --extra dev -o requirements.lock
	$(RESOLVE) --constraint requirements.lock -o requirements.runtime.lock

format: $(INSTALLED) ## format and sort imports
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/ruff check --fix $(PYTHON_FILES)

clean: ## remove .venv and what was built
	rm -rf $(VENV) build *.egg-info
