"""What cannot work is refused before anything is made: wrong inputs, folders, devices, too little memory or disk."""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from experiment_files import profiles
from gap_vla.training.preflight import require_training_memory
from processor_time import run_measured, two_seconds

from gap_vla.cli.configured import load_config
from gap_vla.core import resources
from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.resources import ResourceError, available_memory
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import EPISODES, all_number_fields
from gap_vla.core.whole import write_json
from gap_vla.rlds.shards import plan_splits
from gap_vla.rlds.store import source_hash_of, write_store
from gap_vla.rollouts.task import SimTask
from gap_vla.sim import VARIANT_NAMES, task_spec, variant_spec
from gap_vla.sim.collection import require_space
from gap_vla.training import preflight
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import Run
from gap_vla.training.stages import stages_of
from gap_vla.training.torch import SmallConfig

ROOT = Path(__file__).parent.parent


def config_of(name, profile="debug", **changes):
    kind = SmallConfig if name.startswith("small_") else FinetuneConfig
    values = load_config(f"{ROOT}/finetune_configs/{name}.py:{profile}").to_dict()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section][name] = value
        else:
            values[section] = value
    return kind.from_dict(values)


def octo(**changes):
    return config_of("threading", **changes)


def small(**changes):
    return config_of("small_threading", **changes)


@pytest.fixture
def folders(tmp_path):
    return {"data__root": str(tmp_path / "data"), "runs": str(tmp_path / "runs")}


def ready(config):
    preflight.require_ready(config, stages_of(config), Run(config).directory)


@pytest.mark.parametrize("make", [octo, small])
def test_what_can_work_is_let_through_and_nothing_is_made(make, folders, tmp_path):
    ready(make(**folders))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "usual"),
    [
        ("JAX_ENABLE_X64", "1", "0"),
        ("JAX_RANDOM_SEED_OFFSET", "3", "0"),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", "threefry2x32"),
        ("JAX_THREEFRY_PARTITIONABLE", "false", "True"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16", ""),
        ("JAX_LEGACY_PRNG_KEY", "error", "allow"),
        ("JAX_HIGH_DYNAMIC_RANGE_GUMBEL", "1", "0"),
        ("JAX_DISABLE_JIT", "1", "false"),
    ],
)
def test_other_numbers_than_usual_for_all_of_jax_are_refused(name, value, usual, folders, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name} is {value}, with which other numbers, or none, come"):
        ready(octo(**folders))
    monkeypatch.setenv(name, usual)
    ready(octo(**folders))


def test_the_largest_first_layout_leaves_room_for_every_variant_and_episode():
    most = all_number_fields(SmallConfig)["eval.seed"].bounds.most
    last = max(variant_spec(name).first_seed for name in VARIANT_NAMES) + most + EPISODES.most
    assert last < 2**31


def test_a_run_goes_on_with_its_own_data_or_not_at_all(folders, tmp_path):
    run = Run(small(**folders)).directory
    run.state.mkdir(parents=True)
    (run.state / "training.pt").write_text("")
    write_json(run.config, small(**folders).to_dict())
    ready(small(**folders))
    elsewhere = {**folders, "data__root": str(tmp_path / "elsewhere")}
    with pytest.raises(UserError, match=f"was trained on data in {tmp_path}/data; move that folder to data.root$"):
        ready(small(**elsewhere))
    pictures, none = {"image_primary": np.zeros((8, 32, 32, 3), np.uint8)}, np.zeros(8, np.float32)
    still = Episode(
        pictures, np.zeros((8, 9), np.float32), np.zeros((8, 7), np.float32), rho=none, change_point=none > 0
    )
    for size in (64, 32):
        store = stages_of(config := small(**elsewhere, demos__image_size=size)).store
        store.mkdir(parents=True)
        write_store(store, {"train": [still]}, source="made up", source_hash="0")
        if size == 64:
            with pytest.raises(UserError, match=f"{store} holds images of 32 × 32, demos.image_size is 64"):
                ready(config)
    ready(config)


def test_a_folder_of_somebodys_in_the_place_of_a_store_is_seen_before_work(folders):
    config = small(**folders)
    store = stages_of(config).store
    store.mkdir(parents=True)
    ready(config)
    (store / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{store} is no store, and not empty; move it away"):
        ready(config)


def test_a_warm_up_that_training_never_ends_is_noted(folders):
    note = "note: optimizer.warmup_steps is 100, train.steps 50: at most 0.5 of optimizer.learning_rate is reached"
    assert note in Run(small(**folders, train__steps=50, optimizer__warmup_steps=100)).dry_run()
    assert "note" not in Run(small(**folders, train__steps=50, optimizer__warmup_steps=50)).dry_run()


def test_a_dry_run_of_a_model_that_does_not_fit_takes_no_memory_for_it(folders, monkeypatch):
    monkeypatch.setattr(resources, "free_disk", lambda folder: None)  # of which training needs as much
    monkeypatch.setattr(preflight, "available_memory", lambda: 20 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = Run(small(**folders, model__head_dim=8192, model__head_layers=32)).dry_run()
    assert re.search(r"policy: gap, 2,\d{3},\d{3},\d{3} parameters", said)
    assert re.search(r"about 3\d\.\d GiB .* are free here, so that a run would be refused", said)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 2 << 20  # KiB; its parameters alone have 8 GiB


def test_a_dry_run_says_of_a_run_that_is_there_whether_it_would_go_on(folders):
    config, other = small(**folders), small(**folders, train__seed=7)
    run = Run(config, "named").directory
    assert f"run: {run.path}\n" in Run(config, "named").dry_run()
    RunDirectory.claim(run.path, config.to_dict(), resume=False, dataset=stages_of(config).made_from("small"))
    for ended in ("started", "finished"):
        assert f"run: {run.path} (there already, {ended}; --resume goes on with it)" in Run(config, "named").dry_run()
        refusal = "--resume would be refused: .* another configuration .train.seed: 0 then, 7 now"
        assert re.search(refusal, Run(other, "named").dry_run())
        run.summary.write_text("{}")


@pytest.mark.parametrize("kind", [small, octo])
def test_a_dry_run_says_what_memory_training_takes_and_whether_it_is_here(kind, folders, monkeypatch):
    said = Run(kind(**folders)).dry_run()
    assert re.search(r"memory of training: about [\d.]+ [MG]iB \(libraries 300\.0 MiB, .*batches .*\)\n|\)$", said)
    assert "refused" not in said
    monkeypatch.setattr("gap_vla.training.preflight.available_memory", lambda: 2**28)
    assert "; 256.0 MiB are free here, so that a run would be refused" in Run(kind(**folders)).dry_run()


def test_a_policy_that_sees_nothing_takes_no_memory_for_pictures():
    blind, seeing = (small(method=method, train__batch_size=16_384).memory() for method in ("proprio", "vision"))
    assert blind["image encoder"] == blind["batches"] == 0 < seeing["image encoder"]
    encoders = {"demos__cameras": ("primary", "wrist"), "model__encoder": "resnet18"}
    assert small(method="proprio", **encoders).memory()["parameters, gradients, optimizer"] < 16 * 1e6


def test_a_dry_run_says_how_long_gap_acts_in_the_unit_that_counts(folders):
    assert "first 50% of 50 steps" in Run(small(**folders, train__steps=50, method="gap")).dry_run()
    short = small(**folders, train__steps=2500, adjustment__window=0.004, method="gap")
    assert "first 0.4% of 2500 steps" in Run(short).dry_run(), "where GAP acts in ten"
    assert "first 50% of 3 epochs" in Run(small(**folders, train__epochs=3, method="gap")).dry_run()


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (octo, {"model__pretrained": "/nowhere"}, r"model\.pretrained is '/nowhere', which holds no checkpoint"),
        (octo, {"optimizer__frozen_keys": ("*proprio*",)}, r"freezes octo_transformer\.obs_proprio\S+; method vp_gap"),
        (octo, {"optimizer__frozen_keys": ("no_such*",)}, r"optimizer\.frozen_keys: 'no_such\*' matches no parameter"),
        (small, {"method": "msbot", "model__phases": 2}, r"model\.phases is 2; demonstrations of \w+ have up to \d"),
        (octo, {"model__pretrained": "hf://octo-small"}, "expected hf://<owner>/<repository>"),
        (octo, {"phases__method": "none"}, "phases.method is 'none', and this method needs ρ"),
        (small, {"phases__method": "none"}, "phases.method is 'none', and this method needs ρ"),
        (octo, {"demos__path": str(ROOT / "README.md")}, "not a complete HDF5 file"),
        (octo, {"train__fsdp": 3, "train__batch_size": 9}, r"train\.fsdp is 3, which does not divide"),
        (small, {"train__device": "cuda"}, r"train\.device is 'cuda', but there is no such device"),
        (small, {"model__encoder": "resnet18", "model__encoder_weights": "/x.pth"}, "encoder_weights .* is no file"),
        (small, {"model__encoder": "resnet18", "model__encoder_weights": str(ROOT / "README.md")}, "not readable"),
        (octo, {"train__batch_size": 65_536, "demos__image_size": 1024}, "GiB of memory are needed .* are free; lower"),
        (octo, {"demos__episodes": 100_000, "demos__image_size": 1024}, "GiB of disk in .* are needed"),
        (octo, {"data__mixture": (("/nowhere/1.0.0", 0.5),)}, "data.mixture is '/nowhere/1.0.0', which holds no RLDS"),
        (octo, {"runs": str(ROOT / "README.md" / "runs")}, r"runs is .*README\.md is a file; give a folder"),
        (octo, {"runs": ""}, r"^runs is an empty text; give a folder, \. for the present one"),
        (small, {"data__root": ""}, r"^data\.root is an empty text; give a folder"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_made(make, changes, words, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda: 20 * 2**30)
    with pytest.raises(UserError, match=words):
        ready(make(**folders | changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, []),
        ({"JAX_NUM_CPU_DEVICES": "3"}, []),
        ({"JAX_PLATFORMS": ""}, ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"]),
    ],
)
def test_a_batch_that_several_devices_cannot_share_is_refused_before_anything_is_made(
    variables, gpus, folders, tmp_path, monkeypatch
):
    monkeypatch.setattr("jax.device_count", lambda: 3)
    ready(octo(**folders))  # of one device, it is not asked, which takes seconds
    monkeypatch.setattr("gap_vla.training.octo.glob", types.SimpleNamespace(glob=lambda pattern: gpus))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="it must be a multiple of the 3 devices"):
        ready(octo(**folders, train__batch_size=8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (octo, {"train__fsdp": 3, "train__batch_size": 9}, r"train\.fsdp is 3, which does not divide"),
        (octo, {"train__logger": "trackio"}, r"train\.logger: trackio cannot be used"),
        (octo, {"runs": str(ROOT / "README.md" / "runs")}, "is a file; give a folder"),
        (small, {"train__device": "cuda"}, r"train\.device is 'cuda', but there is no such device"),
    ],
)
def test_a_dry_run_looks_at_what_a_run_looks_at(make, changes, words, folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=words):
        Run(make(**folders | changes)).dry_run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [octo, small])
def test_a_page_of_somebody_else_is_noticed_before_training(make, folders):
    config = make(**folders)
    run = RunDirectory.claim(Run(config).directory.path, config.to_dict(), resume=False)
    run.page.write_text("mine")
    with pytest.raises(UserError, match=r"report\.html exists without a mark of gap_vla \(runs_report\); name another"):
        Run(make(**folders | {"eval__seed": 7}), run.path.name).to_the_end(resume=True)
    assert run.page.read_text() == "mine"


@pytest.mark.parametrize("make", [octo, small])
@pytest.mark.parametrize(
    ("name", "folder"), [("state", True), ("rollouts", True), ("report.html", False), ("state/training.pt", False)]
)
def test_a_run_with_a_file_in_the_place_of_a_folder_is_not_taken_up_and_nothing_changes(
    make, name, folder, folders, tmp_path
):
    config = make(**folders)
    run = RunDirectory.claim(Run(config).directory.path, config.to_dict(), resume=False)
    run.rollouts.mkdir()
    if (place := run.path / name).exists():
        place.rmdir()
    place.touch() if folder else place.mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = make(**folders | {"eval__seed": 7})
    with pytest.raises(UserError, match=rf"{name} is no {'folder' if folder else 'file'}, and one belongs there; move"):
        Run(other, run.path.name).to_the_end(resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_of_the_other_trainer_is_called_that(folders, tmp_path):
    config = small(**folders)
    RunDirectory.claim(Run(config, "one").directory.path, config.to_dict(), resume=False)
    with pytest.raises(UserError, match="holds a run of the backend small; take another --run-name"):
        Run(octo(**folders), "one").to_the_end(resume=True)


@pytest.mark.parametrize("make", [octo, small])
def test_a_view_that_a_scene_of_the_rollouts_cannot_move_is_refused_before_training(make, folders, tmp_path):
    scene = {"eval__variant": "camera_shift"} if make is octo else {"eval__variants": ("default", "camera_shift")}
    with pytest.raises(UserError, match="variant camera_shift moves the task's own view, not 'frontview'"):
        ready(make(**folders | scene | {"demos__camera": "frontview"}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "config", "setting"),
    [
        ("finetune", "threading", "--config.demos.path=README.md"),
        pytest.param("train_small", "small_threading", "--config.train.device=cuda", marks=pytest.mark.slow),
    ],
)
def test_the_command_refuses_wrong_inputs_within_two_seconds(script, config, setting, tmp_path):
    folders = [f"--config.data.root={tmp_path}/data", f"--config.runs={tmp_path}/runs"]
    command = [sys.executable, f"scripts/{script}.py", "--config", f"finetune_configs/{config}.py:debug"]
    found, seconds = run_measured([*command, *folders, setting])
    assert found.returncode == 2 and found.stderr.startswith("error: "), found.stderr
    assert seconds < two_seconds()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is such a device")
def test_a_device_for_jax_that_is_not_there_is_refused_before_anything_is_made(tmp_path):
    folders = [f"--config.data.root={tmp_path}/data", f"--config.runs={tmp_path}/runs"]
    command = [sys.executable, "scripts/finetune.py", "--config", "finetune_configs/threading.py:debug", *folders]
    cuda = os.environ | {"JAX_PLATFORMS": "cuda"}
    found = subprocess.run(command, env=cuda, capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr.startswith("error: JAX_PLATFORMS is cuda: no such device"), found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("of_folder", [False, True])
def test_own_demonstrations_that_were_edited_are_other_data_though_size_and_time_stay(of_folder, folders, tmp_path):
    place = tmp_path / "own"
    (place / "chunk").mkdir(parents=True)
    file = place / "chunk" / "episode_0.npz"
    file.write_bytes(b"once")
    config = small(**folders, demos__path=str(place if of_folder else file))
    first, before = stages_of(config), file.stat()
    os.utime(file)
    (place / ".DS_Store").write_bytes(b"of a file browser")
    assert stages_of(config) == first
    file.write_bytes(b"also")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stages_of(config).store != first.store
    file.write_bytes(b"once")
    assert stages_of(config) == first
    if of_folder:
        (place / "chunk" / "episode_1.npz").write_bytes(b"more")
        assert stages_of(config).store != first.store


def test_a_run_is_not_made_inside_of_the_checkpoint_that_it_begins_with(folders, tmp_path):
    (tmp_path / "octo").mkdir()
    with pytest.raises(UserError, match=r"octo/threading/\S+ lies in .*octo, which is read; name another place"):
        ready(octo(**folders | {"runs": str(tmp_path / "octo")}, model__pretrained=str(tmp_path / "octo")))


def test_a_run_is_not_made_inside_of_the_data_that_it_is_trained_on(folders):
    stages = stages_of(small(**folders))
    for place in (stages.store, stages.rlds):
        with pytest.raises(UserError, match=rf"/small-gap-\S+ lies in {place}, which is read; name another place"):
            ready(small(**folders | {"runs": str(place)}))


def make_demos(path):
    """Three demonstrations of eight steps in robomimic's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["total"] = 24
        for index in range(3):
            demo = file.create_group(f"data/demo_{index}")
            demo["actions"] = np.zeros((8, 7))
            demo["obs/image_primary"] = np.zeros((8, 32, 32, 3), np.uint8)
            for key, row in {"eef_pos": [0, 0, index], "eef_quat": [0, 0, 0, 1], "gripper_qpos": [0.04, -0.04]}.items():
                demo[f"obs/robot0_{key}"] = np.tile(np.float32(row), (8, 1))


def test_demonstrations_that_were_collected_with_other_settings_are_not_taken_for_these(folders):
    config = small(**folders)
    stages = stages_of(config)
    make_demos(stages.demos)
    with h5py.File(stages.demos, "r+") as file:
        file["data"].attrs["collection_seed"] = 7
    with pytest.raises(UserError, match=r"was made with other settings \(collection_seed: 7 then, 0 now\); move it"):
        Run(config).collect()


def test_collected_demonstrations_that_lost_one_are_not_taken_for_whole(folders):
    config = small(**folders)
    stages = stages_of(config)
    make_demos(stages.demos)
    Run(config).collect()
    with h5py.File(stages.demos, "r+") as file:
        del file["data/demo_1"]
    with pytest.raises(UserError, match="have 16 steps, the attribute 'total' of 'data' says 24"):
        Run(config).collect()


def test_own_pictures_of_another_size_are_refused_before_a_dataset_is_made_of_them(folders, tmp_path):
    make_demos(tmp_path / "demos.hdf5")
    own = {"demos__path": str(tmp_path / "demos.hdf5"), "demos__image_size": 64, "eval__episodes": 0}
    with pytest.raises(UserError, match=r"images of 32 × 32, demos\.image_size is 64"):
        ready(small(**folders, **own))


@pytest.fixture
def dataset(tmp_path):
    """The description of an RLDS dataset of 64 × 64 pictures without ρ, as TFDS writes it."""

    def features(**parts):
        return {"featuresDict": {"features": parts}}

    picture = {"image": {"dtype": "uint8", "shape": {"dimensions": ["64", "64", "3"]}}}
    step = features(observation=features(image_primary=picture), action={"tensor": {}})
    folder = tmp_path / "rlds" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(features(steps={"sequence": {"feature": step}})))
    (folder / "dataset_info.json").write_text(
        json.dumps({"splits": [{"name": name, "shardLengths": []} for name in ("train", "val")]})
    )
    return folder


def test_a_shard_that_is_missing_is_found_before_work(dataset, folders):
    splits = [{"name": "train", "shardLengths": ["2", "3"]}, {"name": "val", "shardLengths": ["1"]}]
    (dataset / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    last = dataset / "toy-train.tfrecord-00001-of-00002"
    record = bytes(16)  # of no content
    (dataset / "toy-train.tfrecord-00000-of-00002").write_bytes(2 * record)
    (dataset / "toy-val.tfrecord-00000-of-00001").write_bytes(record)
    settings = {**folders, "data__rlds": str(dataset), "demos__cameras": ("primary",), "data__augment": {}}
    config = octo(**settings, method="vp")
    for content, said in (
        (None, r"2 files, 1 are there"),
        (b"", "00001-of-00002 is empty, dataset_info.json says 3 episodes"),
        (2 * record, "00001-of-00002 holds 2, dataset_info.json says 3 episodes"),
        (3 * record + b"more", "00001-of-00002 (holds more than 3|is truncated or damaged)"),
        (record + b"\xff" + record[1:] + record, "00001-of-00002 holds 2, or is damaged, dataset_info.json says 3"),
    ):
        if content is not None:
            last.write_bytes(content)
        with pytest.raises(UserError, match=said):
            ready(config)
    last.write_bytes(3 * record)
    ready(config)
    with pytest.raises(UserError, match="has no steps/rho"):
        Run(octo(**settings)).dry_run()


def test_a_description_that_nobody_can_read_is_found_before_work(dataset, folders):
    (dataset / "features.json").unlink()
    os.mkfifo(dataset / "features.json")
    with pytest.raises(UserError, match="is a pipe or a device"):
        ready(octo(**folders, data__rlds=str(dataset), method="vp"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "has no steps/rho, which method vp_gap needs; add it with `gap-vla annotate`"),
        (
            {"method": "vp", "demos__cameras": ("primary", "wrist")},
            r"has no camera 'wrist' .*; it has image_primary",
        ),
        ({"method": "vp", "demos__image_size": 32}, "holds images of 64 × 64, .*set --config.demos.image_size=64"),
    ],
)
def test_a_dataset_that_does_not_fit_is_named_before_it_is_read_and_where_a_run_has_read_it_already(
    dataset, changes, words, folders
):
    config = octo(**folders, data__rlds=str(dataset), **changes)
    store = stages_of(config).store
    for _ in range(2):
        with pytest.raises(UserError, match=words):
            ready(config)
        store.mkdir(parents=True, exist_ok=True)
        (store / "store.json").write_text("{}")
    assert not Path(folders["runs"]).exists()


ONE_CAMERA = {"demos__cameras": ("primary",), "data__augment": {}}


def redescribed(dataset, old, new):
    path = dataset / "features.json"
    path.write_text(path.read_text().replace(old, new))


def widths(proprio, action):
    return f'"action": {{"tensor": {{"shape": {{"dimensions": ["{action}"]}}}}}}, ' + (
        f'"proprio": {{"tensor": {{"shape": {{"dimensions": ["{proprio}"]}}}}}}'
    )


@pytest.mark.parametrize(
    ("method", "old", "new", "words"),
    [
        ("vp_gap", "{}", "{}", r"1\.0\.0 has no steps/rho, which method vp_gap needs"),
        (
            "vp",
            '"action": {"tensor": {}}',
            f'{widths(9, 7)}, "rho": {{"tensor": {{}}}}',
            r"1\.0\.0 has steps/rho without steps/change_point; add both with `gap-vla annotate`",
        ),
        ("vp", '"image_primary"', '"image_side"', r"1\.0\.0 has no camera 'primary' .*; it has image_side"),
        ("vp", '"action": {"tensor": {}}', widths(18, 7), r"1\.0\.0: proprio is \[18\], in .* it is \[9\]"),
        ("vp", '"action": {"tensor": {}}', widths(9, 14), r"1\.0\.0: action is \[14\], in .* it is \[7\]"),
        (
            "vp_gap",
            '"action": {"tensor": {}}',
            f'{widths(9, 7)}, "rho": {{"tensor": {{}}}}',
            r"1\.0\.0 has steps/rho without steps/change_point; add both",
        ),
    ],
)
def test_a_dataset_of_a_mixture_that_does_not_fit_is_named_before_work_begins(
    dataset, method, old, new, words, folders
):
    redescribed(dataset, old, new)
    with pytest.raises(UserError, match=words):
        ready(octo(**folders, **ONE_CAMERA, method=method, data__mixture=((str(dataset), 0.5),)))
    assert not Path(folders["runs"]).exists() and not Path(folders["data__root"]).exists()


def test_a_dataset_is_named_once_in_a_mixture(dataset, folders):
    once, link = (str(dataset), 0.5), dataset.parent / "link"
    link.symlink_to(dataset)
    with pytest.raises(UserError, match="name each dataset once"):
        ready(octo(**folders, data__mixture=((str(link), 0.5),), data__rlds=str(dataset)))
    for twice, main in (((once, once), ""), ((once, (f"{dataset}/", 0.5)), ""), ((once,), f"{dataset}/")):
        with pytest.raises(UserError, match="name each dataset once"):
            ready(octo(**folders, data__mixture=twice, data__rlds=main))


def test_a_dataset_of_a_mixture_needs_neither_held_out_episodes_nor_rho_where_the_method_needs_none(dataset, folders):
    redescribed(dataset, '"action": {"tensor": {}}', widths(9, 7))
    (dataset / "dataset_info.json").write_text(json.dumps({"splits": [{"name": "train", "shardLengths": []}]}))
    ready(octo(**folders, **ONE_CAMERA, method="vp", data__mixture=((str(dataset), 0.5),)))


def test_pictures_of_another_size_are_refused_in_a_mixture_without_rollouts_too(dataset, folders):
    wide = {"demos__image_size": 32, "method": "vp", "eval__episodes": 0, **ONE_CAMERA}
    with pytest.raises(UserError, match=r"image_primary is \[64, 64, 3\], in .* it is \[32, 32, 3\]"):
        ready(octo(**folders, **wide, data__mixture=((str(dataset), 0.5),)))


@pytest.mark.parametrize("named", ["dataset", "demonstrations"])
def test_a_dry_run_counts_with_the_pictures_states_and_actions_of_the_data(dataset, folders, tmp_path, named):
    redescribed(dataset, '"action": {"tensor": {}}', widths(12, 8))
    own = {"data__rlds": str(dataset)}
    if named == "demonstrations":
        own = demonstrations(tmp_path / "wide.hdf5", action=8)
    wide = {"method": "vp", "eval__episodes": 0, **ONE_CAMERA, **own}
    said = Run(octo(**folders, **{**wide, "demos__image_size": 128})).dry_run()
    assert re.search(r"observation/image_primary uint8\[\d+, 1, 64, 64, 3\]", said)
    assert re.search(r"  action float32\[\d+, 1, \d+, 8\]", said)
    width = 12 if named == "dataset" else 9
    assert re.search(rf"observation/proprio float32\[\d+, 1, {width}\]", said)
    assert "note: image_primary is trained on as it is, 64 × 64: demos.image_size, 128, has no effect" in said
    right = Run(octo(**folders, **{**wide, "demos__image_size": 64})).dry_run()
    assert "is trained on as it is" not in right
    memory = [line for text in (said, right) for line in text.splitlines() if line.startswith("memory of training")]
    assert memory[0] == memory[1]


def test_a_dry_run_on_pictures_of_no_stated_size_counts_with_that_of_the_configuration(dataset, folders):
    redescribed(dataset, '["64", "64", "3"]', '["-1", "-1", "3"]')
    said = Run(octo(**folders, **ONE_CAMERA, data__rlds=str(dataset), method="vp", eval__episodes=0)).dry_run()
    assert re.search(r"observation/image_primary uint8\[\d+, 1, 64, 64, 3\]", said)


def test_the_command_names_a_bad_dataset_of_a_mixture_in_one_line_within_two_seconds(dataset, tmp_path):
    folders = [f"--config.data.root={tmp_path}/data", f"--config.runs={tmp_path}/runs"]
    command = [sys.executable, "scripts/finetune.py", "--config", "finetune_configs/threading.py:debug", *folders]
    found, seconds = run_measured([*command, f"--config.data.mixture=(('{dataset}', 0.5),)"])
    assert found.returncode == 2 and found.stderr.startswith(f"error: {dataset} has no steps/rho"), found.stderr
    assert len(found.stderr.splitlines()) == 1 and seconds < two_seconds()


def test_a_dataset_without_a_split_is_named_before_it_is_read(dataset, folders):
    (dataset / "dataset_info.json").write_text(json.dumps({"splits": [{"name": "train", "shardLengths": []}]}))
    with pytest.raises(UserError, match=r"has no split 'val'; give one that has it .`gap-vla build-dataset --val"):
        ready(octo(**folders, method="vp", data__rlds=str(dataset)))


@pytest.mark.parametrize(("name", "profile"), profiles())
def test_no_profile_that_runs_on_a_cpu_is_refused_with_8_gigabytes(name, profile, monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda: 7 * 2**30)
    config = config_of(name, profile)
    published = isinstance(config, FinetuneConfig) and bool(config.model.pretrained)
    require_training_memory(config, on_cpu=not published, shapes={})
    if published:  # a batch of 256 of Octo-small on a CPU, which is for looking at with --dry_run
        with pytest.raises(ResourceError, match=r"transformer \d+\.\d GiB"):
            require_training_memory(config, on_cpu=True, shapes={})


@pytest.mark.parametrize(("name", "profile"), profiles())
def test_no_profile_is_refused_where_its_weights_and_device_are(name, profile, folders, monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda: 2**50)
    monkeypatch.setattr(resources, "free_disk", lambda folder: 2**50)
    monkeypatch.setattr("gap_vla.training.torch.require_device", lambda device: None)
    monkeypatch.setattr("gap_vla.training.octo.require_weights", lambda pretrained: None)
    ready(config_of(name, profile, **folders))


def test_a_collection_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ResourceError, match=r"of disk in .* are needed \(100000 demonstrations"):
        require_space("threading", 100_000, 1024, 2, 1, tmp_path)
    require_space("threading", 100, 64, 1, 2, tmp_path)


def test_what_is_a_little_more_than_there_is_does_not_say_that_as_much_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "free_disk", lambda folder: 5 * 2**20 - 1)
    with pytest.raises(
        ResourceError, match=r"about 5\.0 MiB of disk in .* are needed \(it 5\.0 MiB\), and less are free"
    ):
        resources.require_disk({"it": 5 * 2**20}, tmp_path, "free some")


def test_the_memory_of_a_job_is_that_of_its_group_and_of_those_above(tmp_path):
    def group(name, limit, used, stat, **numbers):
        (folder := tmp_path / "sys/fs/cgroup" / name).mkdir(parents=True, exist_ok=True)
        (folder / "memory.stat").write_text("\n".join(f"{key} {number}" for key, number in stat.items()))
        for file, number in {limit: numbers["most"], used: numbers["taken"]}.items():
            (folder / file).write_text(f"{number}\n")

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 90 kB\n")
    assert available_memory(tmp_path) == 90 * 1024
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/job/1\n0::/slice\n")
    v1, v2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
    group("slice", *v2, {"inactive_file": 100, "active_file": 20}, most=60_000, taken=10_000)
    assert available_memory(tmp_path) == 50_120
    cached = {"inactive_file": 0, "total_inactive_file": 4_000, "active_file": 9, "total_active_file": 3_000}
    group("memory/job", *v1, cached, most=20_000, taken=9_000)
    group("memory/job/1", *v1, {"inactive_file": 0}, most=2**63 - 1, taken=9_000)
    assert available_memory(tmp_path) == 18_000  # of the files that the groups below keep in memory, too
    group(".", *v2, {"inactive_file": 0}, most="max", taken=10**9)
    assert available_memory(tmp_path) == 18_000


def test_a_file_system_that_counts_no_blocks_is_not_a_full_one(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: types.SimpleNamespace(total=0, used=0, free=0))
    require_space("threading", 100_000, 1024, 2, 1, tmp_path)


def test_a_training_state_that_does_not_fit_on_the_disk_of_runs_is_refused(folders, monkeypatch):
    room = {folders["data__root"]: 2**50, folders["runs"]: 100_000}
    monkeypatch.setattr(
        resources, "free_disk", lambda folder: next(n for p, n in room.items() if str(folder).startswith(p))
    )
    for make in (octo, small):
        with pytest.raises(ResourceError, match=r"of disk in .*runs are needed \(training states and checkpoint"):
            ready(make(**folders))


def test_demonstrations_alone_need_no_room_for_what_is_made_of_them(folders, monkeypatch):
    monkeypatch.setattr(resources, "free_disk", lambda folder: 1000)
    config = small(**folders)
    with pytest.raises(ResourceError, match=r"are needed \(RLDS dataset .*, episode store .* lower demos.image_size"):
        preflight.require_data(config, stages_of(config))
    preflight.require_data(config, stages_of(config), collect_only=True)


def test_simulators_that_do_not_fit_beside_each_other_are_refused_before_training(folders, monkeypatch):
    monkeypatch.setattr(preflight, "require_training_memory", lambda *_: None)
    monkeypatch.setattr(resources, "available_memory", lambda: 6 * 2**30)
    ready(small(**folders, eval__workers=2, eval__episodes=50))
    with pytest.raises(
        ResourceError, match=r"about \d+\.\d GiB of memory are needed \(32 simulators .*; lower the work"
    ):
        ready(small(**folders, eval__workers=32, eval__episodes=50))


def still_episode(steps):
    shapes = {"image_primary": ((64, 64, 3), np.uint8), "proprio": ((9,), np.float32), "action": ((7,), np.float32)}
    images, proprio, action = (np.zeros((steps, *shape), kind) for shape, kind in shapes.values())
    rho, points = np.zeros(steps, np.float32), np.zeros(steps, bool)
    return Episode({"image_primary": images}, proprio, action, rho=rho, change_point=points)


def test_memory_for_held_out_steps_is_counted_before_work_by_how_many_there_are_or_will_be(folders, monkeypatch):
    one_picture = {**folders, "train__batch_size": 1, "model__image_history": 5, "model__proprio_history": 5}
    config = small(**one_picture)
    stages = stages_of(config)
    planned = preflight.held_out_steps(config, stages)
    episodes = len(plan_splits(config.demos.episodes, config.data.val_fraction)["val"])
    assert planned == episodes * task_spec("threading").horizon // 2
    alone, beside = sum(config.memory().values()), sum(config.memory(held_out=planned).values())
    assert beside > 3 * alone, "one step learns from less than all held-out steps are measured on"
    libraries = 300 * 2**20
    monkeypatch.setattr(SimTask, "require_memory", lambda *_: None)
    monkeypatch.setattr(resources, "available_memory", lambda: int(beside + libraries - 2**20))
    with pytest.raises(ResourceError, match="of memory are needed"):
        ready(config)
    assert "libraries 300.0 MiB" in Run(config).dry_run()
    monkeypatch.setattr(resources, "available_memory", lambda: int(beside + libraries + 2**20))
    ready(config)
    stages.store.mkdir(parents=True)
    write_store(stages.store, {"train": [still_episode(8)], "val": [still_episode(6)]}, source="", source_hash="0")
    assert preflight.held_out_steps(config, stages) == 6
    monkeypatch.setattr(resources, "available_memory", lambda: int(beside + libraries - 2**20))
    ready(config)


def test_held_out_steps_of_a_dataset_without_a_store_are_as_many_as_its_bytes_hold_uncompressed(dataset, folders):
    config = small(**folders, data__rlds=str(dataset))
    assert preflight.held_out_steps(config, stages_of(config)) == 0
    for shard, size in enumerate((2 * 64 * 64 * 3, 64 * 64 * 3 + 99)):  # and four bytes of the action
        (dataset / f"toy-val.tfrecord-0000{shard}-of-00002").write_bytes(bytes(size))
    (dataset / "toy-train.tfrecord-00000-of-00001").write_bytes(bytes(10**6))
    assert preflight.held_out_steps(config, stages_of(config)) == 3
    described = (dataset / "features.json").read_text()
    (dataset / "features.json").write_text(described.replace('["64", "64", "3"]', '["-1", "-1", "3"]'))
    assert preflight.held_out_steps(config, stages_of(config)) == 0, "where no size is stated"


def test_pictures_of_another_size_in_a_mixture_are_not_to_be_mended_by_that_of_the_main_dataset(dataset, folders):
    config = small(**folders, demos__image_size=32, method="concat")
    with pytest.raises(UserError, match=r"make them 32 × 32, or leave it out of data\.mixture"):
        preflight.require_dataset(dataset, config, {"train"})
    with pytest.raises(UserError, match=r"set --config\.demos\.image_size=64"):
        preflight.require_dataset(dataset, config)


def test_what_a_copier_left_beside_the_shards_counts_as_none_of_them(dataset, folders):
    config = small(**folders, data__rlds=str(dataset), demos__image_size=64, method="concat")
    info = json.loads((dataset / "dataset_info.json").read_text())
    for split in info["splits"]:
        split |= {"shardLengths": ["1"], "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
        name = f"toy-{split['name']}.tfrecord-00000-of-00001"
        (dataset / name).write_bytes((984).to_bytes(8, "little") + bytes(992))  # one record
    (dataset / "dataset_info.json").write_text(json.dumps(info))
    held = preflight.held_out_steps(config, stages_of(config))
    for left in ("_.gstmp", ".partial", " (1)"):
        (dataset / f"{name}{left}").write_bytes(bytes(10**6))
    preflight.require_dataset(dataset, config, {"val"})
    assert preflight.held_out_steps(config, stages_of(config)) == held
    (dataset / "toy-val.tfrecord-00001-of-00002").write_bytes(bytes(1000))
    with pytest.raises(UserError, match=r"1 files, 2 are there"):
        preflight.require_dataset(dataset, config, {"val"})


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}", "val-00000-of-00001.tfrecord"),
        ("{DATASET}.{SPLIT}.{SHARD_INDEX}", "toy.val.00000"),
        ("episodes_{SPLIT}", "episodes_val"),
    ],
)
def test_shards_of_other_names_are_those_of_the_datasets_own_template(template, name, dataset, folders):
    config = small(**folders, data__rlds=str(dataset), demos__image_size=64, method="concat")
    split = {"name": "val", "shardLengths": ["1"], "filepathTemplate": template}
    (dataset / "dataset_info.json").write_text(json.dumps({"name": "toy", "splits": [split]}))
    for left in (name, f"{name}_.gstmp", f"{name}~", f".{name}"):
        (dataset / left).write_bytes((24884).to_bytes(8, "little") + bytes(24892))  # one record
    preflight.require_dataset(dataset, config, {"val"})
    assert preflight.held_out_steps(config, stages_of(config)) == 2
    (dataset / name).unlink()
    with pytest.raises(UserError, match=r"1 files, 0 are there"):
        preflight.require_dataset(dataset, config, {"val"})


def test_a_store_of_an_earlier_version_beside_its_dataset_is_made_anew_and_not_refused(dataset, folders):
    config = small(**folders, data__rlds=str(dataset), eval__episodes=0)
    (store := stages_of(config).store).mkdir(parents=True)
    episodes = {"train": [still_episode(8)], "val": [still_episode(6)]}
    write_store(store, episodes, source="", source_hash=source_hash_of(dataset))
    assert preflight.shapes_of_data(config, stages_of(config))["proprio"] == (9,)
    account = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**account, "store_version": 1}))
    assert preflight.shapes_of_data(config, stages_of(config)) == {"image_primary": [64, 64, 3]}


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(resources.os, "access", lambda place, mode: False)
    with pytest.raises(ResourceError, match=rf"runs is '.*', but {tmp_path} is not writable"):
        resources.require_writable(tmp_path / "runs" / "here", "runs")


def test_a_run_of_ones_own_goes_on_where_no_others_may_be_made(folders, tmp_path, monkeypatch):
    config = small(**folders)
    Run(config).directory.path.mkdir(parents=True)
    refused = {Path(config.runs), Run(config).directory.path.parent}
    monkeypatch.setattr(resources.os, "access", lambda place, mode: Path(place) not in refused)
    ready(config)
    refused.add(Run(config).directory.path)
    with pytest.raises(ResourceError, match=r"the run is '.*', but .* is not writable"):
        ready(config)


def test_memory_is_known_and_no_more_than_the_machine_has():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < resources.available_memory() <= total


def test_the_memory_of_a_model_that_jax_computes_beside_a_gpu_is_counted(monkeypatch):
    monkeypatch.setattr("gap_vla.training.octo.glob", types.SimpleNamespace(glob=lambda pattern: ["/dev/nvidia0"]))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert not octo().on_cpu
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert octo().on_cpu


@pytest.mark.parametrize("config", [FinetuneConfig("threading"), SmallConfig("threading")], ids=["octo", "small"])
def test_estimates_grow_with_what_is_asked_for(config, monkeypatch):
    limits = []

    def noted(needs, advice):
        limits.append(sum(needs.values()))

    monkeypatch.setattr("gap_vla.training.preflight.require_memory", noted)
    bigger = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=1024))
    larger = dataclasses.replace(config, demos=dataclasses.replace(config.demos, image_size=128))
    for one in (config, bigger, larger):
        require_training_memory(one, on_cpu=True, shapes={})
    assert limits[0] < min(limits[1:]) and np.isfinite(limits).all()


def demonstrations(path, action=7, **attributes):
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs.update(attributes)
        for name in ("demo_0", "demo_1"):
            demo = file.create_group(f"data/{name}")
            demo["actions"] = np.zeros((9, action), np.float32)
            demo["obs/image_primary"] = np.zeros((9, 64, 64, 3), np.uint8)
            demo["obs/robot0_eef_pos"] = np.zeros((9, 3), np.float32)
            demo["obs/robot0_eef_quat"] = np.tile(np.float32([0, 0, 0, 1]), (9, 1))
            demo["obs/robot0_gripper_qpos"] = np.zeros((9, 2), np.float32)
    return {"demos__path": str(path), "demos__image_size": 64}


def test_demonstrations_that_another_version_recorded_or_of_another_width_are_refused(folders, tmp_path):
    now = task_spec("threading").pictures_version
    fits = demonstrations(tmp_path / "fits.hdf5", task="threading", pictures_version=now, layout_version=2)
    ready(small(**folders, **fits, eval__episodes=1))
    old = demonstrations(tmp_path / "old.hdf5", task="threading", pictures_version=0)
    with pytest.raises(UserError, match=rf"old\.hdf5 has pictures_version 0, this gap_vla {now}; collect it again"):
        ready(small(**folders, **old))
    wide = demonstrations(tmp_path / "wide.hdf5", action=8)
    with pytest.raises(UserError, match=r"wide\.hdf5 has actions of 8 numbers, and threading, where .*, takes 7"):
        ready(small(**folders, **wide, eval__episodes=1))
    ready(small(**folders, **wide, eval__episodes=0))


@pytest.mark.parametrize("state", ["7/", "training.pt"])
def test_what_a_killed_save_left_is_no_state_that_a_run_goes_on_from(state, folders, monkeypatch):
    config = octo(**folders)
    run, values = Run(config).directory, config.to_dict()
    (run.state / "5.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (run.state / "5.orbax-checkpoint-tmp" / "state" / "d").write_bytes(bytes(1000))
    (run.state / "6").write_text("mine")
    (run.state / "8.orbax-checkpoint-tmp").symlink_to(run.state / "5.orbax-checkpoint-tmp")
    (run.state / "9.orbax-checkpoint-tmp-1720000000000").mkdir()  # as older orbax calls it
    (run.state / "9.orbax-checkpoint-tmp-1720000000000" / "d").write_bytes(bytes(500))
    elsewhere = {**values, "data": {**values["data"], "root": "elsewhere"}}
    needed = []
    monkeypatch.setattr("gap_vla.training.preflight.require_disk", lambda needs, *_: needed.append(needs))
    write_json(run.config, elsewhere)
    ready(config)
    [states] = [needs["training states and checkpoint"] for needs in needed if "page and pictures" in needs]
    assert states == config.disk() - 1500  # which go as training begins
    (run.state / state).mkdir() if state == "7/" else (run.state / state).touch()
    with pytest.raises(UserError, match=r"was trained on data in elsewhere; move that folder to data\.root"):
        ready(config)
    write_json(run.config, values)
    needed.clear()
    ready(config)
    assert not any("page and pictures" in needs for needs in needed)
