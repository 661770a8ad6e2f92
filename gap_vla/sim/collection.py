"""Collections of demonstrations: made in parallel processes, resumable, equal for any number of workers; and shown."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.files import claim, file_lock, read_json, replacing, write_json
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import Progress
from gap_vla.sim.demonstration import demonstrate, write_demonstration
from gap_vla.sim.environment import SimEnv, make
from gap_vla.sim.rendering import require_rendering
from gap_vla.sim.specs import TaskSpec, task_spec
from gap_vla.sim.variants import variant_spec

LAYOUT_VERSION = 2
"""Of what a demonstration holds. 2: `obs/object`, the objects' positions, which policies are never given."""
LARGE = 256
"""Pixels of a picture in a sheet, at most. Small ones are enlarged."""


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
        write_demonstration(file, demo)
    else:
        file.with_suffix(".failed").touch()
    return demo.success


@functools.lru_cache(maxsize=1)
def _environment(task: str, **scene: Any) -> SimEnv:
    """This process's simulator, which is made once."""
    return make(task, **scene)


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


def contact_sheet(demos: Path, out: Path, episodes: int) -> Path:
    """Writes a PNG with a row of pictures per camera for the first episodes of a collection; returns `out`."""
    from PIL import Image

    from gap_vla.drawing.episode import film_strip

    with h5py.File(demos) as file:
        films = [film for cameras in _films(file, episodes) for film in cameras]
        size = films[0].shape[1]
        thin, factor = -(-size // LARGE), 2 if 2 * size <= LARGE else 1
        rows = [film_strip(film, 8)[::thin, ::thin] for film in films]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    sheet.resize((factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST).save(out)
    return out


def video(demos: Path, out: Path, episodes: int) -> Path:
    """Writes the first episodes of a collection one after the other, in real time, cameras side by side."""
    from gap_vla.drawing.video import write_video

    with h5py.File(demos) as file:
        rate, films = int(file["data"].attrs["control_hz"]), _films(file, episodes)
        frames = (np.concatenate(cameras, axis=1) for one in films for cameras in zip(*(film[:] for film in one)))
        return write_video(out, frames, fps=rate, scale=max(1, LARGE // films[0][0].shape[1]))


def _films(file: h5py.File, episodes: int) -> list[list[h5py.Dataset]]:
    """uint8[T, h, w, 3] of each camera, of the first episodes."""
    demos = [file[f"data/demo_{i}/obs"] for i in range(min(episodes, len(file["data"])))]
    return [[obs[camera] for camera in sorted(obs) if camera.startswith("image_")] for obs in demos]
