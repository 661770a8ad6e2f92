"""Training on a mixture of datasets: their shares, ρ and statistics of each, resuming, and what names a run."""

import contextlib
import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
from made_up_demos import made_up_episodes
from short_training import MODEL

from gap_vla.core.measurements import read_metrics
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, normalize, write_rlds
from gap_vla.training.data import make_loader
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import LOSSES, OctoTrainer
from gap_vla.training.run import Run
from gap_vla.training.stages import digests, open_mixture, origin, require_data_of, stages_of
from gap_vla.training.torch import SmallConfig
from gap_vla.training.torch_trainer import SmallTrainer

SMALL = {"task": "threading", "demos": {"image_size": 32}, "train": {"batch_size": 30}, "model": {"window_size": 2}}


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    """By ρ, which is the same at every step, the section of a configuration with a dataset of weight 0.5.

    These datasets differ in ρ alone, have other actions and states than that of `store`, and no split `val`.
    """
    root = tmp_path_factory.mktemp("others")
    made = [e.replace(action=e.action * 3, proprio=e.proprio + 1) for e in made_up_episodes(seed=1)]
    sections = {}
    for rho in (0.25, 0.75):
        labelled = [e.replace(rho=np.full(len(e), rho, np.float32)) for e in made]
        path = write_rlds(labelled, root, f"dots_{rho * 100:.0f}", val_fraction=0, annotator={}, identity={"rho": rho})
        sections[rho] = {"root": str(root / "data"), "mixture": [[str(path), 0.5]]}
    return sections


@pytest.fixture(scope="module")
def mixed(mixtures, store):
    """300 windows of the loader, and the stores that they are of."""
    config = FinetuneConfig.from_dict({**SMALL, "data": mixtures[0.75]})
    stores = EpisodeStore.open(store), *open_mixture(stages_of(config))
    loader = make_loader(config, stores[0], "train", train=True, mixture=stores[1:])
    batches = [next(loader) for _ in range(10)]
    return {key: np.concatenate([batch[key] for batch in batches]) for key in ("rho", "action")}, stores


def test_the_weights_are_shares_of_the_windows(mixed):
    batch, _ = mixed
    assert abs((batch["rho"] == 0.75).all(1).sum() - 100) <= 1  # 0.5 of 1 + 0.5


def test_windows_have_the_rho_and_the_statistics_of_their_own_dataset(mixed):
    batch, stores = mixed
    second = (batch["rho"] == 0.75).any(1)
    for store, mine in zip(stores, (~second, second)):
        fields = store.split("train").fields
        assert mine.any() and np.isin(batch["rho"][mine], fields["rho"]).all()
        actions = normalize(np.asarray(fields["action"]), store.statistics["action"], "normal")
        assert all((actions == action).all(1).any() for action in batch["action"][mine, -1, 0])


def test_an_episode_that_is_held_out_is_trained_on_in_no_other_dataset(store, tmp_path):
    main = EpisodeStore.open(store)
    held_out = [main.split("val").episode(index) for index in range(len(main.split("val")))]
    path = write_rlds([*made_up_episodes(seed=1)[:2], held_out[0]], tmp_path, "dots", val_fraction=0, annotator={})
    config = FinetuneConfig.from_dict({**SMALL, "data": {"mixture": [[str(path), 0.5]]}})
    with pytest.raises(
        ConfigError, match=r"train\[2\] of .*dots/1\.0\.0 is val\[0\] of the main dataset, which is held"
    ):
        make_loader(config, main, "train", train=True, mixture=[EpisodeStore.build(path)])


def test_an_episode_that_is_held_out_is_not_trained_on_in_the_same_dataset(tmp_path):
    one, other = made_up_episodes(seed=1)[:2]
    path = write_rlds([one, one, other, other], tmp_path, "dots", val_fraction=0.25, annotator={})
    config = FinetuneConfig.from_dict(SMALL)
    with pytest.raises(
        ConfigError, match=rf"{path}: train\[\d\] has the states and actions of val\[0\], which is held out"
    ):
        make_loader(config, EpisodeStore.build(path), "train", train=True)
    small = SmallConfig.from_dict({"task": "threading", "demos": {"image_size": 32, "cameras": ["primary"]}})
    with pytest.raises(ConfigError, match=r"has the states and actions of val\[0\], which is held out"):
        SmallTrainer.on(small, EpisodeStore.build(path))


@pytest.mark.slow
def test_training_depends_on_the_rho_of_each_dataset(training, mixtures):
    for rho, data in mixtures.items():
        training.run(f"mixed {rho}", data=data)
    one, other = (training.parameters(f"mixed {rho}") for rho in mixtures)
    assert any((one[name] != other[name]).any() for name in one)
    measured = [read_metrics(training.root / f"mixed {rho}" / "metrics.jsonl")[0] for rho in mixtures]
    assert measured[0] == measured[1]  # held-out windows are of the main dataset alone


@pytest.mark.slow
def test_a_killed_and_resumed_run_on_a_mixture_ends_with_identical_parameters(training, mixtures):
    training.run("mixed 0.75", data=mixtures[0.75])
    assert training.call("mixed, killed", 7, signal.SIGKILL, data=mixtures[0.75]).status == -signal.SIGKILL
    training.run("mixed, killed", data=mixtures[0.75])
    whole, resumed = training.parameters("mixed 0.75"), training.parameters("mixed, killed")
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


def test_a_checkpoint_has_the_statistics_of_the_main_dataset(mixed, mixtures, tmp_path):
    _, (main, *others) = mixed
    config = FinetuneConfig.from_dict({**SMALL, "model": MODEL, "data": mixtures[0.75], "eval": {"execute": 1}})
    with contextlib.closing(OctoTrainer.on(config, main, others)) as trainer:
        trainer.export(RunDirectory(tmp_path))
    exported = json.loads((tmp_path / "checkpoint" / "dataset_statistics.json").read_text())
    np.testing.assert_allclose(exported["action"]["mean"], main.statistics["action"]["mean"])
    assert not np.allclose(exported["action"]["mean"], others[0].statistics["action"]["mean"])


def test_what_needs_rho_is_not_measured_of_data_without_it(mixed, mixtures):
    _, (main, other) = mixed
    bare = EpisodeStore.open(other.directory)
    for split in bare.splits.values():
        split.fields = {key: value for key, value in split.fields.items() if key not in ("rho", "change_point")}
    config = FinetuneConfig.from_dict(
        {**SMALL, "method": "vp", "model": MODEL, "data": mixtures[0.75], "eval": {"execute": 1}}
    )
    sums = [*LOSSES, *(f"entries of {name}" for name in LOSSES), "action_error", "mean_action_error", "action_entries"]
    split_into_parts = []
    for others, note in ((bare, f"no rho in {mixtures[0.75]['mixture'][0][0]}; "), (other, "")):
        trainer = OctoTrainer.on(config, main, [others])
        trainer._compiled, made = True, {"loss": 0.0, "grad_norm": 0.0}
        trainer._step = lambda state, *_, split, made=made: split_into_parts.append(split) or (state, made)
        trainer._validation_step = lambda *_: dict.fromkeys(sums, 1.0)
        trainer.step(trainer.batch(0), 0, measure=True)
        assert note in trainer.describe() and ("no rho" in trainer.describe()) == bool(note)
        assert set(LOSSES) <= trainer.validate().keys()  # held-out windows are of the main dataset
    assert split_into_parts == [False, True]
    trainer._held_out = [{key: value for key, value in trainer.loader.peek().items() if key != "rho"}]
    assert set(LOSSES) & trainer.validate().keys() == {"val/loss"}


def test_a_mixture_and_its_weights_name_the_run_and_its_content_is_its_origin(mixtures, store):
    from experiments.tables.origin import expected_origin

    configs = [FinetuneConfig.from_dict({**SMALL, "data": data}) for data in mixtures.values()]
    weights = [
        dataclasses.replace(configs[0].data, mixture=((*configs[0].data.mixture[0][:1], w),)) for w in (0.7, 2.0)
    ]
    configs += [dataclasses.replace(configs[0], data=data) for data in weights]
    assert len({Run(config).directory.path for config in configs}) == 4
    opened, [other] = EpisodeStore.open(store), open_mixture(stages_of(configs[0]))
    alone, found = origin("octo", "threading", opened), origin("octo", "threading", opened, other)
    assert "mixture" not in alone and {**alone, "mixture": found["mixture"]} == found
    assert {"episodes", "labels"} == set(found["mixture"][0])
    assert expected_origin("octo", "threading", opened.directory, other.directory) == found


def test_a_finished_run_is_not_answered_for_when_a_dataset_of_its_mixture_holds_other_data(mixtures):
    first, second = (stages_of(FinetuneConfig.from_dict({**SMALL, "data": mixtures[rho]})) for rho in (0.25, 0.75))
    config = FinetuneConfig.from_dict({**SMALL, "data": mixtures[0.25]})
    ([one], [other]) = open_mixture(first), open_mixture(second)
    require_data_of({"origin": {"mixture": [digests(one)]}}, config, first)
    with pytest.raises(ConfigError, match="holds other data than this run was trained on; give another --run-name"):
        require_data_of({"origin": {"mixture": [digests(other)]}}, config, first)
    account = json.loads((one.directory / "store.json").read_text())
    (one.directory / "store.json").write_text(json.dumps({**account, "source_hash": "of other files"}))
    with pytest.raises(ConfigError, match="holds other data than this run was trained on; give another --run-name"):
        require_data_of({"origin": {"mixture": [digests(one)]}}, config, first, build=False)
    shutil.rmtree(one.directory)
    require_data_of({"origin": {"mixture": [digests(other)]}}, config, first, build=False)
    assert not one.directory.exists()  # else it is made again
    with pytest.raises(ConfigError, match="holds other data than this run was trained on; give another --run-name"):
        require_data_of({"origin": {"mixture": [digests(other)]}}, config, first)
    assert (one.directory / "store.json").exists()
