"""Every profile of every configuration trains: built and stepped twice by its own command, on this machine.

Sizes of models, pictures, histories and optimizers are those of the profile; only the two demonstrations, the batch of
two and the two steps are fewer, and published weights are random ones in their layout.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from experiment_files import profiles

from gap_vla.cli.configured import load_config
from gap_vla.core.measurements import read_metrics

ROOT = Path(__file__).parent.parent
SHORT = {"demos.episodes": 2, "train.steps": 2, "train.batch_size": 2, "train.log_every": 1, "eval.episodes": 0}
RANDOM_OCTO = """
import sys, jax, numpy as np
from gap_vla.octo.model import OctoModel
from gap_vla.octo.presets import example_batch, published_config
batch = example_batch(("image_primary", "image_wrist"), 256, None, action_horizon=4, goal_images=True)
for part in ("observation", "task"):
    batch[part]["image_wrist"] = batch[part]["image_wrist"][..., :128, :128, :]
ids = np.ones((1, 16), np.int64)
batch["task"]["language_instruction"] = {"input_ids": ids, "attention_mask": ids}
batch["task"]["pad_mask_dict"]["language_instruction"] = np.ones(1, bool)
config = published_config(sys.argv[2])
OctoModel.from_config(config, batch, rng=jax.random.PRNGKey(0), dataset_statistics={}).save_pretrained(0, sys.argv[1])
"""


def python(*arguments):
    """Runs in a process of its own, so that memory is given back."""
    found = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert found.returncode == 0, found.stderr[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Demonstrations and datasets of all profiles; those that look alike share them."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights in the layout of a published checkpoint, with a small vocabulary's tokenizer; by address."""
    made: dict[str, Path] = {}

    def of(address):
        if address not in made:
            made[address] = folder = tmp_path_factory.mktemp("octo")
            python("-c", RANDOM_OCTO, str(folder), address.rsplit("/", 1)[-1])
            shutil.copy(ROOT / "tests/data/octo/c/tiny_t5/tokenizer.json", folder)
        return made[address]

    return of


def test_a_frozen_configuration_takes_overrides(tmp_path):
    (tmp_path / "c.py").write_text(
        "from ml_collections import FrozenConfigDict\n"
        "def get_config(profile=''):\n    return FrozenConfigDict({'train': {'steps': 3}})\n"
    )
    config = load_config(f"{tmp_path}/c.py")
    config.train.steps = 4
    assert config.to_dict() == {"train": {"steps": 4}}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "profile"), profiles())
def test_every_profile_is_built_and_stepped_twice_by_its_command(name, profile, data, weights, tmp_path):
    small = name.startswith("small_")
    changes = {**SHORT, "data.root": data, "runs": tmp_path}
    values = load_config(f"finetune_configs/{name}.py:{profile}").to_dict()
    if small:
        changes |= {"train.epochs": 0, "train.device": "cpu"}
    elif values["model"]["pretrained"]:
        changes["model.pretrained"] = weights(values["model"]["pretrained"])
    script = "scripts/train_small.py" if small else "scripts/finetune.py"
    settings = [f"--config.{key}={value}" for key, value in changes.items()]
    python(script, "--config", f"finetune_configs/{name}.py:{profile}", *settings)
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["steps"] == 2
    rows = read_metrics(summary.with_name("metrics.jsonl"))
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert (summary.parent / "checkpoint").is_dir()
