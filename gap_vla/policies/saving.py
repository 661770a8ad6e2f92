"""A small policy on disk: `policy.json` (how to build it), `policy.safetensors`, `dataset_statistics.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from gap_vla.core.config import build
from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json, replacing, write_json
from gap_vla.core.identity import plain
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy
from gap_vla.policies.policy import SmallPolicy
from gap_vla.rlds.statistics import load_statistics, save_statistics


def save_policy(
    policy: SmallPolicy, directory: Path | str, statistics: Mapping[str, Any], normalization: str, camera: str = "near"
) -> None:
    """Writes the three files; `policy.json` last, so that a folder which has it is whole.

    Args:
        statistics: of the dataset, for proprioception in and actions out.
        normalization: of both, in training.
        camera: the view of the primary camera in training.
    """
    directory = Path(directory)
    account = {
        "format": 1,
        "method": policy.method,
        "model": plain(policy.config) | {"encoder_weights": ""},
        "image_shape": list(policy.image_shape),
        "proprio_dim": policy.proprio_dim,
        "action_dim": policy.action_dim,
        "cameras": list(policy.cameras),
        "normalization": normalization,
        "camera": camera,
    }
    with replacing(directory / "policy.safetensors") as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}, temporary)
    save_statistics(statistics, directory / "dataset_statistics.json")
    write_json(directory / "policy.json", account)


def load_saved_policy(directory: Path | str) -> tuple[SmallPolicy, str, dict[str, Any]]:
    """The policy in evaluation mode, the normalisation of its inputs and actions, and the statistics for it.

    Raises:
        UserError: the weights are not those of the policy that `policy.json` describes.
    """
    directory = Path(directory)
    account = read_json(directory / "policy.json")
    policy = build_policy(
        build(SmallModelConfig, account["model"]),
        account["method"],
        tuple(account["image_shape"]),
        account["proprio_dim"],
        account["action_dim"],
        account["cameras"],
    )
    try:
        policy.load_state_dict(load_file(directory / "policy.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{directory / 'policy.safetensors'} is not the policy of policy.json: {error}") from None
    policy.view = account.get("camera")
    return policy.eval(), account["normalization"], load_statistics(directory / "dataset_statistics.json")


def parameter_digest(policy: SmallPolicy) -> str:
    """Hexadecimal hash of all weights: two policies of one configuration with the same hash act alike."""
    content = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        content.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
