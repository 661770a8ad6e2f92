"""Policies by what a user types: a checkpoint or run directory, `expert`, `random`, `ws://…`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.core.config import choose
from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json
from gap_vla.core.hub import local_directory
from gap_vla.rollouts.policy import Bounds, ExpertPolicy, Policy, RandomPolicy

if TYPE_CHECKING:
    from gap_vla.rollouts.chunk_policy import ChunkPolicy

SERVERS = ("ws://", "wss://")


@dataclasses.dataclass(frozen=True)
class LoadedPolicy:
    """A policy, the task of its training if that is known, and how tasks are shown to it."""

    policy: Policy
    task: str | None = None
    image_size: int = 64
    cameras: tuple[str, ...] = ("primary",)
    camera: str | None = None

    @property
    def view(self) -> str:
        """For the primary camera."""
        return self.camera or "near"


def load_checkpoint(
    path: str | Path,
    *,
    task: str | None = None,
    step: int | None = None,
    execute: int | None = None,
    dataset: str | None = None,
    batch_size: int = 8,
    device: str = "cpu",
) -> LoadedPolicy:
    """A checkpoint: a run directory of ours (Octo or small policy), its `checkpoint/`, any Octo directory in upstream's
    layout, or `hf://…`.

    A run directory's `config.json` says for which task it was trained and how its actions are executed; whatever is
    given here has the last word on execution, never on the task.

    Args:
        device: where a small policy acts; Octo acts where JAX does.

    Raises:
        UserError: no checkpoint there, or one that was trained for another task.
    """
    directory = local_directory(path)
    if (directory / "checkpoint").is_dir():
        directory /= "checkpoint"
    run = _run_of(directory)
    _require_task(str(path), run.get("task"), task)
    acting = run.get("eval", {})
    executed = acting.get("execute", 1) if execute is None else execute
    how: dict[str, Any] = {"execute": executed, "batch_size": batch_size}
    policy: ChunkPolicy
    if (directory / "policy.json").is_file():
        from gap_vla.rollouts.small_policy import SmallTorchPolicy

        threads = run.get("train", {}).get("threads", 1)
        policy = SmallTorchPolicy.load(directory, device=device, threads=threads, **how)
    else:
        from gap_vla.rollouts.octo_policy import OctoPolicy

        how["step"] = run.get("steps") if step is None else step
        how["normalization"] = run.get("data", {}).get("normalization", "normal") if run else None
        policy = OctoPolicy.load(directory, name=run.get("method", "octo"), dataset=dataset, **how)
    camera = policy.camera or (run.get("demos", {}).get("camera", "near") if run else None)
    return LoadedPolicy(policy, run.get("task"), policy.image_size or 64, policy.cameras or ("primary",), camera)


def _run_of(checkpoint: Path) -> dict[str, Any]:
    """The `config.json` of the run to which a `checkpoint/` belongs, and the `steps` of its end; empty if to none."""
    file = checkpoint.absolute().parent / "config.json"
    config = read_json(file) if checkpoint.name == "checkpoint" and file.is_file() else {}
    if not {"method", "task"} <= config.keys():
        return {}
    summary = file.with_name("summary.json")
    return config | {"steps": read_json(summary).get("steps") if summary.is_file() else None}


def _require_task(policy: str, trained: str | None, asked: str | None) -> None:
    if None not in (trained, asked) and trained != asked:
        raise UserError(f"{policy} was trained for {trained}, not for {asked}; pass --task {trained}")


def load_policy(
    name: str,
    *,
    action_dim: int,
    random_range: tuple[Bounds, Bounds] = (-1.0, 1.0),
    task: str | None = None,
    seed: int = 0,
    keys: str | Path | None = None,
    execute: int | None = None,
    patience: float = 60.0,
) -> LoadedPolicy:
    """A policy that is no checkpoint.

    Args:
        name: `expert`, `random`, or `ws://host:port` (a policy server that speaks openpi's protocol).
        random_range: the least and the greatest action that `random` draws.
        task: where it will act; a server that says it was trained for another one is refused.
        keys: for a server, a JSON file that maps our observations to its inputs; see `KeyMapping`.
        execute: of each answer of a server; default: as the key file says.
        patience: seconds to wait for a server that is away.
    """
    if not name.startswith(SERVERS):
        choose(name, ("expert", "random", "ws://HOST:PORT"), "policy")
        low, high = random_range
        return LoadedPolicy(ExpertPolicy() if name == "expert" else RandomPolicy(action_dim, seed, low=low, high=high))
    from gap_vla.serving.client import RemotePolicy
    from gap_vla.serving.wire import read_keys

    mapping = read_keys(Path(keys) if keys else None)
    if execute is not None:
        mapping = dataclasses.replace(mapping, execute=execute)
    policy = RemotePolicy(name, mapping, patience=patience)
    told = policy.server_metadata  # a server of ours says what its policy was trained for
    _require_task(policy.address, told.get("task") or None, task)
    size = policy.image_size or mapping.image_size or 64
    return LoadedPolicy(
        policy, told.get("task") or None, size, policy.cameras or ("primary",), told.get("camera") or None
    )
