"""Arrays in safetensors, everything else in JSON; each file is whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.foreign import parsed, refusing, regular
from gap_vla.core.whole import replacing, write_json
from gap_vla.phases.motion import MotionError


def write_arrays(directory: Path, name: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Path:
    """Writes `name`.safetensors and `name`.json into `directory` and returns it."""
    from safetensors.numpy import save_file

    with replacing(directory / f"{name}.safetensors") as temporary:
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, temporary)
    hashes = {"content": _content_hash(arrays), "record_hash": _record_hash(record)}
    write_json(directory / f"{name}.json", {**record, **hashes})
    return directory


def read_arrays(directory: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write_arrays` wrote; before 0.2 the record had no hash. Raises FileNotFoundError: a file is missing.
    MotionError: one is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for suffix in ("json", "safetensors"):
        if not (directory / f"{name}.{suffix}").is_file():
            raise FileNotFoundError(f"{directory} holds no {name}.{suffix}; was it saved there?")
    with refusing(f"{directory}: {name} is damaged", "make it again or copy it again", MotionError, (SafetensorError,)):
        arrays = load_file(regular(directory / f"{name}.safetensors", MotionError))
        record = parsed(regular(directory / f"{name}.json", MotionError).read_text())
        if record.pop("content", known := _content_hash(arrays)) != known:
            raise MotionError(f"{directory}: {name}.safetensors was changed; make both again or copy them again")
        written = record.pop("record_hash", None)
        if written not in (None, _record_hash(record)):
            raise MotionError(f"{directory}: {name}.json was changed; make both again or copy them again")
        return arrays, record


def _content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()[:16]


def _record_hash(record: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(record))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()[:16]
