"""Inputs whose format is whole and whose values mean nothing: labels, text, keys given twice, odd columns, links."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from damages import _A, _O, DAMAGES, Damage, _edit, _in_file, _info, _json, _npz, _rows, _set, _shards, _steps
from PIL import Image


def _label(name: str, value: float, dtype: Any = np.float32) -> Damage:
    """`name` of the first demonstration at step 3."""

    def change(labels: np.ndarray) -> np.ndarray:
        labels = labels.astype(dtype)
        labels[3] = value
        return labels

    return _edit(f"data/demo_0/{name}", change)


DAMAGES["labelled.hdf5"] |= {
    "rho_7": _label("rho", 7),
    "rho_nan": _label("rho", np.nan),
    "rho_negative": _label("rho", -0.5),
    "rho_wide": _set("data/demo_0/rho", np.zeros((24, 2), np.float32)),
    "rho_text": _set("data/demo_0/rho", [b"a"] * 24),
    "half_point": _label("change_point", 0.5),
    "point_2": _label("change_point", 2, np.int32),
    "nan_point": _label("change_point", np.nan),
}


def _grippers(columns: int) -> Damage:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            fingers = np.array(demo["obs/robot0_gripper_qpos"])
            del demo["obs/robot0_gripper_qpos"]
            demo["obs/robot0_gripper_qpos"] = np.repeat(fingers, 3, axis=1)[:, :columns]

    return _in_file(change)


def _suffixless(path: Path) -> None:
    """A folder of links, each to a file that is not there yet and has no suffix."""
    path.unlink()
    path.mkdir()
    for suffix in ("html", "png", "mp4", "hdf5"):
        (path / f"e.{suffix}").symlink_to(f"bare_{suffix}")


def _unwritten(**options: Any) -> Damage:
    """Actions of which nothing, or nothing but the first half, was written: the library reads zeros."""

    def change(file: h5py.File) -> None:
        actions = np.array(file[_A])
        del file[_A]
        stored = file.create_dataset(_A, actions.shape, actions.dtype, **options)
        if options:
            stored[:12] = actions[:12]

    return _in_file(change)


def _simulator(said: str) -> Damage:
    """What the file says of its simulator, and nothing of its instruction."""

    def change(file: h5py.File) -> None:
        file["data"].attrs["env_args"] = said
        for demo in file["data"].values():
            del demo.attrs["language_instruction"]

    return _in_file(change)


DAMAGES["demos.hdf5"] |= {
    "unwritten": _unwritten(),
    "half_written": _unwritten(chunks=(4, 7)),
    "deep_simulator": _simulator("[" * 60_000),
    "list_lang": _simulator('{"lang": ["stack"]}'),
    "gripper_1": _grippers(1),
    "gripper_6": _grippers(6),
    "gripper_1_once": _edit(f"{_O}/robot0_gripper_qpos", lambda a: a[:, :1]),
    "circle": lambda p: (p.unlink(), p.symlink_to(p.name)),
    "suffixless": _suffixless,
}


def _stamped(value: Any) -> Damage:
    return _npz(lambda arrays: arrays.update(stamp=value))


DAMAGES["npz"] |= {
    "dates": _stamped(np.arange(24).astype("datetime64[s]")),
    "complex": _stamped(np.arange(24) * 1j),
    "records": _stamped(np.zeros(24, [("a", "<f4")])),
    "unused_objects": _stamped(np.array([{}, None], object)),
    "dated_state": _npz(lambda a: a.update(proprio=np.zeros((24, 9), "datetime64[s]"))),
    "rho_7": _npz(lambda a: a.update(rho=np.full(24, 7.0), change_point=np.zeros(24, bool))),
    "half_point": _npz(lambda a: a.update(rho=np.full(24, 0.5), change_point=np.full(24, 0.5))),
}


def _twice(name: str, key: str) -> Damage:
    """The first object of a JSON file says `key` once more."""
    return lambda p: (p / name).write_text((p / name).read_text().replace("{", f'{{"{key}": 0, "{key}": 0, ', 1))


def _cells(column: str, change: Callable[[Any], Any]) -> Damage:
    """Every cell of the first column of a LeRobot table whose name holds `column`."""

    def apply(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = pq.read_table(_rows(folder)[0]).to_pydict()
        name = next(name for name in cells if column in name)
        pq.write_table(pa.table({**cells, name: list(map(change, cells[name]))}), _rows(folder)[0])

    return apply


def _depth(_: Any) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.new("I;16", (32, 32), 40_000).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


DAMAGES["lerobot"] |= {
    "text_action": _cells("action", lambda row: list(map(str, row))),
    "truth_action": _cells("action", lambda row: [value > 0 for value in row]),
    "depth": _cells("image", _depth),
}
DAMAGES["pickles"]["empty_list"] = lambda p: (p / "episode_1.pkl").write_bytes(pickle.dumps([]))
DAMAGES["lerobot"]["key_twice"] = _twice("meta/info.json", "fps")
DAMAGES["lerobot21"]["key_twice"] = _twice("meta/episodes.jsonl", "length")
DAMAGES["annotator"]["key_twice"] = _twice("annotator.json", "format")
DAMAGES["checkpoint"]["key_twice"] = _twice("config.json", "model")


def _records(folder: Path, change: Callable[[Any, int], Any]) -> None:
    """Changes the features of every record, given the number of its steps."""
    import tensorflow as tf

    for shard in _shards(folder):
        records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for example in map(tf.train.Example.FromString, records):
                features = example.features.feature
                change(features, len(features["steps/is_first"].int64_list.value))
                writer.write(example.SerializeToString())


def _noise(folder: Path) -> None:
    """Records with right checksums, and noise in them."""
    import tensorflow as tf

    for shard in _shards(folder):
        with tf.io.TFRecordWriter(str(shard)) as writer:
            writer.write(b"\xff" * 100)


DAMAGES["rlds"]["noise_records"] = _noise


def _no_rho(folder: Path) -> None:
    """Labels are declared, and the records have none."""
    _labels(0.5)(folder)
    _records(folder, lambda features, steps: features.pop("steps/rho"))


DAMAGES["rlds"]["no_rho"] = _no_rho


def _labels(rho: float, point: float = 0) -> Damage:
    """Labels of which those of step 3 are these, by somebody else; change points are stored as numbers."""

    def apply(folder: Path) -> None:
        described = json.loads((folder / "features.json").read_text())
        for name in ("rho", "change_point"):
            scalar = {"shape": {}, "dtype": "float32", "encoding": "none"}
            kind = "tensorflow_datasets.core.features.scalar.Scalar"
            _steps(described)[name] = {"pythonClassName": kind, "tensor": scalar}
        (folder / "features.json").write_text(json.dumps(described))
        (folder / "made_by.json").unlink()
        _records(folder, add)

    def add(features: Any, steps: int) -> None:
        for name, usual, odd in (("rho", 0.5, rho), ("change_point", 0, point)):
            features[f"steps/{name}"].float_list.value.extend([usual] * 3 + [odd] + [usual] * (steps - 4))

    return apply


def _instruction(features: Any, steps: int) -> None:
    features["steps/language_instruction"].bytes_list.value[:] = [b"\xff\xfe"] * steps


def _elsewhere(folder: Path) -> None:
    """The shards lie in a folder beside, which the description names."""
    (folder.parent / "other").mkdir()
    for shard in _shards(folder):
        shard.rename(folder.parent / "other" / shard.name.replace("toy", "x", 1))
    _info(lambda v: v.update(name="../other/x"), "dataset_info.json")(folder)


DAMAGES["rlds"] |= {
    "elsewhere": _elsewhere,
    "text_annotator": _json("metadata.json", '{"annotator": "lstm"}'),
    "labelled": _labels(0.5, 1),
    "edited": lambda p: _records(p, lambda features, _: features["steps/reward"].float_list.value.__setitem__(3, 1)),
    "rho_7": _labels(7),
    "rho_nan": _labels(float("nan")),
    "half_point": _labels(0.5, 0.5),
    "byte_instruction": lambda p: _records(p, _instruction),
    "key_twice": _twice("dataset_info.json", "name"),
}
