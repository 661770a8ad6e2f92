"""Demonstrations of any format to those of others: a LeRobot dataset, by LeRobot's own writer, or robomimic's HDF5.

Pictures, state, action, instruction, success and ρ are kept; what else a source holds is left behind.
`gap_vla.rlds.convert` writes RLDS.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import LABELS, Episode
from gap_vla.core.errors import UserError
from gap_vla.core.files import claim, mark, replacing, write_json
from gap_vla.core.progress import watched
from gap_vla.demos.fields import Fields
from gap_vla.demos.lerobot import DESCRIPTION, LeRobot
from gap_vla.demos.lerobot_names import names_for
from gap_vla.demos.source import HDF5, Source

USUAL_FPS = 20.0
HOW_TO_INSTALL = (
    "LeRobot writes its datasets itself and is not installed here: pip install lerobot==0.4.4 (format v3), or "
    "lerobot==0.3.3 (format v2.1), best in an environment of its own beside this package's extra phases"
)


def convert(
    source: Source, out: str | Path, *, fps: float | None = None, films: bool = True, overwrite: bool = False
) -> Path:
    """Writes all episodes of a source; returns the path.

    Args:
        source: `gap_vla.demos.open_source(...)`.
        out: a file `*.hdf5` becomes robomimic's HDF5, a folder a LeRobot dataset in the format of the LeRobot that is
            installed.
        fps: steps a second of a LeRobot dataset. Default: as the source says, else 20.
        films: LeRobot's pictures become films, which lose a little; False: PNG in its tables.
        overwrite: replace an earlier conversion once the new one is complete.

    Raises:
        UserError: `out` is taken, or LeRobot is not installed.
    """
    is_file = Path(out).suffix.lower() in HDF5
    out = claim(out, overwrite=overwrite, kind=None if is_file else "lerobot", sources=[source.path])
    if is_file:
        _write_hdf5(source, out)
    else:
        fps = fps or source.fps
        if not fps:
            fps = USUAL_FPS
            print(f"note: the source does not say its rate, and {fps:g} steps a second are assumed (--fps)", flush=True)
        _write_lerobot(source, out, fps, films)
    return out


# ---- LeRobot


def _write_lerobot(source: Source, out: Path, fps: float, films: bool) -> None:
    try:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lerobot":
            raise
        raise UserError(HOW_TO_INSTALL) from None
    labels: dict[int, Episode] = {}
    with replacing(out) as new:
        dataset = LeRobotDataset.create(
            f"local/{out.name}",
            round(fps),
            _features(source, "video" if films else "image"),
            root=new,
            robot_type=source.robot_type or None,
            use_videos=films,
        )
        takes_task = "task" in inspect.signature(dataset.add_frame).parameters  # LeRobot 0.3
        for number, episode in enumerate(watched(source, "convert", len(source), "episode")):
            for task, frame in _frames(episode):
                dataset.add_frame(frame, task=task) if takes_task else dataset.add_frame({**frame, "task": task})
            dataset.save_episode()
            if episode.rho is not None:
                labels[number] = episode.replace(images={})
        if hasattr(dataset, "finalize"):
            dataset.finalize()
        described = {"observation.state": source.columns, "action": source.action_columns}
        write_json(new / DESCRIPTION, {name: str(columns) for name, columns in described.items() if columns})
        if labels:
            written = LeRobot(new, Fields(episodes=",".join(map(str, labels)), images={}))
            flags = [{name: getattr(one, name) for name in LABELS} for one in labels.values()]
            written.write_labels(written.sidecar, flags, {"converted_from": source.path.name})
        mark(new, "lerobot")


def _features(source: Source, pictures: str) -> dict[str, Any]:
    """LeRobot's description of the columns, by the first episode."""
    first = source.read(0)
    features: dict[str, Any] = {"next.success": {"dtype": "bool", "shape": (1,), "names": None}}
    for name, arrays, columns, rows in (
        ("observation.state", source.state, source.columns, first.proprio),
        ("action", source.action, source.action_columns, first.action),
    ):
        widths = [source.rows(0, one).shape[1] for one in arrays]
        names = source.column_names(arrays, widths) or names_for(columns, rows.shape[1])
        if rows.shape[1]:
            features[name] = {"dtype": "float32", "shape": rows.shape[1:], "names": names}
    for camera, frames in first.images.items():
        shape = {"shape": frames.shape[1:], "names": ["height", "width", "channels"]}
        features[_camera(camera)] = {"dtype": pictures, **shape}
    return features


def _frames(episode: Episode) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Task and frame of each step."""
    told, last = episode.language_instruction, len(episode) - 1
    for step in range(len(episode)):
        frame = {"observation.state": episode.proprio[step].astype(np.float32)}
        if episode.action.shape[1]:
            frame["action"] = episode.action[step].astype(np.float32)
        frame |= {_camera(camera): frames[step] for camera, frames in episode.images.items()}
        frame["next.success"] = np.array([episode.success and step == last])
        yield told if isinstance(told, str) else told[step], frame


def _camera(name: str) -> str:
    """LeRobot's name of a camera of ours."""
    return f"observation.images.{name.removeprefix('image_')}"


# ---- robomimic


def _write_hdf5(source: Source, out: Path) -> None:
    import h5py

    with replacing(out) as new, h5py.File(new, "w") as file:
        data, total = file.create_group("data"), 0
        for number, episode in enumerate(watched(source, "convert", len(source), "episode")):
            _write_demo(data.create_group(f"demo_{number}"), episode)
            total += len(episode)
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps({"env_name": source.path.stem, "type": 2, "env_kwargs": {}})  # 2: gymnasium
        if source.fps:
            data.attrs["control_hz"] = source.fps
        for name, text in source.described.items():
            data.attrs[name] = text


def _write_demo(group: Any, episode: Episode) -> None:
    steps, told = len(episode), episode.language_instruction
    end = np.arange(steps) == steps - 1
    arrays: dict[str, Any] = {"obs/state": episode.proprio, "actions": episode.action, "dones": end.astype(np.int64)}
    arrays["rewards"] = (end & episode.success).astype(np.float32)
    arrays |= {name: value for name in LABELS if (value := getattr(episode, name)) is not None}
    for name, value in arrays.items():
        group.create_dataset(name, data=value)
    for camera, frames in episode.images.items():
        chunks = (min(16, steps), *frames.shape[1:])
        group.create_dataset(f"obs/{camera}", data=frames, chunks=chunks, compression="gzip", compression_opts=1)
    group.attrs["num_samples"], group.attrs["success"] = steps, episode.success
    group.attrs["language_instruction"] = told if isinstance(told, str) else told[0]
