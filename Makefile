# demo and test do all the set-up on a fresh machine: Python 3.11+, git and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 3 # one more than two cores: tests also wait, for Slurm and for servers

.PHONY: demo test test-slow bench check docs format clean

demo: $(READY)
	@$(BIN)/harness run ablation_ensemble
	@echo
	@echo "Look at that page, and at the runs in MLflow:  $(BIN)/harness ui"

test: check
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(READY)
	$(BIN)/pytest -m slow

bench: $(READY)
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): about 6 GB on disk (torch with its CUDA libraries), some minutes. Nothing goes elsewhere."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo "Compiling what was installed, most of a minute"
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true # on all cores, where pip would use one
	@touch $(READY)

clean: # not what was computed: runs/, mlruns/ and mlflow.db stay
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
