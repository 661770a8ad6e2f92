"""Policies by what a user types: a checkpoint or run directory, `expert`, `random`, `replay:FILE`, `ws://…`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.foreign import CheckpointError, finite, shown, whole
from gap_vla.core.hub import PREFIX, local_directory
from gap_vla.core.identity import flat
from gap_vla.core.seals import require_as_exported
from gap_vla.core.typed_config import choose
from gap_vla.rollouts.chunk_policy import MAX_BATCH, ChunkPolicy
from gap_vla.rollouts.policy import FIRST_ANSWER, ExpertPolicy, Policy, PolicyError, RandomPolicy, ReplayPolicy
from gap_vla.serving.greeting import Greeting, views
from gap_vla.serving.key_mapping import tell_unread
from gap_vla.serving.trained_run import TrainedRun, locate, policies_in
from gap_vla.sim.specs import TASK_NAMES, task_spec

if TYPE_CHECKING:
    from gap_vla.serving.client import RemotePolicy


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

        Raises:
            PolicyError: `asked`, or `size` (pixels), is another one than in training, and not with `other`; or none is,
                with it.
        """
        trained = {"camera": (asked, self.camera), "image-size": (size, getattr(self.policy, "image_size", None))}
        others = {option: pair for option, pair in trained.items() if all(pair) and pair[0] != pair[1]}
        if other and not others:
            raise PolicyError("--other-view has no effect: no other view or size than in training is given")
        if others and not other:
            option, (given, known) = next(iter(others.items()))
            raise PolicyError(
                f"the policy was trained with --{option} {known}; leave --{option} away, or let `evaluate` show it "
                f"{given} with --other-view"
            )
        return asked or self.camera or "near"


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
        PolicyError: no checkpoint there, one that was trained for another task, or an impossible argument.
        CheckpointError: a damaged checkpoint, or values in it that no policy can act on; names file and key.
    """
    for what, value, greatest in (("execute", execute, 100_000), ("batch_size", batch_size, MAX_BATCH)):
        if value is not None:
            whole(what, value, 1, greatest, PolicyError)
    if not isinstance(ensemble, bool | None):
        raise PolicyError(f"ensemble is {ensemble!r:.60}; it must be True, False or None")
    if ensemble and execute not in (None, 1):
        raise PolicyError(f"execute is {execute} with an ensemble, which predicts anew at every step; leave one out")
    on_hub = str(path).startswith(PREFIX)
    directory, run = (str(local_directory(path)), TrainedRun()) if on_hub else locate(Path(path))
    if task is not None and run.task not in (None, task):
        raise PolicyError(f"{path} was trained for {run.task}, not for {task}; pass --task {run.task}")
    if len(both := policies_in(Path(directory))) > 1:
        raise CheckpointError(f"{directory} is {' and '.join(both)}; move what is of one of them away")
    require_as_exported(Path(directory), run.exported, CheckpointError)
    averaged = run.ensemble and execute is None if ensemble is None else ensemble
    executed = 1 if averaged else run.execute if execute is None else execute
    how: dict[str, Any] = {"execute": executed, "ensemble": averaged, "batch_size": batch_size}
    if (Path(directory) / "policy.json").is_file():
        from gap_vla.rollouts.small_policy import SmallTorchPolicy

        if (step, dataset) != (None, None):
            raise PolicyError(f"{path} is a small policy, of one step and one dataset; leave --step and --dataset out")
        policy: ChunkPolicy = SmallTorchPolicy.load(directory, device=device, threads=run.threads, **how)
    else:
        if not (Path(directory) / "config.json").is_file():
            made = "a small policy's policy.json, nor an Octo's config.json"
            raise CheckpointError(f"{path if on_hub else directory} holds neither {made}; copy the checkpoint whole")
        from gap_vla.rollouts.octo_policy import OctoPolicy

        how |= {"step": run.steps if step is None else step, "normalization": run.normalization, "dataset": dataset}
        policy = OctoPolicy.load(directory, name=run.method or "octo", **how)
    if run.task is None and execute is ensemble is None and policy.action_horizon > 1:
        what = f"how many of the {policy.action_horizon} actions of a chunk to execute"
        print(f"note: {path} does not say {what}: 1, unless `execute` names more", file=sys.stderr, flush=True)
    for key, digest in run.acted.items() if step is None else ():
        if policy.identity.get(key, digest) != digest:
            raise CheckpointError(f"{directory} has other {key} than its run was evaluated with; copy the run again")
    own: dict[str, Any] = {key: getattr(policy, key) for key in ("camera", "image_size")}
    own |= {"method": policy.name, "normalization": policy.identity["normalization"]}
    for key, told in {**own, "cameras": " ".join(sorted(policy.cameras))}.items():
        known = getattr(run, key)
        if run.task and told and known and told != known:
            raise CheckpointError(f"{directory} says {key} {told}, its run's config.json {known}; copy the run again")
    if view := policy.camera or run.camera:
        choose(view, views(), f"{directory}: camera", CheckpointError)
    now = task_spec(run.task).pictures_version if run.task and run.task in TASK_NAMES else None
    if policy.cameras and run.pictures and now and run.pictures != now:
        then = f"{path} was trained on version {run.pictures} of the pictures of {run.task}"
        warnings.warn(f"{then}, this gap_vla draws version {now}; train it anew to compare it", stacklevel=2)
    policy.trained_task = run.task
    size, cameras = policy.image_size or 64, policy.cameras or ("primary",)
    return LoadedPolicy(policy, run.task, size, cameras, view)


def load_policy(
    name: str,
    *,
    action_dim: int,
    task: str | None = None,
    seed: int = 0,
    keys: str | Path | None = None,
    execute: int | None = None,
    patience: float = 60.0,
    limit: float = FIRST_ANSWER,
) -> LoadedPolicy:
    """A policy that is no checkpoint.

    Args:
        name: `expert`, `random`, `replay:FILE` (recorded demonstrations), or `ws://host:port` (a policy server that
            speaks openpi's protocol).
        task: where it will act; recordings of another one are refused.
        keys: for a server, a JSON file that maps our observations to its input names; see `KeyMapping`.
        execute: of each answer of a server; default: as the key file says.
        patience: seconds to wait for a server that is away.
        limit: seconds that a server has for an answer.

    Raises:
        PolicyError: no such policy, recordings that cannot be replayed there, or a server's address that is none.
        EpisodeError: no such recordings.
    """
    if not isinstance(name, str):
        raise PolicyError(f"the policy is {shown(name)}; name one, as 'expert'")
    if keys is not None and not name.startswith(("ws://", "wss://")):
        raise PolicyError(f"a key file ({keys}) is for servers; {name} has none")
    if execute not in (None, 1) and not name.startswith(("ws://", "wss://")):
        raise PolicyError(f"execute={execute} is for the answers of servers; {name} acts at every step")
    if name == "expert":
        return LoadedPolicy(ExpertPolicy())
    if name == "random":
        return LoadedPolicy(RandomPolicy(action_dim, seed))
    if name.startswith("replay:") and name != "replay:":
        from gap_vla.demos.content import unchanging

        with unchanging(path := Path(name.removeprefix("replay:"))):
            return LoadedPolicy(replay(path, action_dim, task))
    if name.startswith(("ws://", "wss://")):
        from gap_vla.serving.client import KeyMapping, RemotePolicy

        mapping = KeyMapping.read(Path(keys)) if keys else KeyMapping()
        mapping = dataclasses.replace(mapping, execute=mapping.execute if execute is None else execute)
        for key in ("action_columns", "action_signs"):
            if (found := len(getattr(mapping, key) or ())) not in (0, action_dim):
                raise PolicyError(
                    f"{keys}: {key} has {found} entries, an action {action_dim}; give one for each column"
                )
        return _of_server(RemotePolicy(name, mapping, patience=patience, limit=limit), task)
    raise PolicyError(f"unknown policy {name!r}; use expert, random, replay:FILE, ws://HOST:PORT, or --checkpoint DIR")


def _of_server(policy: RemotePolicy, task: str | None) -> LoadedPolicy:
    """A server of ours says in its greeting what its policy was trained for, with an empty task where it knows none;
    others' say nothing of that, and are shown pictures as large as the key file has them."""
    keys, address = policy.keys, policy.address
    try:
        said = Greeting.read(policy.server_metadata, address)
        said.require_fitting(address, keys, task)
    except PolicyError:
        policy.close()
        raise
    if said.answers == "chunks" and keys.execute > 1 and (said.window_size or 1) > 1:
        problem = f"{address} serves a policy that was trained on {said.window_size} steps in a row"
        warnings.warn(f"{problem}, and is shown every {keys.execute}th; serve it without --whole-chunks", stacklevel=3)
    tell_unread(said.unread, set(), f"{address} greets with", "this client")
    policy.image_size, policy.cameras, policy.said = said.image_size, said.cameras, said
    size, cameras = said.image_size or keys.image_size or 64, said.cameras or ("primary",)
    return LoadedPolicy(policy, said.task or None, size, cameras, said.camera or None)


def _noise(said: Any, path: Path) -> float:
    with contextlib.suppress(ValueError):
        said = float(said) if isinstance(said, str) else said
    return finite(f"{path}: its attribute action_noise", said, 0, 1, PolicyError)


def replay(path: Path, action_dim: int, task: str | None = None) -> ReplayPolicy:
    """The recorded actions of a robomimic HDF5 file, each on the layout on which it was recorded.

    Where the file tells what was executed from what is to be imitated, the former is played.

    Raises:
        PolicyError: recordings of another task or version, or seeds that are none or that some of them lack.
        EpisodeError: no such recordings.
    """
    from gap_vla import demos
    from gap_vla.demos.hdf5_members import attributes_of_data, has, opened, simulator_of
    from gap_vla.rollouts.recordings import require_scene

    reader, variant = demos.open_source(path), None
    if reader.kind == "robomimic_hdf5":
        require_scene(path, task, foreign=False)
        said = attributes_of_data(path)
        variant = said.get("variant", dict(flat(simulator_of(said))).get("env_kwargs.variant"))
        with opened(path) as file:
            told = [has(file, f"data/{name}/executed_actions") for name in reader.places]
        noise = _noise(said.get("action_noise", 0), path)
        if not all(told) and (any(told) or noise):  # `actions` are not what was done
            why = "which other recordings have" if any(told) else f"and action_noise is {noise:g}"
            lost = f"{path}, {reader.places[told.index(False)]}: no executed_actions, {why}"
            raise PolicyError(f"{lost}; get the file again, or drop the recording")
        if any(told):
            labels = reader.without_images()  # what is not replayed is sound too
            reader = demos.open_source(path, action_key="executed_actions")
            for label, done in zip(labels, reader.without_images() if "action_noise" in said and not noise else ()):
                if not np.array_equal(np.clip(label.action, -1, 1), done.action):
                    differ = "its executed_actions are not its actions, and action_noise is 0"
                    raise PolicyError(f"{label.name}: {differ}; get the file again, or correct one")
    episodes = [reader.read(number, images=False) for number in range(len(reader))]
    for episode in episodes:
        if (width := episode.action.shape[1]) != action_dim:
            wide = f"actions are {width} wide, the task takes {action_dim}"
            raise PolicyError(f"{episode.name}: {wide}; they are of another task")
    seeds = {episode.name: episode.metadata["seed"] for episode in episodes if "seed" in episode.metadata}
    if len(seeds) < len(episodes):
        known = f"{len(seeds)} of {len(episodes)} recordings say on which layout they were made"
        raise PolicyError(f"{path}: {known}; give each its simulator's seed as the attribute 'seed'")
    for name, seed in seeds.items():
        whole(f"{name}: seed", seed, 0, 2**32 - 1, PolicyError)
    if len(set(seeds.values())) < len(seeds):
        twice = next(seed for seed in seeds.values() if list(seeds.values()).count(seed) > 1)
        named = " and ".join([name for name, seed in seeds.items() if seed == twice][:2])
        raise PolicyError(f"{path}: {named} have the same seed {twice}; each is replayed on a layout of its own")
    policy = ReplayPolicy([episode.action for episode in episodes], list(seeds.values()))
    policy.source, policy.variant, policy.succeeded = str(path), variant, [episode.success for episode in episodes]
    return policy
