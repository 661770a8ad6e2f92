"""What a user can do wrong with a model is refused in one line: a damaged file, an unknown class, odd shapes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import octo_golden as golden
import pytest

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.foreign import CheckpointError
from gap_vla.octo import ModuleSpec, OctoModule, merge_params, presets
from gap_vla.octo.heads.continuous import L1ActionHead
from gap_vla.octo.heads.discrete import DiscreteActionHead
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
