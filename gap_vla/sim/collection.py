"""Demonstrations: the expert acts, the environment answers, and robomimic's HDF5 layout keeps it.

A collection is made in parallel processes, resumable, and equal for any number of workers.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.columns import POSE
from gap_vla.core.errors import UserError
from gap_vla.core.files import claim, file_lock, read_json, replacing, write_json
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import Progress
from gap_vla.sim.environment import SimEnv, make
from gap_vla.sim.expert import make_expert
from gap_vla.sim.rendering import require_rendering
from gap_vla.sim.specs import TaskSpec, task_spec
from gap_vla.sim.variants import variant_spec

LAYOUT_VERSION = 2
"""Of what a demonstration holds. 2: `obs/object`, the objects' positions, which policies are never given."""


def collect_demos(
    task: str,
    n: int,
    out: str | Path,
    *,
    seed: int = 0,
    image_size: int = 64,
    cameras: Sequence[str] = ("primary",),
    camera: str = "near",
    action_noise: float = 0.0,
    workers: int = 2,
    variant: str = "default",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the expert's first `n` successful episodes to an HDF5 file in robomimic's layout; returns `out`.

    Attempts are numbered, and attempt k always plays the same episode; those that fail are counted and left out.
    The result does not depend on the number of workers. Finished episodes lie in `<out>.parts` until all are
    there; an interrupted collection continues from them when the same call is made again.

    Args:
        task: short name (`gap_vla.sim.TASK_NAMES`).
        n: number of demonstrations.
        out: file to write.
        seed: of the collection.
        image_size, cameras, camera, variant: as in `gap_vla.sim.make`.
        action_noise: standard deviation of the disturbance of executed actions; the recorded label (`actions`) is
            the expert's clean action, `executed_actions` what was done.
        workers: processes. Call it from a script's `if __name__ == "__main__"`: they are spawned.
        overwrite: whether an existing file may be replaced.
        progress: report to stderr.
    """
    out, spec = Path(out), task_spec(task)
    spec.require_cameras(cameras, camera)
    variant_spec(variant).require_view(camera)
    if cameras:
        require_rendering()
    claim(out, overwrite=overwrite)
    scene = dict(image_size=int(image_size), cameras=list(cameras), camera=camera, variant=variant)
    settings = {
        "layout_version": LAYOUT_VERSION,
        "pictures_version": spec.pictures_version,
        "env_kwargs": scene,
        "task": task,
        "variant": variant,
        "language_instruction": spec.instruction,
        "phase_names": list(spec.phases),
        "control_hz": spec.control_hz,
        "action_noise": float(action_noise),
        "collection_seed": int(seed),
    }
    parts = out.with_name(f"{out.name}.parts")
    with file_lock(parts / "lock", str(out)):
        if not (parts / "settings.json").exists():
            write_json(parts / "settings.json", settings)
        elif read_json(parts / "settings.json") != settings:
            raise UserError(f"{parts} holds episodes of other settings; give those again, or delete it")
        try:
            kept, attempts = _play(task, n, seed, scene, action_noise, parts, workers, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"finished episodes are kept in {parts}, the same command continues") from None
        counts = {"attempts": attempts, "failures": attempts - n}
        _assemble(kept, out, spec, {**settings, **counts})
    shutil.rmtree(parts)
    return out


def seed_of(seed: int, attempt: int) -> int:
    """Of an attempt's layout, far from the small numbers that evaluations count through."""
    return int(np.random.SeedSequence((seed, attempt)).generate_state(1)[0])


def _play(
    task: str,
    n: int,
    seed: int,
    scene: dict[str, Any],
    action_noise: float,
    parts: Path,
    workers: int,
    progress: bool,
) -> tuple[list[Path], int]:
    """Plays attempts until `n` have succeeded; returns their files and the number of attempts.

    Attempts are played in rounds, of as many as are still missing, so that none is superfluous.
    """
    kept: list[Path] = []
    attempts = 0
    shown = Progress(task, n, "demonstration", quiet=not progress)
    with worker_pool(min(workers, n)) as pool:
        while len(kept) < n:
            numbers = range(attempts, attempts + n - len(kept))
            files = [parts / f"attempt_{number:06d}.hdf5" for number in numbers]
            games = [
                pool.submit(_attempt, task, scene, seed_of(seed, number), action_noise, file)
                for number, file in zip(numbers, files)
                if not (file.exists() or file.with_suffix(".failed").exists())
            ]
            there = len(kept) + sum(file.exists() for file in files)
            for game in concurrent.futures.as_completed(games):
                there += game.result()
                shown.update(there)
            attempts += len(files)
            kept += [file for file in files if file.exists()]
            failures = attempts - len(kept)
            if failures >= 20 and failures > 9 * len(kept):
                raise UserError(
                    f"{task}: the expert failed in {failures} of {attempts} attempts (action_noise={action_noise}, "
                    f"{scene['variant']}); use less noise or another variant"
                )
    shown.close()
    return kept, attempts


def _attempt(task: str, scene: dict[str, Any], seed: int, action_noise: float, file: Path) -> bool:
    """Plays one episode in a worker; leaves its file, or, if it failed, an empty one with the suffix `.failed`."""
    demo = demonstrate(_environment(task, **{**scene, "cameras": tuple(scene["cameras"])}), seed, action_noise)
    if demo.success:
        _write(file, demo)
    else:
        file.with_suffix(".failed").touch()
    return demo.success


@functools.lru_cache(maxsize=1)
def _environment(task: str, **scene: Any) -> SimEnv:
    """This process's simulator, which is made once."""
    return make(task, **scene)


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """What happened in one episode of `T` steps.

    Attributes:
        observations: pictures and proprio by name, [T, ...]: what was seen *before* each action.
        actions: float32[T, 7 * arms]: the expert's clean actions, the labels to imitate.
        executed_actions: float32[T, 7 * arms]: what was done: the label plus the disturbance.
        rewards: float32[T].
        states: float64[T, 1 + nq + nv]: time, qpos, qvel before each action.
        objects: by name, float32[T, 3]: positions (m, world) of the task's objects and goals before each action; for
            probes and analyses, never an observation of a policy.
        phases: the expert's phase name per step; switches: bool[T], True at the first step of a phase.
        success: whether the episode ended well.
        seed: of the episode, as given to `reset`.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    executed_actions: np.ndarray
    rewards: np.ndarray
    states: np.ndarray
    objects: dict[str, np.ndarray]
    phases: list[str]
    switches: np.ndarray
    success: bool
    seed: int


def demonstrate(env: SimEnv, seed: int, action_noise: float = 0.0) -> Demonstration:
    """Lets the expert play the episode `seed`.

    Args:
        action_noise: standard deviation of the disturbance (in action units) that is added to each commanded
            translation and rotation, independently per step, before the action is executed; the gripper is not
            disturbed. The disturbance belongs to the episode: the same seed gives the same one.
    """
    observation, info = env.reset(seed=seed)
    expert = make_expert(env, seed=seed)
    rng = np.random.default_rng((seed, 1))
    disturbed = np.tile([1, 1, 1, *[env.task.rotation_scale > 0] * 3, 0], env.task.n_arms)
    log: list[tuple[Any, ...]] = []
    over = False
    while not over:
        label = expert.act()
        executed = np.clip(label + action_noise * disturbed * rng.standard_normal(len(label)), -1, 1).astype(np.float32)
        data = env.world.data
        state = np.concatenate([[data.time], data.qpos, data.qvel])
        before = observation, state, env.world.objects(), label, executed, expert.phase, expert.switched
        observation, reward, terminated, truncated, info = env.step(executed)
        log.append((*before, reward))
        over = terminated or truncated
    seen, states, objects, labels, done, phases, switches, rewards = zip(*log)
    del observation["language_instruction"]  # the same in every step: an attribute of the collection
    return Demonstration(
        observations={key: np.stack([one[key] for one in seen]) for key in observation},
        actions=np.stack(labels),
        executed_actions=np.stack(done),
        rewards=np.array(rewards, np.float32),
        states=np.stack(states),
        objects={key: np.stack([one[key] for one in objects]).astype(np.float32) for key in objects[0]},
        phases=list(phases),
        switches=np.array(switches),
        success=bool(info["success"]),
        seed=seed,
    )


def _write(path: Path, demo: Demonstration) -> None:
    """Writes one demonstration as the group `demo` of its own file.

    `obs/object` is float32[T, 3 * objects]: xyz (m, world) of each object and goal, in the order of its attribute
    `names`.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("demo")
        group.attrs["num_samples"] = len(demo.actions)
        group.attrs["seed"] = demo.seed
        group.attrs["success"] = demo.success
        group["actions"] = demo.actions
        group["executed_actions"] = demo.executed_actions
        group["states"] = demo.states
        group["rewards"] = demo.rewards
        group["dones"] = np.eye(len(demo.actions), dtype=np.int64)[-1]
        group.create_dataset("phase", data=demo.phases, dtype=h5py.string_dtype())
        group["phase_switch"] = demo.switches
        for key, value in demo.observations.items():
            if key.startswith("image_"):
                chunk = (min(16, len(value)), *value.shape[1:])
                group.create_dataset(f"obs/{key}", data=value, chunks=chunk, compression="gzip", compression_opts=1)
        states = demo.observations["proprio"]
        for arm, block in enumerate(np.split(states, states.shape[1] // POSE.width, axis=1)):
            group[f"obs/robot{arm}_eef_pos"] = block[:, :3]
            group[f"obs/robot{arm}_eef_quat"] = block[:, [4, 5, 6, 3]]  # robomimic's are xyzw
            group[f"obs/robot{arm}_gripper_qpos"] = block[:, 7:]
        group["obs/object"] = np.concatenate(list(demo.objects.values()), axis=1)
        group["obs/object"].attrs["names"] = list(demo.objects)


def _assemble(parts: Sequence[Path], out: Path, spec: TaskSpec, attributes: Mapping[str, Any]) -> None:
    """Puts single demonstrations into one file, `data/demo_0`, `data/demo_1`, …, in the given order."""
    with replacing(out) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        total = 0
        for i, part in enumerate(parts):
            with h5py.File(part) as source:
                source.copy("demo", data, name=f"demo_{i}")
            total += int(data[f"demo_{i}"].attrs["num_samples"])
        gymnasium = 2  # robomimic's number for environments that gymnasium makes
        env_args = {"env_name": spec.gymnasium_id, "type": gymnasium, "env_kwargs": attributes["env_kwargs"]}
        data.attrs["env_args"] = json.dumps(env_args, sort_keys=True)
        data.attrs["total"] = total
        for key, value in attributes.items():
            if key != "env_kwargs":
                data.attrs[key] = value
        data.attrs["columns"] = str(spec.columns)
        data.attrs["action_columns"] = str(spec.action_columns)
