# Each target makes the virtual environment .venv first where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/ready
NAME ?= default
PROFILE ?= small

.PHONY: help walkthrough test lab clean
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
	@echo "== six notebooks into runs/$(NAME), about seven minutes on two cores"
	@$(BIN)/python -m glscl walkthrough --name $(NAME) --profile $(PROFILE)

test: $(READY)
	@echo "== unit tests, and the six notebooks on a tiny profile with another seed"
	@$(BIN)/python -m pytest tests
	@echo "== the stored notebooks, executed again on the CPU, as they were stored, and compared"
	@CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -p no:python --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitize.cfg --nbval-cell-timeout 900 notebooks

lab: $(READY)
	@$(BIN)/python -m jupyter lab notebooks

clean:
	@echo "== removing $(VENV) and build leftovers"
	@rm -rf $(VENV) build *.egg-info .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
