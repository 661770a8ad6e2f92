"""Policies by what a user types: a checkpoint or run directory, `expert`, `random`, `replay:FILE`, `ws://…`."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.core.files import read_json
from gap_vla.core.hub import PREFIX, local_directory
from gap_vla.rollouts.policy import ExpertPolicy, Policy, RandomPolicy, ReplayPolicy

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

    def view(self, asked: str | None = None, size: int | None = None, *, other: bool = False) -> str:
        """The view for the primary camera: the one of training, unless `asked` names one.

        Raises UserError: `asked`, or `size` (pixels), is another one than in training, and not with `other`.
        """
        trained = {"camera": (asked, self.camera), "image-size": (size, getattr(self.policy, "image_size", None))}
        for option, (given, known) in trained.items():
            if not other and None not in (given, known) and given != known:
                raise UserError(f"the policy was trained with --{option} {known}; to show it {given}, add --other-view")
        return asked or self.camera or "near"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What the run that made a checkpoint says about acting; the defaults if nobody knows."""

    task: str | None = None
    method: str | None = None
    execute: int = 1
    ensemble: bool = False
    normalization: str | None = None
    camera: str | None = None
    threads: int = 1
    steps: int | None = None

    @classmethod
    def of(cls, checkpoint: Path) -> TrainedRun:
        """From the `config.json` and `summary.json` beside a run's `checkpoint/`."""
        file = checkpoint.absolute().parent / "config.json"
        said = read_json(file) if checkpoint.name == "checkpoint" and file.is_file() else {}
        if not {"method", "task"} <= said.keys():
            return cls()
        ended = file.with_name("summary.json")
        acting = said.get("eval", {})
        return cls(
            task=said["task"],
            method=said["method"],
            execute=acting.get("execute", 1),
            ensemble=acting.get("ensemble", False),
            normalization=said.get("data", {}).get("normalization", "normal"),
            camera=said.get("demos", {}).get("camera", "near"),
            threads=said.get("train", {}).get("threads", 1),
            steps=read_json(ended).get("steps") if ended.is_file() else None,
        )


def load_checkpoint(
    path: str | Path,
    *,
    task: str | None = None,
    step: int | None = None,
    execute: int | None = None,
    ensemble: bool | None = None,
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
    run = TrainedRun() if str(path).startswith(PREFIX) else TrainedRun.of(directory)
    if task is not None and run.task not in (None, task):
        raise UserError(f"{path} was trained for {run.task}, not for {task}; pass --task {run.task}")
    averaged = (run.ensemble and execute is None) if ensemble is None else ensemble
    executed = 1 if averaged else run.execute if execute is None else execute
    how: dict[str, Any] = {"execute": executed, "ensemble": averaged, "batch_size": batch_size}
    policy: ChunkPolicy
    if (directory / "policy.json").is_file():
        from gap_vla.rollouts.small_policy import SmallTorchPolicy

        policy = SmallTorchPolicy.load(directory, device=device, threads=run.threads, **how)
    elif (directory / "config.json").is_file():
        from gap_vla.rollouts.octo_policy import OctoPolicy

        how |= {"step": run.steps if step is None else step, "normalization": run.normalization, "dataset": dataset}
        policy = OctoPolicy.load(directory, name=run.method or "octo", **how)
    else:
        raise UserError(f"{directory} holds neither a small policy (policy.json) nor an Octo (config.json)")
    size, cameras = policy.image_size or 64, policy.cameras or ("primary",)
    return LoadedPolicy(policy, run.task, size, cameras, policy.camera or run.camera)


def load_policy(
    name: str,
    *,
    action_dim: int,
    task: str | None = None,
    seed: int = 0,
    keys: str | Path | None = None,
    execute: int | None = None,
    patience: float = 60.0,
    limit: float = 600.0,
) -> LoadedPolicy:
    """A policy that is no checkpoint.

    Args:
        name: `expert`, `random`, `replay:FILE` (recorded demonstrations), or `ws://host:port` (a policy server that
            speaks openpi's protocol).
        task: where it will act; recordings of another one are refused.
        keys: for a server, a JSON file that maps our observations to its inputs; see `KeyMapping`.
        execute: of each answer of a server; default: as the key file says.
        patience: seconds to wait for a server that is away.
        limit: seconds that a server has for an answer.
    """
    if name == "expert":
        return LoadedPolicy(ExpertPolicy())
    if name == "random":
        return LoadedPolicy(RandomPolicy(action_dim, seed))
    if name.startswith("replay:"):
        return LoadedPolicy(replay(Path(name.removeprefix("replay:")), action_dim, task))
    if name.startswith(SERVERS):
        return _of_server(name, task, keys, execute, patience, limit)
    raise UserError(f"unknown policy {name!r}; use expert, random, replay:FILE, ws://HOST:PORT, or --checkpoint DIR")


def _of_server(
    address: str, task: str | None, keys: str | Path | None, execute: int | None, patience: float, limit: float
) -> LoadedPolicy:
    """A server of ours says in its greeting what its policy was trained for; others are shown pictures as large as the
    key file has them."""
    from gap_vla.serving.client import RemotePolicy
    from gap_vla.serving.key_mapping import KeyMapping

    mapping = KeyMapping.from_file(Path(keys)) if keys else KeyMapping()
    if execute is not None:
        mapping = dataclasses.replace(mapping, execute=execute)
    policy = RemotePolicy(address, mapping, patience=patience, limit=limit)
    trained = policy.server_metadata.get("task") or None
    if None not in (task, trained) and task != trained:
        raise UserError(f"{policy.address} serves a policy that was trained for {trained}, not for {task}")
    size, cameras = policy.image_size or mapping.image_size or 64, policy.cameras or ("primary",)
    return LoadedPolicy(policy, trained, size, cameras, policy.server_metadata.get("camera") or None)


def replay(path: Path, action_dim: int, task: str | None = None) -> ReplayPolicy:
    """Recorded actions, each on the layout (metadata `seed`) on which they were recorded.

    Where the file tells what was executed (`executed_actions`) from what is to be imitated, the former is played.
    """
    from gap_vla.demos.source import open_source
    from gap_vla.rollouts.recordings import require_task

    source = open_source(path)
    require_task(source, task, None)
    episodes: list[Episode] = []
    for index in range(len(source)):
        episode = source.read(index, images=False)
        with contextlib.suppress(EpisodeError):
            episode = episode.replace(action=source.rows(index, "executed_actions"))
        if "seed" not in episode.metadata:
            raise UserError(f"{episode.name} does not say on which layout it was made, by the attribute 'seed'")
        if (width := episode.action.shape[1]) != action_dim:
            raise UserError(f"{episode.name}: actions are {width} wide, the task takes {action_dim}")
        episodes.append(episode)
    columns = episodes[0].action_columns
    held = columns.of("gripper") if columns else ()
    policy = ReplayPolicy([one.action for one in episodes], [one.metadata["seed"] for one in episodes], held)
    policy.source, policy.variant = str(path), source.about.get("variant")
    policy.succeeded = [one.success for one in episodes]
    return policy
