"""Every way in which the inputs of the corpus are damaged, by the kind of input and the name of the damage."""

from __future__ import annotations

import collections
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Damage = Callable[[Path], Any]
DAMAGES: dict[str, dict[str, Damage]] = collections.defaultdict(dict)


def _in_file(change: Callable[[h5py.File], Any]) -> Damage:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def _set(key: str, value: Any) -> Damage:
    def change(file: h5py.File) -> None:
        if key in file:
            del file[key]
        if value is not None:
            file[key] = value

    return _in_file(change)


def _edit(key: str, change: Callable[[np.ndarray], Any]) -> Damage:
    return _in_file(lambda file: _replace(file, key, change))


def _replace(file: h5py.File, key: str, change: Callable[[np.ndarray], Any]) -> None:
    value = np.array(file[key])
    new = change(value)
    del file[key]
    file[key] = value if new is None else new


def _entry(index: Any, value: float, dtype: Any = None) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype or array.dtype)
        array[index] = value
        return array

    return change


def _bytes(path: Path, change: Callable[[bytearray], Any]) -> None:
    content = bytearray(path.read_bytes())
    new = change(content)
    path.write_bytes(bytes(content if new is None else new))


def _flip(path: Path) -> None:
    def change(content: bytearray) -> None:
        for place in range(len(content) // 3, len(content), 97):
            content[place] ^= 0x55

    _bytes(path, change)


for _kind in ("demos.hdf5", "labelled.hdf5"):
    DAMAGES[_kind] |= {
        "empty": lambda p: p.write_bytes(b""),
        "text": lambda p: p.write_text("these are no demonstrations"),
        "truncated": lambda p: _bytes(p, lambda c: c[: len(c) // 2]),
        "flipped": _flip,
        "folder": lambda p: (p.unlink(), p.mkdir()),
        "missing": lambda p: p.unlink(),
        "dangling": lambda p: (p.unlink(), p.symlink_to("/nowhere/at/all")),
        "fifo": lambda p: (p.unlink(), os.mkfifo(p)),
    }

_A, _O = "data/demo_1/actions", "data/demo_1/obs"
DAMAGES["demos.hdf5"] |= {
    "no_data": _set("data", None),
    "no_actions": _set(_A, None),
    "no_obs": _set(_O, None),
    "no_pose": _set(f"{_O}/robot0_eef_pos", None),
    "short_actions": _edit(_A, lambda a: a[:-2]),
    "short_pose": _edit(f"{_O}/robot0_eef_pos", lambda a: a[:5]),
    "no_steps": _in_file(lambda f: [_replace(f, key, lambda a: a[:0]) for key in (_A, *(f"{_O}/{k}" for k in f[_O]))]),
    "nan_action": _edit(_A, _entry((3, 2), np.nan)),
    "inf_pose": _edit(f"{_O}/robot0_eef_pos", _entry((3, 2), np.inf)),
    "huge_pose": _edit(f"{_O}/robot0_eef_pos", _entry((3, 2), 1e308, np.float64)),
    "huge_action": _edit(_A, _entry((3, 2), 1e30)),
    "byte_action": _edit(_A, lambda a: np.round(a * 127)),
    "text_action": _edit(_A, lambda a: np.array([b"left"] * len(a))),
    "group_action": _in_file(lambda f: (f.__delitem__(_A), f.create_group(_A))),
    "extra_dataset": _set("data/note", np.arange(3)),
    "flat_gripper": _edit(f"{_O}/robot0_gripper_qpos", lambda a: a[:, 0]),
    "zero_quaternion": _edit(f"{_O}/robot0_eef_quat", lambda a: a * 0),
    "wide_action": _edit(_A, lambda a: np.tile(a, (1, 2))),
    "dangling_link": _in_file(lambda f: (f.__delitem__(_A), f.__setitem__(_A, h5py.SoftLink("/nowhere")))),
    "external_link": _in_file(
        lambda f: (f.__delitem__(_A), f.__setitem__(_A, h5py.ExternalLink("other.hdf5", "/actions")))
    ),
    "mask_missing": _in_file(lambda f: f.__setitem__("mask/train", np.array([b"demo_0", b"demo_77"]))),
    "odd_success": _in_file(lambda f: f["data/demo_1"].attrs.__setitem__("success", "perhaps")),
    "text_false": _in_file(lambda f: f["data/demo_1"].attrs.__setitem__("success", "False")),
    "float_pictures": _edit(f"{_O}/image_primary", lambda a: a.astype(np.float32) / 255),
    "other_pictures": _edit(f"{_O}/image_primary", lambda a: a[:, :16]),
    "flat_pictures": _edit(f"{_O}/image_primary", lambda a: a[..., 0]),
    "odd_samples": _in_file(lambda f: f["data/demo_1"].attrs.__setitem__("num_samples", "many")),
    "odd_samples_in_all": _in_file(
        lambda f: (_attribute(f, "num_samples", "many"), f["data"].attrs.create("total", 72))
    ),
    "list_total": _in_file(lambda f: f["data"].attrs.create("total", [72, 1])),
    "list_samples": _in_file(lambda f: _attribute(f, "num_samples", np.array([5]))),
    "list_success": _in_file(lambda f: _attribute(f, "success", np.array([True, False]))),
    "list_instruction": _in_file(lambda f: _attribute(f, "language_instruction", np.array([b"a", b"b"]))),
    "byte_instruction": _in_file(lambda f: _attribute(f, "language_instruction", np.bytes_(b"\xff\xfe"))),
    "byte_attribute": _in_file(lambda f: _attribute(f, b"\xff\xfe", 1)),
    "byte_name": _in_file(lambda f: f["data"].create_group(b"demo_\xff")),
}


def _attribute(file: h5py.File, name: str | bytes, value: Any) -> None:
    file["data/demo_1"].attrs[name] = value


def _pipe(path: Path) -> None:
    """A named pipe in its place: who opens it waits for somebody who writes."""
    path.unlink()
    os.mkfifo(path)


def _npz(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def apply(folder: Path) -> None:
        path = folder / "episode_1.npz"
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        change(arrays)
        np.savez(path, **arrays)

    return apply


def _huge_header(folder: Path) -> None:
    """Declares 10^15 numbers and holds none of them."""
    import io
    import zipfile

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1000)})
    with zipfile.ZipFile(folder / "episode_1.npz", "w") as file:
        file.writestr("proprio.npy", head.getvalue())
        file.writestr("action.npy", head.getvalue())


def _twice(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "episode_1.npz", "a") as file:
        file.writestr("proprio.npy", file.read("proprio.npy"))


DAMAGES["npz"] |= {
    "twice": _twice,
    "byte_name": lambda p: (p / "episode_1.npz").rename(os.fsdecode(os.fsencode(p) + b"/e\xff.npz")),
    "byte_instruction": _npz(lambda a: a.update(language_instruction=np.bytes_(b"\xff\xfe"))),
    "empty": lambda p: [f.unlink() for f in p.iterdir()],
    "truncated": lambda p: _bytes(p / "episode_1.npz", lambda c: c[: len(c) // 2]),
    "flipped": lambda p: _flip(p / "episode_1.npz"),
    "text": lambda p: (p / "episode_1.npz").write_text("no archive"),
    "pipe": lambda p: _pipe(p / "episode_1.npz"),
    "no_state": _npz(lambda a: a.pop("proprio")),
    "no_action": _npz(lambda a: a.pop("action")),
    "nan_action": _npz(lambda a: a.update(action=_entry((2, 1), np.nan)(a["action"]))),
    "no_steps": _npz(lambda a: a.update({k: v[:0] for k, v in a.items()})),
    "nan_state": _npz(lambda a: a.update(proprio=_entry((2, 1), np.nan)(a["proprio"]))),
    "far_state": _npz(lambda a: a.update(proprio=_entry((2, 1), 1e28)(a["proprio"]))),
    "no_width": _npz(lambda a: a.update(image_primary=a["image_primary"][:, :, :0])),
    "huge_state": _npz(lambda a: a.update(proprio=_entry((2, 1), 1e39, np.float64)(a["proprio"]))),
    "short_action": _npz(lambda a: a.update(action=a["action"][:4])),
    "objects": _npz(lambda a: a.update(proprio=np.array([{}, None], object))),
    "narrow_state": _npz(lambda a: a.update(proprio=a["proprio"][:, :5])),
    "text_state": _npz(lambda a: a.update(proprio=np.array(["a"] * len(a["action"])))),
    "huge_header": _huge_header,
    "missing": shutil.rmtree,
}


class _Calls:
    def __reduce__(self) -> Any:
        return os.system, ("touch called",)


def _object_scalar() -> bytes:
    """A dtype whose state clears its object flag, then a scalar of eight bytes of the file: a pointer of choice."""
    return (
        b"\x80\x02}U\x05statecnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tbC\x08\xef\xbe\xad\xde\x00\x00\x00\x00tRs."
    )


DAMAGES["pickles"] |= {
    "calls": lambda p: (p / "episode_1.pkl").write_bytes(pickle.dumps({"state": _Calls()})),
    "object_scalar": lambda p: (p / "episode_1.pkl").write_bytes(_object_scalar()),
    "objects": lambda p: (p / "episode_1.pkl").write_bytes(pickle.dumps({"state": np.array([{}, None], object)})),
    "truncated": lambda p: _bytes(p / "episode_1.pkl", lambda c: c[: len(c) // 2]),
    "flipped": lambda p: _flip(p / "episode_1.pkl"),
    "empty": lambda p: (p / "episode_1.pkl").write_bytes(b""),
    "second": lambda p: _bytes(p / "episode_1.pkl", lambda c: c + c),
    "pipe": lambda p: _pipe(p / "episode_1.pkl"),
    "list": lambda p: (p / "episode_1.pkl").write_bytes(pickle.dumps([1, 2])),
    "no_state": lambda p: (p / "episode_1.pkl").write_bytes(pickle.dumps({"action": np.zeros((24, 7), np.float32)})),
    "huge": lambda p: (p / "episode_1.pkl").write_bytes(b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7f" + b"x"),
    "deep": lambda p: (p / "episode_1.pkl").write_bytes(b"\x80\x02" + b"(" * 100_000 + b"."),
}  # fmt: skip


def _info(change: Callable[[dict[str, Any]], Any], name: str = "meta/info.json") -> Damage:
    def apply(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text())
        new = change(value)
        path.write_text(json.dumps(value if new is None else new))

    return apply


def _rows(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/**/*.parquet"))


def _column(name: str, value: Callable[[int], Any]) -> Damage:
    def apply(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(_rows(folder)[0])
        place, kind = table.schema.get_field_index(name), table.schema.field(name).type
        column = pa.array([value(i) for i in range(len(table))], kind)
        pq.write_table(table.set_column(place, name, column), _rows(folder)[0])

    return apply


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _video(folder: Path) -> Path:
    return sorted(folder.glob("videos/**/*.mp4"))[0]


for _kind in ("lerobot", "lerobot21"):
    DAMAGES[_kind] |= {
        "no_info": lambda p: (p / "meta/info.json").unlink(),
        "empty_info": lambda p: (p / "meta/info.json").write_text(""),
        "list_info": _info(lambda v: [v]),
        "no_features": _info(lambda v: v.pop("features")),
        "null_features": _info(lambda v: v.update(features=None)),
        "no_dtype": _info(lambda v: v["features"]["observation.state"].pop("dtype")),
        "no_shape": _info(lambda v: v["features"]["observation.state"].pop("shape")),
        "null_shape": _info(lambda v: v["features"]["observation.state"].update(shape=None)),
        "no_chunks": _info(lambda v: v.update(chunks_size=0)),
        "null_path": _info(lambda v: v.update(data_path=None)),
        "odd_path": _info(lambda v: v.update(data_path="../../../../{nope}.parquet")),
        "no_version": _info(lambda v: v.update(codebase_version="v99")),
        "many_episodes": _info(lambda v: v.update(total_episodes=10**9)),
        "text_fps": _info(lambda v: v.update(fps="fast")),
        "no_rows": lambda p: [f.unlink() for f in _rows(p)],
        "cut_rows": lambda p: _bytes(_rows(p)[0], lambda c: c[: len(c) // 2]),
        "flipped_rows": lambda p: _flip(_rows(p)[0]),
        "piped_rows": lambda p: _pipe(_rows(p)[0]),
        "looped_rows": lambda p: _loop(_rows(p)[0]),
        "equal_frames": _column("frame_index", lambda i: 0),
        "falling_frames": _column("frame_index", lambda i: 1000 - i),
        "nan_times": _column("timestamp", lambda i: float("nan")),
        "no_meta": lambda p: shutil.rmtree(p / "meta"),
        "missing": shutil.rmtree,
    }


DAMAGES["lerobot21"] |= {
    "empty_video": lambda p: _video(p).write_bytes(b""),
    "cut_video": lambda p: _bytes(_video(p), lambda c: c[: len(c) // 2]),
    "piped_video": lambda p: _pipe(_video(p)),
}


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tfrecord*"))


def _first_record_end(content: bytes) -> int:
    return 16 + int.from_bytes(content[:8], "little")


def _steps(features: dict[str, Any]) -> dict[str, Any]:
    return features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]


def _tensor(features: dict[str, Any], name: str) -> dict[str, Any]:
    return _steps(features)[name]["tensor"]


DAMAGES["rlds"] |= {
    "no_shard": lambda p: _shards(p)[0].unlink(),
    "empty_shard": lambda p: _shards(p)[0].write_bytes(b""),
    "cut_at_record": lambda p: _bytes(_shards(p)[0], lambda c: c[: _first_record_end(bytes(c))]),
    "cut_in_record": lambda p: _bytes(_shards(p)[0], lambda c: c[:-100]),
    "flipped_shard": lambda p: _flip(_shards(p)[0]),
    "doubled_shard": lambda p: _bytes(_shards(p)[0], lambda c: c + c),
    "no_info": lambda p: (p / "dataset_info.json").unlink(),
    "broken_info": lambda p: _bytes(p / "dataset_info.json", lambda c: c[: len(c) // 2]),
    "empty_info": lambda p: (p / "dataset_info.json").write_text(""),
    "list_info": lambda p: (p / "dataset_info.json").write_text("[]"),
    "odd_lengths": _info(lambda v: v["splits"][0].update(shardLengths=["7"]), "dataset_info.json"),
    "no_splits": _info(lambda v: v["splits"].clear(), "dataset_info.json"),
    "split_lost": _info(lambda v: v["splits"].pop(), "dataset_info.json"),
    "negative_lengths": _info(lambda v: v["splits"][0].update(shardLengths=["-1"]), "dataset_info.json"),
    "no_features": lambda p: (p / "features.json").unlink(),
    "broken_features": lambda p: _bytes(p / "features.json", lambda c: c[: len(c) // 2]),
    "no_steps": lambda p: _bytes(p / "features.json", lambda c: bytes(c).replace(b'"steps"', b'"stops"')),
    "deep_features": lambda p: (p / "features.json").write_text('{"a":' * 50_000),
    "piped_features": lambda p: _pipe(p / "features.json"),
    "split_twice": _info(lambda v: v["splits"].append(v["splits"][0]), "dataset_info.json"),
    "wide_action": _info(lambda v: _tensor(v, "action")["shape"].update(dimensions=["8"]), "features.json"),
    "whole_action": _info(lambda v: _tensor(v, "action").update(dtype="int32"), "features.json"),
    "huge_action": _info(lambda v: _tensor(v, "action")["shape"].update(dimensions=["100000000000"]), "features.json"),
    "zipped_action": _info(lambda v: _tensor(v, "action").update(encoding="zlib"), "features.json"),
    "other_feature": _info(lambda v: _steps(v).update(nope=_steps(v)["action"]), "features.json"),
    "pipe_inside": lambda p: os.mkfifo(p / "pipe"),
    "zeros_inside": lambda p: (p / "zeros").symlink_to("/dev/zero"),
    "root_inside": lambda p: (p / "root").symlink_to("/"),
    "words_inside": lambda p: ((p / "notes").mkdir(), (p / "notes" / "words").symlink_to("/etc/passwd")),
    "loop_inside": lambda p: (p / "loop").symlink_to("loop"),
    "missing": shutil.rmtree,
}


def _json(name: str, text: str) -> Damage:
    return lambda p: (p / name).write_text(text)


DAMAGES["annotator"] |= {
    "empty": lambda p: [f.unlink() for f in p.iterdir()],
    "later_format": _info(lambda v: v.update(format=2), "annotator.json"),
    "missing": shutil.rmtree,
    **{
        f"{word}_json": lambda p, text=text: [f.write_text(text) for f in p.glob("*.json")]
        for word, text in (("empty", ""), ("list", "[]"), ("null", "null"), ("nan", '{"format": NaN}'), ("cut", '{"a"'))
    },
}


def _encoder(config: dict[str, Any]) -> dict[str, Any]:
    return config["model"]["observation_tokenizers"]["primary"]["kwargs"]["encoder"]["kwargs"]


def _language(encoder: str) -> dict[str, Any]:
    names = {"module": "octo.model.components.tokenizers", "name": "LanguageTokenizer"}
    return {**names, "args": [], "kwargs": {"encoder": encoder}}


_WORDS = {"module": "octo.data.utils.text_processing", "name": "HFTokenizer", "args": [], "kwargs": {}}


DAMAGES["checkpoint"] |= {
    "no_config": lambda p: (p / "config.json").unlink(),
    "empty_config": _json("config.json", ""),
    "huge_config": lambda p: os.truncate(p / "config.json", 80_000_000),
    "list_config": _json("config.json", "[]"),
    "no_model": _info(lambda v: v.pop("model"), "config.json"),
    "calls": _info(
        lambda v: v["model"]["heads"]["action"].update(module="os", name="system", args=["touch called"]), "config.json"
    ),
    "odd_size": _info(lambda v: v["model"].update(token_embedding_size=-64), "config.json"),
    "text_size": _info(lambda v: v["model"].update(token_embedding_size="big"), "config.json"),
    "zero_stem": _info(lambda v: _encoder(v).update(features=[0]), "config.json"),
    "no_tokenizers": _info(lambda v: v["model"].update(observation_tokenizers=None), "config.json"),
    "odd_norm": _info(lambda v: _encoder(v).update(img_norm_type="nope"), "config.json"),
    "film": _info(lambda v: _encoder(v).update(use_film=True), "config.json"),
    "positions": _info(lambda v: v["model"]["transformer_kwargs"].update(add_position_embedding=True), "config.json"),
    "number_for_flag": _info(lambda v: v["model"].update(repeat_task_tokens=5), "config.json"),
    "great_dropout": _info(lambda v: v["model"]["transformer_kwargs"].update(dropout_rate=2), "config.json"),
    "half_a_layer": _info(lambda v: v["model"]["transformer_kwargs"].update(num_layers=2.5), "config.json"),
    "unknown_option": _info(lambda v: v["model"]["transformer_kwargs"].update(depth=2), "config.json"),
    "no_t5": _info(
        lambda v: (
            v["model"].update(task_tokenizers={"language": _language("nowhere")}),
            v.update(text_processor=_WORDS),
        ),
        "config.json",
    ),
    "no_batch": lambda p: (p / "example_batch.msgpack").unlink(),
    "cut_batch": lambda p: _bytes(p / "example_batch.msgpack", lambda c: c[:100]),
    "odd_batch": lambda p: (p / "example_batch.msgpack").write_bytes(b"\xc1\xff\xff"),
    "no_params": lambda p: shutil.rmtree(p / "5"),
    "cut_params": lambda p: _bytes(p / "5/default/checkpoint", lambda c: c[: len(c) // 2]),
    "empty_params": lambda p: (p / "5/default/checkpoint").write_bytes(b""),
    "nan_params": lambda p: _nan_params(p / "5/default/checkpoint"),
    "nan_statistics": _info(lambda v: v["action"].update(mean=[float("nan")] * 7), "dataset_statistics.json"),
    "short_statistics": _info(lambda v: v["action"].update(mean=[0.0]), "dataset_statistics.json"),
    "text_statistics": _info(lambda v: v.update(action="none"), "dataset_statistics.json"),
    "empty_statistics": _json("dataset_statistics.json", ""),
    "missing": shutil.rmtree,
}


def _nan_params(path: Path) -> None:
    import flax.serialization

    tree = flax.serialization.msgpack_restore(path.read_bytes())
    leaf = next(iter(tree["heads_action"].values()))
    while isinstance(leaf, dict) and not isinstance(next(iter(leaf.values())), np.ndarray):
        leaf = next(iter(leaf.values()))
    key = next(iter(leaf))
    leaf[key] = np.full_like(leaf[key], np.nan)
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
