# The two commands of the README: `make finetune` and `make test`. Everything is installed into .venv in this folder.
PYTHON ?= python3.11
EXTRAS ?= all
CONFIG ?= finetune_configs/threading.py
BIN := .venv/bin

.PHONY: setup finetune debug demonstrations packages docs test run-tests test-slow performance gpu test-lerobot wheel-check lint clean

# Bytecode is compiled when a module is first imported: compiling all of 4 GB beforehand takes longer than most runs save.
# So it must be kept: without it every process compiles torch, JAX and TensorFlow again.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python .ci/install

setup: .venv/ready-$(EXTRAS)

.venv/ready-$(EXTRAS): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) $(EXTRAS)
	@touch $@ $(if $(filter all,$(subst $(comma), ,$(EXTRAS))),.venv/main-ready .venv/sim-ready)

# What the main job needs, without the tools of the tests and the extras of other commands. Demonstrations need only the
# simulators, so they are collected while the larger packages are installed. Extras that somebody names come first.
.venv/main-ready: pyproject.toml constraints.txt | .venv/sim-ready
	@$(MAKE) --no-print-directory -j2 demonstrations packages
	@touch .venv/main-ready

.venv/sim-ready: pyproject.toml constraints.txt | $(BIN)/pip $(if $(filter-out all,$(EXTRAS)),.venv/ready-$(EXTRAS))
	$(INSTALL) sim
	@touch .venv/sim-ready

demonstrations: | .venv/sim-ready
	@PYTHONPATH=. $(BIN)/python scripts/finetune.py --config $(CONFIG) --collect-only

packages: | .venv/sim-ready
	$(INSTALL) rlds,octo,sim

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing; install Python 3.11 (apt-get install python3.11 python3.11-venv) or pass PYTHON=…"; exit 1; }
	@command -v gcc >/dev/null && $(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || { \
	  echo "error: evdev, which robosuite needs, is compiled; apt-get install gcc python3.11-dev"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "error: no venv module; apt-get install python3.11-venv"; exit 1; }

finetune: .venv/main-ready
	$(BIN)/python scripts/finetune.py --config $(CONFIG) --resume

debug:
	@$(MAKE) --no-print-directory finetune CONFIG=$(firstword $(subst :, ,$(CONFIG))):debug

# The site in site/; a link that leads nowhere, or any other warning, is an error.
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.venv/docs-ready: .venv/ready-$(EXTRAS)
	$(INSTALL) docs
	@touch .venv/docs-ready

# mypy keeps one core for a minute, and so does a test that waits: lint and tests run side by side.
test: setup
	@$(MAKE) --no-print-directory -j 2 lint run-tests

# Three processes keep two cores busy. tests/sim draws pictures, which without a GPU needs one without TensorFlow.
PROCESSES = -n 3 --dist loadfile --no-loadscope-reorder
# What they import is compiled to bytecode once before, half a minute that each of them would take again.
run-tests: setup
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tests/runner.py < /dev/null
	$(BIN)/python -m pytest -q $(PROCESSES) --doctest-modules --ignore=tests/sim tests gap_vla experiments
	$(BIN)/python -m pytest -q $(PROCESSES) tests/sim

test-slow: setup
	$(BIN)/python -m pytest -q -m slow --ignore=tests/sim
	$(BIN)/python -m pytest -q -m slow tests/sim

# Every benchmark that needs nothing from outside, kept in results/performance; about half an hour of an idle machine.
RECORD = $(BIN)/python benchmarks/record.py
performance: setup
	$(RECORD) adjustment -- benchmarks/adjustment.py --pairs 30
	$(RECORD) evaluation -- benchmarks/evaluation.py
	$(RECORD) octo_gap -- benchmarks/octo.py --gap --quick --repeats 40
	$(RECORD) octo_small -- benchmarks/octo.py --case small
	$(RECORD) phases -- benchmarks/phases.py
	$(RECORD) policies -- benchmarks/policies.py --huge_pages --image_size 80
	$(RECORD) rlds -- benchmarks/rlds.py --episodes 500 --steps 150 --size 84 --workers 2
	$(RECORD) sim_collections -- benchmarks/sim.py collections
	$(RECORD) sim_pictures -- benchmarks/sim.py pictures
	$(RECORD) training -- benchmarks/training.py --pairs 30 --huge_pages

# What only a GPU shows, in parts of at most eight minutes, kept in results/gpu; the same command goes on. First
# `make setup EXTRAS=all,cuda`.
gpu: setup
	$(BIN)/python benchmarks/gpu.py

# LeRobot's real policy classes, in an environment of their own: its version ranges are not this project's. torchvision
# without its dependencies, which would replace torch.
test-lerobot: .venv-lerobot/ready
	.venv-lerobot/bin/python -m pytest -q tests/adjustment/test_adjustment_lerobot.py

.venv-lerobot/ready: tests/adjustment/lerobot_requirements.txt
	@test -x .venv-lerobot/bin/python || $(PYTHON) -m venv .venv-lerobot
	.venv-lerobot/bin/pip install --quiet --disable-pip-version-check -r tests/adjustment/lerobot_requirements.txt
	.venv-lerobot/bin/pip install --quiet --disable-pip-version-check --no-deps lerobot==0.4.4 torchvision==0.28.0
	@touch .venv-lerobot/ready

# The wheel in an empty environment and an empty folder; nothing of this checkout is used but test data.
wheel-check:
	PYTHON=$(PYTHON) .ci/wheel-check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What was installed and built; demonstrations and runs stay.
clean:
	rm -rf .venv .venv-lerobot site
