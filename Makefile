# Everything runs in .venv, which is made from constraints.txt with nothing but Python 3.11 or later, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs tiny-model clean

demo: $(VENV)/installed
	$(BIN)/lunar demo

test: $(VENV)/installed-dev
	$(BIN)/ruff check src tests experiments examples benchmarks
	$(BIN)/ruff format --check src tests experiments examples benchmarks
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

# The documentation as a site, into site/; a broken link or an unknown name in it is an error.
docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

# Retrains the embedded model and overwrites the weights in the package; about 25 minutes on 2 cores.
tiny-model: $(VENV)/installed
	$(BIN)/python -m lunar.tiny src/lunar/tiny/weights

clean:
	rm -rf $(VENV)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@
