"""robomimic / MimicGen HDF5 with `data/demo_i/{rho, change_point}`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np

from gap_vla.atomic import replacing
from gap_vla.demos import open_source
from gap_vla.labelling.job import LabelJob, LabelledFiles, change_flags


def label(source: Path, out: Path, job: LabelJob) -> LabelledFiles:
    """Copies the file, adds float32 `rho` and bool `change_point` to every demonstration, and the annotator's identity
    as the attribute `annotator` of `data`; the annotator itself goes to `<out>.annotator/`."""
    demos = open_source(source)
    episodes = [demos.read(i, images=False) for i in range(len(demos))]
    annotation = job.run(episodes)
    with replacing(out) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for index, episode in enumerate(episodes):
                group = file[f"data/{episode.metadata['episode_id']}"]
                labels: dict[str, np.ndarray] = {
                    "rho": annotation.rho[index],
                    "change_point": change_flags(annotation, index),
                }
                for name, value in labels.items():
                    if name in group:
                        del group[name]
                    group.create_dataset(name, data=value)
            file["data"].attrs["annotator"] = json.dumps(annotation.identity)
    folder = annotation.annotator.save(out.with_name(out.name + ".annotator"))
    return LabelledFiles(out, folder, annotation, episodes)
