"""robomimic / MimicGen HDF5 with `data/demo_i/{rho, change_point}`."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import h5py
import numpy as np

from gap_vla.core.episode import LABELS, Episode, EpisodeError
from gap_vla.core.foreign import one_line, refusing
from gap_vla.core.hdf5_writing import writing_hdf5
from gap_vla.core.marks import HDF5
from gap_vla.core.outputs import alone_in, claim, deliver
from gap_vla.core.resources import require_disk
from gap_vla.core.whole import put, workplace
from gap_vla.demos.content import Unchanged
from gap_vla.demos.hdf5_attributes import OF_DEMO
from gap_vla.demos.hdf5_members import group_at, has, numbers_at, opened, require_whole_chunks
from gap_vla.demos.hdf5_storage import chunks_of, filters_of
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.robomimic_groups import arms_of
from gap_vla.demos.robomimic_hdf5 import RobomimicHDF5
from gap_vla.demos.source import UNSAID, account
from gap_vla.phases import Annotation, load_annotator
from gap_vla.rlds.annotating.changed import tell_changed
from gap_vla.rlds.annotating.job import (
    AnnotatedFiles,
    AnnotationError,
    AnnotationJob,
    joined,
    labelled_by,
    labels_of,
    require_pair,
    require_replaceable,
)


def annotate(source: Path, out: Path, job: AnnotationJob, unchanged: Unchanged) -> AnnotatedFiles:
    """Copies the file, adds float32 `rho` and bool `change_point` to every demonstration, and the annotator's identity
    as the attribute `annotator` of `data`; the annotator itself goes to `<out>.annotator/`."""
    saved = out.with_name(out.name + ".annotator")
    alone = not out.exists()  # then the same annotator may stand there: of one that was killed before its file came
    claim(saved, "annotator", overwrite=job.overwrite or alone, sources=[source, job.annotator], named=False)
    demos = RobomimicHDF5(source, action_limit=None, layout=job.layout)
    print(_account(demos, job, ["annotator of data"]), flush=True)  # which `labelled_by` reads
    tell_changed(source)
    require_disk({"the copy": source.stat().st_size}, out.parent, "free some, or name another disk")
    episodes = demos.without_images()
    _require_replaceable(demos)
    _require_readable(source)
    annotation = job.run(episodes, _extra(demos, job))
    with workplace(out) as new, workplace(saved) as new_annotator:
        shutil.copyfile(source, new)
        with writing_hdf5(new, "r+") as file:
            for index, episode in enumerate(episodes):
                with refusing(f"{source} changed while it was read", "annotate it when it is whole", AnnotationError):
                    group = file[f"data/{episode.metadata['episode_id']}"]
                for name, value in annotation.labels(index).items():
                    if has(group, name):
                        del group[name]
                    group.create_dataset(name, data=value)
            file["data"].attrs["annotator"] = json.dumps(annotation.identity)
        unchanged()
        try:
            _read_back(new, job, episodes, annotation)
        except EpisodeError as error:  # whose advice is for a file that somebody has
            why = (f"{error}".rpartition("; ")[0] or f"{error}").replace(f"{new}", f"{out}")
            raise AnnotationError(f"{out} did not arrive whole on its disk ({why}); annotate again") from error
        annotation.annotator.save(new_annotator)
        made = new_annotator.stat()
        with alone_in(out, wait=True):  # of two at once the file of one would stay beside the annotator of the other
            claim(out, "labelled_demos", overwrite=job.overwrite, suffixes=HDF5)  # both or none
            # the annotator first: where the annotated file is, its annotator is too
            claim(saved, "annotator", overwrite=job.overwrite or alone, named=False)
            there = alone and (saved / "annotator.json").exists()
            again = there and load_annotator(saved).identity["hash"] == annotation.identity["hash"]
            try:
                deliver(new_annotator, saved, "annotator", overwrite=job.overwrite or again)
                deliver(new, out, "labelled_demos", overwrite=job.overwrite, suffixes=HDF5)
            except BaseException:  # as Ctrl-C, or of a place that is mounted, where nothing can take it
                came = saved.exists() and os.path.samestat(made, saved.stat())
                if came and new.exists() and new_annotator.exists():
                    put(new_annotator, saved)  # the old one, which has the place of the new one
                elif came and new.exists():  # there was none; `put` as the file did not come
                    put(saved, new_annotator)
                raise

    @functools.cache
    def copy() -> RobomimicHDF5:
        return RobomimicHDF5(out, action_limit=None, layout=job.layout)

    return AnnotatedFiles(out, saved, annotation, episodes, lambda index: labelled(copy(), index))


def read(source: Path, index: int, job: AnnotationJob, split: str = "", *, stored: bool = True) -> Episode:
    """Demonstration `index`, as `labelled`, or without its `stored` labels. Raises AnnotationError: there is none."""
    demos = RobomimicHDF5(source, action_limit=None, layout=job.layout)
    print(_account(demos, job, LABELS if stored else ()), flush=True)
    tell_changed(source)
    if not 0 <= index < len(demos):
        raise AnnotationError(f"{source}: no episode {index}; it has {len(demos)}, from 0 to {len(demos) - 1}")
    return labelled(demos, index) if stored else demos[index]


def labelled(demos: RobomimicHDF5, index: int) -> Episode:
    """Demonstration `index` with its images and labels. Raises AnnotationError: it lacks labels that others have."""
    episode = demos[index]
    where = f"{demos.path}, episode {demos.places[index]}"
    with opened(demos.path) as file:
        stored = [{name for name in LABELS if has(file, f"data/{place}/{name}")} for place in demos.places]
        group = group_at(file, f"data/{demos.places[index]}", where)
        labels = {name: numbers_at(group, name, where) for name in labels_of(stored, index, where)}
        return episode.replace(**labels).validate()


def _require_replaceable(demos: RobomimicHDF5) -> None:
    """Raises EpisodeError or AnnotationError: what stands in the place of a label, or of our account, is not ours."""
    labelled_by(demos.path)
    labels = set[str]()
    with opened(demos.path) as file:
        for place in demos.places:
            group = group_at(file, f"data/{place}", where := f"{demos.path}, episode {place}")
            for name in LABELS:
                if has(group, name) and group.get(name, getclass=True, getlink=True) is h5py.HardLink:
                    require_replaceable(name, numbers_at(group, name, where), where)
            labels |= {*group}
    require_pair(labels, demos.path)


def _require_readable(path: Path) -> None:
    """Raises EpisodeError: an array that is compressed, anywhere in the file, and would be copied unseen is damaged. A
    note names the filters that are not installed, and the types that numpy has not."""
    unread: dict[str, str] = {}
    packed: list[str] = []
    with opened(path) as file:
        file.visititems(
            lambda name, item: packed.append(name) if isinstance(item, h5py.Dataset) and filters_of(item) else None
        )
        for name in packed:
            array = file[name]
            if lacking := [number for number in filters_of(array) if not h5py.h5z.filter_avail(number)]:
                unread.setdefault(f"HDF5 filter {lacking[0]} is not installed", name)
                continue
            try:
                _ = array.dtype
            except TypeError as error:
                unread.setdefault(f"numpy has no such numbers ({one_line(str(error))})", name)
                continue
            require_whole_chunks(array, f"{path}, {name}")
            with refusing(f"{path}, {name}: cannot be read", "copy the file again", EpisodeError):
                for chunk in chunks_of(array):
                    array[tuple(map(slice, chunk.chunk_offset, np.add(chunk.chunk_offset, array.chunks)))]
    for why, name in unread.items():
        print(f"note: {name} and its like are copied unread: {why}", flush=True)


def _read_back(new: Path, job: AnnotationJob, episodes: list[Episode], annotation: Annotation) -> None:
    """Raises AnnotationError: the file does not hold every demonstration with these labels."""
    demos = RobomimicHDF5(new, action_limit=None, layout=job.layout)
    wrong = None if len(demos) == len(episodes) else f"{len(demos)} demonstrations, not {len(episodes)}"
    for index, (found, wanted) in enumerate(zip(demos.without_images(), episodes)):
        with opened(demos.path) as file:
            group = file[f"data/{demos.places[index]}"]
            same = all(np.array_equal(numbers_at(group, k, k), v) for k, v in annotation.labels(index).items())
        if not (same and np.array_equal(found.proprio, wanted.proprio) and np.array_equal(found.action, wanted.action)):
            wrong = wrong or f"demonstration {demos.places[index]} came out different"
    if wrong:
        raise AnnotationError(f"the annotated copy was read back and holds {wrong}; check the disk and annotate again")


def account_of(demos: RobomimicHDF5, read_too: Collection[str] = (), beside: Mapping[str, str] | None = None) -> str:
    """The account of a command that keeps no attributes; what it reads `beside`, and what else under the names by which
    the account would call it not taken."""
    unread = {*demos.dropped(), *(f"attribute {name}" for name in demos.kept if name not in OF_DEMO)}
    unread |= {"the rest of ep_meta"} if "ep_meta" in demos.kept else set()
    return account(demos.path, UNSAID | demos.mapping() | dict(beside or {}), unread - {*read_too, *(beside or ())})


def _account(demos: RobomimicHDF5, job: AnnotationJob, read_too: Collection[str] = ()) -> str:
    return account_of(demos, {*read_too, *(f"obs/{name}" for name in job.extra_names)}, job.extra_said())


def _extra(demos: RobomimicHDF5, job: AnnotationJob) -> list[np.ndarray] | None:
    found = []
    with opened(demos.path) as file:
        for name in demos.places if job.extra_names else ():
            where = f"{demos.path}, episode {name}"
            observations = group_at(file, f"data/{name}/obs", where)
            whole = StateLayout.of(job.layout or "robomimic").takes_all  # else there are fingers that are not read
            parts = ("eef_pos", "eef_quat", *(["gripper_qpos"] if whole else []))
            arms = range(arms_of(group_at(file, f"data/{name}", where), where))
            job.require_apart([f"robot{arm}_{part}" for arm in arms for part in parts], where)
            found.append(joined(job.extra_names, functools.partial(numbers_at, observations, where=where), where))
    return found or None
