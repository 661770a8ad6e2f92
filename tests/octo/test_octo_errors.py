"""What a user can do wrong with a model is refused in one line: a damaged file, an unknown class, odd shapes."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import octo_golden as golden
import pytest
import torch
from gap_vla.training.octo_weights import require_weights

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.foreign import CheckpointError
from gap_vla.octo import ModuleSpec, OctoModel, OctoModule, create_optimizer, merge_params, presets, text
from gap_vla.octo.batches import check_statistics
from gap_vla.octo.heads.discrete import DiscreteActionHead
from gap_vla.octo.heads.readout import L1ActionHead
from gap_vla.octo.model import parameter_shapes
from gap_vla.octo.optimizer import create_schedule
from gap_vla.octo.t5 import T5Config
from gap_vla.octo.text import HFTokenizer
from gap_vla.octo.token_groups import TokenGroup
from gap_vla.octo.tokenizers import BinTokenizer

SMALL = {"image_size": 32, "token_embedding_size": 32, "stem_features": (32,)}


def refused(act: Callable[[], Any], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        act()
    message = message_of(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_embedding_size": 33}, ("token_embedding_size 33", "num_attention_heads 4")),
        ({"head": "l3"}, ("head must be one of", "'l3'")),
        ({"proprio_dim": None, "proprio_tokens": 2}, ("proprio_tokens is 2 and proprio_dim None",)),
        ({"image_size": 33}, ("do not divide 33 pixels", "model.stem_patch")),
    ],
)
def test_sizes_of_a_small_model_that_do_not_go_together(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(lambda: presets.small_config(**{**SMALL, **changes}), *words)


def test_a_published_size_that_nobody_published() -> None:
    refused(lambda: presets.published_config("octo-huge"), "octo-huge", "octo-small-1.5", "directory")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"name": "ViTResnet"}, ("ViTResnet is not implemented here", "SmallStem16")),
        ({"module": "os", "name": "system"}, ("no class is registered for os:system", "register")),
        ({"more": 1}, ("keys module, name, args and kwargs", "more")),
    ],
)
def test_a_class_that_a_configuration_may_not_name(kind: dict[str, Any], words: tuple[str, ...]) -> None:
    spec = ModuleSpec.create("octo.model.components.vit_encoders:SmallStem16")
    refused(lambda: ModuleSpec.instantiate({**spec, **kind}), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_norm_type": "nope"}, ("img_norm_type", "'nope'")),
        ({"use_film": True}, ("use_film=True", "task_film_keys")),
    ],
)
def test_options_of_an_encoder_that_cannot_be(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    config = presets.small_config(image_size=32, stem_features=(32,))
    config["model"]["observation_tokenizers"]["primary"]["kwargs"]["encoder"]["kwargs"].update(changes)
    batch = presets.example_batch(image_size=32)
    refused(lambda: parameter_shapes(OctoModule.create(**config["model"]), batch), *words)


def test_pictures_of_more_tokens_than_can_attend_to_each_other() -> None:
    module = OctoModule.create(**presets.small_config(image_size=32, stem_features=(32,))["model"])
    refused(lambda: parameter_shapes(module, presets.example_batch(image_size=4096)), "tokens, each", "at most 16,384")


def test_data_without_any_input_of_the_model() -> None:
    module = OctoModule.create(**presets.small_config(image_size=32, stem_features=(32,))["model"])
    batch = presets.example_batch(("image_side",), image_size=32, proprio_dim=None)
    refused(lambda: parameter_shapes(module, batch), "no observation tokenizer", "image_side", "primary")


def test_heads_that_do_not_fit_what_they_read_and_learn() -> None:
    outputs = {"readout_action": TokenGroup.create(jnp.zeros((1, 2, 3, 8)))}
    keys = {"params": jax.random.PRNGKey(0)}
    refused(lambda: L1ActionHead(readout_key="readout_other").init(keys, outputs), "readout_other", "readout_action")
    refused(lambda: DiscreteActionHead(readout_key="readout_action").init(keys, outputs), "needs 7 tokens", "readouts")
    refused(lambda: DiscreteActionHead("readout_action", token_per="word").init(keys, outputs), "token_per", "'word'")
    head = golden.load("b").model.module.bind({"params": golden.load("b").model.params}).heads["action"]
    action = np.zeros((1, 2, 3, 7))
    groups = {"readout_action": TokenGroup.create(jnp.zeros((1, 2, 2, 64)))}
    refused(lambda: head.loss(groups, action, np.ones((1, 2), bool), action > 0), "(B, W, 4, 7)", "(1, 2, 3, 7)")


def test_a_language_encoder_whose_description_is_damaged(tmp_path: Path) -> None:
    refused(lambda: T5Config.find("t6-base"), "t6-base", "t5-base", "config.json")
    (tmp_path / "config.json").write_text("{")
    refused(lambda: T5Config.find(str(tmp_path)), str(tmp_path), "not valid JSON")
    for values, word in (({"model_type": "bert"}, "version 1.0"), ({"model_type": "t5", "d_model": "big"}, "d_model")):
        (tmp_path / "config.json").write_text(json.dumps(values))
        refused(lambda: T5Config.find(str(tmp_path)), str(tmp_path), word)
    refused(lambda: HFTokenizer("t5-base", {"padding": "longest", "truncation": True}), "pads and truncates")


def test_pretrained_leaves_of_which_none_fits() -> None:
    model = {"own": np.zeros(2), "wide": np.zeros(3)}
    refused(lambda: merge_params(model, {"other": np.ones(2), "wide": np.ones(4)}), "of 2 pretrained leaves none has")
    refused(lambda: merge_params(model, {}), "of 0 pretrained leaves", "the model's 2")


def test_numbers_and_names_that_no_part_knows() -> None:
    refused(lambda: BinTokenizer(bin_type="odd").thresholds(), "'odd'", "uniform")
    refused(lambda: create_schedule("linear", 0.0, 1.0, 2), "'linear'", "cosine")
    refused(lambda: TokenGroup.create(jnp.zeros((2, 3, 4)), jnp.ones((2, 2), bool)), "(2, 3, 4)", "(2, 2)")


def test_a_parameter_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    from gap_vla.octo.checkpoint import read_msgpack

    leaf = msgpack.packb("head") + msgpack.packb({"bias": 1})
    (tmp_path / "once").write_bytes(b"\x81" + leaf)
    assert read_msgpack(tmp_path / "once") == {"head": {"bias": 1}}
    (tmp_path / "twice").write_bytes(b"\x82" + leaf + leaf)
    with pytest.raises(CheckpointError, match="twice: not a readable msgpack file: 'head' is there 2 times"):
        read_msgpack(tmp_path / "twice")


@pytest.mark.parametrize(("count", "refused"), [(1, False), (3, True)])
def test_a_tokenizer_that_lengthens_a_text_without_end_is_refused(tmp_path: Path, count: int, refused: bool) -> None:
    from gap_vla.octo.text import _require_small_growth

    rules = [{"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 16}] * count
    file = tmp_path / "tokenizer.json"
    rules.append({"type": "Sequence", "normalizers": 5})  # the library says what is wrong with it
    file.write_text(json.dumps({"normalizer": {"type": "Sequence", "normalizers": rules}}))
    with pytest.raises(CheckpointError, match="lengthen a text 4096 times") if refused else contextlib.nullcontext():
        _require_small_growth(file)


def test_an_instruction_of_more_word_pieces_than_the_model_reads_is_said(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"</s>": 1, "go": 2}, unk_token="go"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    processor = text.HFTokenizer(str(tmp_path), {"max_length": 4})
    with pytest.warns(UserWarning, match="an instruction has 5 word pieces, the model reads the first 3"):
        assert processor.encode(["go", "go go go go go"])["input_ids"].tolist() == [[2, 1, 0, 0], [2, 2, 2, 1]]
    with warnings.catch_warnings(action="error"):
        processor.encode(["go go go", ""])


COSINE: dict[str, Any] = {"name": "cosine", "init_value": 0.0, "peak_value": 1e-3, "warmup_steps": 2, "decay_steps": 9}
RSQRT: dict[str, Any] = {"name": "rsqrt", "init_value": 0.0, "peak_value": 1e-3, "warmup_steps": 2}


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (COSINE | {"peak_value": np.nan}, ("learning_rate: peak_value is nan",)),
        (COSINE | {"init_value": -1.0}, ("init_value is -1.0",)),
        (COSINE | {"warmup_steps": -5}, ("warmup_steps is -5",)),
        (COSINE | {"decay_steps": 2}, ("decay_steps is 2", "more than warmup_steps, 2")),
        (COSINE | {"end_value": np.inf}, ("end_value is inf",)),
        ({key: COSINE[key] for key in COSINE if key != "decay_steps"}, ("decay_steps is missing",)),
        ({key: COSINE[key] for key in COSINE if key != "peak_value"}, ("peak_value is missing",)),
        (RSQRT | {"timescale": 0}, ("timescale is 0",)),
    ],
)
def test_a_schedule_with_numbers_of_none_is_refused(schedule: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(lambda: create_optimizer({}, schedule), *words)
    create_optimizer({}, RSQRT | {"decay_steps": None})  # an option of another schedule


@pytest.mark.parametrize("option", [{"b1": np.nan}, {"b2": 1.0}, {"eps": -1.0}])
def test_moments_that_never_settle_are_refused(option: dict[str, float]) -> None:
    refused(lambda: create_optimizer({}, 1e-3, **option), f"{next(iter(option))} is ")


def test_statistics_that_no_data_have_are_refused_unless_the_mask_leaves_them_out() -> None:
    still = {"mean": np.zeros(2), "std": np.zeros(2), "p01": np.array([0.0, 1.0]), "p99": np.array([1.0, -1.0])}
    refused(lambda: check_statistics(still, "normal", 7), "std is 0 in all dimensions")
    refused(lambda: check_statistics(still, "bounds", 7), "p01 is above p99 at index 1")
    check_statistics({**still, "std": np.array([0.0, 1.0])}, "normal", 7)  # as of robots that turn about one axis
    for kind in ("normal", "bounds"):
        check_statistics({**still, "mask": np.array([kind == "bounds", False])}, kind, 7)


def test_statistics_of_fewer_columns_are_warned_of_unless_it_is_said() -> None:
    case = golden.load("a")
    inputs = case.batch["observation"], case.batch["task"]
    narrow = {key: np.ones(2, np.float32) for key in ("mean", "std")} | {"max": None, "of": "a robot"}
    with pytest.warns(UserWarning, match="statistics of 2 columns for 7 actions: the others are dropped"):
        assert case.model.sample_actions(*inputs, narrow).shape[-1] == 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="statistics of")
        assert case.model.sample_actions(*inputs, narrow, embodiment_action_dim=2).shape[-1] == 2
    with pytest.warns(
        UserWarning, match=r"2 columns for embodiment_action_dim=1: the last 1 of an .* take \[..., :1\]"
    ):
        case.model.sample_actions(*inputs, narrow, embodiment_action_dim=1)


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan, np.inf, jnp.float32(0)])
def test_a_temperature_that_no_bin_is_drawn_with_is_refused(temperature: Any) -> None:
    case = golden.load("d")
    inputs = case.batch["observation"], case.batch["task"]
    refused(lambda: case.model.sample_actions(*inputs, temperature=temperature), "temperature is", "argmax=True")


@pytest.mark.parametrize("dims", [0, -1, 99, 3.5, True])
def test_a_width_that_no_robot_of_the_head_has_is_refused(dims: Any) -> None:
    case = golden.load("a")
    inputs = case.batch["observation"], case.batch["task"]
    refused(lambda: case.model.sample_actions(*inputs, embodiment_action_dim=dims), f"embodiment_action_dim is {dims}")


def test_tasks_and_observations_that_do_not_go_together_are_refused() -> None:
    case = golden.load("c")
    model, observation, task = case.model, case.batch["observation"], case.batch["task"]
    refused(lambda: model.create_tasks(texts="cup"), "the one text 'cup'", "give a list")  # type: ignore[arg-type]
    refused(lambda: model.create_tasks(goals={"image_primary": 3}), "image_primary is 3", "a row per task")
    refused(lambda: model.create_tasks(goals=0.5), "goals is 0.5", "give a mapping")
    one = jax.tree.map(lambda leaf: leaf[:1], task)
    refused(
        lambda: model.sample_actions(observation, one), "is (1, ", "the observations begin with (", "a task for each"
    )
    unmasked = {key: value for key, value in observation.items() if key != "timestep_pad_mask"}
    with pytest.warns(UserWarning, match="timestep_pad_mask"):
        refused(lambda: model.sample_actions(unmasked, task), "lack timestep_pad_mask", "bool[B, W]")
    rows = len(observation["timestep_pad_mask"])
    for shape in ((rows, 32), (rows, 5, 32)):
        embedded = {**task, "language_instruction": np.zeros(shape, np.float32)}
        refused(functools.partial(model.sample_actions, observation, embedded), "expected (B, 16, E)")
    listed = {**observation, "timestep_pad_mask": observation["timestep_pad_mask"].tolist()}
    refused(lambda: model.sample_actions(listed, task), "observation/timestep_pad_mask is a list; give an array")
    foreign = {**observation, "proprio": torch.from_numpy(np.array(observation["proprio"]))}
    refused(lambda: model.sample_actions(foreign, task), "observation/proprio is a Tensor; give an array of numpy")
    damaged = {**observation, "proprio": np.full_like(observation["proprio"], np.nan)}
    refused(lambda: model.sample_actions(damaged, task), "observation/proprio is NaN or infinite")
    swapped = {**observation, "proprio": observation["proprio"].astype(">f4")}
    refused(lambda: model.sample_actions(swapped, task), "observation/proprio is >f4", "give .astype(float32)")


def test_a_tokenizer_of_another_vocabulary_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models

    monkeypatch.chdir(golden.DATA / "c")  # where its encoder is
    folder = shutil.copytree("checkpoint", tmp_path / "copy")
    require_weights(str(folder))
    model = OctoModel.load_pretrained(folder)
    for words, said in (
        ({"[UNK]": 2, "</s>": 1, "cup": 40_000}, "go up to 40000, and the model's encoder knows 144"),
        ({"[UNK]": 2, "</s>": 0, "cup": 3}, "its </s> is 0, T5's 1"),
        ({"[UNK]": 2, "cup": 3}, "its </s> is None, T5's 1"),
    ):
        Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
        text._load.cache_clear()
        refused(lambda: require_weights(str(folder)), "tokenizer.json", said)
        refused(lambda: model.create_tasks(texts=["cup"]), said)


def test_what_is_no_transformation_no_compute_and_no_shape_of_samples_is_named() -> None:
    case = golden.load("a")
    refused(lambda: create_optimizer(case.model.params, 1e-3, after_normalization=0.3), "after_normalization is 0.3")
    refused(lambda: OctoModule.create({}, {}, {}, compute="bfloat16"), "compute is 'bfloat16'; give Compute(dtype=")
    observation, task = case.model.example_batch["observation"], case.model.example_batch["task"]
    for shape in (None, "ab", (1.5,), (-1,), 3):
        refused(lambda shape=shape: case.model.sample_actions(observation, task, sample_shape=shape), "sample_shape is")
