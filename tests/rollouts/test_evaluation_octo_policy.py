"""Claims about an Octo checkpoint as a policy."""

import json
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from gap_vla.cli import serve_policy
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.octo.blocks import Compute
from gap_vla.octo.model import OctoModel
from gap_vla.octo.module import OctoModule
from gap_vla.octo.presets import example_batch, small_config
from gap_vla.octo.spec import ModuleSpec
from gap_vla.octo.text import HFTokenizer
from gap_vla.octo.tokenizers import LanguageTokenizer
from gap_vla.rollouts.chunk_policy import ChunkPolicy, EpisodeHistory, RecedingHorizon, TemporalEnsemble
from gap_vla.rollouts.octo_policy import REMEMBERED_TASKS, OctoPolicy, parameter_digest
from gap_vla.rollouts.policy import PolicyError, identity
from gap_vla.rollouts.record import EvaluationError, require_same
from gap_vla.serving.loading import load_checkpoint

GOLDEN = Path(__file__).parents[1] / "data" / "evaluation" / "octo_wrappers.npz"
SIZES = {"image_size": 32, "action_horizon": 4, "window_size": 2}
SMALL = {"token_embedding_size": 32, "num_layers": 1, "num_attention_heads": 2, "stem_features": (32, 32)}
STATISTICS = {
    "action": {"mean": np.full(7, 0.1), "std": np.full(7, 0.3), "mask": np.array([True] * 6 + [False])},
    "proprio": {"mean": np.full(9, 0.5), "std": np.full(9, 2.0), "mask": np.ones(9, bool)},
}

MOVING = {**STATISTICS, "action": {**STATISTICS["action"], "mask": np.ones(7, bool)}}


def build(head="l1", statistics=STATISTICS, **sizes):
    config = small_config(head=head, **SIZES, **SMALL, **sizes)
    if head == "diffusion":
        config["model"]["heads"]["action"]["kwargs"] |= {"diffusion_steps": 2, "num_blocks": 1, "hidden_dim": 16}
    return OctoModel.from_config(config, example_batch(**SIZES, **sizes), dataset_statistics=statistics)


@pytest.fixture(scope="module")
def diffusion():
    """A model whose head draws its actions, which no test changes."""
    return build("diffusion")


@pytest.fixture(scope="module")
def drawing(diffusion):
    return OctoPolicy(diffusion, execute=1, batch_size=8)


def observations(batch, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image_primary": rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8),
        "proprio": rng.standard_normal((batch, 9)).astype(np.float32),
        "language_instruction": np.array(["go"] * batch),
    }


def rows(batch, chosen):
    return {key: value[chosen] for key, value in batch.items()}


def test_history_receding_horizon_and_ensemble_are_upstreams():
    golden = np.load(GOLDEN)
    episode = EpisodeHistory(0, 3, RecedingHorizon(1))
    for step, window in enumerate(golden["history3/proprio"]):
        episode.see({"proprio": window[-1]})
        inputs = episode.inputs()
        np.testing.assert_array_equal(inputs["proprio"], window)
        np.testing.assert_array_equal(inputs["timestep_pad_mask"], golden["history3/timestep_pad_mask"][step])
    ensemble = TemporalEnsemble(4)
    for chunk, executed in zip(golden["ensemble/chunks"], golden["ensemble/executed_exp0"]):
        ensemble.add(chunk)
        np.testing.assert_allclose(ensemble.next(), executed, rtol=1e-12)
    receding, asked = RecedingHorizon(3), iter(golden["ensemble/chunks"])
    for executed in golden["rhc3/executed"]:
        if receding.wants_chunk:
            receding.add(next(asked))
        np.testing.assert_array_equal(receding.next(), executed)


class Told(ChunkPolicy):
    """Acts by the instruction, and adds up what it remembers."""

    def __init__(self, **how):
        statistics = {"action": {"mean": np.zeros(1), "std": np.ones(1) - 1e-8}}
        statistics["proprio"] = {"mean": np.zeros(2), "std": np.ones(2)}
        super().__init__({"proprio": (2,)}, statistics, window=3, horizon=8, action_dim=1, samples=False, **how)
        self.fails = False

    def _normalized_chunks(self, episodes):
        if self.fails:
            raise MemoryError
        seen = [100 * (e.instruction == "right") + e.inputs()["proprio"].sum() / 6 for e in episodes]
        return np.tile(np.reshape(seen, (-1, 1, 1)), (1, 8, 1))


@pytest.mark.parametrize("how", [{}, {"execute": 2}, {"ensemble": True}])
def test_what_is_shown_again_after_a_prediction_that_failed_is_remembered_once(how):
    found = []
    for failing in (False, True):
        policy = Told(**how)
        policy.reset([0, 1])
        for step in range(6):
            shown = {"proprio": np.full((2, 2), 2.0**step)}
            if failing and step in (0, 4):
                policy.fails = True
                for call in (policy.act, policy.predict):
                    with pytest.raises(MemoryError):
                        call(shown, [0, 1])
                policy.fails = False
            found.append(policy.act(shown, [0, 1]))
    np.testing.assert_array_equal(found[:6], found[6:])


@pytest.mark.parametrize("how", [{"execute": 8}, {"ensemble": True}])
def test_an_instruction_that_changes_within_an_episode_is_acted_on_at_once(how):
    policy, shown = Told(**how), {"proprio": np.zeros((2, 2))}
    policy.reads_instructions = True
    policy.reset([0, 1])
    told = [["left", "left"], ["left", "left"], ["right", "left"], ["right", "right"], ["left", "right"]]
    acted = [policy.act({**shown, "language_instruction": np.array(texts)}, [0, 1])[:, 0].round(3) for texts in told]
    np.testing.assert_array_equal(acted, [[100 * (text == "right") for text in texts] for texts in told])


def test_an_instruction_that_nobody_reads_ends_no_chunk():
    policy = Told(execute=8)
    policy.reset([0])
    for step in range(3):
        said = {"proprio": np.full((1, 2), float(step)), "language_instruction": np.array([f"text {step}"])}
        np.testing.assert_allclose(policy.act(said, [0]), 0, atol=1e-6)


def test_an_octo_that_reads_instructions_must_be_given_one(model):
    policy = OctoPolicy(model, execute=1, batch_size=1)
    without = {key: value for key, value in observations(1).items() if key != "language_instruction"}
    policy.reset([0])
    policy.act(without, [0])  # this one has no text processor
    policy = OctoPolicy(model.replace(text_processor=object()), execute=1, batch_size=1)
    policy.reset([0])
    with pytest.raises(PolicyError, match="the policy reads an instruction, it is given image_primary, proprio alone"):
        policy.act(without, [0])


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
    expected = np.where(STATISTICS["action"]["mask"], actions * 0.3 + 0.1, actions)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("normalization", ["normal", "none"])
def test_a_robot_may_fill_the_same_arrays_at_every_step(model, normalization):
    policy = OctoPolicy(model, execute=1, batch_size=1, normalization=normalization)
    policy.reset([0, 1])
    filled = observations(1)
    for step in range(2):
        seen = observations(1, seed=step)
        for key in ("image_primary", "proprio"):
            filled[key][:] = seen[key]
        found, expected = policy.predict(filled, [0]), policy.predict(seen, [1])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("normalization", ["normal", "none"])
def test_a_network_may_fill_the_same_array_for_every_batch(model, normalization):
    policy = OctoPolicy(model, execute=2, batch_size=1, normalization=normalization)
    network, filled = policy._normalized_chunks, []

    def filling(episodes):
        chunks = network(episodes)
        filled.append(np.empty_like(chunks) if not filled else filled[0])
        filled[0][:] = chunks
        return filled[0]

    both = observations(2)
    expected = policy.predict({key: value.copy() for key, value in both.items()}, policy.reset([0, 1]) or [0, 1])
    policy._normalized_chunks = filling
    policy.reset([2, 3])
    np.testing.assert_array_equal(policy.predict(both, [2, 3]), expected)


def test_a_robot_narrower_than_a_diffusion_head_gets_what_the_model_itself_gives_it(diffusion):
    narrow = {**STATISTICS, "action": {key: value[:5] for key, value in STATISTICS["action"].items()}}
    model = diffusion.replace(dataset_statistics=narrow)
    with pytest.warns(UserWarning, match=r"action\.mean is 5 wide, the example batch's actions are 7: the others are"):
        policy = OctoPolicy(model, batch_size=1)
    policy.reset([0])
    found = policy.predict(observations(1), [0])
    episode = policy._episodes[0]
    window = {key: value[None] for key, value in episode.inputs().items()}
    masks = dict.fromkeys(("image_primary", "proprio", "timestep"), np.ones((1, 2), bool))
    inputs = {**window, "pad_mask_dict": masks}, {"pad_mask_dict": {}}
    own = model.sample_actions(*inputs, narrow["action"], rng=policy._key(episode))
    np.testing.assert_allclose(found, own, atol=1e-5)


@pytest.mark.parametrize("head", [pytest.param("l1", marks=pytest.mark.slow), "diffusion"])
def test_an_episode_depends_on_seed_number_and_step_but_not_on_what_runs_beside_it(model, drawing, head):
    policy = OctoPolicy(model, execute=1, batch_size=8) if head == "l1" else drawing
    steps = [observations(6, seed=s) for s in range(2)]
    policy.reset(range(6))
    together = np.array([policy.act(step, range(6)) for step in steps])
    policy.reset([3])
    alone = [policy.act(rows(step, [3]), [3])[0] for step in steps]
    np.testing.assert_array_equal(together[:, 3], alone)
    if head == "diffusion":
        policy.reset([0])
        renamed = policy.act(rows(steps[0], [3]), [0])[0]
        assert np.abs(renamed - alone[0]).max() > 1e-3


def test_warming_up_leaves_no_episode_and_no_trace_in_the_actions(drawing):
    policy, batch, found = drawing, observations(1), []
    policy.forget([*policy._episodes])
    for _ in range(2):
        policy.reset([0])
        found.append(policy.act(batch, [0]))
        policy.forget([0])
        policy.warm_up()
    np.testing.assert_array_equal(*found)
    assert not policy._episodes


def test_only_the_last_instructions_are_remembered(model, monkeypatch):
    encoded = []
    monkeypatch.setattr(OctoModel, "create_tasks", lambda model, texts: encoded.append(texts[0]) or {"read": texts})
    policy = OctoPolicy(model.replace(text_processor=object()), batch_size=1)
    for number in [*range(3 * REMEMBERED_TASKS), 3 * REMEMBERED_TASKS - 1, 0]:
        assert policy._task((f"text {number}",)) == {"read": [f"text {number}"]}
        assert policy._task.cache_info().currsize <= REMEMBERED_TASKS
    assert encoded == [f"text {number}" for number in [*range(3 * REMEMBERED_TASKS), 0]]


def test_an_empty_instruction_is_masked_as_in_training(model, monkeypatch):
    masks = {"language_instruction": np.ones(2, bool), "image_primary": np.zeros(2, bool)}
    monkeypatch.setattr(OctoModel, "create_tasks", lambda model, texts: {"pad_mask_dict": dict(masks)})
    policy = OctoPolicy(model.replace(text_processor=object()), batch_size=2)
    for texts, expected in ((("go", "stop"), [True, True]), (("go", ""), [True, False])):
        shown = policy._task(texts)["pad_mask_dict"]
        np.testing.assert_array_equal(shown["language_instruction"], expected)
        assert not shown["image_primary"].any()


def test_the_model_is_asked_once_per_executed_chunk(model, monkeypatch):
    policy = OctoPolicy(model, execute=3, batch_size=2)
    calls = []
    original = policy._normalized_chunks
    monkeypatch.setattr(policy, "_normalized_chunks", lambda *a: calls.append(1) or original(*a))
    policy.reset([0])
    for step in range(7):
        policy.act(observations(1, seed=step), [0])
    assert len(calls) == 3


@pytest.mark.slow
def test_a_vision_only_model_is_not_shown_proprioception():
    policy = OctoPolicy(build(proprio_dim=None), batch_size=2)
    assert not policy.uses_proprio and policy.cameras == ("primary",) and policy.image_size == 32
    batch = observations(1)
    policy.reset([0, 1])
    action = policy.act(batch, [0])
    np.testing.assert_array_equal(action, policy.act({**batch, "proprio": batch["proprio"] + 9}, [1]))


def test_pictures_of_another_size_are_resized(model):
    policy = OctoPolicy(model, batch_size=2)
    policy.reset([0])
    large = np.repeat(np.repeat(observations(1)["image_primary"], 2, 1), 2, 2)
    assert policy.act({**observations(1), "image_primary": large}, [0]).shape == (1, 7)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (None, "dataset_statistics.json is missing, or holds none"),
        ({"action": STATISTICS["action"]}, "no entry 'proprio'"),
        ({"bridge": STATISTICS, "fractal": STATISTICS}, "choose one with --dataset: bridge, fractal"),
        ({"bridge": STATISTICS, "odd": {"actions": STATISTICS["action"]}}, r"\(odd: no action\); choose .*: bridge$"),
    ],
)
def test_statistics_that_cannot_be_used_are_an_error(model, statistics, message):
    with pytest.raises(PolicyError, match=message):
        OctoPolicy(model.replace(dataset_statistics=statistics))


@pytest.mark.parametrize(
    ("statistics", "dataset", "message"),
    [
        ({**STATISTICS, "num_transitions": 5}, "num_transitions", "'num_transitions'.*it names no datasets, leave"),
        ({**STATISTICS, "num_transitions": 5}, "action", "'action'.*it names no datasets, leave --dataset out"),
        ({"bridge": STATISTICS, "num_transitions": 5}, "num_transitions", "'num_transitions'.*; it has bridge$"),
        ({"bridge": STATISTICS, "odd": {"action": 3}}, "odd", "'odd'.*; it has bridge$"),
        ({"num_transitions": 5}, None, "have no entry 'action'"),
    ],
)
def test_a_name_that_is_no_datasets_is_refused(model, statistics, dataset, message):
    with pytest.raises(PolicyError, match=message):
        OctoPolicy(model.replace(dataset_statistics=statistics), dataset=dataset)


def test_statistics_under_the_name_of_their_only_dataset_are_those_of_the_checkpoint(model):
    chunks = []
    for statistics in (STATISTICS, {"bridge": STATISTICS}):
        policy = OctoPolicy(model.replace(dataset_statistics=statistics))
        policy.reset([0])
        chunks.append(policy.act(observations(1), [0]))
    assert np.array_equal(*chunks)


def test_statistics_of_datasets_beside_those_of_no_name_are_named(model, capsys):
    both = model.replace(dataset_statistics={**STATISTICS, "bridge": BOUNDED, "num_transitions": 5})
    for dataset, told in ((None, "not taken: the statistics of bridge, beside those of no name\n"), ("bridge", "")):
        OctoPolicy(both, dataset=dataset)
        assert capsys.readouterr().err.endswith(told)


def test_an_upstreams_column_that_never_varied_is_its_mean(model, capsys):
    still = {key: {**field, "std": field["std"] * (np.arange(len(field["std"])) != 2)} for key, field in MOVING.items()}
    acted = []
    for statistics in (MOVING, still):
        policy = OctoPolicy(model.replace(dataset_statistics=statistics), batch_size=1)
        policy.reset([0])
        acted.append(policy.act({**observations(1), "proprio": np.full((1, 9), 0.5, np.float32)}, [0])[0])
    np.testing.assert_allclose(acted[1], np.where(np.arange(7) == 2, 0.1, acted[0]), atol=1e-6)
    said = (
        "note: octo/dataset_statistics.json: {}.std says that index 2 never varied; it is taken as upstream takes it\n"
    )
    assert capsys.readouterr().err == said.format("action") + said.format("proprio")
    rests = {
        key: {**field, "p99": np.where(np.arange(len(field["p99"])) == 2, field["p01"], field["p99"])}
        for key, field in BOUNDED.items()
    }
    OctoPolicy(model.replace(dataset_statistics=rests), normalization="bounds")
    assert capsys.readouterr().err.count("p01 says that index 2 never varied; it is taken as upstream takes it") == 2
    own = model.replace(config={**model.config, "normalization": "normal"}, dataset_statistics=still)
    never = {**still, "action": {**still["action"], "std": np.zeros(7)}}
    for refused in (own, model.replace(dataset_statistics=never)):
        with pytest.raises(UserError, match=r"action\.std is 0 at index [02]: what does not vary cannot be norm"):
            OctoPolicy(refused)


def test_inputs_of_another_task_are_an_error_that_says_so(model):
    policy = OctoPolicy(model, batch_size=2)
    policy.reset([0])
    batch = observations(1)
    with pytest.raises(PolicyError, match="takes image_primary, it is given"):
        policy.act({key: value for key, value in batch.items() if key != "image_primary"}, [0])
    with pytest.raises(PolicyError, match="proprio of width 9, the task gives 18"):
        policy.act({**batch, "proprio": np.zeros((1, 18), np.float32)}, [0])
    with pytest.raises(PolicyError, match="predicts 4 actions"):
        OctoPolicy(model, execute=5)
    for odd in (None, [batch], batch["proprio"]):
        with pytest.raises(PolicyError, match=r"observations are .*; give a dictionary of arrays"):
            policy.act(odd, [0])
    for ids in (None, "0", [[0]]):
        with pytest.raises(PolicyError, match=r"the episodes are .*; give a list of their numbers"):
            policy.act(batch, ids)
        with pytest.raises(PolicyError, match=r"the episodes are .*; give a list of their numbers"):
            policy.reset(ids)
    for change, ids, said in (
        ({"image_primary": batch["image_primary"] / 255.0}, [0], r"image_primary is float64.*uint8\[B, h, w, 3\]"),
        ({"image_primary": batch["image_primary"].transpose(0, 3, 1, 2)}, [0], "takes pictures as uint8"),
        ({"image_primary": batch["image_primary"][:, :16]}, [0], "16 × 32, in training 32 × 32; crop or pad it"),
        ({"proprio": batch["proprio"] + 1j}, [0], "proprio is complex"),
        ({"proprio": np.ma.masked_less(batch["proprio"], 0)}, [0], "proprio is masked"),
        ({"proprio": batch["proprio"] > 0}, [0], r"proprio is bool\[1, 9\]; the policy takes numbers \[B, 9\]"),
        ({"proprio": batch["proprio"][0]}, [0], r"proprio is float32\[9\]; the policy takes numbers \[B, 9\]"),
        ({"image_primary": batch["image_primary"][:, :0, :0]}, [0], r"image_primary is uint8\[1, 0, 0, 3\]"),
        ({"language_instruction": np.array(["a", "b"])}, [0], "language_instruction has 2 rows for 1 episodes"),
        ({key: np.repeat(value, 2, 0) for key, value in batch.items()}, [0, 0], "name it once"),
        ({key: np.repeat(value, 2, 0) for key, value in batch.items()}, [0], "2 rows for 1 episodes"),
        ({}, [3], "reset each of them once"),
    ):
        with pytest.raises(PolicyError, match=said):
            policy.act({**batch, **change}, ids)


def test_a_saved_checkpoint_acts_like_the_model_and_knows_its_task(model, tmp_path):
    run = tmp_path / "run"
    model.save_pretrained(step=7, checkpoint_path=run / "checkpoint")
    (run / "config.json").write_text('{"task": "stack", "method": "vp_gap", "eval": {"execute": 2}}')
    batch = observations(1)
    direct = OctoPolicy(model, execute=2)
    direct.reset([0])
    for path in (run, run / "checkpoint"):
        loaded = load_checkpoint(path, batch_size=8)
        assert (loaded.task, loaded.image_size, loaded.cameras) == ("stack", 32, ("primary",))
        assert loaded.policy.name == "vp_gap" and loaded.policy.identity["execute"] == 2
        loaded.policy.reset([0])
        direct.reset([0])
        np.testing.assert_array_equal(loaded.policy.act(batch, [0]), direct.act(batch, [0]))
    with pytest.raises(PolicyError, match="trained for stack, not for threading"):
        load_checkpoint(run, task="threading")


def test_a_finished_runs_own_step_is_played_though_a_later_one_lies_beside_it(model, tmp_path):
    import jax

    run = tmp_path / "run"
    model.save_pretrained(step=7, checkpoint_path=run / "checkpoint")
    own = parameter_digest(model.params)
    other = model.replace(params=jax.tree.map(lambda x: x + 1, model.params))
    other.save_pretrained(step=9, checkpoint_path=run / "checkpoint")
    (run / "config.json").write_text('{"task": "stack", "method": "vp_gap"}')
    assert load_checkpoint(run).policy.identity["parameters"] != own
    (run / "summary.json").write_text('{"task": "stack", "steps": 7}')
    assert load_checkpoint(run).policy.identity["parameters"] == own


BOUNDED = {key: {**field, "p01": field["mean"] - 1, "p99": field["mean"] + 3} for key, field in STATISTICS.items()}


@pytest.fixture
def recorded(model, tmp_path):
    """A model and its checkpoint, which names a normalisation, without a run, and without checksums as upstream's."""
    known = model.replace(config={**model.config, "normalization": "bounds"}, dataset_statistics=BOUNDED)
    known.save_pretrained(step=7, checkpoint_path=tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "checksums.json").unlink()
    return known, tmp_path / "checkpoint"


def test_a_checkpoint_without_its_run_acts_with_the_normalization_that_it_records(recorded):
    model, folder = recorded
    direct, loaded = OctoPolicy(model, normalization="bounds"), load_checkpoint(folder).policy
    assert loaded.identity["normalization"] == "bounds"
    for policy in (direct, loaded):
        policy.reset([0])
    np.testing.assert_array_equal(direct.act(observations(1), [0]), loaded.act(observations(1), [0]))


def test_a_policy_of_a_model_in_memory_says_which_model_it_is_of(recorded):
    model, folder = recorded
    own, loaded = OctoPolicy(model).identity, OctoPolicy.load(folder).identity
    assert {key: own[key] for key in ("parameters", "architecture")} == {
        key: loaded[key] for key in ("parameters", "architecture")
    }
    other = jax.tree_util.tree_map(lambda leaf: leaf + 1, model.params)
    assert OctoPolicy(model.replace(params=other)).identity["parameters"] != own["parameters"]
    halved = OctoModule.create(**model.config["model"], compute=Compute(dtype=jnp.bfloat16))
    assert OctoPolicy(model.replace(module=halved)).identity == {**own, "arithmetic": "bfloat16"}
    one = OctoPolicy(model.replace(config={**model.config, "proprio_history": 1})).identity
    assert OctoPolicy(model.replace(config={**model.config, "proprio_history": np.int64(1)})).identity == one


def test_a_checkpoint_whose_files_are_links_as_in_the_hubs_cache_acts(recorded, tmp_path):
    snapshot, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(path for path in recorded[1].rglob("*") if path.is_file()):
        link = snapshot / file.relative_to(recorded[1])
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shutil.copy(file, blobs / str(number)))
    assert load_checkpoint(snapshot).policy.identity == load_checkpoint(recorded[1]).policy.identity


def test_a_checkpoint_of_others_records_no_normalization_and_takes_that_of_its_run(model, tmp_path):
    model.replace(dataset_statistics=BOUNDED).save_pretrained(step=7, checkpoint_path=tmp_path)
    assert OctoPolicy.load(tmp_path).identity["normalization"] == "normal"
    assert OctoPolicy.load(tmp_path, normalization="bounds").identity["normalization"] == "bounds"


def test_statistics_of_other_actions_than_those_of_the_example_batch_are_refused(model):
    def padded(true):
        actions = model.example_batch["action"]
        return {**model.example_batch, "action_pad_mask": np.broadcast_to(np.arange(7) < true, actions.shape)}

    narrow = {**model.dataset_statistics, "action": {k: v[:1] for k, v in model.dataset_statistics["action"].items()}}
    with pytest.raises(UserError, match=r"action\.mean is 1 wide, the example batch's actions are 7; copy"):
        OctoPolicy(model.replace(dataset_statistics=narrow))
    assert OctoPolicy(model.replace(dataset_statistics=narrow, example_batch=padded(1))).action_dim == 1
    assert OctoPolicy(model.replace(dataset_statistics={"one": narrow})).action_dim == 1  # of several robots
    assert OctoPolicy(model.replace(example_batch=padded(4))).action_dim == 7  # another of them is in the example


@pytest.mark.parametrize(
    ("finetuned", "trained", "found"),
    [
        ("bounds", "normal", "bounds"),  # what it was pretrained with is in config.json
        (None, "bounds", "bounds"),
        (None, None, "normal"),
    ],
)
def test_a_checkpoint_of_upstreams_is_normalised_as_it_says(model, tmp_path, capsys, finetuned, trained, found):
    def said(kind):
        return {"dataset_kwargs": {"name": "mine"} | ({"action_proprio_normalization_type": kind} if kind else {})}

    config = {**model.config, **said(trained)}
    model.replace(config=config, dataset_statistics=BOUNDED).save_pretrained(step=7, checkpoint_path=tmp_path)
    (tmp_path / "finetune_config.json").write_text(json.dumps(said(finetuned)))
    assert OctoPolicy.load(tmp_path).identity["normalization"] == found
    note = f"note: {tmp_path} does not say how its actions were normalised; taken as normal\n"
    assert capsys.readouterr().err == (note if found == "normal" else "")
    (tmp_path / "finetune_config.json").write_text(json.dumps(said("quantiles")))
    with pytest.raises(UserError, match=r"finetune_config.json: dataset_kwargs.action_proprio_normalization_typ"):
        OctoPolicy.load(tmp_path)
    ours = model.replace(config={**config, "normalization": "normal"}, dataset_statistics=BOUNDED)
    for kind, told in (("quantiles", "dataset_kwargs.action_proprio"), ("bounds", "normalization normal, finetune")):
        ours.save_pretrained(step=7, checkpoint_path=tmp_path / kind)
        (tmp_path / kind / "finetune_config.json").write_text(json.dumps(said(kind)))
        with pytest.raises(UserError, match=told):
            OctoPolicy.load(tmp_path / kind)


KIND = "action_proprio_normalization_type"


@pytest.mark.parametrize("file", ["config.json", "finetune_config.json"])
@pytest.mark.parametrize(
    "data",
    [
        {"dataset_kwargs_list": [{"name": "mine", KIND: "bounds"}, {"name": "other", KIND: "bounds"}]},  # of train.py
        {"oxe_kwargs": {"data_mix": "mine", KIND: "bounds"}},
        [{KIND: "bounds"}, {KIND: None}],
    ],
)
def test_what_upstream_says_of_each_dataset_of_a_mixture_is_read(model, tmp_path, capsys, file, data):
    model.replace(dataset_statistics=BOUNDED).save_pretrained(step=7, checkpoint_path=tmp_path)
    (tmp_path / "checksums.json").unlink()
    said = {"finetune_config.json": {}, "config.json": model.config}[file]
    (tmp_path / file).write_text(json.dumps({**said, "dataset_kwargs": data}))
    assert OctoPolicy.load(tmp_path).identity["normalization"] == "bounds" and not capsys.readouterr().err
    (tmp_path / file).write_text(json.dumps({**said, "dataset_kwargs": [data, {KIND: "normal"}]}))
    told = rf"{file} says .*{KIND} bounds and dataset_kwargs\[1\]\.{KIND} normal; leave what holds for"
    with pytest.raises(UserError, match=told):
        OctoPolicy.load(tmp_path)
    assert OctoPolicy.load(tmp_path, normalization="bounds").identity["normalization"] == "bounds"
    loaded = OctoModel.load_pretrained(tmp_path)  # to train on from it
    loaded.replace(config={**loaded.config, "dataset_kwargs": {}}).save_pretrained(step=8, checkpoint_path=tmp_path)


def test_a_program_acts_and_saves_as_the_fine_tuning_said(model, tmp_path):
    model.replace(dataset_statistics=BOUNDED).save_pretrained(step=7, checkpoint_path=tmp_path / "a")
    data = {KIND: "bounds", "action_normalization_mask": [True] * 6 + [False]}
    finetuned = {"window_size": 2, "dataset_kwargs": data}
    (tmp_path / "a" / "finetune_config.json").write_text(json.dumps(finetuned))
    with warnings.catch_warnings(action="error"):
        loaded = OctoModel.load_pretrained(tmp_path / "a")
    batch = loaded.example_batch
    with pytest.warns(UserWarning, match="trained with normalization bounds, its actions are taken as normal"):
        loaded.sample_actions(batch["observation"], batch["task"], BOUNDED["action"])
    for place in ("a", "b"):
        loaded.save_pretrained(step=8, checkpoint_path=tmp_path / place)
        assert OctoPolicy.load(tmp_path / place).identity["normalization"] == "bounds"
    finetuned["window_size"], data["action_normalization_mask"] = 3, [True] * 7
    (tmp_path / "a" / "finetune_config.json").write_text(json.dumps(finetuned))
    with pytest.warns(UserWarning) as told:
        OctoModel.load_pretrained(tmp_path / "a")
    assert [str(one.message).partition(": ")[2].partition(" and ")[0] for one in told] == [
        "window_size is 3 by its finetune_config.json",
        f"action_normalization_mask is {[True] * 7} by its finetune_config.json",
    ]


def test_a_checkpoint_without_its_run_says_that_nobody_knows_how_many_actions_it_executed(recorded, capsys):
    def noted(**how):
        policy = load_checkpoint(recorded[1], **how).policy
        note = f"note: {recorded[1]} does not say how many of the 4 actions of a chunk to execute: 1, "
        return policy.identity["execute"], note in capsys.readouterr().err

    assert [noted(), noted(execute=2), noted(ensemble=True)] == [(1, True), (2, False), ("ensemble", False)]
    settings = {"task": "assembly", "method": "vp", "data": {"normalization": "bounds"}, "eval": {"execute": 3}}
    (recorded[1].parent / "config.json").write_text(json.dumps(settings))
    assert noted() == (3, False)


def test_a_checkpoint_of_ours_beside_an_example_of_another_window_is_refused(recorded):
    other = serialization.msgpack_serialize(example_batch(**SIZES | {"window_size": 1}))
    (recorded[1] / "example_batch.msgpack").write_bytes(other)
    with pytest.raises(UserError, match="says window_size 2, its example batch has 1; copy both again"):
        load_checkpoint(recorded[1])


def test_a_config_of_another_model_with_the_same_parameters_is_another_policy_of_an_evaluation(model, tmp_path):
    model.save_pretrained(step=7, checkpoint_path=tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("checksums.json"))
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    config["model"]["use_correct_attention"] = False
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    first, second = (identity(OctoPolicy.load(tmp_path / name)) for name in "ab")
    place = tmp_path / "evaluation.json"
    place.write_text(json.dumps({"policy": first}))
    with pytest.raises(EvaluationError, match=r"\(policy\.architecture: '\w+' then, '\w+' now\)"):
        require_same(place, {"policy": second})
    require_same(place, {"policy": first})


@pytest.mark.parametrize("read", ["language_instruction", "image_primary"])
def test_a_task_that_rollouts_cannot_give_is_said(model, read):
    batch, config = example_batch(**SIZES), small_config(**SIZES, **SMALL)
    if read == "image_primary":
        batch["task"][read] = np.zeros((1, 32, 32, 3), np.uint8)
        config["model"]["observation_tokenizers"]["primary"]["kwargs"]["task_stack_keys"] = [read]
    else:
        batch["task"][read] = np.ones((1, 8), np.float32)
        config["model"]["task_tokenizers"] = {"language": ModuleSpec.create(LanguageTokenizer)}
    model = model.replace(module=OctoModule.create(**config["model"]), config=config, example_batch=batch)
    with pytest.warns(UserWarning, match=rf"octo reads {read} of its task, and has no text processor: it acts without"):
        OctoPolicy(model)
    with warnings.catch_warnings(action="error"):
        OctoPolicy(model.replace(text_processor=object()))


def test_a_policy_is_shown_what_its_tokenizers_read_and_nothing_else(model):
    config = small_config(proprio_dim=None, **SIZES, **SMALL)
    batch = example_batch(image_keys=("image_primary", "image_wrist"), proprio_dim=5, **SIZES)
    known = {"config": config, "example_batch": batch, "dataset_statistics": {"action": STATISTICS["action"]}}
    policy = OctoPolicy(model.replace(module=OctoModule.create(**config["model"]), **known))
    assert policy.cameras == ("primary",) and not policy.uses_proprio


def test_a_key_file_of_a_server_names_the_instruction_that_its_policy_reads(model, tmp_path, capsys):
    words = ModuleSpec.create(HFTokenizer, tokenizer_name="t5-base")
    model.replace(config={**model.config, "text_processor": words}).save_pretrained(7, tmp_path / "octo")
    (tmp_path / "keys.json").write_text('{"observation": {"image_primary": "image", "proprio": "state"}}')
    command = ["--checkpoint", str(tmp_path / "octo"), "--port", "0", "--keys", str(tmp_path / "keys.json")]
    for more in ([], ["--whole-chunks"]):
        assert serve_policy.main([*command, *more]) == 2
        said = capsys.readouterr().err
        assert "keys.json: the policy needs language_instruction too; name what clients" in said
        assert ("how many of the 4 actions of a chunk to execute: 1" in said) == (not more)  # their client executes


def test_a_checkpoint_with_another_normalization_than_its_runs_is_refused(recorded):
    _, folder = recorded
    with pytest.raises(UserError, match=r"says normalization bounds, its run's config.json normal; copy the run"):
        OctoPolicy.load(folder, normalization="normal")
    assert OctoPolicy.load(folder, normalization="bounds").identity["normalization"] == "bounds"


@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json", "example_batch.msgpack"])
def test_a_checkpoint_beside_a_file_of_another_is_refused(model, tmp_path, name):
    statistics = {key: {**field, "mean": field["mean"] + 0.5} for key, field in STATISTICS.items()}
    config = {**model.config, "camera": "corner2"}
    batch = {**model.example_batch, "rho": np.ones(1)}
    other = model.replace(config=config, dataset_statistics=statistics, example_batch=batch)
    for folder, saved in {"own": model, "other": other}.items():
        saved.save_pretrained(step=7, checkpoint_path=tmp_path / folder)
    shutil.copy(tmp_path / "other" / name, tmp_path / "own" / name)
    message = (
        rf"own/{name} has \d+ bytes.*own/checksums.json says '\d+ bytes.*; copy both again, or remove checksums.json"
    )
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "own")


def test_chunks_of_the_same_weights_that_are_not_those_of_the_example_batch_are_warned_about(recorded):
    _, folder = recorded
    config = json.loads((folder / "config.json").read_text())
    config["model"]["heads"]["action"]["kwargs"] |= {"action_horizon": 2, "action_dim": 14}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"chunks are \(2, 14\) by its config.json and \(4, 7\) by its example batch"):
        assert load_checkpoint(folder).policy.action_dim == 7


@pytest.mark.parametrize("said", [{}, False, "", "Normal", ["normal"]])
def test_a_recorded_normalization_that_is_none_is_refused(recorded, said):
    path = recorded[1] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalization": said}))
    with pytest.raises(UserError, match=r"config\.json: normalization is "):
        load_checkpoint(recorded[1])


def test_a_view_that_is_no_name_is_refused(recorded):
    path = recorded[1] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "camera": ["corner2"]}))
    with pytest.raises(UserError, match=r"camera is list, no name of a view; copy it again"):
        load_checkpoint(recorded[1])


def test_what_is_given_has_the_last_word_on_execution(model, tmp_path):
    model.save_pretrained(step=7, checkpoint_path=tmp_path / "checkpoint")
    (tmp_path / "config.json").write_text('{"task": "stack", "method": "vp", "eval": {"ensemble": true}}')
    for given, executed in ({}, "ensemble"), ({"execute": 2}, 2), ({"execute": 1, "ensemble": True}, "ensemble"):
        assert load_checkpoint(tmp_path, **given).policy.identity["execute"] == executed


def test_one_text_is_the_instruction_of_one_episode(model):
    policy = OctoPolicy(model)
    policy.reset([0])
    assert policy.act({**observations(1), "language_instruction": np.array("go")}, [0]).shape[0] == 1


def test_a_missing_or_incomplete_checkpoint_is_named(model, tmp_path):
    with pytest.raises(PolicyError, match="no such directory"):
        load_checkpoint(tmp_path / "nowhere")
    model.save_pretrained(step=7, checkpoint_path=tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "dataset_statistics.json").unlink()
    with pytest.raises(UserError, match=r"dataset_statistics\.json"):
        load_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("text", [b"go", None, 3.0])
def test_an_instruction_that_is_no_text_is_refused(drawing, text):
    drawing.reset([0])
    with pytest.raises(PolicyError, match=r"language_instruction is .*, no text; give str \(bytes: \.decode\(\)\)"):
        drawing.act({**observations(1), "language_instruction": np.array([text], object)}, [0])


def test_a_model_that_says_its_normalization_acts_by_that_one():
    ends = {"p01": np.full(7, -0.8), "p99": np.full(7, 1.2)}
    of_proprio = {"p01": np.full(9, -4.0), "p99": np.full(9, 6.0)}
    model = build(
        statistics={"action": {**STATISTICS["action"], **ends}, "proprio": {**STATISTICS["proprio"], **of_proprio}}
    )
    assert OctoPolicy(model).identity["normalization"] == "normal"
    said = model.replace(config={**model.config, "normalization": "bounds"})
    assert OctoPolicy(said).identity["normalization"] == "bounds"
    with pytest.raises(UserError, match="was trained with normalization bounds, not normal"):
        OctoPolicy(said, normalization="normal")
    batch = said.example_batch
    with pytest.warns(UserWarning, match=r"trained with normalization bounds, .*unnormalize\(actions"):
        said.sample_actions(batch["observation"], batch["task"], said.dataset_statistics["action"])
    only_openvlas = {"mean": ends["p01"] + 1, "q01": ends["p01"], "q99": ends["p99"]}
    own, others = (
        said.sample_actions(batch["observation"], batch["task"], statistics, "bounds")
        for statistics in (said.dataset_statistics["action"], {**only_openvlas, "mask": STATISTICS["action"]["mask"]})
    )
    np.testing.assert_array_equal(own, others)


@pytest.mark.parametrize(
    "put, said", [(np.ma.masked, "masked"), (1e300, "NaN or infinite"), (np.nan, "NaN or infinite")]
)
@pytest.mark.parametrize("kind", [np.asarray, jax.numpy.asarray])
def test_numbers_that_no_network_can_read_are_refused(diffusion, put, said, kind):
    batch = diffusion.example_batch
    proprio = np.ma.array(np.zeros((1, 2, 9)))
    proprio[0, 1, 3] = put
    if put is not np.ma.masked:
        proprio = kind(proprio.data)
    with pytest.raises(ConfigError, match=f"observation/proprio is {said}"):
        diffusion.sample_actions({**batch["observation"], "proprio": proprio}, batch["task"])
    with pytest.raises(ConfigError, match="normalization_type 'nonsense' is unknown"):
        diffusion.sample_actions(batch["observation"], batch["task"], normalization_type="nonsense")


@pytest.mark.parametrize(
    "options", [{"ensemble": "no"}, {"ensemble": True, "execute": 3}, {"execute": 1.5}, {"batch_size": 0}, {"seed": -1}]
)
def test_options_of_a_policy_that_mean_nothing_are_refused(diffusion, options):
    with pytest.raises(PolicyError, match=next(iter(options))):
        OctoPolicy(diffusion, **options)


def test_a_model_in_memory_is_normalised_as_its_upstream_config_says(model):
    said = {"dataset_kwargs": {"action_proprio_normalization_type": "bounds"}}
    upstreams = model.replace(config={**model.config, **said}, dataset_statistics=BOUNDED)
    assert OctoPolicy(upstreams).identity["normalization"] == "bounds"
    batch = upstreams.example_batch
    with pytest.warns(UserWarning, match="trained with normalization bounds, its actions are taken as normal"):
        upstreams.sample_actions(batch["observation"], batch["task"], BOUNDED["action"])
