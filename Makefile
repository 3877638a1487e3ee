# Two commands do all the set-up: `make demo` runs the main job on the embedded model, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

demo: .venv/installed
	$(BIN)/python extraction/run_pipeline.py --experiment demo --traits behavioral/formality,epistemic/optimism --subset 16 --judge embedded

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed bench-peers
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python tests/benchmarks/report.py

bench-peers:
	tests/benchmarks/install_peers.sh $(PYTHON)

install: .venv/installed

.venv/installed: requirements.txt requirements-embedded.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "traitscope needs Python 3.11 or later; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -r requirements-embedded.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-sync.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

.PHONY: demo test lint bench bench-peers install
