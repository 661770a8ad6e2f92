"""Arrays in safetensors, everything else in JSON; written under a temporary name and then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(directory: Path, name: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Path:
    """Writes `name`.safetensors and `name`.json into `directory` and returns it."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{name}.safetensors.tmp"
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, temporary)
    os.replace(temporary, directory / f"{name}.safetensors")
    write_json(directory / f"{name}.json", record)
    return directory


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """JSON with sorted keys, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def read_arrays(directory: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write_arrays` wrote.

    Raises:
        FileNotFoundError: naming the missing file.
    """
    from safetensors.numpy import load_file

    for suffix in ("json", "safetensors"):
        if not (directory / f"{name}.{suffix}").is_file():
            raise FileNotFoundError(f"{directory} holds no {name}.{suffix}; was it saved there?")
    return load_file(directory / f"{name}.safetensors"), json.loads((directory / f"{name}.json").read_text())
