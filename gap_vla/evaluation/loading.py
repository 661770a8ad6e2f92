"""Policies by what a user types: a checkpoint or run directory, `expert`, `random`, `replay:FILE`, `ws://…`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from gap_vla.evaluation.policy import ExpertPolicy, Policy, PolicyError, RandomPolicy, ReplayPolicy


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """A policy, and how the task has to be shown to it (None: whatever the user likes)."""

    policy: Policy
    task: str | None = None
    image_size: int | None = None
    cameras: tuple[str, ...] | None = None


def load_checkpoint(
    path: str | Path,
    *,
    task: str | None = None,
    step: int | None = None,
    execute: int | None = None,
    ensemble: bool | None = None,
    dataset: str | None = None,
    batch_size: int = 8,
) -> LoadedPolicy:
    """A checkpoint: a run directory of ours (Octo or small policy), its `checkpoint/`, any Octo directory in upstream's
    layout, or `hf://…`.

    A run directory's `config.json` says for which task it was trained and how its actions are executed; whatever is
    given here has the last word on execution, never on the task.

    Raises:
        PolicyError: no checkpoint there, or one that was trained for another task.
    """
    if str(path).startswith("hf://"):
        directory, run = str(path), dict[str, Any]()
    else:
        directory, run = _locate(Path(path))
    trained_for = run.get("task")
    if task is not None and trained_for not in (None, task):
        raise PolicyError(f"{path} was trained for {trained_for}, not for {task}; pass --task {trained_for}")
    evaluation, data = run.get("eval", {}), run.get("data", {})
    execute = execute or evaluation.get("execute", 1)
    ensemble = bool(evaluation.get("ensemble", False)) if ensemble is None else ensemble
    if (Path(directory) / "policy.json").is_file():
        from gap_vla.evaluation.small_policy import SmallTorchPolicy

        threads = int(run.get("train", {}).get("threads", 1))
        small = SmallTorchPolicy.load(
            directory, execute=execute, ensemble=ensemble, batch_size=batch_size, threads=threads
        )
        return LoadedPolicy(small, trained_for, small.image_size, small.cameras or None)

    from gap_vla.evaluation.octo_policy import OctoPolicy
    from gap_vla.octo import CheckpointError

    try:
        policy = OctoPolicy.load(
            directory,
            step=step,
            execute=execute,
            ensemble=ensemble,
            normalization=data.get("normalization", "normal"),
            dataset=dataset,
            batch_size=batch_size,
            name=run.get("method") or "octo",
        )
    except CheckpointError as error:
        raise PolicyError(str(error)) from error
    return LoadedPolicy(policy, trained_for, policy.image_size, policy.cameras)


def load_policy(
    name: str, *, action_dim: int, seed: int = 0, keys: str | Path | None = None, patience: float = 60.0
) -> LoadedPolicy:
    """A policy that is no checkpoint.

    Args:
        name: `expert`, `random`, `replay:FILE` (recorded demonstrations), or `ws://host:port` (a policy server that
            speaks openpi's protocol).
        keys: for a server, a JSON file that maps our observations to its input names; see `KeyMapping`.
        patience: seconds to wait for a server that is away.
    """
    if name == "expert":
        return LoadedPolicy(ExpertPolicy())
    if name == "random":
        return LoadedPolicy(RandomPolicy(action_dim, seed))
    if name.startswith("replay:"):
        return LoadedPolicy(replay(Path(name.removeprefix("replay:")), action_dim))
    if name.startswith(("ws://", "wss://")):
        from gap_vla.evaluation.remote_policy import KeyMapping, RemotePolicy

        mapping = KeyMapping.read(Path(keys)) if keys else KeyMapping()
        return LoadedPolicy(RemotePolicy(name, mapping, patience=patience))
    raise PolicyError(f"unknown policy {name!r}; use expert, random, replay:FILE, ws://HOST:PORT, or --checkpoint DIR")


def replay(path: Path, action_dim: int) -> ReplayPolicy:
    """The recorded actions of a robomimic HDF5 file, each on the layout on which it was recorded if the file says so.

    Where the file tells what was executed from what is to be imitated, the former is played.
    """
    import h5py

    from gap_vla import demos

    reader = demos.open_source(path)
    with h5py.File(path, "r") as file:
        disturbed = "executed_actions" in next(iter(file["data"].values()))
    if disturbed:
        reader = demos.open_source(path, action_key="executed_actions")
    episodes = [reader.read(number, images=False) for number in range(len(reader))]
    width = episodes[0].action.shape[1]
    if width != action_dim:
        raise PolicyError(f"{path}: actions are {width} wide, the task takes {action_dim}; it is of another task")
    seeds = [episode.metadata.get("seed") for episode in episodes]
    known = None if any(seed is None for seed in seeds) else [int(seed) for seed in seeds if seed is not None]
    policy = ReplayPolicy([episode.action for episode in episodes], known)
    policy.source = str(path)
    return policy


def _locate(path: Path) -> tuple[str, dict[str, Any]]:
    """The checkpoint's directory, and the configuration of the run that made it (empty if unknown)."""
    if not path.is_dir():
        raise PolicyError(f"{path}: no such directory; give a run directory or a checkpoint directory")
    directory, run = (path / "checkpoint", path) if (path / "checkpoint").is_dir() else (path, path.parent)
    settings = run / "config.json"
    if not settings.is_file():
        return str(directory), {}
    found = json.loads(settings.read_text())
    return str(directory), found if "method" in found and "task" in found else {}
