# Run from a fresh clone with Python 3.11 or newer and nothing else. `make help` lists the targets.

PYTHON ?= python3
INPUT ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := 0.13.9

JOBS ?= $(shell nproc)
# Of the demo's training: its networks are small, and threads that wait for each other on shared cores spin.
THREADS ?= 1

.PHONY: help repository setup demo study docs test lint types

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repository: # first, because the packages take minutes and DVC works in Git repositories alone
	@git rev-parse --git-dir > /dev/null 2>&1 || { echo "error: $(CURDIR) is no Git repository, which DVC needs: install Git, then run 'git init' here" >&2; exit 1; }

setup: $(READY) ## create .venv and install the versions of requirements.txt

$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	# PyTorch with CUDA's libraries has gigabytes, which pip takes from wherever it is configured to look first.
	$(BIN)/python -m pip install --quiet --no-compile --constraint requirements.txt torch torchvision
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: repository $(READY) ## photos to report: the painted sample set, or make demo INPUT=PHOTOS for your own
	@$(if $(INPUT),$(BIN)/python -m pipeline.graph --input "$(INPUT)",true)
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=$(THREADS) $(BIN)/dvc repro card report
	@$(BIN)/python -m training.suggest --output runs/labels.html > /dev/null
	@cat runs/evaluate/table.txt
	@echo "data: $(CURDIR)/runs/data.html"
	@echo "report: $(CURDIR)/runs/report.html"
	@echo "to label on: $(CURDIR)/runs/labels.html"

study: repository $(READY) ## label-efficiency study at preset mini, an hour and a half or more on JOBS cores; skips what is up to date (INPUT=PHOTOS: yours)
	@$(if $(INPUT),$(BIN)/python -m pipeline.graph --input "$(INPUT)",true)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro parse
	$(BIN)/python -m training.study --config presets/mini.yaml --jobs $(JOBS)

docs: $(READY) ## write the tables of the documents: settings and results
	$(BIN)/python -m docs.tables

test: $(READY) ## run all tests, a process per core
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --durations 15

lint: $(READY) ## ruff
	$(BIN)/ruff check .

types: $(READY) ## mypy on the packages
	$(BIN)/mypy
