# make demo   install, run the sample pipeline, say where its report is
# make test   install, run all tests
# make lint   check style
#
# Elsewhere than on a machine whose pip is set up for CPU builds, put PyTorch's CPU index first:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

demo: .venv/.installed
	$(BIN)/ehr-tl run pipelines/demo.yaml --out runs/demo
	@echo "The report: $(CURDIR)/runs/demo/report.html"

# Two processes with one thread each: torch and LightGBM would otherwise fight over the cores.
test: .venv/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "" $(TESTS)

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# torch goes first, alone: a range that another package asks for would bring its newest build with CUDA.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	$(PIP) --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv runs build dist
