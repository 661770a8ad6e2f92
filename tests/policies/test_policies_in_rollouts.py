"""A trained small policy acts in rollouts, is found by its directory, and does what its network says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_store import SIZE, episode, place_store, toy_config

from gap_vla.core.errors import UserError as PolicyError
from gap_vla.core.foreign import CheckpointError
from gap_vla.policies.saving import load_saved_policy
from gap_vla.rlds.statistics import normalize, unnormalize
from gap_vla.rollouts.diagnose import open_loop
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.heldout import held_out
from gap_vla.rollouts.policy import Policy
from gap_vla.rollouts.recordings import from_episode
from gap_vla.rollouts.small_policy import SmallTorchPolicy
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training.run import Run, finetune


@pytest.fixture(scope="module", params=["gap", pytest.param("vision", marks=pytest.mark.slow), "diffusion"])
def run(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    method = "concat" if request.param == "diffusion" else request.param
    head = "diffusion" if request.param == "diffusion" else "mlp"
    train = dict(steps=60, log_every=60, validate_every=60, save_every=60)
    config = toy_config(root, method, model=dict(head=head, image_history=2), train=train, eval=dict(execute=2))
    place_store(config)
    finetune(config)
    return Run(config).directory.path


def observation(seeds, step=0):
    shown = [episode(seed) for seed in seeds]
    return {
        "image_primary": np.stack([one.images["image_primary"][step] for one in shown]),
        "proprio": np.stack([one.proprio[step] for one in shown]),
        "language_instruction": np.array([""] * len(shown)),
    }


def test_a_run_and_its_checkpoint_are_found_by_their_files(run, tmp_path, monkeypatch):
    (tmp_path / "latest").symlink_to(run / "checkpoint")
    monkeypatch.chdir(run / "checkpoint")
    for path in (run, run / "checkpoint", Path(), Path(".."), tmp_path / "latest"):
        loaded = load_checkpoint(path, task="assembly")
        assert isinstance(loaded.policy, SmallTorchPolicy) and isinstance(loaded.policy, Policy)
        assert (loaded.task, loaded.image_size, loaded.cameras) == ("assembly", SIZE, ("primary",))
        assert loaded.policy.identity["execute"] == 2
    with pytest.raises(PolicyError, match="trained for assembly"):
        load_checkpoint(run, task="threading")


def test_a_checkpoint_on_the_hub_is_one_of_no_run(run, monkeypatch):
    monkeypatch.setattr("gap_vla.core.hub.fetched", {"lab/small": run / "checkpoint"}.__getitem__)
    loaded, own = load_checkpoint("hf://lab/small"), load_checkpoint(run)
    assert loaded.task is None and loaded.policy.identity["parameters"] == own.policy.identity["parameters"]
    with pytest.raises(CheckpointError, match=r"hf://lab/other could not be downloaded \(KeyError"):
        load_checkpoint("hf://lab/other")


def test_actions_are_those_of_the_network_in_the_units_of_the_data(run):
    policy, (_, _, statistics) = SmallTorchPolicy.load(run), load_saved_policy(run / "checkpoint")
    if policy.model.head.samples:
        pytest.skip("its actions are drawn")
    first, second = observation([0], 0), observation([0], 1)
    policy.reset([7])
    policy.act(first, [7])
    action = policy.act(second, [7])
    history = [first, first, second]
    proprio = np.stack([normalize(moment["proprio"], statistics["proprio"], "normal") for moment in history], 1)
    images = np.stack([moment["image_primary"] for moment in history[1:]], 1)
    with torch.no_grad():
        chunk = policy.model({"proprio": torch.from_numpy(proprio), "image_primary": torch.from_numpy(images)})
    expected = unnormalize(chunk.numpy()[:, 0], statistics["action"], "normal")
    np.testing.assert_allclose(action, expected, atol=1e-5)


def test_a_policy_acts_as_it_was_trained_in_a_program_that_has_given_torch_another_type(run):
    actions = []
    for kind in (torch.float32, torch.float64):
        torch.set_default_dtype(kind)
        try:
            policy = SmallTorchPolicy.load(run)
            policy.reset([7])
            actions.append(policy.act(observation([0]), [7]))
        finally:
            torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(*actions, atol=1e-5)


def test_a_policy_is_loaded_where_it_is_asked_for_whatever_the_default_device_of_a_program_is(run):
    expected = SmallTorchPolicy.load(run)
    expected.reset([0])
    with torch.device("meta"):
        policy = SmallTorchPolicy.load(run)
        policy.reset([0])
        np.testing.assert_array_equal(policy.act(observation([0]), [0]), expected.act(observation([0]), [0]))
    assert {str(parameter.device) for parameter in policy.model.parameters()} == {"cpu"}


def test_an_episode_does_not_depend_on_its_neighbours(run):
    alone, among = SmallTorchPolicy.load(run, execute=2), SmallTorchPolicy.load(run, execute=2)
    alone.reset([3])
    among.reset([2, 3, 4])
    for step in range(4):
        one = alone.act(observation([3], step), [3])
        three = among.act(observation([2, 3, 4], step), [2, 3, 4])
        np.testing.assert_allclose(one[0], three[1], atol=1e-4)


def test_a_chunk_is_executed_before_the_next_is_asked_for(run):
    policy = SmallTorchPolicy.load(run, execute=3)
    policy.reset([0])
    chunk = policy.predict(observation([0]), [0])[0]
    policy.reset([0])
    if not policy.model.head.samples:
        acted = [policy.act(observation([0]), [0])[0] for _ in range(3)]
        np.testing.assert_allclose(acted, chunk[:3], atol=1e-5)
    with pytest.raises(PolicyError, match="4 actions"):
        SmallTorchPolicy.load(run, execute=5)


def test_wrong_inputs_are_refused_in_words_and_larger_pictures_made_smaller(run):
    policy = SmallTorchPolicy.load(run)
    policy.reset([0])
    seen = observation([0])
    with pytest.raises(PolicyError, match="takes image_primary"):
        policy.act({"proprio": seen["proprio"]}, [0])
    if policy.uses_proprio:
        with pytest.raises(PolicyError, match="of width 9"):
            policy.act({**seen, "proprio": np.zeros((1, 18), np.float32)}, [0])
    large = np.repeat(np.repeat(seen["image_primary"], 2, 1), 2, 2)
    assert policy.act({**seen, "image_primary": large}, [0]).shape == (1, 7)


def test_held_out_error_and_tampering_work_as_for_octo(run):
    policy = SmallTorchPolicy.load(run)
    recordings = [from_episode(episode(seed)) for seed in (0, 1)]
    error = held_out(policy, recordings).error
    assert error < 1 if policy.name == "gap" else np.isfinite(error)
    effects = {effect.intervention: effect.change for effect in open_loop(policy, recordings).effects}
    blind = next(name for name in effects if "image" in name)
    assert effects[blind] > 0


def test_every_frame_is_encoded_once_and_seen_as_long_as_the_window_shows_it(run, monkeypatch):
    policy = SmallTorchPolicy.load(run, execute=1)
    seen, encode = [], policy.model.features
    monkeypatch.setattr(policy.model, "features", lambda images: seen.append(images) or encode(images))
    policy.reset([0])
    chunks = [policy.predict(observation([0], step), [0])[0] for step in range(4)]
    assert [int(images["image_primary"].shape[1]) for images in seen] == [1, 1, 1, 1]
    shown = [images["image_primary"][0, 0].numpy() for images in seen]
    assert all(np.array_equal(one, observation([0], step)["image_primary"][0]) for step, one in enumerate(shown))
    late = SmallTorchPolicy.load(run, execute=3)  # encodes steps 2 and 3 at step 3; between chunks it encodes nothing
    late.reset([0])
    for step in range(3):
        late.act(observation([0], step), [0])
    np.testing.assert_allclose(late.predict(observation([0], 3), [0])[0], chunks[3], atol=1e-5)


def test_of_a_prediction_that_failed_no_picture_is_seen_again(run, monkeypatch):
    policy, other = SmallTorchPolicy.load(run), SmallTorchPolicy.load(run)
    for one in (policy, other):
        one.reset([0])
        one.predict(observation([0]), [0])
    with monkeypatch.context() as patch:
        patch.setattr(policy.model, "predict", lambda *_: [].pop())
        with pytest.raises(IndexError):
            policy.predict(observation([1]), [0])
    for step in (1, 2):
        np.testing.assert_array_equal(*(one.predict(observation([2], step), [0]) for one in (policy, other)))


def test_a_policy_that_was_trained_on_is_another_one(run):
    policy = SmallTorchPolicy.load(run)
    before = {**policy.identity}
    policy.identity = {**before, "adapter": "x"}
    policy.identity["wheels"] = 4
    with torch.no_grad():
        next(policy.model.parameters()).mul_(2)
    assert before["parameters"] != policy.identity["parameters"]
    assert {**before, "adapter": "x", "wheels": 4, "parameters": ""} == {**policy.identity, "parameters": ""}


def test_an_ensemble_takes_the_place_of_the_actions_that_the_run_executes_at_once(run):
    assert load_checkpoint(run).policy.identity["execute"] == 2
    assert load_checkpoint(run, ensemble=True).policy.identity["execute"] == "ensemble"
    assert load_checkpoint(run, ensemble=False).policy.identity["execute"] == 2


def test_a_policy_in_training_is_rolled_out_as_it_will_act_and_goes_on_in_training(run, monkeypatch):
    policy = SmallTorchPolicy.load(run)
    policy.model.train()
    policy.model.head.eval()  # frozen by hand
    before, predict, modes = [m.training for m in policy.model.modules()], policy.model.predict, []
    monkeypatch.setattr(
        policy.model, "predict", lambda *x, **y: modes.append(policy.model.training) or predict(*x, **y)
    )
    policy.reset([0])
    policy.act(observation([0]), [0])
    assert modes == [False] and [m.training for m in policy.model.modules()] == before


def test_another_task_than_that_of_training_is_warned_of(run, tmp_path, monkeypatch):
    policy = load_checkpoint(run).policy
    monkeypatch.setattr("gap_vla.rollouts.evaluation.evaluated", lambda *_: 1 / 0)  # the work would begin
    with pytest.warns(UserWarning, match="was trained with task assembly, not threading as here"):
        with pytest.raises(ZeroDivisionError):
            evaluate(policy, "threading", episodes=1, seed=0, image_size=SIZE, camera=policy.camera, out_dir=tmp_path)
