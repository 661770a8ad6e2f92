"""label_files: ρ is added, everything else stays byte for byte, and nothing half-done is left behind."""

import importlib.util
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests_labelling_demos import demos, write_hdf5, write_npz

from gap_vla.labelling import LabellingError, label_files
from gap_vla.labelling.pages import read_episode, show_episode, write_report
from gap_vla.phases import MotionError, annotate


@pytest.fixture
def hdf5(tmp_path):
    return write_hdf5(tmp_path / "demos.hdf5", demos(5))


@pytest.fixture
def npz(tmp_path):
    return write_npz(tmp_path / "npz", demos(4))


def everything(file):
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            values = item[()]
            found[name] = values.tolist() if values.dtype == object else values.tobytes()

    file.visititems(take)
    return found


def test_hdf5_keeps_every_dataset_and_gains_rho_and_change_points(hdf5, tmp_path):
    before = hdf5.read_bytes()
    done = label_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert hdf5.read_bytes() == before
    with h5py.File(hdf5) as old, h5py.File(done.path) as new:
        old_data, new_data = everything(old), everything(new)
        assert {k: new_data[k] for k in old_data} == old_data
        added = sorted(set(new_data) - set(old_data))
        assert added == sorted(f"data/demo_{i}/{k}" for i in range(5) for k in ("change_point", "rho"))
        assert new["data/demo_3/rho"].dtype == np.float32 and new["data/demo_3/change_point"].dtype == bool
        assert np.flatnonzero(new["data/demo_3/change_point"]).tolist() == [20, 40, 60]
        assert json.loads(new["data"].attrs["annotator"])["hash"] == done.annotation.identity["hash"]
    shown = read_episode(done.path, 3)
    assert shown.rho.tobytes() == done.annotation.rho[3].tobytes()


def test_npz_keeps_every_array_and_gains_rho(npz, tmp_path):
    done = label_files(npz, tmp_path / "out", method="change_points")
    for old in sorted(npz.glob("*.npz")):
        with np.load(old) as a, np.load(done.path / old.name) as b:
            assert set(b) - set(a) == {"rho", "change_point"}
            assert all(a[k].tobytes() == b[k].tobytes() for k in a)
            assert np.flatnonzero(b["change_point"]).tolist() == [20, 40, 60]
    again = label_files(done.path, tmp_path / "again", annotator=done.annotator)
    assert [r.tobytes() for r in again.annotation.rho] == [r.tobytes() for r in done.annotation.rho]


def test_what_exists_is_replaced_only_when_asked_and_only_by_something_complete(hdf5, npz, tmp_path):
    out = tmp_path / "out.hdf5"
    label_files(hdf5, out, method="gaussian")
    first = out.read_bytes()
    with pytest.raises(LabellingError, match=r"exists; name another place"):
        label_files(hdf5, out, method="gaussian")
    with pytest.raises(LabellingError, match="is the source"):
        label_files(hdf5, hdf5, overwrite=True)
    with h5py.File(hdf5, "r+") as file:
        file["data/demo_2/obs/robot0_eef_pos"][7, 1] = np.nan
    with pytest.raises(ValueError, match=r"demos\.hdf5, episode demo_2: .* step 7"):
        label_files(hdf5, out, method="gaussian", overwrite=True)
    assert out.read_bytes() == first
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    folder = tmp_path / "labelled"
    label_files(npz, folder, method="gaussian")
    label_files(npz, folder, method="fixed", overwrite=True, options={"value": 0.25})
    with np.load(folder / "episode_0.npz") as arrays:
        assert set(arrays["rho"].tolist()) == {0.25}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_files_that_are_none_of_ours_are_named(tmp_path):
    with pytest.raises(LabellingError, match="no such file"):
        label_files(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(LabellingError, match=r"neither an RLDS dataset version .* nor a folder of \.npz"):
        label_files(tmp_path, tmp_path / "out")
    np.savez(tmp_path / "a.npz", joints=np.zeros((3, 7)))
    with pytest.raises(LabellingError, match=r"a\.npz: neither 'proprio' nor 'gripper', 'position', 'quaternion'"):
        label_files(tmp_path, tmp_path / "out")


def test_the_wrong_columns_for_a_saved_annotator_are_refused(hdf5, tmp_path):
    one_arm = label_files(hdf5, tmp_path / "out.hdf5", options={"epochs": 1})
    two_arms = write_npz(tmp_path / "two", demos(2, arms=2))
    with pytest.raises(MotionError, match="not those of the estimator"):
        label_files(two_arms, tmp_path / "out2", annotator=one_arm.annotator)


def test_pages_pictures_and_videos_are_written_and_need_no_network(hdf5, tmp_path):
    done = label_files(hdf5, tmp_path / "out.hdf5", options={"epochs": 1})
    report = write_report(done, tmp_path / "report.html", 2).read_text()
    page = show_episode(done.path, tmp_path / "page.html", episode=1).read_text()
    for text in (report, page):
        assert "http://" not in text and "https://" not in text and "src=" not in text.replace("image.src", "")
        assert text.count("<svg") == text.count("</svg>") > 0
    assert page.count("true switch at step") == 3 and "ρ" in page and "leg 2" in page
    assert len(json.loads(page.split('application/json">')[1].split("</script>")[0])["frames"]) == 80
    assert "Calibration on held-out episodes" in report
    assert show_episode(done.path, tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
    assert show_episode(done.path, tmp_path / "page.mp4").read_bytes()[4:8] == b"ftyp"
    with pytest.raises(LabellingError, match="must end in"):
        show_episode(done.path, tmp_path / "page.gif")
    with pytest.raises(LabellingError, match="no episode 9; it has 5"):
        show_episode(done.path, tmp_path / "page.html", episode=9)


def test_the_commands_say_where_the_result_is_or_what_is_wrong(hdf5, tmp_path, capsys):
    run = _command("annotate")
    assert (
        run([str(hdf5), "--out", str(tmp_path / "out.hdf5"), "--method", "gaussian", "--option", "sigma=2", "--report"])
        == 0
    )
    said = capsys.readouterr().out
    assert "5 episodes, 400 steps, 15 change points" in said
    assert (tmp_path / "out.hdf5.report.html").exists()
    assert run([str(hdf5), "--out", str(tmp_path / "out.hdf5")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert run([str(hdf5), "--out", str(tmp_path / "x.hdf5"), "--option", "sigma"]) == 1
    assert "is not KEY=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "x.hdf5").exists()
    show = _command("show_episode")
    assert show([str(hdf5), "--method", "cotpc", "--out", str(tmp_path / "e.html")]) == 0
    assert "labels: cotpc" in (tmp_path / "e.html").read_text()
    assert show([str(hdf5), "--camera", "wrist", "--out", str(tmp_path / "e.html")]) == 1
    assert "no camera 'wrist' (cameras: image_primary)" in capsys.readouterr().err


def _command(name):
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_an_rlds_version_keeps_every_feature_byte_for_byte(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from gap_vla.rlds import read_rlds, write_rlds

    old = write_rlds(demos(6), tmp_path, "corners", val_fraction=0.34)
    files = {p.name: p.read_bytes() for p in old.iterdir() if p.is_file()}
    new = label_files(old, old.parent / "1.1.0", method="gaussian").path
    assert {p.name: p.read_bytes() for p in old.iterdir() if p.is_file()} == files

    for split in ("train", "val"):
        for before, after in zip(_records(tf, old, split), _records(tf, new, split), strict=True):
            assert set(after) - set(before) == {"steps/rho", "steps/change_point"}
            assert all(after[key] == before[key] for key in before)
        for episode in read_rlds(new, split):
            assert np.flatnonzero(episode.change_point).tolist() == [20, 40, 60]
            assert episode.rho[20] == 1
    builder = tfds.builder_from_directory(str(new))
    assert str(builder.info.version) == "1.1.0"
    assert builder.info.splits["train"].num_examples == 4
    again = annotate(list(read_rlds(old, "train")), method="gaussian")
    assert json.loads((new / "metadata.json").read_text())["annotator"] == again.identity
    with pytest.raises(LabellingError, match="must be a version such as"):
        label_files(old, old.parent / "labelled")
    relabelled = label_files(new, new.parent / "1.2.0", method="fixed").path
    assert set(next(read_rlds(relabelled, "val")).rho.tolist()) == {0.5}


def _records(tf, folder, split):
    for path in sorted(folder.glob(f"*-{split}.tfrecord*")):
        if path.suffix in (".json", ".npz"):
            continue
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            yield {key: value.SerializeToString(deterministic=True) for key, value in features.items()}
