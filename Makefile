# make test              ruff, mypy and pytest
# make lint              ruff and mypy only
# make demo [DATA=DIR]   the whole path on the demo cohort, or on your MSD-style folder
# make clean             removes what these targets made
#
# A target creates the environment that it needs, and installs again only when one of $(PINS) changed.
# pip's own configuration decides where packages come from. Overridable: PYTHON (creates the environment), VENV,
# PYTEST_ARGS, DATA.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n auto
DATA ?=
PINS := setup.cfg pyproject.toml constraints.txt
BIN := $(VENV)/bin

.PHONY: test lint demo clean

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

demo: $(VENV)/installed-demo
	$(BIN)/monai-essa demo $(if $(DATA),--data "$(DATA)")

$(VENV)/installed-%: $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

# A half-made environment (no ensurepip, say) is removed, so that the next call starts afresh.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

clean:
	rm -rf $(VENV) build dist monai_essa.egg-info .mypy_cache .pytest_cache .ruff_cache
