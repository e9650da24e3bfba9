# `make help` lists what there is. Everything installs into .venv from requirements.lock; a second call needs no network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
IMAGE := hauberk:0.1.0
# Two processes, each test file in one of them: their servers and trained networks are made once. More would need 2 GB each.
IN_PARALLEL := -n 2 --dist loadfile
SECRETS := deploy/secrets/hauberk_secret deploy/secrets/grafana_admin_password
PYTHON_FILES := attacks benchmarks defences deploy evaluation hauberk lab loadtest models service tests docs/tutorial
RESOLVE := PATH="$(abspath $(BIN)):$$PATH" uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help install serve test check bench fuzz loadtest tutorial wheel bento image up down container-check sbom audit bundle lab-example lock format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv and install everything, about 3 minutes the first time

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hauberk needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV), about 3 minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "1 of 3: download and install the packages of requirements.lock; pip names each"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "2 of 3: install Hauberk itself, from this directory"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "3 of 3: compile the kernels for this processor, half a minute"
	@$(BIN)/python -m hauberk.compile
	@touch $@
	@echo "Installed."

serve: $(INSTALLED) ## serve the bundled MNIST classifier at http://127.0.0.1:3000, every defence on
	@$(BIN)/hauberk serve

test: $(INSTALLED) ## run the tests, 11 to 18 minutes on two processors
	$(BIN)/python -m pytest $(IN_PARALLEL)

check: $(INSTALLED) ## what CI runs: format, lint, types, tests; 14 to 23 minutes on two processors, install included
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/mypy $(PYTHON_FILES)
	$(BIN)/python -m pytest $(IN_PARALLEL)

bench: $(INSTALLED) ## measure against stock BentoML and ART, hours on a quiet machine; writes docs/benchmarks.md
	$(BIN)/python -W ignore -m benchmarks

fuzz: $(INSTALLED) ## send 100,000 random and mutated requests to a server of its own, about 6 minutes
	$(BIN)/python -m benchmarks.fuzzing.fuzz

loadtest: $(INSTALLED) ## start the gateway, load it for a minute, print a verdict, stop it, under two minutes; OPTIONS='--shape spike --rate 40'
	$(BIN)/python -m loadtest.run $(OPTIONS)

tutorial: $(INSTALLED) ## run the tutorial's notebooks again, hardening alone up to 17 minutes; writes docs/tutorial
	$(BIN)/python docs/tutorial/execute.py

bundle: $(INSTALLED) ## train, calibrate and attack the bundled MNIST classifiers again, hours
	$(BIN)/hauberk train --data models/data/mnist.npz --rows 0:55000 --adversarial pgd --eps 0.31 --iterations 12 --trades 6 --shift 1 \
	  --epochs 16 --no-purified --threads 1 --out build/mnist.keras
	$(BIN)/hauberk train --data models/data/mnist.npz --rows 0:55000 --epochs 10 --out build/mnist-standard.keras
	for name in mnist mnist-standard; do \
	  $(BIN)/hauberk calibrate --classifier build/$$name.keras --data models/data/mnist.npz --rows 55000:60000 \
	    --confidence 0.95 --out models/bundles/$$name && \
	  $(BIN)/python -W ignore -m benchmarks.methods.robustness models/bundles/$$name --record || exit 1; \
	done

wheel: $(INSTALLED) ## build dist/hauberk-VERSION-py3-none-any.whl, which installs elsewhere; see docs/installing.md
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist .

bento: $(INSTALLED) ## build a Bento, which serves without this directory; see docs/bento.md
	BENTOML_DO_NOT_TRACK=True $(BIN)/python -m bentoml build

image: bento ## build deploy/Dockerfile's image from a Bento; needs a Docker engine
	docker build -f deploy/Dockerfile -t $(IMAGE) "$$(BENTOML_DO_NOT_TRACK=True $(BIN)/python -m bentoml get hauberk:latest -o path)"

up: image $(SECRETS) ## build the image, start gateway, Prometheus and Grafana in containers; see docs/operations.md
	docker compose -f deploy/compose.yaml up --detach --wait

down: ## stop what `make up` started; data and secrets stay
	docker compose -f deploy/compose.yaml down

# Readable for the containers' users; the directory is what keeps others on this machine out.
$(SECRETS):
	mkdir -p -m 0700 $(@D)
	openssl rand -hex 24 > $@
	chmod 0444 $@

container-check: $(INSTALLED) ## carry out every step of deploy/Dockerfile and use the result, without a Docker engine; as root, minutes
	$(BIN)/python -m deploy.container_check $(OPTIONS)

sbom: $(INSTALLED) ## write build/sbom.json (CycloneDX 1.6): what a Bento installs
	mkdir -p build
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --spec-version 1.6 --output-reproducible \
	  --validate --output-file build/sbom.json requirements.runtime.lock

audit: $(INSTALLED) ## ask for known vulnerabilities of what a Bento installs; exit code 3: the service cannot be reached
	@$(BIN)/python -m deploy.audit requirements.runtime.lock

lab-example: $(INSTALLED) ## find the results that the lab shows on the first visit again, minutes; writes lab/example
	$(BIN)/python -m hauberk.commands.lab_worker read attack evaluate steal

lock: ## resolve requirements.lock again, and the part of it that serving needs
	$(RESOLVE) pyproject.toml --extra dev -o requirements.lock
	$(RESOLVE) --group pyproject.toml:serving --constraint requirements.lock -o requirements.runtime.lock

format: $(INSTALLED) ## format and sort imports
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/ruff check --fix $(PYTHON_FILES)

clean: ## remove .venv and what was built
	rm -rf $(VENV) build dist *.egg-info
