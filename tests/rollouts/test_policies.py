"""Claims about checkpoints as policies: history, chunks, normalisation, cameras, and how they are found."""

import asyncio
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from gap_vla.cli.evaluation import serve_policy
from gap_vla.core.errors import UserError
from gap_vla.octo.model import OctoModel
from gap_vla.octo.presets import example_batch, small_config
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy
from gap_vla.policies.saving import save_policy
from gap_vla.rollouts.chunk_policy import ChunkPolicy, EpisodeHistory
from gap_vla.rollouts.octo_policy import OctoPolicy, parameter_digest
from gap_vla.rollouts.small_policy import SmallTorchPolicy
from gap_vla.serving.client import RemotePolicy
from gap_vla.serving.loading import load_checkpoint
from gap_vla.serving.wire import KeyMapping

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "evaluation" / "octo_wrappers.npz"
SIZES = {"image_size": 32, "action_horizon": 4, "window_size": 2}
SMALL = {"token_embedding_size": 32, "num_layers": 1, "num_attention_heads": 2, "stem_features": (32, 32)}


def statistics(action=7, proprio=9):
    """Of a robot with so many columns; the last one of the actions is not normalised."""
    spread = {"p01": -0.8, "p99": 1.2, "q01": -0.8, "q99": 1.2, "min": -2.0, "max": 2.0}
    return {
        "action": {
            **{key: np.full(action, value) for key, value in {"mean": 0.1, "std": 0.3, **spread}.items()},
            "mask": np.arange(action) < action - 1,
        },
        "proprio": {
            **{key: np.full(proprio, value) for key, value in {"mean": 0.5, "std": 2.0, **spread}.items()},
            "mask": np.ones(proprio, bool),
        },
    }


def build(head="l1", found=None, **sizes):
    config = small_config(head=head, **SIZES, **SMALL, **sizes)
    if head == "diffusion":
        config["model"]["heads"]["action"]["kwargs"] |= {"diffusion_steps": 2, "num_blocks": 1, "hidden_dim": 16}
    return OctoModel.from_config(config, example_batch(**SIZES, **sizes), dataset_statistics=found or statistics())


@pytest.fixture(scope="module")
def model():
    """A small Octo, which no test changes."""
    return build()


@pytest.fixture(scope="module")
def drawing():
    """A policy whose head draws its actions."""
    return OctoPolicy(build("diffusion"), batch_size=8)


def observations(batch, seed=0, proprio=9):
    rng = np.random.default_rng(seed)
    return {
        "image_primary": rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8),
        "proprio": rng.standard_normal((batch, proprio)).astype(np.float32),
        "language_instruction": np.array(["go"] * batch),
    }


def rows(batch, chosen):
    return {key: value[chosen] for key, value in batch.items()}


# ---- history and chunks


def test_history_and_receding_horizon_are_upstreams():
    golden = np.load(GOLDEN)
    episode = EpisodeHistory(0, 3)
    for step, window in enumerate(golden["history3/proprio"]):
        episode.see({"proprio": window[-1]})
        inputs = episode.inputs()
        np.testing.assert_array_equal(inputs["proprio"], window)
        np.testing.assert_array_equal(inputs["timestep_pad_mask"], golden["history3/timestep_pad_mask"][step])
    policy, asked = Told(execute=3, action_dim=3), iter(golden["ensemble/chunks"])
    policy._normalized_chunks = lambda episodes: np.stack([next(asked)] * len(episodes))
    policy.reset([0])
    for executed in golden["rhc3/executed"]:
        np.testing.assert_allclose(policy.act({"proprio": np.zeros((1, 2))}, [0])[0], executed, rtol=1e-6)


class Told(ChunkPolicy):
    """Acts by the instruction, and adds up what it remembers."""

    def __init__(self, action_dim=1, **how):
        found = {"action": {"mean": np.zeros(action_dim), "std": np.ones(action_dim) - 1e-8}}
        found["proprio"] = {"mean": np.zeros(2), "std": np.ones(2)}
        super().__init__({"proprio": (2,)}, found, window=3, horizon=8, action_dim=action_dim, samples=False, **how)
        self.asked = 0

    def _normalized_chunks(self, episodes):
        self.asked += 1
        seen = [100 * (e.instruction == "right") + e.inputs()["proprio"].sum() / 6 for e in episodes]
        return np.tile(np.reshape(seen, (-1, 1, 1)), (1, 8, 1))


def test_an_instruction_that_changes_within_an_episode_is_acted_on_at_once():
    policy, shown = Told(execute=8), {"proprio": np.zeros((2, 2))}
    policy.reads_instructions = True
    policy.reset([0, 1])
    told = [["left", "left"], ["left", "left"], ["right", "left"], ["right", "right"], ["left", "right"]]
    acted = [policy.act({**shown, "language_instruction": np.array(texts)}, [0, 1])[:, 0].round(3) for texts in told]
    np.testing.assert_array_equal(acted, [[100 * (text == "right") for text in texts] for texts in told])
    with pytest.raises(UserError, match="instruction"):
        policy.act(shown, [0, 1])


def test_the_network_is_asked_once_per_executed_chunk():
    policy = Told(execute=3)
    policy.reset([0])
    for step in range(7):
        policy.act({"proprio": np.full((1, 2), step)}, [0])
    assert policy.asked == 3
    with pytest.raises(UserError, match="execute is 9"):
        Told(execute=9)


# ---- Octo


def test_actions_are_the_models_own_with_proprio_normalised_and_actions_unnormalised(model):
    first, second = observations(2, seed=1), observations(2, seed=2)
    policy = OctoPolicy(model, execute=1, batch_size=2)
    policy.reset([5, 6])
    policy.act(first, [5, 6])
    found = policy.act(second, [5, 6])
    window = {key: np.stack([first[key], second[key]], 1) for key in ("image_primary", "proprio")}
    window["proprio"] = (window["proprio"] - 0.5) / 2
    masks = {key: np.ones((2, 2), bool) for key in ("image_primary", "proprio", "timestep")}
    window |= {"timestep": np.array([[0, 1]] * 2, np.int32), "timestep_pad_mask": np.ones((2, 2), bool)}
    actions = model.sample_actions({**window, "pad_mask_dict": masks}, {"pad_mask_dict": {}})[:, 0]
    expected = np.where(statistics()["action"]["mask"], actions * 0.3 + 0.1, actions)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_robot_may_fill_the_same_arrays_at_every_step(model):
    policy, filled = OctoPolicy(model, execute=1, batch_size=2), observations(1)
    policy.reset([0, 1])
    for step in range(3):
        shown = observations(1, step)
        for key in ("image_primary", "proprio"):
            filled[key][:] = shown[key]
        np.testing.assert_array_equal(policy.act(filled, [0]), policy.act(shown, [1]))


def test_an_episode_depends_on_seed_number_and_step_but_not_on_what_runs_beside_it(drawing):
    steps = [observations(6, seed=s) for s in range(2)]
    drawing.reset(range(6))
    together = np.array([drawing.act(step, range(6)) for step in steps])
    drawing.warm_up()  # leaves no trace
    drawing.reset([3])
    alone = [drawing.act(rows(step, [3]), [3])[0] for step in steps]
    np.testing.assert_array_equal(together[:, 3], alone)
    drawing.reset([0])
    renamed = drawing.act(rows(steps[0], [3]), [0])[0]
    assert np.abs(renamed - alone[0]).max() > 1e-3


def test_a_robot_of_other_columns_acts():
    """Seven joints and a gripper in, six columns out; nothing is nine or seven wide."""
    policy = OctoPolicy(build(found=statistics(6, 8), proprio_dim=8, action_dim=6), batch_size=1)
    assert (policy.proprio_dim, policy.action_dim) == (8, 6)
    policy.reset([0])
    assert policy.act(observations(1, proprio=8), [0]).shape == (1, 6)
    with pytest.raises(UserError, match=r"\[8\]"):
        policy.act(observations(1), [0])


def test_a_robot_narrower_than_a_diffusion_head_gets_its_own_columns():
    policy = OctoPolicy(build("diffusion", found=statistics(5)), batch_size=1)
    policy.reset([0])
    assert policy.action_dim == 5 and policy.act(observations(1), [0]).shape == (1, 5)


def test_an_empty_instruction_is_masked_as_in_training(model, monkeypatch):
    masks = {"language_instruction": np.ones(2, bool), "image_primary": np.zeros(2, bool)}
    monkeypatch.setattr(OctoModel, "create_tasks", lambda model, texts: {"pad_mask_dict": dict(masks)})
    policy = OctoPolicy(model.replace(text_processor=object()), batch_size=2)
    for texts, expected in ((("go", "stop"), [True, True]), (("go", ""), [True, False])):
        shown = policy._task(texts)["pad_mask_dict"]
        np.testing.assert_array_equal(shown["language_instruction"], expected)
        assert not shown["image_primary"].any()


def test_statistics_are_those_of_one_dataset(model):
    acted = []
    for found, dataset in (
        (statistics(), None),
        ({"bridge": statistics()}, None),
        ({"bridge": statistics(), "fractal": statistics(3, 3)}, "bridge"),
    ):
        policy = OctoPolicy(model.replace(dataset_statistics=found), dataset=dataset, batch_size=1)
        policy.reset([0])
        acted.append(policy.act(observations(1), [0]))
    np.testing.assert_array_equal(acted[0], acted[1])
    np.testing.assert_array_equal(acted[0], acted[2])
    several = {"bridge": statistics(), "fractal": statistics()}
    for dataset, name in ((None, "bridge, fractal"), ("droid", "droid")):
        with pytest.raises(UserError, match=name):
            OctoPolicy(model.replace(dataset_statistics=several), dataset=dataset)


@pytest.mark.parametrize(
    ("config", "asked", "found"),
    [
        ({"normalization": "bounds"}, None, "bounds"),
        ({"dataset_kwargs": {"action_proprio_normalization_type": "bounds"}}, "normal", "bounds"),
        ({}, "bounds", "bounds"),
        ({}, None, "normal"),
    ],
)
def test_a_checkpoint_acts_by_the_normalization_that_it_states(model, capsys, config, asked, found):
    policy = OctoPolicy(model.replace(config={**model.config, **config}), normalization=asked)
    assert policy.identity["normalization"] == found
    assert ("taken as normal" in capsys.readouterr().err) == (not config and not asked)


def test_pictures_of_another_size_are_resized_and_inputs_of_another_task_refused(model):
    policy = OctoPolicy(model, batch_size=2)
    policy.reset([0])
    batch = observations(1)
    large = np.repeat(np.repeat(batch["image_primary"], 2, 1), 2, 2)
    assert policy.act({**batch, "image_primary": large}, [0]).shape == (1, 7)
    for change, name in (
        ({"image_primary": None}, "image_primary"),
        ({"image_primary": batch["image_primary"] / 255}, "uint8"),
    ):
        seen = {key: value for key, value in {**batch, **change}.items() if value is not None}
        with pytest.raises(UserError, match=name):
            policy.act(seen, [0])


# ---- small policies


def small(method="concat", cameras=("primary",), **changes):
    torch.manual_seed(0)
    sizes = dict(encoder_width=8, feature_dim=16, head_dim=32, action_horizon=4, proprio_history=3, image_history=2)
    return build_policy(SmallModelConfig(**{**sizes, **changes}), method, (32, 32, 3), 9, 7, cameras)


def test_a_small_policy_acts_as_its_network_in_the_units_of_the_data():
    network = small()
    policy = SmallTorchPolicy(network, statistics())
    first, second = observations(1, 1), observations(1, 2)
    policy.reset([7])
    policy.act(first, [7])
    action = policy.act(second, [7])
    proprio = np.stack([(moment["proprio"] - 0.5) / 2 for moment in (first, first, second)], 1).astype(np.float32)
    images = np.stack([first["image_primary"], second["image_primary"]], 1)
    with torch.no_grad():
        chunk = network({"proprio": torch.from_numpy(proprio), "image_primary": torch.from_numpy(images)}).numpy()
    expected = np.where(statistics()["action"]["mask"], chunk[:, 0] * 0.3 + 0.1, chunk[:, 0])
    np.testing.assert_allclose(action, expected, atol=1e-5)


def test_every_camera_is_seen_as_itself():
    network = small(cameras=("primary", "wrist"))
    policy = SmallTorchPolicy(network, statistics())
    assert policy.cameras == ("primary", "wrist")
    wrist = observations(1, 9)["image_primary"]
    seen = {**observations(1, 1), "image_wrist": wrist}
    policy.reset([0])
    found = policy.predict(seen, [0])
    images = {key: torch.from_numpy(np.stack([seen[key]] * 2, 1)) for key in ("image_primary", "image_wrist")}
    proprio = np.stack([(seen["proprio"] - 0.5) / 2] * 3, 1).astype(np.float32)
    with torch.no_grad():
        chunk = network({"proprio": torch.from_numpy(proprio), **images}).numpy()
    expected = np.where(statistics()["action"]["mask"], chunk * 0.3 + 0.1, chunk)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    policy.reset([0])
    swapped = policy.predict({**seen, "image_primary": wrist, "image_wrist": seen["image_primary"]}, [0])
    assert np.abs(swapped - found).max() > 1e-4


def test_a_small_policys_episode_does_not_depend_on_its_neighbours():
    alone, among = (SmallTorchPolicy(small(head="diffusion"), statistics(), execute=2) for _ in range(2))
    alone.reset([3])
    among.reset([2, 3, 4])
    for step in range(3):
        shown = observations(3, step)
        one, three = alone.act(rows(shown, [1]), [3]), among.act(shown, [2, 3, 4])
        np.testing.assert_allclose(one[0], three[1], atol=1e-4)


def test_a_policy_without_pictures_and_one_without_a_state():
    blind, seeing = (SmallTorchPolicy(small(method), statistics()) for method in ("proprio", "vision"))
    assert blind.cameras == () and blind.proprio_dim == 9
    assert seeing.cameras == ("primary",) and seeing.proprio_dim is None
    for policy, key in ((blind, "proprio"), (seeing, "image_primary")):
        policy.reset([0])
        assert policy.act({key: observations(1)[key]}, [0]).shape == (1, 7)


# ---- how checkpoints and recordings are found


@pytest.mark.parametrize("kind", ["octo", "small"])
def test_a_run_and_its_checkpoint_are_found_and_say_how_they_act(model, tmp_path, kind):
    run, batch = tmp_path / "run", observations(1)
    if kind == "octo":
        model.save_pretrained(step=7, checkpoint_path=run / "checkpoint")
        direct = OctoPolicy(model, execute=2)
    else:
        network = small()
        save_policy(network, run / "checkpoint", statistics(), "normal", camera="frontview")
        direct = SmallTorchPolicy(network, statistics(), execute=2)
    said = {"task": "stack", "method": "vp_gap", "eval": {"execute": 2}, "demos": {"camera": "frontview"}}
    (run / "config.json").write_text(json.dumps(said))
    (tmp_path / "latest").symlink_to(run / "checkpoint")
    for path in (run, run / "checkpoint"):
        loaded = load_checkpoint(path)
        assert (loaded.task, loaded.image_size, loaded.cameras) == ("stack", 32, ("primary",))
        assert loaded.camera == "frontview" and loaded.policy.identity["execute"] == 2
        loaded.policy.reset([0])
        direct.reset([0])
        np.testing.assert_allclose(loaded.policy.act(batch, [0]), direct.act(batch, [0]), atol=1e-6)
        assert loaded.policy.identity["parameters"] == direct.identity["parameters"]
    assert load_checkpoint(run, execute=3).policy.identity["execute"] == 3
    with pytest.raises(UserError, match="stack"):
        load_checkpoint(run, task="threading")
    with pytest.raises(UserError, match="4 actions"):
        load_checkpoint(run, execute=5)


def test_the_step_of_a_finished_run_is_played_though_a_later_one_lies_beside_it(model, tmp_path):
    model.save_pretrained(step=7, checkpoint_path=tmp_path / "checkpoint")
    other = model.replace(params=jax.tree.map(lambda x: x + 1, model.params))
    other.save_pretrained(step=9, checkpoint_path=tmp_path / "checkpoint")
    (tmp_path / "config.json").write_text('{"task": "stack", "method": "vp_gap"}')
    own = parameter_digest(model.params)
    assert load_checkpoint(tmp_path).policy.identity["parameters"] != own
    (tmp_path / "summary.json").write_text('{"task": "stack", "steps": 7}')
    assert load_checkpoint(tmp_path).policy.identity["parameters"] == own


@pytest.mark.parametrize("chunks", [[], ["--whole-chunks"]])
def test_a_run_is_served_to_clients(tmp_path, capsys, monkeypatch, chunks):
    network, batch = small(proprio_history=1, image_history=1), observations(1)
    save_policy(network, tmp_path / "checkpoint", statistics(), "normal")
    (tmp_path / "config.json").write_text('{"task": "stack", "method": "gap", "eval": {"execute": 2}}')
    answers = []

    def ask(port):
        remote = RemotePolicy(f"ws://127.0.0.1:{port}", KeyMapping(execute=4 if chunks else 1))
        remote.reset([0])
        answers.extend(remote.act(batch, [0]) for _ in range(3))
        answers.append(remote.server_metadata)

    async def once(server, host, port, ready):
        async with await server.start(host, port) as listening:
            ready(port := listening.sockets[0].getsockname()[1])
            await asyncio.to_thread(ask, port)

    monkeypatch.setattr("gap_vla.serving.server.serve_forever", once)
    assert serve_policy(["--checkpoint", str(tmp_path), "--port", "0", *chunks]) == 0
    *actions, metadata = answers
    assert "ws://127.0.0.1:" in capsys.readouterr().out and metadata["task"] == "stack"
    policy = SmallTorchPolicy(network, statistics(), execute=4 if chunks else 2)
    policy.reset([0])
    np.testing.assert_allclose(actions, [policy.act(batch, [0]) for _ in range(3)], atol=1e-6)
