"""Stores hold the dataset's bytes, are reused only for the same dataset, and damage is noticed."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from leftovers import leave
from synthetic_demos import assert_equal

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.identity import digest
from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, read_rlds, write_rlds
from gap_vla.rlds.store import write_store
from gap_vla.training.stages import Stages, require_own_stages, require_unchanged_data, stages_of
from gap_vla.training.torch import SmallConfig


def test_the_store_holds_the_episodes_unchanged(store: EpisodeStore, version_dir: Path) -> None:
    for split in ("train", "val"):
        expected = list(read_rlds(version_dir, split))
        assert len(store.split(split)) == len(expected)
        for i, episode in enumerate(expected):
            assert_equal(store.split(split).episode(i), episode)


def test_a_finished_store_is_reused_and_another_datasets_is_rebuilt(tmp_path: Path, episodes: list[Episode]) -> None:
    data = write_rlds(episodes[:2], tmp_path, "toy")
    where = EpisodeStore.build(data).directory
    stamp = (where / "store.json").stat().st_mtime_ns
    assert (EpisodeStore.build(data).directory / "store.json").stat().st_mtime_ns == stamp
    write_rlds(episodes[2:5], tmp_path, "toy", overwrite=True)
    (where / "notes.txt").write_text("mine")
    with pytest.raises(EpisodeError, match=r"notes.txt is no file of the store that is made anew there; move it away"):
        EpisodeStore.build(data)
    assert (where / "notes.txt").read_text() == "mine"
    (where / "notes.txt").rename(where / "train.dino_features.bin")  # called as the store's own are
    with pytest.raises(EpisodeError, match=r"train.dino_features.bin is no file of the store that is made anew there"):
        EpisodeStore.build(data)
    assert (where / "train.dino_features.bin").read_text() == "mine"
    (where / "train.dino_features.bin").unlink()
    account = json.loads((where / "store.json").read_text())
    for listed, refused in (({}, "no 'files'; this is no whole store; delete the"), ({"files": account["files"]}, "")):
        (where / "store.json").write_text(json.dumps({"source_hash": "x", "store_version": 1, **listed}))
        with pytest.raises(EpisodeError, match=refused) if refused else contextlib.nullcontext():
            EpisodeStore.build(data)
    rebuilt = EpisodeStore.open(where)
    assert rebuilt.split("train").steps + rebuilt.split("val").steps == sum(len(e) for e in episodes[2:5])


def test_an_old_store_that_a_kill_left_after_the_exchange_goes_when_the_new_one_is_opened(
    version_dir: Path, tmp_path: Path
) -> None:
    built = EpisodeStore.build(version_dir, tmp_path / "store")
    shutil.copytree(tmp_path / "store", leave(tmp_path / "store") / "store")
    assert EpisodeStore.build(version_dir, tmp_path / "store").source_hash == built.source_hash
    assert [*tmp_path.iterdir()] == [tmp_path / "store"]


def test_a_finished_store_on_a_disk_that_may_only_be_read_is_used(
    version_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(version_dir, tmp_path / "1.0.0")
    built = EpisodeStore.build(tmp_path / "1.0.0", tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)  # the tests may be root's, who may all
    monkeypatch.setattr("gap_vla.core.locks._made", lambda *_: pytest.fail("a lock was made"))
    again = EpisodeStore.build(tmp_path / "1.0.0", tmp_path / "store")
    assert again.source_hash == built.source_hash
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_store_for_which_there_may_be_too_little_room_says_so_before_it_is_written(
    store: EpisodeStore,
    version_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = sum(path.stat().st_size for path in store.directory.glob("*.bin"))
    (tmp_path / "large").mkdir()
    (tmp_path / "linked").symlink_to("large/store")
    (tmp_path / "large" / "store").mkdir()
    free = {tmp_path / "large": size // 2}  # it is written beside what the link leads to
    monkeypatch.setattr("shutil.disk_usage", lambda at: SimpleNamespace(total=10**12, free=free.get(Path(at), 10**12)))
    built = EpisodeStore.build(version_dir, tmp_path / "linked")
    assert "note: the store may take " in (said := capsys.readouterr().err) and " are free" in said
    assert_equal(built.split("train").episode(0), store.split("train").episode(0))
    free.clear()
    EpisodeStore.build(version_dir, tmp_path / "other")
    assert "note: the store" not in capsys.readouterr().err


def test_images_can_be_resized_once_as_upstream_resizes(tmp_path: Path, episodes: list[Episode]) -> None:
    golden = np.load(Path(__file__).parents[1] / "data" / "rlds" / "octo_transforms.npz")
    frames = np.repeat(golden["resize/in"][None], len(episodes[0]), 0)
    data = write_rlds([episodes[0].replace(images={"image_primary": frames})], tmp_path, "big", val_fraction=0)
    small = (
        EpisodeStore.build(data, resize={"image_primary": tuple(np.array([48, 48]))})
        .split("train")
        .fields["image_primary"]
    )
    np.testing.assert_array_equal(small[3], golden["resize/lanczos3_48x48"])
    for wrong, said in (
        ({"primary": (8, 8)}, "no pictures 'observation/primary' of bytes to resize; there are observation/"),
        ({"image_primary": (0, 8)}, "height of image_primary is 0; it must be a whole number from 1"),
    ):
        with pytest.raises(EpisodeError, match=said):
            next(read_rlds(data, resize=wrong))


def test_a_training_opens_no_store_with_a_changed_picture(version_dir: Path, tmp_path: Path) -> None:
    store = EpisodeStore.build(version_dir, tmp_path / "store")
    with open(store.directory / "val.image_primary.bin", "r+b") as stream:
        stream.write(b"\0\1\2\3")
    with pytest.raises(EpisodeError, match=r"val.image_primary.bin: other content than recorded; delete"):
        EpisodeStore.build(version_dir, tmp_path / "store")


def test_damage_is_noticed(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"no store.json; build the store"):
        EpisodeStore.open(tmp_path)
    copy = shutil.copytree(store.directory, tmp_path / "copy")
    with open(copy / "train.proprio.bin", "r+b") as stream:
        stream.write(b"\0\1\2\3")
    with pytest.raises(EpisodeError, match=r"train.proprio.bin: other content than recorded; delete"):
        EpisodeStore.open(copy)
    shutil.copy(store.directory / "train.proprio.bin", copy)
    with open(copy / "train.image_primary.bin", "r+b") as stream:
        stream.write(b"\0\1\2\3")
    EpisodeStore.open(copy)
    with pytest.raises(EpisodeError, match=r"train.image_primary.bin: other content than recorded; delete"):
        EpisodeStore.open(copy, verify=True)
    with open(copy / "train.rho.bin", "r+b") as stream:
        stream.truncate(10)
    with pytest.raises(EpisodeError, match=r"train.rho.bin: 10 bytes instead of"):
        EpisodeStore.open(copy)
    (copy / "train.rho.bin").unlink()
    with pytest.raises(EpisodeError, match=r"train.rho.bin: missing; delete"):
        EpisodeStore.open(copy)


def test_a_stage_of_other_settings_in_the_place_of_a_stage_is_refused(tmp_path: Path, episodes: list[Episode]) -> None:
    config = SmallConfig("threading")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path)))
    stages = stages_of(config)
    other = {**stages.rlds_identity, "val_fraction": 0.5}
    for identity in (other, stages.rlds_identity):
        shutil.rmtree(tmp_path / "rlds", ignore_errors=True)
        home = stages.rlds.parent.parent
        write_rlds(episodes[:2], home, "threading", version="1.0.0", identity=identity)
        if identity is not other:
            require_own_stages(config, stages)
            break
        EpisodeStore.build(stages.rlds, stages.store)
        for _ in range(2):  # the dataset, then its store alone
            with pytest.raises(
                ConfigError, match=r"made with other settings \(identity\.data\.val_fraction: 0\.5 then"
            ):
                require_own_stages(config, stages)
            shutil.rmtree(stages.rlds, ignore_errors=True)
        shutil.rmtree(stages.store)


def test_a_dataset_that_was_made_by_hand_in_the_place_of_a_runs_is_refused(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    config = SmallConfig("threading")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path)))
    stages = stages_of(config)
    write_rlds(episodes[:2], stages.rlds.parent.parent, "threading", version="1.0.0")
    with pytest.raises(ConfigError, match="was not made by a run, so with what settings is not known; move it away"):
        require_own_stages(config, stages)


def test_demonstrations_of_other_settings_in_the_place_of_a_configurations_are_refused(tmp_path: Path) -> None:
    config = SmallConfig("threading")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path)))
    stages = stages_of(config)
    stages.demos.parent.mkdir(parents=True)
    scene = {"image_size": 64, "cameras": ["primary"], "camera": "near", "variant": "default"}
    own = {"task": "threading", "action_noise": 0.0, "collection_seed": 0, "attempts": 103, "failures": 3}
    for change, named in (
        ({}, None),
        ({"task": "stack"}, "task: 'stack' then, 'threading' now"),
        ({"collection_seed": 5}, "collection_seed: 5 then, 0 now"),
        ({"attempts": 90}, "episodes: 87 then, 100 now"),
        ({"pictures_version": 0}, r"pictures_version: 0 then, \d now"),
        ({"env_args": json.dumps({"env_kwargs": scene | {"image_size": 32}})}, "image_size: 32 then, 64 now"),
    ):
        with h5py.File(stages.demos, "w") as file:
            file.create_group("data").attrs.update({"env_args": json.dumps({"env_kwargs": scene}), **own, **change})
        problem = rf"demos\.hdf5 was made with other settings \({named}\); move it away"
        with pytest.raises(ConfigError, match=problem) if named else contextlib.nullcontext():
            require_own_stages(config, stages)


def test_an_episode_unlike_the_first_is_named_with_what_differs(episodes: list[Episode], tmp_path: Path) -> None:
    first, other = (episode.replace(images={}) for episode in episodes[:2])
    whole_numbers = first.replace(action=np.zeros(first.action.shape, np.int64))
    for pair, said in (
        (
            [first.replace(rho=None, change_point=None), other],
            f"{other.name}: has change_point, .* has not",
        ),
        ([whole_numbers, other], f"{other.name}: action is float32, in the first episode <i8"),
        (
            [whole_numbers.replace(action=whole_numbers.action.astype(np.int8)), whole_numbers],
            f"{first.name}: action is int64, in the first episode |i1",
        ),
        ([first, other.replace(rho=None, change_point=None)], f"{other.name}: no (rho|change_point), and the first"),
        (
            [first, other.replace(action=other.action[:, :6])],
            rf"{other.name}: a step of action has shape \(6,\), in the",
        ),
        ([first, other.replace(action=other.action[:, :6], metadata={"episode_id": ""})], r"here, train\[1\]: a step"),
    ):
        with pytest.raises(EpisodeError, match=said):
            write_store(tmp_path, {"train": pair}, source="here", source_hash="0")


def test_a_dry_run_of_training_notices_changed_data(store: EpisodeStore, version_dir: Path, tmp_path: Path) -> None:
    data, made = shutil.copytree(version_dir, tmp_path / "1.0.0"), shutil.copytree(store.directory, tmp_path / "store")
    stages = Stages(tmp_path / "none", data, made, {}, {})
    require_unchanged_data(stages)
    for path, message in (
        (made / "train.action.bin", "train.action.bin: other content than recorded"),
        (made / "train.image_primary.bin", "train.image_primary.bin: other content than recorded"),
        (next(data.glob("*-train.tfrecord*")), "tfrecord-.* was changed since it was written"),
    ):
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        for seen in (stages, Stages(tmp_path, tmp_path / "other", tmp_path / "none", {}, {}, {data: made})):
            with pytest.raises(EpisodeError, match=message):
                require_unchanged_data(seen)
        path.write_bytes(whole)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"store_version": 2, "files": {}, "source_hash": "x"}'])
def test_a_damaged_store_is_refused_in_one_line(store: EpisodeStore, tmp_path: Path, content: str) -> None:
    copy = shutil.copytree(store.directory, tmp_path / "copy")
    (copy / "store.json").write_text(content)
    with pytest.raises(EpisodeError, match=r"copy: .*delete the folder and build it again"):
        EpisodeStore.open(copy)


def test_a_whole_store_on_a_file_system_that_maps_no_files_is_not_called_damaged(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(EpisodeError, match=r"\.bin: its file system maps no files; copy the data to another$"):
        EpisodeStore.open(store.directory)


def test_splits_of_a_store_that_were_changed_are_refused(store: EpisodeStore, tmp_path: Path) -> None:
    file = shutil.copytree(store.directory, tmp_path / "copy") / "store.json"
    account = json.loads(file.read_text())
    account["splits"]["train"]["offsets"][1] += 3
    file.write_text(json.dumps(account))
    with pytest.raises(EpisodeError, match=r"store.json: its splits were changed; .*delete the folder and build it"):
        EpisodeStore.open(file.parent)
    account["splits"]["train"]["offsets"][1] -= 3
    del account["files"]["train.action.bin"]
    file.write_text(json.dumps(account))
    with pytest.raises(EpisodeError, match=r"store.json: the checksum of train\.action\.bin is missing; .*delete the"):
        EpisodeStore.open(file.parent)


def test_statistics_are_those_of_the_data_whatever_lies_beside_the_shards(
    store: EpisodeStore, version_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(version_dir, tmp_path / "1.0.0")
    path = copy / "dataset_statistics.json"
    whole = path.read_bytes()
    assert (store.directory / path.name).read_bytes() == whole
    stated = json.loads(whole)
    stated["action"]["mean"] = [9.0] * 7
    path.write_text(json.dumps(stated))
    assert (EpisodeStore.build(copy).directory / path.name).read_bytes() == whole


def test_a_dataset_that_is_replaced_while_it_is_decoded_becomes_no_store(
    tmp_path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rlds(episodes[:3], tmp_path, "toy")

    def replaced(*_: Any, **__: Any) -> Iterator[Episode]:
        yield from episodes[:2]
        write_rlds(episodes[3:6], tmp_path, "toy", overwrite=True)

    monkeypatch.setattr("gap_vla.rlds.store.read_rlds", replaced)
    with pytest.raises(EpisodeError, match=r"toy/1\.0\.0/.* changed while it was read; give the same command when"):
        EpisodeStore.build(data)
    assert not data.with_name("1.0.0.store").exists()
    monkeypatch.undo()
    monkeypatch.chdir(data)
    assert EpisodeStore.build(".").directory == data.with_name("1.0.0.store")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert EpisodeStore.build(data, ".").directory == tmp_path / "empty"


def test_a_truncated_shard_is_named_and_leaves_no_store(version_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(version_dir, tmp_path / "toy" / "1.0.0")
    shard = next(copy.glob("*train*"))
    with open(shard, "r+b") as stream:
        stream.truncate(shard.stat().st_size - 1000)
    with pytest.raises(EpisodeError, match=r"toy-train\.tfrecord.* was changed since it was written; copy it again"):
        EpisodeStore.build(copy)
    (copy / "made_by.json").unlink()
    with pytest.raises(EpisodeError, match=r"toy-train\.tfrecord.* is truncated or damaged, .*; copy the file again"):
        EpisodeStore.build(copy)
    assert not list(copy.parent.glob("*.store")) and not list(copy.parent.glob(".*partial"))


def test_a_folder_that_is_no_store_is_never_replaced(version_dir: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("…")
    with pytest.raises(EpisodeError, match=r"not a store, and not empty"):
        EpisodeStore.build(version_dir, precious)
    assert (precious / "thesis.tex").exists()
    with pytest.raises(UserError, match=r"1\.0\.0/store lies in .*, which is read; name another place"):
        EpisodeStore.build(version_dir, version_dir / "store")


def test_a_link_that_leads_nowhere_is_no_place_of_a_store(version_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "store")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"link is a link that leads nowhere; remove it, or name another place"):
        EpisodeStore.build(version_dir, tmp_path / "link")
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_store_is_opened_before_another_process_may_exchange_it(
    version_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    opened = EpisodeStore.open

    def watched(*arguments: Any, **named: Any) -> EpisodeStore:
        held.append((tmp_path / ".store.lock").exists())
        return opened(*arguments, **named)

    monkeypatch.setattr(EpisodeStore, "open", watched)
    EpisodeStore.build(version_dir, tmp_path / "store")
    assert held == [True] and not (tmp_path / ".store.lock").exists()


def test_a_volume_is_no_place_of_a_store_which_is_said_before_any_work(
    store: EpisodeStore, version_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) in (tmp_path / "volume", store.directory))
    monkeypatch.setattr("gap_vla.rlds.store.write_store", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"volume is a volume, .*; name one in it, .*volume/NAME$"):
        EpisodeStore.build(version_dir, tmp_path / "volume")
    assert EpisodeStore.build(version_dir, store.directory).source_hash == store.source_hash, "one that is there"


@pytest.mark.parametrize("changed", [{"source": "elsewhere"}, {"metadata": {"annotator": {"hash": "zzz"}}}])
def test_what_a_store_says_of_its_source_is_not_changed_unseen(
    store: EpisodeStore, tmp_path: Path, changed: dict[str, Any]
) -> None:
    file = shutil.copytree(store.directory, tmp_path / "copy") / "store.json"
    account = json.loads(file.read_text())
    file.write_text(json.dumps(account | changed))
    with pytest.raises(EpisodeError, match=r"store.json: its source or metadata were changed; .*delete the folder"):
        EpisodeStore.open(file.parent)
    del account["about_hash"]  # as of stores that were made before
    file.write_text(json.dumps(account | changed))
    assert EpisodeStore.open(file.parent).splits.keys() == store.splits.keys()


def test_a_store_whose_file_would_be_addresses_of_objects_is_refused(store: EpisodeStore, tmp_path: Path) -> None:
    file = shutil.copytree(store.directory, tmp_path / "copy") / "store.json"
    account = json.loads(file.read_text())
    account["splits"]["train"]["fields"]["phase"] = ["|O", []]
    account["splits_hash"] = digest({"splits": json.dumps(account["splits"])})
    file.write_text(json.dumps(account))
    with pytest.raises(EpisodeError, match=r"store\.json: train\.phase is \|O, no numbers; .*delete the folder"):
        EpisodeStore.open(file.parent)


def test_unfinished_or_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gs:/robots/toy/1.0.0 is an address; give a folder of this machine"):
        list(read_rlds("gs://robots/toy/1.0.0"))
    with pytest.raises(EpisodeError, match=r"no dataset_info.json; give the folder"):
        EpisodeStore.build(tmp_path)
    with pytest.raises(EpisodeError, match=r"no dataset_info.json; give the folder"):
        list(read_rlds(tmp_path))
