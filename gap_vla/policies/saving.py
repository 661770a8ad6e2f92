"""A small policy on disk: `policy.json` (how to build it), `policy.safetensors`, `dataset_statistics.json`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_flatten_with_path

from gap_vla.core.foreign import CheckpointError, Section, blaming, misfits, regular
from gap_vla.core.identity import digest
from gap_vla.core.typed_config import ConfigError, build_config, choose
from gap_vla.core.whole import replacing, write_json
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import odd_weights
from gap_vla.policies.methods import build_policy
from gap_vla.policies.policy import SmallPolicy
from gap_vla.rlds.statistics import (
    NORMALIZATIONS,
    check_statistics,
    load_statistics,
    save_statistics,
    statistics_digest,
)

FORMAT = 1


def save_policy(
    policy: SmallPolicy, directory: Path | str, statistics: Mapping[str, Any], normalization: str, camera: str = "near"
) -> None:
    """Writes the three files; `policy.json` last, so that a folder which has it is whole.

    Args:
        statistics: of the dataset, for proprioception in and actions out.
        normalization: of both, in training.
        camera: the view of the primary camera in training.

    Raises:
        ConfigError: what could not be loaded, such as NaN weights or statistics of another width. Nothing is written.
    """
    directory = Path(directory)
    tensors = {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()}
    if odd := odd_weights(tensors, tensors):
        raise ConfigError(f"the policy's {odd}; the training diverged, save an earlier one")
    floats = {name: value.dtype for name, value in tensors.items() if value.is_floating_point()}
    if odd := next((f"{name} is {kind}" for name, kind in floats.items() if kind != torch.float32), ""):
        raise ConfigError(f"the policy's {odd}; save policy.float(), policies are loaded in float32")
    choose(normalization, NORMALIZATIONS, "normalization")
    if not isinstance(camera, str):
        raise ConfigError(f"camera is {camera!r}; give the name of a view")
    widths = {"action": policy.action_dim} | ({"proprio": policy.proprio_dim} if policy.uses_proprio else {})
    for field, width in widths.items():
        found = check_statistics(statistics, field, normalization, "statistics", widest=width)
        if found < width:
            raise ConfigError(f"statistics: {field}.mean is {found} wide, the policy's {field} {width}")
    account = {
        "format": FORMAT,
        "method": policy.method,
        "model": dataclasses.asdict(policy.config) | {"encoder_weights": ""},
        "image_shape": list(policy.image_shape),
        "proprio_dim": policy.proprio_dim,
        "action_dim": policy.action_dim,
        "cameras": list(policy.built_cameras),
        "normalization": normalization,
        "camera": camera,
        "weights": parameter_digest(policy),
        "statistics": statistics_digest(statistics, normalization),
    }
    account |= {"seal": digest(account, 16)}  # of what JSON does not hold there is none, and nothing is written
    with replacing(directory / "policy.safetensors") as temporary:
        save_file(tensors, temporary)
    save_statistics(statistics, directory / "dataset_statistics.json")
    write_json(directory / "policy.json", account)


def load_saved_policy(directory: Path | str) -> tuple[SmallPolicy, str, dict[str, Any]]:
    """The policy in evaluation mode, the normalisation of its inputs and actions, and the statistics for it.

    Raises:
        CheckpointError: missing, of another format, or weights that do not fit or are not finite; names file and key.
    """
    directory = Path(directory)
    described, weights = directory / "policy.json", directory / "policy.safetensors"
    if not described.is_file():
        raise CheckpointError(f"{directory}: no policy.json; give a run directory of train_small.py or its checkpoint/")
    account = Section.read(described, CheckpointError)
    account.whole("format", FORMAT, FORMAT)
    normalization = account.choice("normalization", NORMALIZATIONS)
    with blaming(described, "no policy can be built from it"):
        height, width, channels = account.list("image_shape", lambda items, key: items.whole(key, 1, 4096))
        if height != width:
            raise CheckpointError(f"{described}: image_shape is {height} × {width}; pictures in training are square")
        arguments = (
            build_config(SmallModelConfig, account.section("model").values, "model."),
            account.text("method"),
            (height, width, channels),
            account.whole("proprio_dim", 1, 10_000),
            account.whole("action_dim", 1, 10_000),
            account.list("cameras", Section.text),
        )
        with torch.device("meta"):  # sizes that the weights do not have take no memory
            expected = build_policy(*arguments).state_dict()
    with blaming(weights, "not this policy's weights"):
        with safe_open(regular(weights, CheckpointError), "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}
        shapes = {name: value.shape for name, value in expected.items()}
        if problems := misfits(found, shapes, "policy.json's policy has"):
            raise CheckpointError(f"{weights}: not the weights of the policy in policy.json: {problems}")
        tensors = load_file(weights)
        if odd := odd_weights(tensors, expected):
            raise CheckpointError(f"{weights}: {odd}; the training diverged or the file is damaged, take another")
        with torch.device("cpu"):
            policy = build_policy(*arguments).float()  # whatever torch's default type and device are
        policy.load_state_dict(tensors)
        if (said := account.text("weights", "")) and said != (own := parameter_digest(policy)):
            raise CheckpointError(f"{weights}: its digest is {own}, policy.json says {said}; copy both again")
        policy.view = account.text("camera", "") or None
    return policy.eval(), normalization, load_statistics(directory / "dataset_statistics.json")


def require_own_statistics(directory: Path, statistics: Mapping[str, Any], normalization: str) -> None:
    """Raises CheckpointError: a checked policy lies beside the statistics or the normalisation of other data, or its
    `policy.json` was edited."""
    account = dict(Section.read(directory / "policy.json", CheckpointError).values)
    found, said = statistics_digest(statistics, normalization), account.get("statistics", "")  # since 0.2
    if said and said != found:
        where = f"{directory / 'dataset_statistics.json'}: with normalization {normalization} its digest is {found}"
        raise CheckpointError(f"{where}, policy.json says {said}; copy both again")
    seal = account.pop("seal", None)
    with blaming(directory / "policy.json", "no account of a policy"):
        if seal not in (None, digest(account, 16)):
            raise CheckpointError(f"{directory / 'policy.json'} was changed since it was saved; copy it again")


def parameter_digest(policy: SmallPolicy) -> str:
    """Hexadecimal hash of all weights: two policies of one configuration with the same hash act alike."""
    content = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        content.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def state_digest(saved: Mapping[str, Any]) -> str:
    """Hexadecimal hash of all that a saved state of training holds, whatever its file is like."""
    content = hashlib.sha256()
    for path, value in tree_flatten_with_path(saved)[0]:
        whole = isinstance(value, torch.Tensor) and value.nbytes <= value.untyped_storage().nbytes()  # not expanded
        content.update(f"{path} {'' if whole else value}".encode())
        content.update(value.cpu().numpy().tobytes() if whole else b"")
    return content.hexdigest()[:16]
