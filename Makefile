# make demo                       convert real images, audit and verify the store, read it
# make demo IMAGES=/my/folder     the same with your own images
# make test                       lint, types, imports, tests
# make check                      the same without the tests
# make test-quick                 the quickest tests of the format, codecs, sources, reading, orders and recipes: 90 seconds
# make test-thorough             longer tests, for example kill -9 at every file operation
# make test-s3                    tests against a real S3 server, where its Debian packages can be downloaded
# make docs                       the documentation as a site in site/, every link checked, every notebook executed
# make test-ray                  conversions on a Ray cluster of two nodes on this machine; installs ray
# All of them first create the environment in .venv.

PYTHON ?= python3
VENV ?= .venv
IMAGES ?=
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

QUICK := tests/format tests/sources tests/test_files.py tests/test_randomness.py \
	$(addprefix tests/codecs/test_,bitpack.py context_model.py outside_codec.py zarr_codec.py) \
	$(addprefix tests/reading/test_,memory.py views.py) \
	$(addprefix tests/loading/test_,block_shuffle.py loader.py mixture.py orders.py permutations.py steps.py) \
	$(addprefix tests/augment/test_,augment_codes.py augment_crops.py augment_geometry.py recipes.py)

# Tests start hundreds of programs: each would compile all modules anew.
test test-quick test-thorough test-s3: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check test-quick test-thorough test-s3 test-ray docs clean

demo: $(VENV)/.demo
	$(VENV)/bin/python -m tokenstore_cli.demo $(if $(IMAGES),"$(IMAGES)")

# The checks run beside the tests, which wait now and then; what they print follows.
test: $(VENV)/.dev
	@$(MAKE) --no-print-directory check > $(VENV)/check.log 2>&1 & checks=$$!; \
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile; tests=$$?; \
	wait $$checks; checked=$$?; cat $(VENV)/check.log; exit $$((tests ? tests : checked))

check: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

test-quick: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(QUICK)

test-thorough: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist load -m thorough

test-s3: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m s3_real

test-ray: $(VENV)/.ray
	.ci/own_network $(VENV)/bin/python -m pytest -m ray tests/conversion

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.docs
	$(VENV)/bin/python -m mkdocs build --quiet --strict

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one by: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt .ci/fit_torchvision.py
	@echo "Installing tokenstore and what it needs into $(VENV); this takes a minute or more"
	$(PIP) --editable '.[demo]'
	@$(VENV)/bin/python .ci/fit_torchvision.py
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt .ci/fit_torchvision.py
	@echo "Installing tokenstore and its test tools into $(VENV); this takes a minute or more"
	$(PIP) --editable '.[dev]'
	@$(VENV)/bin/python .ci/fit_torchvision.py
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) --editable '.[demo,docs]'
	@touch $@

$(VENV)/.ray: $(VENV)/.dev
	$(PIP) --editable '.[ray]'
	@touch $@

clean:
	rm -rf $(VENV) demo site .cache
