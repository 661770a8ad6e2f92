"""Functions refuse what would give a wrong policy or figure in silence: shapes that broadcast, flags, NaN."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jaxtyping import config

from gap_vla.adjustment import AdjustmentError, AdjustmentSchedule
from gap_vla.adjustment.jax import GroupError, scale_group_gradients, scale_group_updates
from gap_vla.adjustment.torch_gradients import scale_gradient
from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.typed_config import ConfigError
from gap_vla.demos.beside import require_rows
from gap_vla.octo.batches import BatchError, check_batch, check_statistics, create_tasks
from gap_vla.octo.optimizer import create_optimizer
from gap_vla.octo.presets import small_config
from gap_vla.phases import (
    Motion,
    MotionError,
    PhaseEstimator,
    annotate,
    default_dead_band,
    default_penalty,
    stroke_starts,
)
from gap_vla.phases.targets import soft_targets
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy
from gap_vla.report.page import write_report
from gap_vla.report.runs import ReportError
from gap_vla.rlds import dataset_statistics, normalize, unnormalize
from gap_vla.rlds.reader import pick_fields
from gap_vla.rlds.statistics import StatisticsError
from gap_vla.rlds.windows import window_indices
from gap_vla.rollouts.policy import PolicyError, RandomPolicy, ReplayPolicy
from gap_vla.rollouts.record import EpisodeRecord, EvaluationError
from gap_vla.rollouts.statistics import OutcomesError, mcnemar, mean_rate, over_seeds, paired_difference, wilson
from gap_vla.rollouts.summary import summarize
from gap_vla.serving.key_mapping import KeyMapping
from gap_vla.sim.attempts import CollectionError
from gap_vla.sim.collection import collect_demos

RHO = np.array([[0.5, 0.9], [0.1, 0.2]], np.float32)
WALK = np.cumsum(np.random.default_rng(0).normal(size=(30, 3)), 0)
AT = np.arange(3)
FLAGS = np.isin(np.arange(30), (10, 20))
STEPS = np.ones((5, 7), np.float32)
FIELD = {"mean": np.zeros(3), "std": np.ones(3), "p01": np.zeros(3), "p99": np.ones(3), "mask": np.ones(3, bool)}
PROPRIO = np.tile(np.array([0, 0, 0, 1, 0, 0, 0, 0, 0], np.float32), (30, 1))


@pytest.fixture(autouse=True)
def as_users_call():
    """Without the checks of shapes that tests run with and users do not."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def factors(rho: Any = RHO, step: Any = 0, total: Any = 10, mask: Any = None) -> Any:
    return AdjustmentSchedule(mode="update").factors(rho, step, total, mask)


def fit(points: Any) -> PhaseEstimator:
    return PhaseEstimator(epochs=1).fit([Motion.of(WALK)] * 3, [points] * 3)


def episode(**changes: Any) -> Episode:
    moving = PROPRIO.copy()
    moving[:, :3] = WALK
    return Episode(images={}, proprio=moving, action=np.zeros((30, 7), np.float32)).replace(**changes)


def of_field(**changes: Any) -> dict[str, Any]:
    return {**FIELD, **changes}


def test_right_arguments_of_other_kinds_are_taken() -> None:
    halves = jnp.full((2, 2), 0.5, jnp.bfloat16)
    assert AdjustmentSchedule().factors(halves, 0, 10).sample.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert mean_rate(np.array([(50, 100)] * 3)) == mean_rate([(50, 100)] * 3)  # type: ignore[arg-type]


CASES: dict[str, tuple[type[UserError], str, Callable[[], Any]]] = {
    "a mask of rows": (AdjustmentError, "must be bool", lambda: factors(mask=np.array([True, False]))),
    "a mask of numbers": (AdjustmentError, "must be bool", lambda: factors(mask=np.ones((2, 2), int))),
    "a batch without a step": (AdjustmentError, "mark one or more", lambda: factors(mask=np.zeros((2, 2), bool))),
    "no rho": (AdjustmentError, r"\[0, 2\]", lambda: factors(np.zeros((0, 2)))),
    "complex rho": (AdjustmentError, "complex", lambda: factors(RHO + 3j)),
    "masked rho": (AdjustmentError, "masked", lambda: factors(np.ma.masked_greater(RHO, 0.6))),
    "a step of NaN": (AdjustmentError, "training step is nan", lambda: factors(step=float("nan"))),
    "a step before the first": (AdjustmentError, "training step is -1", lambda: factors(step=-1)),
    "a step beyond any training": (AdjustmentError, "step is 1099511627776; it must", lambda: factors(step=2**40)),
    "half a step of training": (AdjustmentError, r"total_steps is 10\.5; count whole", lambda: factors(total=10.5)),
    "no training": (AdjustmentError, "total_steps is 0", lambda: factors(total=0)),
    "a leaf that is not there": (
        GroupError,
        "no parameter 'x'",
        lambda: scale_group_gradients({"own": jnp.ones(2)}, {"x": (2,)}, 0.5),
    ),
    "a factor per column": (
        GroupError,
        "one number",
        lambda: scale_group_gradients({"own": jnp.ones(2)}, {"own": (2,)}, jnp.ones(2)),
    ),
    "a factor beside a schedule": (
        AdjustmentError,
        "one of both",
        lambda: scale_group_updates({}, lambda n: 0.5).update({}, None, update_factor=0.1),
    ),
    "a factor of one sample": (AdjustmentError, "give", lambda: scale_gradient(torch.ones(2, 3), torch.ones(1))),
    "a complex factor": (
        AdjustmentError,
        "factor is torch.complex64",
        lambda: scale_gradient(torch.ones(2, 3), torch.ones(2) + 1j),
    ),
    "flags for change points": (MotionError, "numbers of steps", lambda: fit(FLAGS)),
    "fractions of steps": (MotionError, "numbers of steps", lambda: fit(np.array([10.7, 20.2]))),
    "change points out of order": (MotionError, "not ascending", lambda: fit(np.array([20, 10]))),
    "a change point beyond": (MotionError, "not ascending from 0 to 29", lambda: fit(np.array([10, 99]))),
    "no width": (MotionError, "above 0", lambda: soft_targets(np.array([4]), 6, 0)),
    "phases of another episode": (
        MotionError,
        "for 30 steps",
        lambda: annotate([episode(phase=np.array(["a", "b"]))], method="column"),
    ),
    "an episode that is fitted twice": (MotionError, "twice", lambda: annotate([episode()] * 2, fit=[0, 0])),
    "two robots": (
        MotionError,
        "another one",
        lambda: annotate([episode(), episode(proprio=np.tile(PROPRIO, 2))], method="gaussian"),
    ),
    "success in words": (EpisodeError, "success is 'no'", lambda: episode(success="no").validate()),
    "complex actions": (EpisodeError, "complex", lambda: episode(action=np.zeros((30, 7), complex)).validate()),
    "actions of truth": (EpisodeError, "bool", lambda: episode(action=np.zeros((30, 7), bool)).validate()),
    "masked states": (EpisodeError, "masked", lambda: episode(proprio=np.ma.masked_equal(PROPRIO, 1)).validate()),
    "a list for an array": (
        EpisodeError,
        r"action is \[\[0, .*; it must be an array with a row per step",
        lambda: episode(action=[[0] * 7] * 30).validate(),
    ),
    "pictures of one number": (
        EpisodeError,
        r"image_primary is array\(5\); it must be an array with a row per step",
        lambda: episode(images={"image_primary": np.array(5)}).validate(),
    ),
    "a mark among the actions": (
        EpisodeError,
        "action is -9999 at step 5, column 2, and within 0 at all others",
        lambda: episode(action=np.where(np.arange(210).reshape(30, 7) == 37, -9999.0, 0.0)).validate(),
    ),
    "a mark among whole numbers": (
        EpisodeError,
        "action is -32768 at step 5, column 2, and within 0 at all others",
        lambda: episode(action=np.where(np.arange(210).reshape(30, 7) == 37, -32768, 0).astype(np.int16)).validate(),
    ),
    "a phase per column": (EpisodeError, "phase", lambda: episode(phase=np.zeros((30, 3))).validate()),
    "states of fewer episodes": (StatisticsError, "5 steps in 1 ", lambda: dataset_statistics([STEPS] * 2, [STEPS])),
    "states that lag": (StatisticsError, "5 steps .* 4 ", lambda: dataset_statistics([STEPS], [STEPS[1:]])),
    "statistics of NaN": (StatisticsError, "NaN", lambda: dataset_statistics([STEPS * np.nan], [STEPS])),
    "no steps": (StatisticsError, "0 steps in 1 ", lambda: dataset_statistics([STEPS[:0]], [STEPS[:0]])),
    "actions of truth in the data": (
        StatisticsError,
        r"action of episode 1 is bool\[5, 7\]",
        lambda: dataset_statistics([STEPS, STEPS > 0], [STEPS, STEPS]),
    ),
    "states of two robots": (
        StatisticsError,
        r"proprio of episode 1 is float32\[5, 6\]",
        lambda: dataset_statistics([STEPS, STEPS], [STEPS, STEPS[:, :6]]),
    ),
    "a mean of NaN": (
        StatisticsError,
        "mean is .*nan.* no data",
        lambda: normalize(STEPS[:, :3], of_field(mean=[np.nan, 0, 0])),
    ),
    "one std for all": (StatisticsError, r"std is float64\[1\]", lambda: normalize(STEPS[:, :3], of_field(std=[1.0]))),
    "a std below 0": (StatisticsError, "std", lambda: normalize(STEPS[:, :3], of_field(std=[1, -1, 1]))),
    "a mask of text": (StatisticsError, "mask", lambda: unnormalize(STEPS[:, :3], of_field(mask=["False"] * 3))),
    "percentiles exchanged": (
        StatisticsError,
        "p01 is above p99 in column 0",
        lambda: normalize(STEPS[:, :3], of_field(p01=np.ones(3), p99=np.zeros(3)), "bounds"),
    ),
    "no min": (StatisticsError, "lack min", lambda: normalize(STEPS[:, :3], FIELD, "min_max")),
    "complex values": (StatisticsError, "complex", lambda: normalize(STEPS[:, :3] * 1j, FIELD)),
    "a step beyond": (ConfigError, "step", lambda: window_indices(np.array([5]), np.array([3]), 2, 2)),
    "half a step": (ConfigError, "step", lambda: window_indices(np.array([1.5]), np.array([3]), 2, 2)),
    "one length for three": (ConfigError, "step", lambda: window_indices(np.arange(3), np.array([3]), 2, 2)),
    "a field by a wrong name": (EpisodeError, "'propio'", lambda: pick_fields({"a": 1}, {"propio": "a"}, "x")),
    "two recordings in one": (
        EpisodeError,
        "is_first is true at steps",
        lambda: require_rows("is_first", np.array([1, 0, 1, 0]), 4, "x.npz"),
    ),
    "times that fall": (
        EpisodeError,
        "not after",
        lambda: require_rows("timestamps", np.array([0.0, 0.2, 0.1]), 3, "x.npz"),
    ),
    "rates for outcomes": (OutcomesError, "0 or 1", lambda: mcnemar([0.4, 0.9], [0, 0])),
    "NaN for a success": (OutcomesError, "0 or 1", lambda: mcnemar([np.nan, 1], [0, 0])),
    "a fraction of successes": (OutcomesError, "whole", lambda: wilson(3.7, 10)),
    "a seed without episodes": (OutcomesError, "no episode", lambda: mean_rate([(1, 10), (0, 0)])),
    "more successes than episodes": (OutcomesError, "5 successes of 4", lambda: mean_rate([(5, 4), (1, 10)])),
    "no seed": (OutcomesError, "0 seeds", lambda: mean_rate([])),
    "rates for pairs": (OutcomesError, "0 or 1", lambda: paired_difference([0.4, 0.9], [0, 0])),
    "outcomes in words": (OutcomesError, "outcomes are <U3", lambda: paired_difference(["yes"], ["no"])),
    "a bootstrap of one draw": (OutcomesError, "draws is 1; ", lambda: paired_difference([1, 0], [0, 0], draws=1)),
    "fewer films than none": (
        ReportError,
        "videos is -1",
        lambda: write_report(["x"], Path("x.html"), command="", videos=-1),
    ),
    "an interval of NaN": (OutcomesError, "finite", lambda: over_seeds([0.1, 0.2], (np.nan, 1))),
    "an episode that is counted twice": (
        EvaluationError,
        "an episode is there twice",
        lambda: summarize([EpisodeRecord(0, 5, True, 3), EpisodeRecord(0, 6, False, 3)]),
    ),
    "a figure beyond its bounds": (
        OutcomesError,
        "finite ones of 0 to 1",
        lambda: over_seeds([50, 60], (0, 1), bounds=(0, 1)),
    ),
    "an interval from above": (OutcomesError, "the lower end first", lambda: over_seeds([0.1], (0.3, 0.2))),
    "an interval over no seed": (OutcomesError, "one at least", lambda: over_seeds([], (0, 1))),
    "a phase of another task": (
        EvaluationError,
        "^episode 0 ended in phase 'fly', none of move, grip; give the phases of its task$",
        lambda: summarize([EpisodeRecord(0, 5, False, 3, "fly")], ("move", "grip")),
    ),
    "a seed of NaN": (OutcomesError, "finite", lambda: over_seeds([np.nan, 0.1], (0, 1))),
    "actions of one number": (PolicyError, r"\[T, A\]", lambda: ReplayPolicy([np.zeros(5)], [0])),
    "actions of NaN": (PolicyError, "finite numbers", lambda: ReplayPolicy([STEPS, STEPS * np.nan], [0, 1])),
    "the last recording by a minus": (PolicyError, "episode -1", lambda: ReplayPolicy([STEPS], [0]).reset([-1])),
    "no recording": (PolicyError, "0 recordings", lambda: ReplayPolicy([], [])),
    "recordings of two robots": (PolicyError, "one width", lambda: ReplayPolicy([STEPS, STEPS[:, :6]], [0, 1])),
    "a layout before the first": (PolicyError, "is -5", lambda: ReplayPolicy([STEPS], [-5])),
    "actions of no width": (PolicyError, "action_dim is 0", lambda: RandomPolicy(0)),
    "a seed below 0": (PolicyError, "seed is -1", lambda: RandomPolicy(7, seed=-1)),
    "a camera that is there twice": (
        ConfigError,
        "named once",
        lambda: build_policy(SmallModelConfig(), "vision", (64, 64, 3), 9, 7, ("primary", "primary")),
    ),
    "grey pictures": (ConfigError, "square RGB", lambda: build_policy(SmallModelConfig(), "vision", (64, 64, 1), 9, 7)),
    "flat pictures": (
        ConfigError,
        "pictures 64 × 64,",
        lambda: build_policy(SmallModelConfig(), "vision", (64, 64), 9, 7),
    ),  # type: ignore[arg-type]
    "pictures that are not square": (
        ConfigError,
        "pictures 64 × 32 × 3",
        lambda: build_policy(SmallModelConfig(), "vision", (64, 32, 3), 9, 7),
    ),
    "states of no width": (
        ConfigError,
        "widths at least 1",
        lambda: build_policy(SmallModelConfig(), "concat", (64, 64, 3), 0, 7),
    ),
    "pictures from 0 to 1 for a small policy": (
        ConfigError,
        r"image_primary is torch.float32\[1, 1, 64, 64, 3\]; give pictures as uint8",
        lambda: build_policy(SmallModelConfig(), "vision", (64, 64, 3), 9, 7).features(torch.ones(1, 1, 64, 64, 3)),
    ),
    "pictures from 0 to 1": (
        BatchError,
        "uint8",
        lambda: check_batch(
            "observation",
            {"image_primary": np.zeros((1, 1, 4, 4, 3), np.float32)},
            {"image_primary": np.zeros((1, 1, 4, 4, 3), np.uint8)},
            2,
        ),
    ),
    "goals of two batches": (
        BatchError,
        "lengths",
        lambda: create_tasks({}, None, {"a": np.zeros(2), "b": np.zeros(3)}, None),
    ),
    "an episode that is fitted on twice": (
        MotionError,
        "fit names an episode twice",
        lambda: annotate([episode(), episode()], method="gaussian", fit=[0, 0, 1]),
    ),
    "phases of other steps": (
        MotionError,
        r"phase is <U1\[2\] for 30 steps",
        lambda: annotate([episode(phase=np.array(["a", "b"]))], method="column"),
    ),
    "a state of one number": (
        EpisodeError,
        "proprio is array",
        lambda: episode(proprio=np.array(1.0)).validate(),
    ),
    "a success in words": (EpisodeError, "success is 'no'", lambda: episode(success="no").validate()),
    "phases by column": (EpisodeError, "phase has shape", lambda: episode(phase=np.full((30, 3), "a")).validate()),
    "a phase without name": (EpisodeError, "None at step 0", lambda: episode(phase=np.array([None] * 30)).validate()),
    "a phase that is NaN": (
        EpisodeError,
        "phase is nan at step 29; give each a name",
        lambda: episode(phase=np.array([*["nan"] * 29, float("nan")], object)).validate(),
    ),
    "a phase without a time": (
        EpisodeError,
        "phase is NaT at step 29; give each a name",
        lambda: episode(phase=np.array([*["2026-11-28"] * 29, "NaT"], "datetime64[D]")).validate(),
    ),
    "masked actions": (
        EpisodeError,
        "action is masked in places",
        lambda: episode(action=np.ma.masked_less(np.zeros((30, 7)), 1)).validate(),
    ),
    "a window of half a step": (ConfigError, r"window_size is 1\.5", lambda: window_indices(AT, AT + 1, 1.5, 2)),
    "a window of truth": (ConfigError, "window_size is True", lambda: window_indices(AT, AT + 1, True, 2)),
    "no episodes": (EvaluationError, "nothing was measured", lambda: summarize([])),
    "a penalty of no recordings": (MotionError, "no recordings", lambda: default_penalty([])),
    "dead-bands of no recordings": (MotionError, "no recordings", lambda: default_dead_band([])),
    "a stroke of NaN": (MotionError, "travel is nan", lambda: stroke_starts(Motion.of(STEPS[:, :3]), np.nan)),
    "a stroke below 0": (MotionError, "travel is -0.01", lambda: stroke_starts(Motion.of(STEPS[:, :3]), -0.01)),
    "no process": (MotionError, "workers is 0", lambda: annotate([episode()], method="gaussian", workers=0)),
    "policies without a camera": (
        ConfigError,
        "each camera is named once",
        lambda: build_policy(SmallModelConfig(), "vision", (64, 64, 3), 9, 7, ()),
    ),
    "a window of nothing": (ConfigError, "window_size is 0", lambda: small_config(window_size=0)),
    "fewer tokens than none": (ConfigError, "proprio_tokens is -1", lambda: small_config(proprio_tokens=-1)),
    "a camera that is no image": (ConfigError, "image_keys are primary", lambda: small_config(("primary",))),
    "a learning rate of NaN": (ConfigError, "learning_rate is nan", lambda: create_optimizer({}, np.nan)),
    "a learning rate that climbs": (ConfigError, r"learning_rate is -0\.001", lambda: create_optimizer({}, -1e-3)),
    "a decay that grows": (ConfigError, r"weight_decay is -0\.1", lambda: create_optimizer({}, 1e-3, -0.1)),
    "clipping to NaN": (ConfigError, "clip_gradient is nan", lambda: create_optimizer({}, 1e-3, clip_gradient=np.nan)),
    "an update in no step": (
        ConfigError,
        "grad_accumulation_steps is 0",
        lambda: create_optimizer({}, 1e-3, grad_accumulation_steps=0),
    ),
    "an answer of one number": (PolicyError, "no", lambda: KeyMapping().from_wire({"actions": 0.5})),
    "half a demonstration": (CollectionError, r"n is 1\.5", lambda: collect_demos("assembly", 1.5, "x.hdf5")),
    "noise below 0": (
        CollectionError,
        "action_noise is -1",
        lambda: collect_demos("assembly", 1, "x.hdf5", action_noise=-1),
    ),
    "a seed of 70 bits": (CollectionError, "seed is", lambda: collect_demos("assembly", 1, "x.hdf5", seed=2**70)),
    "no goals": (BatchError, r"goals have lengths \{\}", lambda: create_tasks({}, None, {}, None)),
    "an Octo's mean of NaN": (
        BatchError,
        "mean is .*nan.* no data",
        lambda: check_statistics(of_field(mean=np.full(3, np.nan)), "normal", 7),
    ),
    "an Octo's mean that float32 does not hold": (
        BatchError,
        "mean is .*inf.* no data",
        lambda: check_statistics(of_field(mean=np.full(3, 1e39)), "normal", 7),
    ),
    "an Octo's mean of complex numbers": (
        BatchError,
        "mean is .* vector of numbers",
        lambda: check_statistics(of_field(mean=np.full(3, 1j)), "normal", 7),
    ),
    "an Octo's mask of texts": (
        BatchError,
        "mask is .*yes.* vector of numbers",
        lambda: check_statistics(of_field(mask=["yes", "no", "no"]), "normal", 7),
    ),
    "an Octo's mask of halves": (
        BatchError,
        "mask is .*0.5.* truth values",
        lambda: check_statistics(of_field(mask=[1, 0.5, 1]), "normal", 7),
    ),
    "an Octo's std of unequal lists": (
        BatchError,
        "std is .* vector of numbers",
        lambda: check_statistics(of_field(std=[[1], [1, 2], [3]]), "normal", 7),
    ),
    "an Octo's std below 0": (BatchError, "no data", lambda: check_statistics(of_field(std=-np.ones(3)), "normal", 7)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str) -> None:
    error, said, call = CASES[name]
    with pytest.raises(error, match=said):
        call()


def test_what_is_meant_is_taken() -> None:
    assert float(factors(mask=np.array([[True, False], [True, True]])).update) == pytest.approx(0.3 * (1 - 0.8 / 3))
    assert fit(np.flatnonzero(FLAGS)).report["recordings"] == 3
    assert dataset_statistics([STEPS], [STEPS])["num_transitions"] == 5
    assert normalize(STEPS[:, :3], FIELD).shape == (5, 3) and mcnemar([True, False], [0, 0]) == 1.0
    episode().validate()
