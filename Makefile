# The two commands of the README: `make finetune` and `make test`. Everything is installed into .venv in this folder.
PYTHON ?= python3.11
CONFIG ?= finetune_configs/threading.py
BIN := .venv/bin

.PHONY: setup finetune debug test test-slow lint clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing; install Python 3.11 (apt-get install python3.11 python3.11-venv) or pass PYTHON=…"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "error: no venv module; apt-get install python3.11-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@touch .venv/ready

finetune: setup
	$(BIN)/python scripts/finetune.py --config $(CONFIG) --resume

debug: setup
	$(BIN)/python scripts/finetune.py --config finetune_configs/threading.py:debug --resume

# tests/sim draws pictures, which without a GPU needs a process without TensorFlow.
test: setup lint
	$(BIN)/python -m pytest -q --ignore=tests/sim
	$(BIN)/python -m pytest -q tests/sim

test-slow: setup
	$(BIN)/python -m pytest -q -m slow --ignore=tests/sim
	$(BIN)/python -m pytest -q -m slow tests/sim

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv data runs
