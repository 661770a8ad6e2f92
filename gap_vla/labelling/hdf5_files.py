"""robomimic / MimicGen HDF5 with `data/demo_i/{rho, change_point}`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np

from gap_vla.core.outputs import HDF5, OutputError, claim, deliver
from gap_vla.core.whole import workplace
from gap_vla.demos import open_source
from gap_vla.episode import Episode
from gap_vla.labelling.job import LabelJob, LabelledFiles, LabellingError, joined


def label(source: Path, out: Path, job: LabelJob) -> LabelledFiles:
    """Copies the file, adds float32 `rho` and bool `change_point` to every demonstration, and the annotator's identity
    as the attribute `annotator` of `data`; the annotator itself goes to `<out>.annotator/`."""
    saved = out.with_name(out.name + ".annotator")
    claim(saved, "annotator", overwrite=job.overwrite, sources=[source, job.annotator])
    demos = open_source(source)
    episodes = [demos.read(i, images=False) for i in range(len(demos))]
    annotation = job.run(episodes, _extra(source, episodes, job))
    with workplace(out) as folder:
        new = folder / out.name
        shutil.copyfile(source, new)
        with h5py.File(new, "r+") as file:
            for index, episode in enumerate(episodes):
                group = file[f"data/{episode.metadata['episode_id']}"]
                labels: dict[str, np.ndarray] = {
                    "rho": annotation.rho[index],
                    "change_point": annotation.flags(index),
                }
                for name, value in labels.items():
                    if name in group:
                        del group[name]
                    group.create_dataset(name, data=value)
            file["data"].attrs["annotator"] = json.dumps(annotation.identity)
        with h5py.File(new) as file:
            for index, episode in enumerate(episodes):
                if not np.array_equal(file[f"data/{episode.metadata['episode_id']}/rho"][()], annotation.rho[index]):
                    raise OutputError(f"{out}: the labels of {episode.name} were not written whole; is the disk full?")
        # the annotator first: where the labelled file is, its annotator is too
        deliver(annotation.annotator.save(folder / saved.name), saved, "annotator", overwrite=job.overwrite)
        deliver(new, out, "labelled_demos", overwrite=job.overwrite, suffixes=HDF5)
    return LabelledFiles(out, saved, annotation, episodes, lambda index: read(out, index))


def read(source: Path, index: int) -> Episode:
    """Demonstration `index` with its images and, where there are, its labels.

    Raises:
        LabellingError: no such demonstration.
    """
    demos = open_source(source)
    if not 0 <= index < len(demos):
        raise LabellingError(f"{source}: no episode {index}; it has {len(demos)}")
    episode = demos[index]
    with h5py.File(source) as file:
        group = file[f"data/{episode.metadata['episode_id']}"]
        if "rho" in group:
            return episode.replace(rho=group["rho"][()], change_point=group["change_point"][()])
    return episode


def _extra(source: Path, episodes: list[Episode], job: LabelJob) -> list[np.ndarray] | None:
    if not job.extra_names:
        return None
    found = []
    with h5py.File(source) as file:
        for episode in episodes:
            observations = file[f"data/{episode.metadata['episode_id']}/obs"]
            if missing := [name for name in job.extra_names if name not in observations]:
                raise LabellingError(
                    f"{episode.name}: no observation {', '.join(missing)} (found: {', '.join(observations)})"
                )
            columns = joined({name: observations[name][()] for name in job.extra_names}, episode.name)
            assert columns is not None
            found.append(columns)
    return found
