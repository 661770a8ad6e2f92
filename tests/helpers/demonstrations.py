"""Made-up demonstrations, and writers of them in the layouts of robomimic, LIBERO and LeRobot."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gap_vla.core.columns import DELTA, POSE
from gap_vla.core.episode import Episode

LANGUAGES = ("put the needle through the ring", "lift the block", "")


def make_episode(index: int, steps: int | None = None, size: int = 16, annotated: bool = True) -> Episode:
    rng = np.random.default_rng(index)
    steps = steps or int(rng.integers(12, 30))
    quaternion = rng.normal(size=(steps, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    position = np.cumsum(rng.normal(0, 0.01, (steps, 3)), 0)
    proprio = np.concatenate([position, quaternion, rng.random((steps, 2)) * 0.04], 1).astype(np.float32)
    change_point = rng.random(steps) < 0.1
    change_point[0] = False
    return Episode(
        images={
            "image_primary": rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8),
            "image_wrist": rng.integers(0, 256, (steps, size // 2, size // 2, 3), dtype=np.uint8),
        },
        proprio=proprio,
        action=np.clip(rng.normal(0, 0.5, (steps, 7)), -1, 1).astype(np.float32),
        language_instruction=LANGUAGES[index % 3],
        success=index % 4 != 3,
        phase=np.array(["reach", "grasp"])[(np.arange(steps) > steps // 2).astype(int)],
        rho=rng.random(steps).astype(np.float32) if annotated else None,
        change_point=change_point if annotated else None,
        metadata={"episode_id": f"demo_{index}", "file_path": "synthetic", "seed": index},
        columns=POSE,
        action_columns=DELTA,
    )


def assert_equal(found: Episode, expected: Episode) -> None:
    for name in ("proprio", "action", "rho", "change_point", "phase"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype.kind == b.dtype.kind and np.array_equal(a, b), name
    assert set(found.images) == set(expected.images)
    for key, value in expected.images.items():
        assert np.array_equal(found.images[key], value), key
    assert found.language_instruction == expected.language_instruction
    assert found.success == expected.success


def write_robomimic(path: Path, episodes: Sequence[Episode]) -> Path:
    """robomimic's layout and names (agentview_image, quaternion xyzw), as its own tools write it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(e) for e in episodes)
        data.attrs["env_args"] = json.dumps({"env_name": "Synthetic", "type": 1, "env_kwargs": {}})
        for i, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = len(episode)
            demo.attrs["language_instruction"] = episode.language_instruction
            demo.attrs["success"] = episode.success
            demo.attrs["model_file"] = "<mujoco>" + "x" * 500 + "</mujoco>"
            demo["actions"] = episode.action.astype(np.float64)
            demo["rewards"] = np.zeros(len(episode))
            demo["dones"] = np.zeros(len(episode), int)
            demo["obs/robot0_eef_pos"] = episode.proprio[:, :3].astype(np.float64)
            demo["obs/robot0_eef_quat"] = np.roll(episode.proprio[:, 3:7], -1, axis=1).astype(np.float64)
            demo["obs/robot0_gripper_qpos"] = episode.proprio[:, 7:].astype(np.float64)
            demo["obs/object"] = np.zeros((len(episode), 10))
            demo["obs/agentview_image"] = episode.images["image_primary"]
            demo["obs/robot0_eye_in_hand_image"] = episode.images["image_wrist"]
            if episode.phase is not None:
                demo["phase"] = episode.phase.astype("S")
    return path


def write_arrays(path: Path, demos: Sequence[Mapping[str, Any]], **attributes: Any) -> Path:
    """An HDF5 file with `data/demo_i` of these arrays; attributes of `data` that are dictionaries become JSON."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, value in attributes.items():
            data.attrs[name] = json.dumps(value) if isinstance(value, dict) else value
        for i, arrays in enumerate(demos):
            for name, value in arrays.items():
                data[f"demo_{i}/{name}"] = value
    return path


def smooth_frames(steps: int, seed: int = 0, size: int = 32) -> np.ndarray:
    """Pictures that a codec keeps recognisable: brightness tells step and episode."""
    level = ((np.arange(steps) * 6 + 60 * seed) % 250).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (steps, size, size, 3)).copy()


def png(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "png")
    return stream.getvalue()


def write_film(path: Path, frames: np.ndarray, fps: int, begin: int = 0) -> None:
    """H.264 whose first frame is shown at `begin` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=fps, options={"crf": "1", "g": "4", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + begin, Fraction(1, fps)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def write_lerobot(
    root: Path,
    episodes: Sequence[Mapping[str, Any]],
    names: Mapping[str, Any] | None = None,
    *,
    version: str = "v3.0",
    fps: int = 10,
    pictures: str = "video",
    files: Sequence[int] | None = None,
    robot_type: str | None = None,
) -> Path:
    """A dataset as LeRobot 0.3 (v2.1) and 0.4 (v3.0) write it.

    Args:
        episodes: `task` (one, or one a step), `columns` by name, `images` by camera.
        names: `names` of each column in info.json.
        files: the data file of each episode (v3).
    """
    third, files = version == "v3.0", list(files or [0] * len(episodes))
    columns, cameras = list(episodes[0]["columns"]), list(episodes[0].get("images", {}))
    features: dict[str, Any] = {}
    for key in columns:
        shape = [*np.shape(episodes[0]["columns"][key])[1:]] or [1]
        features[key] = {"dtype": "float32", "shape": shape, "names": (names or {}).get(key)}
    for key in cameras:
        shape = [*episodes[0]["images"][key].shape[1:]]
        features[key] = {"dtype": pictures, "shape": shape, "names": ["height", "width", "channels"]}
    for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[key] = {"dtype": "float32" if key == "timestamp" else "int64", "shape": [1], "names": None}
    tasks: dict[str, int] = {}
    tables: dict[int, list[pa.Table]] = {}
    films: dict[tuple[str, int], list[np.ndarray]] = {}
    rows, first = [], 0
    for number, episode in enumerate(episodes):
        steps = len(episode["columns"][columns[0]])
        texts = [episode["task"]] * steps if isinstance(episode["task"], str) else list(episode["task"])
        for text in texts:
            tasks.setdefault(text, len(tasks))
        table: dict[str, Any] = {k: np.asarray(episode["columns"][k], np.float32).tolist() for k in columns}
        if pictures == "image":
            table |= {k: [{"bytes": png(f), "path": None} for f in episode["images"][k]] for k in cameras}
        table |= {"timestamp": np.arange(steps) / fps, "frame_index": np.arange(steps)}
        table |= {"episode_index": np.full(steps, number), "index": first + np.arange(steps)}
        table["task_index"] = [tasks[text] for text in texts]
        row = {"episode_index": number, "tasks": [*dict.fromkeys(texts)], "length": steps}
        if third:
            tables.setdefault(files[number], []).append(pa.table(table))
            row |= {"data/chunk_index": 0, "data/file_index": files[number]}
            row |= {"dataset_from_index": first, "dataset_to_index": first + steps}
        else:
            write_table(root / f"data/chunk-000/episode_{number:06d}.parquet", pa.table(table))
        for key in cameras if pictures == "video" else ():
            if third:
                before = sum(map(len, films.setdefault((key, files[number]), [])))
                films[key, files[number]].append(episode["images"][key])
                row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": files[number]}
                row |= {
                    f"videos/{key}/from_timestamp": before / fps,
                    f"videos/{key}/to_timestamp": (before + steps) / fps,
                }
            else:
                write_film(root / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", episode["images"][key], fps)
        rows.append(row)
        first += steps
    info = {"codebase_version": version, "fps": fps, "total_episodes": len(episodes), "chunks_size": 1000}
    info |= {"robot_type": robot_type}
    if third:
        info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
        info |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
        for number, parts in tables.items():
            write_table(root / f"data/chunk-000/file-{number:03d}.parquet", pa.concat_tables(parts))
        for (key, number), parts in films.items():
            write_film(root / f"videos/{key}/chunk-000/file-{number:03d}.mp4", np.concatenate(parts), fps)
        write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
        listed = pa.table({"task_index": list(tasks.values()), "__index_level_0__": list(tasks)})
        write_table(root / "meta/tasks.parquet", listed)
    else:
        info |= {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}
        info |= {"video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}
        write_lines(root / "meta/episodes.jsonl", rows)
        write_lines(root / "meta/tasks.jsonl", [{"task_index": n, "task": text} for text, n in tasks.items()])
    (root / "meta/info.json").write_text(json.dumps({**info, "features": features}))
    return root


def write_table(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
