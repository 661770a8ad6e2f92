"""`scripts/build_dataset.py` and `tfds build` end to end, as a user runs them."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from runner import Runner
from synthetic_demos import make_episode, write_robomimic

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source
from gap_vla.rlds import DatasetError, build_dataset, dataset_builder, dataset_metadata, read_rlds, tfds_builder
from gap_vla.rlds.schema import Schema
from gap_vla.rlds.shards import ShardJob
from gap_vla.training.config import DataConfig, DemosConfig, PhasesConfig
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.stages import prepare_data, stages_of

ROOT = Path(__file__).parents[2]
BUILDER = (
    "from gap_vla.rlds.tfds_builder import DemosBuilder\n"
    "class Mine(DemosBuilder, skip_registration=True):\n    name = 'mine'\n    {}\n"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    return write_robomimic(folder / "d.hdf5", [make_episode(i, annotated=False) for i in range(6)])


@pytest.fixture(scope="module")
def made(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its dataset, with ρ."""
    return build_dataset(file, tmp_path_factory.mktemp("made"), "threading", method="gaussian", workers=1)


def call(name: str, *arguments: object) -> int:
    """A command, in this process: TensorFlow is imported once."""
    return importlib.import_module(f"gap_vla.cli.{name}").main([str(a) for a in arguments])


def test_a_finished_dataset_is_found_where_nothing_may_be_written(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("build_dataset", file, "--name", "my_task", "--data-dir", tmp_path, "--method", "gaussian")
    assert call(*command) == 0
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK and mode != os.W_OK | os.X_OK)
    assert call(*command) == 0
    for others in (("--overwrite",), ("--version", "2.0.0")):
        assert call(*command, *others) == 2
        assert "--data-dir is" in (said := capsys.readouterr().err) and "is not writable" in said


def test_build_dataset_annotates_writes_and_reuses(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("build_dataset", file, "--name", "my_task", "--data-dir", tmp_path, "--workers", 1)
    assert call(*command, "--method", "gaussian") == 0
    path = tmp_path / "my_task" / "1.0.0"
    assert f"dataset: {path}" in capsys.readouterr().out
    episodes = list(read_rlds(path, "train"))
    assert all(e.rho is not None and np.ptp(e.rho) > 0 for e in episodes)
    assert dataset_metadata(path)["annotator"]["method"] == "gaussian"
    assert list((path / "annotator").iterdir())
    stamp = (path / "metadata.json").stat().st_mtime_ns
    assert call(*command, "--method", "gaussian") == 0
    assert (path / "metadata.json").stat().st_mtime_ns == stamp
    assert call(*command, "--method", "fixed") == 2
    assert "'gaussian' then, 'fixed' now" in capsys.readouterr().err


def test_what_became_of_a_dataset_is_seen_when_it_is_built_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("build_dataset", file, "--name", "toy", "--data-dir", tmp_path, "--method", "gaussian", "--workers", 1)
    assert call(*command) == 0
    path = tmp_path / "toy" / "1.0.0"
    [train], [val] = path.glob("*train*"), path.glob("*val*")
    changes = {
        train: (None, train.read_bytes()[:-9], val.read_bytes(), train.read_bytes()[::-1]),
        val: (b"", train.read_bytes()),
        path / "features.json": (None, (path / "features.json").read_bytes()[:200]),
        path / "dataset_info.json": (None,),
    }
    for place, contents in changes.items():
        good = place.read_bytes()
        for content in contents:
            place.unlink() if content is None else place.write_bytes(content)
            capsys.readouterr()
            assert call(*command) == 2, place.name
            assert capsys.readouterr().err.count("\n") == 1
        place.write_bytes(good)
    assert call(*command) == 0


def test_a_saved_annotator_gives_the_same_labels(
    file: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, builder = open_source(file), dataset_builder("threading", tmp_path / "again")
    monkeypatch.setattr(type(builder), "SEED", 3)  # of what the class would fit
    again = builder.convert(source, annotator=made / "annotator", workers=1)
    fitted = build_dataset(source, tmp_path / "fitted", "threading", method="gaussian", fit_episodes=5, workers=1)
    for shard in made.glob("*.tfrecord-*"):
        assert shard.read_bytes() == (again / shard.name).read_bytes() == (fitted / shard.name).read_bytes()
    assert dataset_metadata(made)["annotator"]["hash"] == dataset_metadata(again)["annotator"]["hash"]


def test_an_rlds_dataset_is_sent_to_the_command_that_adds_rho(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("build_dataset", tmp_path, "--kind", "rlds", "--name", "x") != 0
    assert "gap-vla annotate SOURCE --out" in capsys.readouterr().err


@pytest.mark.slow
def test_dry_run_shows_mapping_and_picture_and_writes_no_dataset(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("build_dataset", file, "--name", "my_task", "--method", "gaussian", "--dry_run") == 0
    shown = capsys.readouterr().out
    for line in (
        "6 episodes",
        "image_primary: uint8 16x16x3  <- obs/agentview_image",
        "steps/rho: float32 scalar  <- annotator",
        "not taken: attribute model_file, dones, obs/object",
    ):
        assert line in shown, shown
    assert Image.open(tmp_path / "my_task_dry_run.png").size[0] > 400
    assert not (tmp_path / "data").exists()


def test_a_builder_folder_makes_the_same_dataset(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = dataset_builder("threading", tmp_path / "tfds")
    with pytest.raises(DatasetError, match="no demonstrations; set GAP_VLA_SOURCE"):
        builder.download_and_prepare()
    by_hand = tfds.download.DownloadConfig(manual_dir=file.parent)
    monkeypatch.setenv("GAP_VLA_SOURCE", "")
    assert builder._source(by_hand.manual_dir) == file
    monkeypatch.setenv("GAP_VLA_SOURCE", str(file))
    with pytest.raises(DatasetError, match=r"--manual_dir has no effect beside GAP_VLA_SOURCE, .*; leave one out"):
        builder.download_and_prepare(download_config=by_hand)
    monkeypatch.setattr(type(builder), "METHOD", "gaussian")
    for idle in ({"max_examples_per_split": 2}, {"num_shards": 3}, {"nondeterministic_order": True}):
        with pytest.raises(DatasetError, match=f"{next(iter(idle))} has no effect on what is written here; leave it"):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**idle))
    with pytest.raises(DatasetError, match="file_format has no effect on what is written here; leave it out"):
        type(builder)(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with pytest.raises(DatasetError, match="file_format has no effect on what is written here; leave it out"):
        builder.download_and_prepare(file_format="array_record")
    with pytest.raises(TypeError, match="unexpected keyword argument 'config'"):
        builder.download_and_prepare(config=by_hand)
    with monkeypatch.context() as patched, pytest.raises(DatasetError, match="BUILDER_CONFIGS has no effect on what"):
        patched.setattr(type(builder), "BUILDER_CONFIGS", [tfds.core.BuilderConfig(name="small")])
        type(builder)(data_dir=str(tmp_path), config="small").download_and_prepare()
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == 5
    assert len(list(builder.as_dataset(split="val"))) == 1
    again = dataset_builder("threading", tmp_path / "tfds")
    assert again.info.features["steps"].feature["rho"].dtype == np.float32
    command = ("build_dataset", file, "--name", "threading", "--data-dir", tmp_path / "script", "--workers", 1)
    with pytest.raises(SystemExit):
        call(*command, "--seed", 0)
    idle = "error: --seed has no effect with METHOD gaussian of rlds_builders/threading, which draws nothing; leave it"
    assert idle in capsys.readouterr().err
    assert call(*command) == 0
    for path in (tmp_path / "tfds/threading/1.0.0").rglob("*.*"):
        other = tmp_path / "script" / path.relative_to(tmp_path / "tfds")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_the_main_job_writes_with_the_builder_of_its_task(file: Path, made: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        task="threading",
        demos=DemosConfig(path=str(file)),
        phases=PhasesConfig(method="gaussian"),
        data=DataConfig(root=str(tmp_path)),
    )
    stages = stages_of(config)
    prepare_data(config, stages)
    path = stages.rlds
    info = json.loads((path / "dataset_info.json").read_text())
    builder = dataset_builder("threading", tmp_path)
    assert (info["moduleName"], info["version"]) == (type(builder).__module__, str(builder.VERSION))
    assert info["moduleName"] == "rlds_builders.threading.threading_dataset_builder"
    assert Path(inspect.getfile(type(builder))) == ROOT / "rlds_builders/threading/threading_dataset_builder.py"
    assert info["description"] == f"threading: {inspect.getdoc(type(builder))}"
    for shard in path.glob("*.tfrecord-*"):
        assert shard.read_bytes() == (made / shard.name).read_bytes(), "the builder's name is not in the records"


def test_datasets_without_a_folder_are_written_by_the_base_builder(file: Path, tmp_path: Path) -> None:
    builder = dataset_builder("my_task", tmp_path, version="2.1.0")
    path = builder.convert(file, method="gaussian", workers=1)
    info = json.loads((path / "dataset_info.json").read_text())
    assert path == tmp_path / "my_task" / "2.1.0"
    assert (info["name"], info["moduleName"]) == ("my_task", "gap_vla.rlds.tfds_builder")
    assert type(dataset_builder("threading", tmp_path, kind="npz")).__module__ == "gap_vla.rlds.tfds_builder"
    assert type(dataset_builder("threading", tmp_path, version="1.0.1")).__module__.startswith(
        "rlds_builders.threading"
    )
    for name in ("my-task", "übung", "MyTask", "_x", "a" * 191):
        with pytest.raises(DatasetError, match=f"'{name}': use at most 190 small letters a to z, digits"):
            dataset_builder(name, tmp_path)


def test_an_installed_package_has_no_folders_and_still_writes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gap_vla.rlds.tfds_builder.BUILDERS", tmp_path / "nowhere")
    monkeypatch.setattr("gap_vla.rlds.tfds_builder._class_in_folder", tfds_builder._class_in_folder.__wrapped__)
    path = dataset_builder("stack", tmp_path).convert(file, method="fixed", workers=1)
    assert json.loads((path / "dataset_info.json").read_text())["moduleName"] == "gap_vla.rlds.tfds_builder"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", r"line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("OPTIONS = {'a': 1", r"line 1: SyntaxError: '{' was never closed"),
        ("raise SystemExit(0)", "line 1: SystemExit: 0"),
        ("", "defines no subclass of DemosBuilder whose name is mine"),
        (BUILDER.format("READER_OPTIONS = [1]"), r"READER_OPTIONS is \[1\]; it must be a dictionary"),
        (BUILDER.format("VAL_FRACTION = '0.1'"), "VAL_FRACTION is '0.1'; it must be a number from 0 to 1"),
        (BUILDER.format("VAL_FRACTON = 0.1"), "VAL_FRACTON is no setting of a builder; did you mean VAL_FRACTION"),
    ],
)
def test_errors_of_somebodys_builder_name_its_file_and_line(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gap_vla.rlds.tfds_builder.BUILDERS", tmp_path)
    monkeypatch.setattr("gap_vla.rlds.tfds_builder._class_in_folder", tfds_builder._class_in_folder.__wrapped__)
    monkeypatch.delitem(sys.modules, "rlds_builders.mine.mine_dataset_builder", raising=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine_dataset_builder.py").write_text(code)
    with pytest.raises(DatasetError, match=rf"mine_dataset_builder\.py(:|, ).*{said}"):
        dataset_builder("mine", tmp_path)


def test_a_copied_folder_whose_file_kept_its_name_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gap_vla.rlds.tfds_builder.BUILDERS", tmp_path)
    shutil.copytree(ROOT / "rlds_builders" / "npz_folder", tmp_path / "copied")
    with pytest.raises(DatasetError, match=r"npz_folder_dataset_builder\.py would be passed over; call it copied_dat"):
        dataset_builder("copied", tmp_path, kind="npz")


def test_settings_of_a_class_that_would_be_lost_are_kept_or_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = dataset_builder("threading", tmp_path)
    monkeypatch.setattr(type(builder), "OPTIONS", {"epochs": 5})
    assert builder._settings({"options": {"smooth": 3}})["options"] == {"epochs": 5, "smooth": 3}
    assert builder._settings({"options": {}})["options"] == {}
    assert builder._settings({"options": {"sigma": 3}, "method": "gaussian"})["options"] == {"sigma": 3}
    assert "method" not in builder._settings({"annotator": "folder"})
    with pytest.raises(DatasetError, match=r"reader has no effect on .* which is open; give it to open_source"):
        builder.convert(open_source(file), reader={"layout": "gap"})
    assert "note" not in capsys.readouterr().out
    dataset_builder("threading", tmp_path, kind="npz")
    assert "rlds_builders/threading reads robomimic_hdf5; its settings do not hold for kind npz" in (
        capsys.readouterr().out
    )
    for left in ("mine.hdf5", "mine.mp4", "mine.png"):
        (tmp_path / left).touch()
    assert builder._source(tmp_path) == tmp_path / "mine.hdf5"


def test_every_builder_folder_holds_a_builder_of_its_name(tmp_path: Path) -> None:
    folders = sorted(p.name for p in (ROOT / "rlds_builders").iterdir() if p.is_dir() and p.name[0] not in "._")
    for name in folders:
        assert type(dataset_builder(name, tmp_path)).__module__ == f"rlds_builders.{name}.{name}_dataset_builder"


def test_every_simulated_task_has_a_builder() -> None:
    from gap_vla.sim import TASK_NAMES

    assert {p.name for p in (ROOT / "rlds_builders").iterdir()} >= set(TASK_NAMES)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("apache_beam"), reason="the tfds command itself needs apache-beam")
def test_tfds_build_works_in_a_builder_folder(file: Path, tmp_path: Path, runner: Runner) -> None:
    script = tmp_path / "tfds.py"
    script.write_text(f"""import os, runpy, sys
os.environ["GAP_VLA_SOURCE"] = {str(file)!r}
os.chdir({str(ROOT / "rlds_builders" / "threading")!r})
sys.path[0] = ""
runpy.run_module("tensorflow_datasets.scripts.cli.main", run_name="__main__", alter_sys=True)
""")
    built = runner.run(script, ["build", "--data_dir", str(tmp_path)], tmp_path)
    assert built.status == 0, built.stderr[-2000:]
    assert len(list(read_rlds(tmp_path / "threading" / "1.0.0", "train"))) == 5


@pytest.mark.skipif(not find_spec("apache_beam"), reason="the tfds command itself needs apache-beam")
def test_tfds_build_replaces_a_dataset_when_the_new_one_is_whole(
    file: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow_datasets.scripts.cli.build import _make_builder

    shutil.copytree(made, path := tmp_path / "threading/1.0.0")
    (path / "notes.txt").touch()
    threading = type(dataset_builder("threading", tmp_path))
    with pytest.raises(RuntimeError, match="the data already exists"):
        _make_builder(threading, overwrite=False, fail_if_exists=True, data_dir=tmp_path)
    builder = _make_builder(threading, overwrite=True, fail_if_exists=False, data_dir=tmp_path)
    assert (path / "notes.txt").exists() and builder.is_prepared()
    assert "rho" in builder.info.features["steps"].feature
    monkeypatch.setattr(threading, "METHOD", "none")
    monkeypatch.setenv("GAP_VLA_SOURCE", str(file))
    (path / "notes.txt").unlink()
    again = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
    builder.download_and_prepare(download_config=again)
    assert "rho" not in builder.info.features["steps"].feature


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("apache_beam"), reason="needs apache-beam")
def test_beam_writes_the_same_bytes(file: Path, made: Path, tmp_path: Path) -> None:
    from gap_vla.rlds import BeamRunner

    beam = build_dataset(open_source(file), tmp_path, "threading", method="gaussian", runner=BeamRunner())
    for path in made.glob("*.*"):
        assert path.read_bytes() == (beam / path.name).read_bytes(), path.name


@pytest.mark.skipif(not find_spec("apache_beam"), reason="needs apache-beam")
def test_a_flag_that_beam_does_not_know_is_refused_where_no_runner_is_named() -> None:
    from gap_vla.rlds import BeamRunner

    with pytest.raises(DatasetError, match="--beam runnr is no flag of Beam, and no runner is named; name one, or"):
        BeamRunner(["--runnr=FlinkRunner"])([])
    assert BeamRunner(["--runner=DirectRunner", "--of_its_own=1"])([]) == []


@pytest.mark.skipif(not find_spec("apache_beam"), reason="needs apache-beam")
def test_what_beam_cannot_write_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from gap_vla.rlds import BeamRunner

    good, bad = make_episode(0, steps=12), make_episode(1, steps=12, size=8)
    with pytest.raises(EpisodeError, match=r"the first episode has .* make two of them or repair the episode$"):
        BeamRunner()([ShardJob([good, bad], (0, 1), None, Schema.of(good), tmp_path / "toy.tfrecord-00000-of-00001")])
    assert not [record for record in caplog.records if record.exc_info] and not list(tmp_path.iterdir())


@pytest.mark.skipif(not find_spec("apache_beam"), reason="needs apache-beam")
def test_rho_is_a_beam_transform(tmp_path: Path) -> None:
    import apache_beam as beam
    from apache_beam.testing.util import assert_that, equal_to

    from gap_vla.phases import annotate
    from gap_vla.rlds import with_rho

    with pytest.raises(EpisodeError, match="annotator is None; give annotate"):
        with_rho(make_episode(0), None)  # type: ignore[arg-type]

    episodes = [make_episode(i, annotated=False) for i in range(4)]
    annotation = annotate(episodes, method="gaussian", workers=1)
    expected = [np.asarray(rho, np.float32).tolist() for rho in annotation.rho]
    with beam.Pipeline() as pipeline:
        found = pipeline | beam.Create(episodes) | beam.Map(with_rho, annotation.annotator)
        assert_that(found | beam.Map(lambda episode: episode.rho.tolist()), equal_to(expected))
