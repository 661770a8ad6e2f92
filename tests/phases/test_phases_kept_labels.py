"""Labels that are kept beside an annotator: damaged ones are not trained on."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from gap_vla.core.episode import Episode
from gap_vla.phases import Annotation, MotionError, annotate
from gap_vla.phases.saving import read_arrays, write_arrays


@pytest.fixture
def kept(tmp_path):
    walk = np.zeros((40, 9), np.float32)
    walk[:, 3], walk[:, 0] = 1, np.abs(np.arange(40) - 20) * 0.01
    episode = Episode({}, walk, np.zeros((40, 7), np.float32))
    return annotate([episode, episode], method="gaussian").save(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays, record: arrays["rho"].__setitem__(3, 7), "a rho is 7 at step 3; delete"),
        (lambda arrays, record: arrays["rho"].__setitem__(3, np.nan), "a rho is nan at step 3; delete"),
        (lambda arrays, record: arrays["change_points"].__setitem__(0, 999), "no labels that can be: index 999 is"),
        (lambda arrays, record: arrays["change_points"].__setitem__(0, 0), "a change_point is true at the first step"),
        (lambda arrays, record: arrays.pop("counts"), "no labels that can be: no 'counts'; delete"),
        (lambda arrays, record: record.pop("report"), "no labels that can be: no 'report'; delete"),
        (lambda arrays, record: record.pop("labelled"), "no labels that can be: no 'labelled'; delete"),
        (lambda arrays, record: record["labelled"].__setitem__(0, "0"), "labelled is not as it was written; delete"),
        (
            lambda arrays, record: [record["labelled"].pop(), record.pop("labelled_hash")],
            "labelled is not as it was written; delete",
        ),
    ],
)
def test_labels_that_cannot_be_are_refused(kept, change, said):
    arrays, record = read_arrays(kept, "labels")
    change(arrays, record)
    write_arrays(kept, "labels", arrays, record)
    with pytest.raises(MotionError, match=said):
        Annotation.load(kept)


def test_labels_of_an_empty_episode_and_of_no_episode_are_kept_as_others_are(kept, tmp_path):
    annotator = Annotation.load(kept).annotator
    walk = np.zeros((40, 9), np.float32)
    walk[:, 3] = 1
    nothing, something = (Episode({}, walk[:n], np.zeros((n, 7), np.float32)) for n in (0, 40))
    for number, episodes in enumerate(([], [nothing], [nothing, something], [something, nothing])):
        loaded = Annotation.load(annotator.annotate(episodes).save(tmp_path / str(number)))
        assert not loaded.report["notes"]
        assert [len(rho) for rho in loaded.rho] == [len(episode) for episode in episodes]
        assert len(loaded.change_points) == len(episodes)
        assert [len(one.rho) for one in loaded.apply(episodes)] == [len(episode) for episode in episodes]


def test_labels_kept_before_their_episodes_had_a_hash_are_read(kept):
    arrays, record = read_arrays(kept, "labels")
    del record["labelled_hash"]
    write_arrays(kept, "labels", arrays, record)
    assert len(Annotation.load(kept).labelled) == 2


def test_kept_labels_know_their_episodes(kept):
    still = np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0, 0]), (40, 1))
    others = [Episode({}, still, np.zeros((40, 7), np.float32))] * 2
    with pytest.raises(MotionError, match="differ in number, order or proprioception"):
        Annotation.load(kept).apply(others)


def test_arrays_that_are_not_those_that_were_written_are_refused(kept):
    before = Annotation.load(kept)
    arrays, record = read_arrays(kept, "labels")
    assert before.rho[1].tobytes() == np.split(arrays["rho"], 2)[1].tobytes() and "content" not in record
    arrays["rho"][3] = 0.25
    save_file(arrays, kept / "labels.safetensors")
    with pytest.raises(MotionError, match=r"labels.safetensors was changed; make both again or copy them again"):
        Annotation.load(kept)


def test_a_report_that_is_not_what_was_written_is_refused(kept):
    path = kept / "labels.json"
    path.write_text(path.read_text().replace('"steps": 80', '"steps": 90'))
    with pytest.raises(MotionError, match=r"labels.json was changed; make both again or copy them again"):
        Annotation.load(kept)


def test_labels_beside_another_annotator_are_refused(kept, tmp_path):
    other = Annotation.load(kept).annotator
    dataclasses.replace(other, seed=other.seed + 1).save(tmp_path / "other")
    for file in kept.glob("labels.*"):
        shutil.copy(file, tmp_path / "other")
    with pytest.raises(MotionError, match="its labels are of another annotator; delete"):
        Annotation.load(tmp_path / "other")
