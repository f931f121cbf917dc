# make demo   sets everything up and explains a real radiograph, ARGS="--once" to stop afterwards
# make test   sets everything up and runs every gate: lint, types, contracts, and the tests that need no minutes
# make test-all   the tests of minutes: crash matrices, viewers, trainings, whole nodes
# make docs   the pages of docs/ as a site in build/site; a broken link or a page without a place ends it
# make bench   seconds, ratios to what else there is, growth: writes docs/performance.md; needs an idle machine
# make faults   attacks on a fresh node, a row for each: what it did once, what it does now
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# uv installs in a third of pip's time; where it cannot be had, or not what it needs, pip does it.
define install
@$(PIP) uv && UV_COMPILE_BYTECODE_TIMEOUT=600 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	--constraint constraints.txt --editable "$(1)" || $(PIP) --editable "$(1)"
@touch $@
endef
ARGS ?=
# Test files that run at the same time; on two cores a third fills the waiting of the others.
JOBS ?= 3
# PyTorch on a CPU takes and gives back much memory; in huge pages that costs a part of the time (glibc 2.35 or newer).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo docs test test-all installed bench faults check lint types contracts pytest debian ohif clean

demo: $(VENV)/.demo
	@$(BIN)/dicom-node demo $(ARGS)

test: installed
	$(MAKE) --jobs=2 --output-sync=target check pytest

test-all: installed
	$(BIN)/pytest -m slow --timeout 1200 --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file deploy/docs/mkdocs.yml
	@echo "open build/site/index.html"

installed:
	$(MAKE) --jobs=2 --output-sync=target ohif $(VENV)/.dev

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench $(ARGS)

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults $(ARGS)

check: lint types contracts

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports --config setup.cfg

pytest: $(VENV)/.dev
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Real servers for the tests marked "external"; without them those tests skip and say so.
debian:
	@deploy/install-debian-packages.sh || true

# The web viewer in which the tests open results; without npm those tests skip and say so.
ohif: debian | $(VENV)/bin/python
	@deploy/install-ohif.sh $(VENV)/ohif

$(VENV)/bin/python:
	@echo "making $(VENV) (PyTorch with CUDA is about 5 GB; this takes a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.[demo])

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.[docs])

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.[dev])
	@touch $(VENV)/.demo $(VENV)/.docs

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
