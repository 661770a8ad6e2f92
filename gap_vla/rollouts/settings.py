"""What an evaluation is asked for, and how long it waits: numbers that it can measure with, checked at the start."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from gap_vla.core.typed_config import Bounds, check_numbers
from gap_vla.rollouts.record import EvaluationError
from gap_vla.training.config import EPISODES, LAYOUT_SEED, WORKERS

SECONDS = Bounds(0.001, 86_400, "seconds; at most a day")
STEPS = Bounds(1, 100_000, "control steps of an episode")
IMAGE_SIZE = Bounds(1, 1024, "pixels; larger pictures take all memory")
AT_LEAST_ONE = Bounds(1, EPISODES.most, "no episode measures nothing")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many episodes, from which layout on, and in how many processes; arguments of `evaluate`.

    Raises:
        EvaluationError: a number outside of its bounds.
    """

    episodes: Annotated[int, AT_LEAST_ONE]
    seed: Annotated[int, LAYOUT_SEED]
    workers: Annotated[int, WORKERS] = 2
    slots_per_worker: Annotated[int, Bounds(1, 256, "environments of a process")] = 4
    videos: Annotated[int, EPISODES] = 4

    def __post_init__(self) -> None:
        check_numbers(self, "", EvaluationError)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds to wait for one answer; the first one includes building the simulator, or compiling the policy.

    Raises:
        EvaluationError: a time in which nothing can answer.
    """

    simulator: Annotated[float, SECONDS] = 60.0
    simulator_first: Annotated[float, SECONDS] = 300.0
    policy: Annotated[float, SECONDS] = 60.0
    policy_first: Annotated[float, SECONDS] = 600.0

    def __post_init__(self) -> None:
        check_numbers(self, "limit", EvaluationError)


DEFAULT_LIMITS = Limits()
