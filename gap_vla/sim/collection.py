"""Collecting demonstrations in parallel processes: resumable, complete or absent, equal for any number of workers."""

from __future__ import annotations

import concurrent.futures
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.files import claim, file_lock, read_json, write_json
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import Progress
from gap_vla.sim.demonstration import demonstrate
from gap_vla.sim.environment import SimEnv, make
from gap_vla.sim.recording import LAYOUT_VERSION, assemble, write_demonstration
from gap_vla.sim.rendering_backend import require_rendering
from gap_vla.sim.specs import task_spec
from gap_vla.sim.variants import variant_spec


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

    Raises:
        ConfigError: an unknown task, variant or camera.
        UserError: `out` exists, the parts are of other settings, no OpenGL library is installed, or the expert hardly
            ever succeeds.
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
        assemble(kept, out, env_name=spec.gymnasium_id, arms=spec.n_arms, settings=settings, counts=counts)
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
        write_demonstration(file, demo)
    else:
        file.with_suffix(".failed").touch()
    return demo.success


@functools.lru_cache(maxsize=1)
def _environment(task: str, **scene: Any) -> SimEnv:
    """This process's simulator, which is made once."""
    return make(task, **scene)
