# Two commands do all the set-up: `make demo` runs the main job on the embedded model, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
DEMO := --experiment demo --traits behavioral/formality,epistemic/optimism --subset 16 --judge embedded

demo: .venv/installed
	$(BIN)/python extraction/run_pipeline.py $(DEMO)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# mypy finds the package by a link of its name: it does not see the hook by which an editable install is imported
lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/src && ln -sfn ../.. .venv/src/traitscope
	cd .venv/src && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml

# about an hour: every reader over damaged files, kills, full disks, storms at judges, attacks on the dashboard
campaign: .venv/installed-dev
	$(BIN)/python tests/campaign/run.py --full --write

bench: .venv/installed bench-peers
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python tests/benchmarks/report.py

bench-peers:
	tests/benchmarks/install_peers.sh $(PYTHON)

install: .venv/installed

.venv/installed: requirements.txt requirements-embedded.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "traitscope needs Python 3.11 or later; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt -c constraints.txt
	$(PIP) --no-deps -r requirements-embedded.txt
	$(PIP) --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-sync.txt
	$(PIP) -r requirements-dev.txt -c constraints.txt
	@touch $@

# pins what the requirements bring with them, at the versions that are installed; torch's companions differ from build to build
constraints: .venv/installed-dev
	$(BIN)/pip freeze --exclude-editable > .venv/frozen
	echo '# Made by `make constraints`: versions of what the requirements bring with them, except torch and its companions.' > constraints.txt
	sed -n 's/^\(.*\)==.*/^\1==/p' requirements*.txt | grep -vi -f - .venv/frozen | sed -n 's/^\([^ ]*==[^ +]*\).*/\1/p' \
		| grep -vE '^(torch|triton|nvidia|cuda)' | LC_ALL=C sort -f >> constraints.txt

.PHONY: demo test test-slow lint campaign bench bench-peers install constraints
