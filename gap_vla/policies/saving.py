"""A small policy on disk: `policy.json` (how to build it), `policy.safetensors`, `dataset_statistics.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gap_vla.core.whole import replacing, write_json
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.policy import SmallPolicy, build_policy
from gap_vla.rlds.statistics import load_statistics, save_statistics
from gap_vla.typed_config import ConfigError, build_config

FORMAT = 1


def save_policy(policy: SmallPolicy, directory: Path | str, statistics: Mapping[str, Any], normalization: str) -> None:
    """Writes the three files; `policy.json` last, so that a folder which has it is whole.

    Args:
        statistics: of the dataset, for proprioception in and actions out.
        normalization: of both, in training.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    with replacing(directory / "policy.safetensors") as temporary:
        save_file(tensors, temporary)
    save_statistics(statistics, directory / "dataset_statistics.json")
    account = {
        "format": FORMAT,
        "method": policy.method,
        "model": dataclasses.asdict(policy.config) | {"encoder_weights": ""},
        "image_shape": list(policy.image_shape),
        "proprio_dim": policy.proprio_dim,
        "action_dim": policy.action_dim,
        "cameras": list(policy.built_cameras),
        "normalization": normalization,
    }
    write_json(directory / "policy.json", account)


def load_saved_policy(directory: Path | str) -> tuple[SmallPolicy, dict[str, Any], dict[str, Any]]:
    """The policy in evaluation mode, what `policy.json` says, and the statistics.

    Raises:
        ConfigError: missing, of another format, or weights that do not fit.
    """
    directory = Path(directory)
    if not (directory / "policy.json").is_file():
        raise ConfigError(f"{directory}: no policy.json; give a run directory of train_small.py or its checkpoint/")
    account = json.loads((directory / "policy.json").read_text())
    if account.get("format") != FORMAT:
        raise ConfigError(f"{directory}: format {account.get('format')}, this program reads {FORMAT}")
    config = build_config(SmallModelConfig, account["model"], "model.")
    policy = build_policy(
        config,
        account["method"],
        tuple(account["image_shape"]),
        account["proprio_dim"],
        account["action_dim"],
        tuple(account["cameras"]),
    )
    try:
        policy.load_state_dict(load_file(directory / "policy.safetensors"))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{directory / 'policy.safetensors'} does not hold this policy's weights: {error}") from error
    return policy.eval(), account, load_statistics(directory / "dataset_statistics.json")


def parameter_digest(policy: SmallPolicy) -> str:
    """Hexadecimal hash of all weights: two policies with the same one act alike."""
    content = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        content.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
