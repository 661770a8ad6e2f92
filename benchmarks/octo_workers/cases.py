"""What `octo.py` measures: configurations and random inputs, written to a folder that both implementations read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from gap_vla.octo import presets
from gap_vla.octo.spec import ModuleSpec

GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "octo"
OPTIMIZER = {
    "learning_rate": {"name": "rsqrt", "init_value": 0.0, "peak_value": 3e-4, "warmup_steps": 2000, "timescale": 10000},
    "weight_decay": 0.1,
    "clip_gradient": 1.0,
    "frozen_keys": ["*hf_model*"],
}
DESCRIPTIONS = {
    "tiny": "golden case c: 64-wide, 2 layers, tiny T5, goal image, proprioception, diffusion head, window 2",
    "small": "octo-small-1.5 with T5 base: 690 tokens, window 2",
    "base": "octo-base-1.5 with T5 base: 690 tokens, window 2",
}


def write_case(name: str, folder: Path, batch_size: int = 1, proprio: bool = False) -> None:
    """Writes `config.json`, `inputs.npz` and the language encoder's configuration to `folder`.

    Args:
        proprio: give a published model 9-D proprioception, as fine-tuning does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tiny":
        source = GOLDEN / "c"
        shutil.copytree(source / "tiny_t5", folder / "tiny_t5", dirs_exist_ok=True)
        model = json.loads((source / "checkpoint" / "config.json").read_text())["model"]
        with np.load(source / "inputs.npz") as file:
            batch = {key: file[key][:1] for key in file.files if "strings" not in key}
        batch = {key: np.repeat(value, batch_size, axis=0) for key, value in batch.items()}
    else:
        model = presets.published_config(f"octo-{name}-1.5")["model"]
        sizes = {"model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12}
        sizes |= {"num_heads": 12, "feed_forward_proj": "relu", "tie_word_embeddings": True}
        (folder / "t5-base").mkdir(exist_ok=True)
        (folder / "t5-base" / "config.json").write_text(json.dumps(sizes))
        nested = published_batch(batch_size)
        if proprio:
            spec = ModuleSpec.create("octo.model.components.tokenizers:LowdimObsTokenizer", obs_keys=["proprio"])
            model["observation_tokenizers"]["proprio"] = spec
            nested["observation"]["proprio"] = np.random.default_rng(1).standard_normal((batch_size, 2, 9), np.float32)
        batch = flatten_dict(nested, sep="/")
    (folder / "config.json").write_text(json.dumps({"model": model, "optimizer": OPTIMIZER}))
    np.savez(folder / "inputs.npz", **batch)


def published_batch(batch_size: int) -> dict[str, Any]:
    """Random inputs of the published models: two cameras with goals, 16 word pieces, window 2, four 7-D actions."""
    batch, wrist = (
        presets.example_batch((key,), size, proprio_dim=None, batch_size=batch_size, goal_images=True)
        for key, size in (("image_primary", 256), ("image_wrist", 128))
    )
    for part in ("observation", "task"):
        batch[part]["image_wrist"] = wrist[part]["image_wrist"]
        batch[part]["pad_mask_dict"]["image_wrist"] = wrist[part]["pad_mask_dict"]["image_wrist"]
    words = np.random.default_rng(0).integers(2, 32000, (batch_size, 16))
    batch["task"]["language_instruction"] = {"input_ids": words, "attention_mask": np.ones_like(words)}
    batch["task"]["pad_mask_dict"]["language_instruction"] = np.ones(batch_size, bool)
    return batch
