"""A folder of npz, one per episode, with `rho` and `change_point` added to each.

An episode holds `proprio` (T×9 per arm, or as the job's layout says), or `position` (T×3, m), `quaternion` (T×4, wxyz)
and `gripper` (T or T×1 or T×2); `phase` is optional. Other arrays are copied as they are.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.outputs import deliver
from gap_vla.core.whole import workplace
from gap_vla.demos.layout import StateLayout
from gap_vla.episode import Episode
from gap_vla.labelling.job import LabelJob, LabelledFiles, LabellingError, joined


def label(source: Path, out: Path, job: LabelJob) -> LabelledFiles:
    """Writes `out/NAME.npz` for every `source/NAME.npz`, and the annotator to `out/annotator/`."""
    files = sorted(source.glob("*.npz"))
    episodes = [read_npz(file, job, images=False) for file in files]
    extra = [_extra(file, job) for file in files] if job.extra_names else None
    annotation = job.run(episodes, extra)
    with workplace(out) as folder:
        new = folder / out.name
        new.mkdir()
        for index, file in enumerate(files):
            labels = {"rho": annotation.rho[index], "change_point": annotation.flags(index)}
            _copy_with(file, new / file.name, labels)
        annotation.annotator.save(new / "annotator")
        deliver(new, out, "labelled_npz", overwrite=job.overwrite)
    return LabelledFiles(out, out / "annotator", annotation, episodes, lambda index: read(out, index, job))


def read(source: Path, index: int, job: LabelJob) -> Episode:
    """Episode `index` of the folder, in the order of names, with its images and, where there are, its labels.

    Raises:
        LabellingError: no such episode.
    """
    files = sorted(source.glob("*.npz"))
    if not 0 <= index < len(files):
        raise LabellingError(f"{source}: no episode {index}; it has {len(files)}")
    return read_npz(files[index], job)


def read_npz(file: Path, job: LabelJob, *, images: bool = True) -> Episode:
    """One episode with what labels it has, and its `image_*` arrays if wanted."""
    with _opened(file) as arrays:
        proprio = _proprio(file, arrays, job)
        facts = StateLayout.of(job.layout).facts if "proprio" in arrays else {}
        known: dict[str, Any] = {name: arrays[name] for name in ("phase", "rho", "change_point") if name in arrays}
        pictures = {name: arrays[name] for name in arrays if images and name.startswith("image_")}
    metadata = {"file_path": str(file), "episode_id": file.stem, **facts}
    return Episode(pictures, proprio, np.zeros((len(proprio), 0), np.float32), metadata=metadata, **known)


def _opened(file: Path) -> np.lib.npyio.NpzFile:
    try:
        return np.load(file, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise LabellingError(f"{file}: not a whole npz ({error}); copy or record it again") from None


def _proprio(file: Path, arrays: np.lib.npyio.NpzFile, job: LabelJob) -> np.ndarray:
    if "proprio" in arrays:
        return StateLayout.of(job.layout).to_proprio(arrays["proprio"], str(file))
    missing = {"position", "quaternion", "gripper"} - set(arrays)
    if missing:
        raise LabellingError(
            f"{file}: neither 'proprio' nor {', '.join(repr(m) for m in sorted(missing))} "
            f"(found: {', '.join(arrays) or 'nothing'})"
        )
    grip = np.atleast_2d(arrays["gripper"].T).T
    grip = np.repeat(grip, 2, axis=1) if grip.shape[1] == 1 else grip
    parts = (arrays["position"], arrays["quaternion"], grip)
    if [part.ndim for part in parts] != [2, 2, 2] or [part.shape[1] for part in parts] != [3, 4, 2]:
        raise LabellingError(f"{file}: position, quaternion, gripper have shapes {[part.shape for part in parts]}")
    if len({len(part) for part in parts}) != 1:
        raise LabellingError(f"{file}: position, quaternion, gripper have {[len(part) for part in parts]} steps")
    return np.concatenate(parts, axis=1).astype(np.float32)


def _extra(file: Path, job: LabelJob) -> np.ndarray:
    with _opened(file) as arrays:
        if missing := [name for name in job.extra_names if name not in arrays]:
            raise LabellingError(f"{file}: no array {', '.join(missing)} (found: {', '.join(arrays)})")
        columns = joined({name: arrays[name] for name in job.extra_names}, str(file))
    assert columns is not None
    return columns


def _copy_with(file: Path, out: Path, labels: dict[str, np.ndarray]) -> None:
    new = {f"{name}.npy" for name in labels}
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as copy:
        for member in old.infolist():
            if member.filename not in new:
                copy.writestr(member, old.read(member))
        for name, value in labels.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, value, allow_pickle=False)
            copy.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())
