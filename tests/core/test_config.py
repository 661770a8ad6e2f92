"""Typed configurations: to and from JSON, errors that name the keys, and the keys that `--help` lists."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

import pytest
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT, Steps, build, keys, merge, to_dict
from gap_vla.core.errors import ConfigError


@dataclass(frozen=True, config=STRICT)
class Train:
    steps: Steps = 20
    """Training steps."""
    head: Literal["l1", "mse"] = "l1"
    """The loss."""
    cameras: tuple[str, ...] = ("primary",)
    """What it sees."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Anything."""


@dataclass(frozen=True, config=STRICT)
class Experiment:
    task: str
    train: Train = Train()
    seed: int | None = None


def test_json_goes_round():
    config = Experiment("a", Train(steps=3, options={"sigma": 2.0}))
    assert build(Experiment, to_dict(config)) == config
    assert to_dict(config)["train"]["cameras"] == ["primary"]


@pytest.mark.parametrize(
    "values, named",
    [
        ({"train": {"step": 2}}, "train.steps"),
        ({"train": {"steps": 0}}, "train.steps"),
        ({"train": {"head": "l2"}}, "'mse'"),
        ({"train": {"cameras": 3}}, "train.cameras"),
    ],
)
def test_a_wrong_key_or_value_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        build(Experiment, {"task": "a", **values})


def test_changes_are_merged_by_key():
    assert merge({"train": {"steps": 1, "head": "l1"}}, {"train": {"steps": 2}}) == {
        "train": {"steps": 2, "head": "l1"}
    }


def test_help_knows_type_choices_value_and_sentence():
    found = {key.name: key for key in keys(Experiment("a", Train(steps=5)))}
    assert found["train.steps"].value == 5 and found["train.steps"].help == "Training steps."
    assert found["train.head"].kind == "l1 | mse"
    assert found["seed"].kind == "int | None"
