"""Files that get ρ: an RLDS dataset, a robomimic HDF5 or a folder of npz goes in, the same with labels comes out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from gap_vla.labelling.job import LabelJob, LabelledFiles, LabellingError

KINDS = {"rlds": "tfds_files", "robomimic_hdf5": "hdf5_files", "npz": "npz_files"}
"""Kind of source: the module that knows it."""

__all__ = ["KINDS", "LabelJob", "LabelledFiles", "LabellingError", "kind_of", "label_files"]


def kind_of(source: str | Path) -> str:
    """Which of `KINDS` a path is.

    Raises:
        LabellingError: none of them; says what each looks like.
    """
    source = Path(source)
    if not source.exists():
        raise LabellingError(f"{source}: no such file or folder")
    if (source / "features.json").is_file():
        return "rlds"
    if source.is_file() and source.suffix in (".hdf5", ".h5"):
        return "robomimic_hdf5"
    if source.is_dir() and any(source.glob("*.npz")):
        return "npz"
    raise LabellingError(
        f"{source}: neither an RLDS dataset version (a folder with features.json, such as data/threading/1.0.0), nor "
        "a robomimic .hdf5, nor a folder of .npz"
    )


def label_files(source: str | Path, out: str | Path, job: LabelJob | None = None, **job_fields: Any) -> LabelledFiles:
    """Writes a copy of `source` with ρ and change points; everything else stays as it is, byte for byte.

    Args:
        source: RLDS dataset version directory, robomimic/MimicGen HDF5, or folder of npz.
        out: where the copy goes; for RLDS the new version's directory. It must not exist unless `job.overwrite`.
        job: how to label; or its fields as keywords.

    Returns:
        What was written, with the annotation.

    Raises:
        LabellingError: unknown kind, or `out` exists.
        MotionError, EpisodeError: an episode that cannot be labelled; `out` does not appear, nothing else changes.
    """
    source, out = Path(source), Path(out)
    job = job or LabelJob(**job_fields)
    kind = kind_of(source)
    if out.resolve() == source.resolve():
        raise LabellingError(f"{out} is the source; name another place")
    if out.exists() and not job.overwrite:
        raise LabellingError(f"{out} exists; name another place or allow overwriting")
    return import_module(f"gap_vla.labelling.{KINDS[kind]}").label(source, out, job)
