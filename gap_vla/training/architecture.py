"""Which Octo is trained: a small one from scratch, or a published one adapted to the data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gap_vla.octo.presets import small_config
from gap_vla.training.config import FinetuneConfig

OBSERVATIONS = "observation_tokenizers"
INSTRUCTION_LENGTH = 16
"""Word pieces that the published models read."""


def small_model(config: FinetuneConfig, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of the small model for the shapes of `batch`."""
    observation, action = batch["observation"], batch["action"]
    images = sorted(key for key in observation if key.startswith("image_"))
    return small_config(
        image_keys=images,
        image_size=observation[images[0]].shape[2],
        proprio_dim=observation["proprio"].shape[-1] if config.uses_proprio else None,
        action_dim=action.shape[-1],
        action_horizon=action.shape[-2],
        window_size=config.model.window_size,
        head=config.model.head,
        token_embedding_size=config.model.token_embedding_size,
        num_layers=config.model.num_layers,
        num_attention_heads=config.model.num_heads,
        mlp_dim=config.model.mlp_dim,
        stem_features=config.model.stem_features,
        stem_patch=config.model.stem_patch,
    )


def adapted_config(source: Mapping[str, Any], config: FinetuneConfig, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A published model's layout with this experiment's inputs and outputs.

    Cameras that the data lack are dropped; the proprioceptive tokenizer is appended after the images (or removed for a
    vision-only policy); the action head is a new one with the configured loss, horizon and width.
    Everything else stays, so that pretrained parameters keep their path and shape.
    """
    layout = copy.deepcopy(dict(source))
    model = layout["model"]
    observation = batch["observation"]
    kept = {
        name: spec
        for name, spec in model[OBSERVATIONS].items()
        if name != "proprio" and any(key in observation for key in spec["kwargs"].get("obs_stack_keys", ()))
    }
    head = small_model(config, batch)["model"]
    if config.uses_proprio:
        kept["proprio"] = head[OBSERVATIONS]["proprio"]
    model[OBSERVATIONS] = kept
    model["heads"] = {"action": head["heads"]["action"]}
    model["readouts"] = {"action": model.get("readouts", {}).get("action", 1)}
    layout["window_size"] = config.model.window_size
    return layout
