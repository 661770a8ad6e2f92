"""Configs in upstream's layout: small models that train on a CPU, and the published sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError
from gap_vla.octo.spec import ENCODERS, HEADS, OWN, TEXT, TOKENIZERS, ModuleSpec

KINDS = {"l1": "L1ActionHead", "mse": "MSEActionHead", "diffusion": "DiffusionActionHead"}
"""Heads of small models."""

SIZES: dict[str, dict[str, int]] = {
    "octo-small-1.5": {"token_embedding_size": 384, "num_layers": 12, "mlp_dim": 1536, "num_attention_heads": 6},
    "octo-base-1.5": {"token_embedding_size": 768, "num_layers": 12, "mlp_dim": 3072, "num_attention_heads": 12},
}
"""Widths of the published models."""

PLAIN = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "add_position_embedding": False}
"""What all transformers here have in common."""


def published_config(name: str) -> dict[str, Any]:
    """The config that the published `"octo-small-1.5"` and `"octo-base-1.5"` were trained with.

    Two cameras with goal images (256 and 128 pixels), T5-base, window 2, a diffusion head of four 7-D actions.
    """
    sizes = dict(SIZES[choose(name, sorted(SIZES), "the published model")])
    width = sizes.pop("token_embedding_size")
    encoder = ModuleSpec.create(f"{ENCODERS}:SmallStem16")
    cameras = {name: _camera(f"image_{name}", encoder, goal=True) for name in ("primary", "wrist")}
    language = ModuleSpec.create(f"{TOKENIZERS}:LanguageTokenizer", encoder="t5-base", finetune_encoder=False)
    head = ModuleSpec.create(
        f"{HEADS}:DiffusionActionHead",
        readout_key="readout_action",
        use_map=False,
        action_horizon=4,
        action_dim=7,
        n_diffusion_samples=1,
        dropout_rate=0.0,
    )
    words = {"max_length": 16, "padding": "max_length", "truncation": True, "return_tensors": "np"}
    return {
        "model": {
            "observation_tokenizers": cameras,
            "task_tokenizers": {"language": language},
            "heads": {"action": head},
            "readouts": {"action": 1},
            "transformer_kwargs": {**sizes, **PLAIN},
            "token_embedding_size": width,
            "max_horizon": 10,
            "repeat_task_tokens": True,
            "use_correct_attention": True,
        },
        "text_processor": ModuleSpec.create(
            f"{TEXT}:HFTokenizer", tokenizer_name="t5-base", encode_with_model=False, tokenizer_kwargs=words
        ),
        "window_size": 2,
    }


def _camera(key: str, encoder: dict[str, Any], goal: bool) -> dict[str, Any]:
    """The tokenizer of one camera's pictures, with its goal picture stacked behind them or without."""
    stacked = [key] if goal else []
    return ModuleSpec.create(
        f"{TOKENIZERS}:ImageTokenizer", obs_stack_keys=[key], task_stack_keys=stacked, encoder=encoder
    )


def small_config(
    image_keys: Sequence[str] = ("image_primary",),
    image_size: int = 64,
    proprio_dim: int | None = 9,
    action_dim: int = 7,
    action_horizon: int = 4,
    *,
    token_embedding_size: int = 64,
    num_layers: int = 2,
    num_attention_heads: int = 4,
    mlp_dim: int | None = None,
    head: str = "l1",
    window_size: int = 2,
    stem_features: Sequence[int] = (32, 32, 64),
    stem_patch: int = 0,
    proprio_tokens: int = 0,
) -> dict[str, Any]:
    """A small Octo for tasks without language, a config that upstream's `OctoModel.from_config` takes too.

    Args:
        image_keys: cameras; each gets its own tokenizer, named by what follows `image_`.
        image_size: height and width of the images, for checking only.
        proprio_dim: P, one token per dimension; None or 0 builds the vision-only model.
        head: `"l1"`, `"mse"` or `"diffusion"`.
        window_size: steps of history, the longest window that positions are embedded for.
        stem_features: channels per stage, multiples of 32; every stage halves the image, so three stages make
            8x8 = 64 tokens of a 64x64 image.
        stem_patch: the first stage maps patches of so many pixels instead, by one matrix product; 0: it is a 3x3
            convolution of stride 2 as the others. Patches of 4 take less than half of the time on a CPU.
        proprio_tokens: so many tokens of the whole state by an MLP instead, which upstream cannot load.

    Raises:
        ConfigError: sizes that do not fit together.
    """
    choose(head, tuple(KINDS), "the head")
    if token_embedding_size % num_attention_heads or (head != "diffusion" and token_embedding_size % 8):
        raise ConfigError(
            f"token_embedding_size {token_embedding_size} must be divisible by num_attention_heads "
            f"{num_attention_heads}, and by 8 for attention pooling"
        )
    stages, first = len(stem_features), stem_patch or 2
    if image_size % (first * 2 ** (stages - 1)):
        raise ConfigError(
            f"{stages} stages do not divide {image_size} pixels: change "
            "model.stem_features or model.stem_patch, or use pictures of another size"
        )
    encoder = ModuleSpec.create(
        f"{ENCODERS}:SmallStem16",
        patch_size=16,  # a token for each cell of the last stage
        kernel_sizes=[stem_patch or 3] + [3] * (stages - 1),
        strides=[first] + [2] * (stages - 1),
        features=list(stem_features),
        padding=[0 if stem_patch else 1] + [1] * (stages - 1),
        num_features=token_embedding_size,
    )
    observation_tokenizers = {}
    for key in image_keys:
        longer = any(other.startswith(key) for other in image_keys if other != key)  # a pattern fits at its beginning
        pattern = f"{key}$" if longer else key
        observation_tokenizers[key.removeprefix("image_")] = _camera(pattern, encoder, goal=False)
    if proprio_dim:
        lowdim, options = f"{TOKENIZERS}:LowdimObsTokenizer", {}
        if proprio_tokens:
            lowdim, options = f"{OWN}:MLPObsTokenizer", {"num_tokens": proprio_tokens, "features": token_embedding_size}
        observation_tokenizers["proprio"] = ModuleSpec.create(lowdim, obs_keys=["proprio"], **options)
    fields = {"readout_key": "readout_action", "action_horizon": action_horizon, "action_dim": action_dim}
    return {
        "model": {
            "observation_tokenizers": observation_tokenizers,
            "task_tokenizers": {},
            "heads": {"action": ModuleSpec.create(f"{HEADS}:{KINDS[head]}", **fields)},
            "readouts": {"action": 1},
            "transformer_kwargs": {
                "num_layers": num_layers,
                "mlp_dim": mlp_dim or 4 * token_embedding_size,
                "num_attention_heads": num_attention_heads,
                **PLAIN,
            },
            "token_embedding_size": token_embedding_size,
            "max_horizon": window_size,
            "repeat_task_tokens": False,
            "use_correct_attention": True,
        },
        "text_processor": None,
        "window_size": window_size,
    }


def example_batch(
    image_keys: Sequence[str] = ("image_primary",),
    image_size: int = 64,
    proprio_dim: int | None = 9,
    action_dim: int = 7,
    action_horizon: int = 4,
    *,
    window_size: int = 2,
    batch_size: int = 1,
    goal_images: bool = False,
) -> dict[str, Any]:
    """A random batch in upstream's layout for `small_config` with the same arguments; always the same one."""
    rng = np.random.default_rng(0)
    leading = (batch_size, window_size)
    image = (image_size, image_size, 3)
    observation: dict[str, Any] = {key: rng.integers(0, 256, (*leading, *image), dtype=np.uint8) for key in image_keys}
    if proprio_dim:
        observation["proprio"] = rng.standard_normal((*leading, proprio_dim), dtype=np.float32)
    observation["timestep"] = np.tile(np.arange(window_size, dtype=np.int32), (batch_size, 1))
    observation["pad_mask_dict"] = {key: np.ones(leading, bool) for key in observation}
    observation["timestep_pad_mask"] = np.ones(leading, bool)
    task: dict[str, Any] = {}
    if goal_images:
        task = {key: rng.integers(0, 256, (batch_size, *image), dtype=np.uint8) for key in image_keys}
    task["pad_mask_dict"] = {key: np.ones(batch_size, bool) for key in task}
    shape = (*leading, action_horizon, action_dim)
    return {
        "observation": observation,
        "task": task,
        "action": np.clip(rng.standard_normal(shape, dtype=np.float32), -1, 1),
        "action_pad_mask": np.ones(shape, bool),
    }
