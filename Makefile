# Each target makes the virtual environment .venv first where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/ready
NAME ?= default
PROFILE ?= small

.PHONY: help walkthrough test unit-tests stored-notebooks lab clean
help:
	@echo "make walkthrough   run the six notebooks (NAME=$(NAME), PROFILE=$(PROFILE)) into runs/$(NAME)"
	@echo "make test          unit tests, a tiny papermill run, and nbval over the stored notebooks"
	@echo "make lab           open the notebooks in JupyterLab"
	@echo "make clean         remove the virtual environment and build leftovers (runs/ and the cache stay)"

# constraints.txt holds the versions proven together; torch and torchvision must come from one index in one go.
$(READY): pyproject.toml constraints.txt
	@echo "== making the virtual environment in $(VENV) (a few minutes, some GB with CUDA's libraries)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebooks,tests]"
	@touch $(READY)

walkthrough: $(READY)
	@echo "== six notebooks into runs/$(NAME), seven to nine minutes on two cores"
	@$(BIN)/python -m glscl walkthrough --name $(NAME) --profile $(PROFILE)

# Side by side: the notebooks train for minutes on all cores but one, the unit tests work on one and have a cache of their own.
test: $(READY)
	@$(MAKE) --no-print-directory --jobs=2 stored-notebooks unit-tests

unit-tests: $(READY)
	@echo "== unit tests, and the six notebooks on a tiny profile with another seed"
	@$(BIN)/python -m pytest tests

stored-notebooks: $(READY)
	@echo "== beside the unit tests: the stored notebooks, executed again on the CPU, as they were stored, and compared; told when done"
	@export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=$$($(BIN)/python -c 'import os; print(max(1, (os.cpu_count() or 1) - 1))'); \
		$(BIN)/python -m pytest -p no:python -p no:cacheprovider --nbval --nbval-current-env \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg --nbval-cell-timeout 3600 notebooks > $(VENV)/notebooks.txt 2>&1; \
		code=$$?; echo; echo "== the stored notebooks"; cat $(VENV)/notebooks.txt; exit $$code

lab: $(READY)
	@$(BIN)/python -m jupyter lab notebooks

clean:
	@echo "== removing $(VENV) and build leftovers"
	@rm -rf $(VENV) build *.egg-info .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
