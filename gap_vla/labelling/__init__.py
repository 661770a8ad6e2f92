"""Files that get ρ: an RLDS dataset, a robomimic HDF5 or a folder of npz goes in, the same with labels comes out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from gap_vla.core.outputs import HDF5, claim
from gap_vla.demos.layout import StateLayout
from gap_vla.labelling.job import LabelJob, LabelledFiles, LabellingError

KINDS = {"rlds": "tfds_files", "robomimic_hdf5": "hdf5_files", "npz": "npz_files"}
"""Kind of source: the module that knows it."""

OUTPUTS = {"rlds": "dataset", "robomimic_hdf5": "labelled_demos", "npz": "labelled_npz"}
"""Kind of source: the kind of output (`gap_vla.core.outputs`) that its labelled copy is."""

FILES = (*HDF5, ".npz", ".html", ".mp4", ".png", ".json")
"""Suffixes that no folder of episodes has."""

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

    The copy takes its place after it was read back: as many episodes as the source says, with these labels.

    Args:
        source: RLDS dataset version directory, robomimic/MimicGen HDF5, or folder of npz.
        out: where the copy goes; for RLDS the new version's directory. It must not exist unless `job.overwrite`.
        job: how to label; or its fields as keywords.

    Returns:
        What was written, with the annotation.

    Raises:
        LabellingError: unknown kind, or the copy cannot be read back.
        OutputError: `out` must not be written: it is, holds or lies in what is read, or something else stands there.
        MotionError, EpisodeError: an episode that cannot be labelled; `out` does not appear, nothing else changes.
    """
    source, out = Path(source), Path(out)
    job = job or LabelJob(**job_fields)
    kind = kind_of(source)
    StateLayout.of(job.layout)  # a typo is one for every kind of source
    suffixes = HDF5 if kind == "robomimic_hdf5" else ()
    if not suffixes and out.suffix in FILES:
        raise LabellingError(f"{out}: the labelled copy of {source} is a folder; give a name without {out.suffix}")
    claim(out, OUTPUTS[kind], overwrite=job.overwrite, sources=[source, job.annotator], suffixes=suffixes)
    return import_module(f"gap_vla.labelling.{KINDS[kind]}").label(source, out, job)
