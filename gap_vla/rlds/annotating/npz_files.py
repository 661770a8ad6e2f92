"""A folder of npz, one per episode, with `rho` and `change_point` added to each.

An episode holds `proprio` (T×9 per arm, or as the job's layout says), or `position` (T×3, m), `quaternion` (T×4, wxyz)
and `gripper` (T or T×1 or T×2); `phase` is optional. Other arrays are copied as they are.
"""

from __future__ import annotations

import copy as copies
import dataclasses
import io
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import LABELS, Episode
from gap_vla.core.foreign import refusing
from gap_vla.core.outputs import deliver
from gap_vla.core.whole import workplace
from gap_vla.demos.arrays import forms, read_arrays
from gap_vla.demos.beside import tells
from gap_vla.demos.content import Unchanged
from gap_vla.demos.fields import as_frames, as_names, as_rows, files_in, picture_size, tell_others
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.npz_folder import require_aligned
from gap_vla.demos.source import account
from gap_vla.rlds.annotating.changed import tell_changed
from gap_vla.rlds.annotating.job import (
    AnnotatedFiles,
    AnnotationError,
    AnnotationJob,
    joined,
    labels_of,
    require_numbers,
    require_pair,
    require_replaceable,
)

PARTS = ("position", "quaternion", "gripper")
"""What a state is made of where there is no `proprio`."""
READ = ("proprio", *PARTS, "action", "phase")


def annotate(source: Path, out: Path, job: AnnotationJob, unchanged: Unchanged) -> AnnotatedFiles:
    """Writes `out/NAME.npz` for every `source/NAME.npz`, and the annotator to `out/annotator/`."""
    files = files_in(source, ".npz")
    print(_account(source, files, job), flush=True)
    tell_changed(source)
    episodes = [read_npz(file, job, images=False, labels=False) for file in files]
    labels = set[str]()
    for file, episode in zip(files, episodes):
        held = forms(file, lambda name: name in LABELS or _is_camera(name) or tells(name), AnnotationError)
        for label in held.keys() & {*LABELS}:
            require_numbers(label, *held[label], file)
            require_replaceable(label, read_arrays(file, {label}.__contains__, AnnotationError)[label], file)
        labels |= held.keys()
        for name, (shape, dtype) in held.items():
            if _is_camera(name) and _shows(shape, dtype):
                picture_size(shape, dtype, f"{file}: {name!r}")
        others = [name for name in held if tells(name) or name.startswith("image_")]
        require_aligned(file, [name for name in others if name not in LABELS], len(episode))
    require_pair(labels, source)
    extra = [_extra(file, job) for file in files] if job.extra_names else None
    tell_others(source, files, "copied")
    annotation = job.run(episodes, extra)
    with workplace(out) as new:
        new.mkdir()
        for index, file in enumerate(files):
            labels = annotation.labels(index)
            with refusing(file, "copy or record it again", AnnotationError):
                _copy_with(file, new / file.name, labels)
            _read_back(file, new / file.name, labels)
        unchanged()
        annotation.annotator.save(new / "annotator")
        deliver(new, out, "labelled_npz", overwrite=job.overwrite)
    return AnnotatedFiles(
        out, out / "annotator", annotation, episodes, lambda index: read_npz(out / files[index].name, job)
    )


def read(source: Path, index: int, job: AnnotationJob, split: str = "", *, stored: bool = True) -> Episode:
    """Episode `index`, in the order of names, with its images and `stored` labels. Raises AnnotationError: there is
    none."""
    files = files_in(source, ".npz")
    print(_account(source, files, job, LABELS if stored else ()), flush=True)
    if not 0 <= index < len(files):
        raise AnnotationError(f"{source}: no episode {index}; it has {len(files)}, from 0 to {len(files) - 1}")
    if stored:
        labels_of([{*read_arrays(file, lambda _: False)} & {*LABELS} for file in files], index, f"{files[index]}")
    episode = read_npz(files[index], job, labels=stored)
    beside = [name for name in forms(files[index], tells, AnnotationError) if tells(name) and name not in LABELS]
    require_aligned(files[index], beside, len(episode))
    return episode


def read_npz(file: Path, job: AnnotationJob, *, images: bool = True, labels: bool = True) -> Episode:
    """One episode with what labels it has, and its `image_*` arrays, if these are wanted."""
    wanted = (*READ, *LABELS) if labels else READ
    arrays = read_arrays(file, lambda name: name in wanted or (images and name.startswith("image_")), AnnotationError)
    with refusing(file, "write it again", AnnotationError):
        proprio = _proprio(file, arrays, job)
        layout = job.columns if "proprio" in arrays else _parts_layout(arrays)
        if "proprio" not in arrays and job.fitted_unit:  # no layout could name it, and once it was "m"
            layout = dataclasses.replace(layout, opening_unit=job.fitted_unit)
        known: dict[str, Any] = {name: arrays[name] for name in LABELS if name in arrays}
        if "phase" in arrays:
            known["phase"] = as_names(arrays["phase"], f"{file}: 'phase'")
        others = {name: value for name, value in arrays.items() if images and name.startswith("image_")}
        films = {name: as_frames(value) for name, value in others.items()}
        pictures = {name: film for name, film in films.items() if film.ndim == 4 and film.shape[3] == 3}
        metadata = {"file_path": str(file), "episode_id": file.stem, **layout.facts}
        action = as_rows(arrays["action"], f"{file}: 'action'") if "action" in arrays else proprio[:, :0]
        return Episode(pictures, proprio, action, metadata=metadata, **known).validate()


def _proprio(file: Path, arrays: Mapping[str, np.ndarray], job: AnnotationJob) -> np.ndarray:
    if "proprio" in arrays:
        return job.columns.to_proprio(as_rows(arrays["proprio"], f"{file}: 'proprio'"), str(file))
    if job.layout is not None:
        raise AnnotationError(f"{file}: no 'proprio' that the layout could name the columns of; leave the layout out")
    names = PARTS
    if missing := [name for name in names if name not in arrays]:
        found = ", ".join(arrays) or "nothing"
        raise AnnotationError(f"{file}: neither 'proprio' nor {', '.join(map(repr, missing))} (found: {found})")
    state = as_rows(joined(names, arrays.__getitem__, str(file)), f"{file}: {', '.join(names)}")
    widths = [arrays[name].shape[1:] for name in names]
    if widths[:2] != [(3,), (4,)] or widths[2] not in ((), (1,), (2,)):
        raise AnnotationError(f"{file}: position, quaternion, gripper have shapes {[arrays[n].shape for n in names]}")
    return _parts_layout(arrays).to_proprio(state, str(file), named=True)


def _parts_layout(arrays: Mapping[str, np.ndarray]) -> StateLayout:
    """Of position, quaternion and gripper side by side."""
    return StateLayout.of("gap" if arrays["gripper"].shape[1:] == (2,) else "quaternion_wxyz")


def _is_camera(name: str) -> bool:
    return name.startswith("image_")


def _shows(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether an array of a camera's name is pictures; others are kept as they are."""
    return len(shape) == 4 and 3 in (shape[1], shape[3])


def _account(source: Path, files: list[Path], job: AnnotationJob, read_too: Collection[str] = ()) -> str:
    held = [{*read_arrays(file, lambda _: False, AnnotationError)} for file in files]
    names = {name for found in held for name in found}
    unit = " (in m, as the annotator was fitted on)" if job.fitted_unit == "m" else ""
    ways = {f"proprio ({job.columns})": {"proprio"}, f"position, quaternion wxyz, gripper{unit}": {*PARTS}}
    stated = {"proprio" in found for found in held}
    used = {way: parts for way, parts in ways.items() if ("proprio" in parts) in stated}
    parts, state = {name for one in used.values() for name in one}, " or ".join(used)
    films = {name for file in files for name, form in forms(file, _is_camera, AnnotationError).items() if _shows(*form)}
    taken = {name: name for name in sorted(names) if name in ("action", "phase") or name in films}
    return account(
        source, {"proprio": state} | taken | job.extra_said(), names - parts - {*taken, *job.extra_names, *read_too}
    )


def _extra(file: Path, job: AnnotationJob) -> np.ndarray:
    arrays = read_arrays(file, lambda name: name in job.extra_names, AnnotationError)
    if missing := [name for name in job.extra_names if name not in arrays]:
        raise AnnotationError(f"{file}: no array {', '.join(missing)} (found: {', '.join(arrays)})")
    if "proprio" not in arrays or job.columns.takes_all:
        job.require_apart(("proprio",) if "proprio" in arrays else PARTS, str(file))
    return joined(job.extra_names, arrays.__getitem__, str(file))


def _read_back(file: Path, new: Path, labels: Mapping[str, np.ndarray]) -> None:
    """Raises AnnotationError: the copy does not hold these labels and every other byte of the original."""
    with refusing(new.name, "check the disk and annotate again", AnnotationError):
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(new) as copy:
            damaged = copy.testzip()
            kept = {m.filename: (m.CRC, m.file_size) for m in old.infolist() if m.filename[:-4] not in LABELS}
            written = {m.filename: (m.CRC, m.file_size) for m in copy.infolist() if m.filename[:-4] not in LABELS}
        found = read_arrays(new, lambda name: name in LABELS, AnnotationError)
        same = all(np.array_equal(found[k], v) for k, v in labels.items())
        if damaged or kept != written or not same:
            raise AnnotationError(f"{new.name} was read back and came out different; check the disk and annotate again")


def _copy_with(file: Path, out: Path, labels: dict[str, np.ndarray]) -> None:
    new = {f"{name}.npy" for name in labels}
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as copy:
        for member in old.infolist():
            if member.filename not in new:
                large = member.file_size >= 1 << 30
                with old.open(member) as source, copy.open(copies.copy(member), "w", force_zip64=large) as target:
                    shutil.copyfileobj(source, target, 1 << 20)  # what nobody reads takes no memory
        for name, value in labels.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, value, allow_pickle=False)
            copy.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())
