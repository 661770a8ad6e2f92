# The README's two commands: `make finetune` and `make test`. Everything is installed into .venv in this folder.
PYTHON ?= python3.11
EXTRAS ?= all
CONFIG ?= finetune_configs/threading.py
BIN := .venv/bin

# Bytecode is kept when a module is first imported; compiling all packages beforehand takes longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup finetune debug test test-slow lint docs performance gpu test-lerobot test-lerobot-061 test-trainers wheel-check clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@command -v gcc >/dev/null || { echo "error: evdev, which robosuite needs, is compiled: apt-get install gcc python3.11-dev"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

finetune: setup
	$(BIN)/python scripts/finetune.py --config $(CONFIG) --resume

debug: setup
	$(BIN)/python scripts/finetune.py --config $(CONFIG):debug --resume

# Three processes keep two cores busy. tests/sim draws pictures, which without a GPU needs processes without TensorFlow.
PYTEST = $(BIN)/python -m pytest -q -n 3 --dist loadfile
DOCTESTS = $(shell grep -rl --include=*.py '>>> ' gap_vla experiments)
test: setup
	$(PYTEST) --doctest-modules --ignore=tests/sim --ignore=tests/lerobot tests $(DOCTESTS)
	$(PYTEST) tests/sim

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site in site/; any warning is an error.
docs:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Every benchmark, kept in results/performance; 45 minutes of an idle machine.
performance: setup
	$(BIN)/python benchmarks/record.py

# What only a GPU shows; first `make setup EXTRAS=all,cuda`.
gpu: setup
	$(BIN)/python benchmarks/octo.py --device gpu

# The plugin of LeRobot with LeRobot's real policy classes and training command, in environments of their own: LeRobot's
# version ranges are not this project's. For 0.4.4 torch is this project's own, so torchvision and LeRobot come without
# their dependencies. LeRobot 0.6.1 needs Python 3.12 and brings its own torch (5 GB). Rollouts are in this project's own.
test-lerobot: setup .venv-lerobot/ready
	.venv-lerobot/bin/python -m pytest -q tests/lerobot

.venv-lerobot/ready: tests/lerobot/requirements.txt lerobot_policy_gap/pyproject.toml
	test -x .venv-lerobot/bin/python || $(PYTHON) -m venv .venv-lerobot
	.venv-lerobot/bin/pip install --quiet --disable-pip-version-check -r $< --editable '.[phases,serve]'
	.venv-lerobot/bin/pip install --quiet --disable-pip-version-check --no-deps lerobot==0.4.4 torchvision==0.28.0 \
		--editable lerobot_policy_gap
	cp tests/lerobot/torchvision_of_another_torch.py .venv-lerobot/lib/python3.*/site-packages
	echo import torchvision_of_another_torch > $$(ls -d .venv-lerobot/lib/python3.*/site-packages)/torchvision.pth
	@touch $@

PYTHON_061 ?= python3.12
test-lerobot-061: setup .venv-lerobot-061/ready
	.venv-lerobot-061/bin/python -m pytest -q tests/lerobot

.venv-lerobot-061/ready: lerobot_policy_gap/pyproject.toml
	test -x .venv-lerobot-061/bin/python || $(PYTHON_061) -m venv .venv-lerobot-061
	.venv-lerobot-061/bin/pip install --quiet --disable-pip-version-check 'lerobot[training,diffusion,smolvla,pi]==0.6.1' \
		--editable '.[phases,serve]' --editable lerobot_policy_gap pytest beartype
	@touch $@

# What other people's trainers import, on another Python: make test-trainers PYTHON=python3.12
test-trainers:
	test -x .venv-$(PYTHON)/bin/python || $(PYTHON) -m venv .venv-$(PYTHON)
	.venv-$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --editable '.[small]' pytest hypothesis beartype
	.venv-$(PYTHON)/bin/python -m pytest -q tests/core tests/phases tests/drawing tests/data/test_fields.py \
		tests/data/test_array_files.py tests/data/test_lerobot.py tests/data/test_robomimic_hdf5.py \
		tests/method/test_adjusted_torch.py tests/method/test_adjusted_columns.py tests/method/test_schedule.py

# The wheel in an empty environment and an empty folder.
wheel-check:
	PYTHON=$(PYTHON) .ci/wheel-check

clean:
	rm -rf .venv .venv-* site
