"""No configuration holds a number without a least and a greatest value, and none outside of them is taken."""

import dataclasses
import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from gap_vla.cli.configured import config_parser
from gap_vla.core.typed_config import ConfigError, all_number_fields, number_fields
from gap_vla.phases.estimator import EstimatorSettings
from gap_vla.phases.methods import Options
from gap_vla.training.config import PhasesConfig
from gap_vla.training.octo import FinetuneConfig, OctoOptimizerConfig
from gap_vla.training.torch import SmallConfig

CONFIGS = {"octo": FinetuneConfig, "small": SmallConfig}
OPTIONS = {
    "phases": Options,
    "lstm": EstimatorSettings,
}
NUMBERS = [
    *((kind, key) for kind, config in CONFIGS.items() for key in all_number_fields(config)),
    *((kind, key) for kind, options in OPTIONS.items() for key in number_fields(options)),
]


def field_of(kind, key):
    return all_number_fields(CONFIGS[kind])[key] if kind in CONFIGS else number_fields(OPTIONS[kind])[key]


def build(kind, key, value):
    if kind in OPTIONS:
        return OPTIONS[kind](**{key: value})
    *sections, name = key.split(".")
    values = {name: value}
    for section in reversed(sections):
        values = {section: values}
    return CONFIGS[kind].from_dict({"task": "threading", **values})


def impossible(field):
    """Values of the field's number that nothing can mean."""
    for least, most in [(field.bounds.least, field.bounds.most)] if field.bounds else []:
        step = 1 if field.kind is int else max(abs(most), 1) * 1e-6
        yield from (least - step, most + step, -math.inf, math.inf, math.nan, "3", True, [], 10**30, 10**400)
        if field.kind is int:
            yield least + 0.5


@pytest.mark.parametrize(("kind", "key"), NUMBERS)
def test_every_number_of_every_configuration_has_bounds_and_is_refused_outside_of_them(kind, key):
    field = field_of(kind, key)
    assert field.bounds or (field.many and field.items), f"{key} of {kind} is annotated with no Bounds"
    for value in impossible(field):
        with pytest.raises((ValueError, TypeCheckError), match=key.replace(".", r"\.")):
            build(kind, key, ((("a dataset", value) if field.named else value),) if field.many else value)
    if field.many:
        for entries in (() if field.items.least else 3, "primary", ("primary",) * (field.items.most + 1)):
            with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
                build(kind, key, entries)


@pytest.mark.parametrize("kind", CONFIGS)
def test_help_says_the_bounds(kind):
    lines = config_parser("", CONFIGS[kind]).format_help().splitlines()
    for key, field in all_number_fields(CONFIGS[kind]).items():
        shown = next(line for line in lines if f" --config.{key}=" in line)
        assert field.bounds is None or str(field.bounds) in shown, key
    assert "  --config.phases.options.NAME=VALUE" in lines, "a section without keys takes any, and no value"
    homes = ["adjustment/schedule", "rlds/augmentation", *["policies/config"] * (kind == "small")]
    assert all(f"gap_vla/{home}.py" in "".join(lines) for home in homes), "what keys mean stands there, too"


def test_the_least_and_the_greatest_value_are_taken():
    for key in ("train.seed", "train.batch_size", "demos.seed", "optimizer.warmup_steps"):
        bounds = field_of("octo", key).bounds
        assert build("octo", key, bounds.least) != build("octo", key, bounds.most)


def test_numbers_are_checked_however_a_configuration_is_made():
    config = FinetuneConfig("threading")
    with pytest.raises(ConfigError, match=r"train\.seed is -1"):
        dataclasses.replace(config, train=dataclasses.replace(config.train, seed=-1))
    for wrong in ("false", 0, None):
        with pytest.raises(ConfigError, match=r"eval\.ensemble is .*; it must be True or False"):
            dataclasses.replace(config.eval, ensemble=wrong)
    assert dataclasses.replace(config.eval, ensemble=np.bool_(True)).ensemble is True


def test_a_section_of_the_other_backend_is_refused():
    with pytest.raises(ConfigError, match="optimizer is of the class OctoOptimizerConfig; SmallConfig takes"):
        SmallConfig("assembly", optimizer=OctoOptimizerConfig(frozen_keys=("*",)))
    with pytest.raises(ConfigError, match="train is of the class dict; SmallConfig takes SmallTrainConfig"):
        SmallConfig("assembly", train={"steps": 3})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0}, r"phases\.options: sigma is 0; it must be a number from 0\.001"),
        ({"penalti": 1}, r"phases\.options: unknown option penalti"),
        ({"epochs": 0}, r"phases\.options: epochs is 0"),
        ({"dead_band": (0, math.nan, 0)}, r"phases\.options: dead_band .* finite"),
    ],
)
def test_options_of_the_phases_are_refused_with_the_configuration(options, words):
    with pytest.raises(ConfigError, match=words):
        PhasesConfig(options=options)
