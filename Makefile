# make demo      the whole demo: from nothing to comparison tables
# make smoke     the same graph in three minutes; its numbers mean nothing
# make photos    real photos: PHOTOS=folder
# make ablation  what each choice of LANIT is worth
# make test      the test suite
# make lint      rules, format and types of the code, and of the workflow
# make clean     remove what one command makes again
.DELETE_ON_ERROR:
.PHONY: demo smoke photos ablation test lint clean help
SHELL := bash

PYTHON ?= python3
CORES ?= all
PHOTOS ?= ../shared/data/cifar10
VENV := .venv
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --no-hooks

define where
	@echo
	@echo "Tables    $(1)/tables/comparison.md (also .csv and .tex; table1, table2, labels)"
	@echo "Plots     $(1)/plots/"
	@echo "Pictures  $(1)/pictures/"
	@echo "Report    $(1)/report.html"
	@echo "MLflow    $(BIN)/mlflow ui --backend-store-uri sqlite:///$(1)/mlflow.db    then open http://127.0.0.1:5000"
endef

help:
	@sed -n 's/^# make /make /p' Makefile

demo: $(VENV)/installed
	$(SNAKEMAKE)
	$(call where,results)

smoke: $(VENV)/installed
	$(SNAKEMAKE) --configfile workflow/configs/smoke.yaml
	$(call where,results-smoke)

photos: $(VENV)/installed
	$(BIN)/python workflow/scripts/unpack_photos.py $(PHOTOS) data/photos
	$(SNAKEMAKE) --configfile workflow/configs/photos.yaml
	$(call where,results-photos)

ablation: $(VENV)/installed
	$(SNAKEMAKE) --configfile workflow/configs/ablation.yaml
	$(call where,results-ablation)

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Removes what one command makes again: not the environment, no trained model of another sweep.
clean:
	rm -rf results-smoke .pytest_cache build *.egg-info
	find lanit tests -name __pycache__ -prune -exec rm -rf {} +

# Made anew when the dependencies or their versions change.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name another, as in make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[test,slurm,perceptual]'
	@touch $@
