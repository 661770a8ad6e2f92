"""One demonstration in memory: named arrays with stated shapes, units and frames, validated once, at the boundary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError

PROPRIO_PER_ARM = 9
"""Width of one arm's proprioception: eef xyz (m, world), quaternion wxyz, two finger positions (m)."""

OPENING_UNIT = "opening_unit"
"""The key of an episode's metadata that says the unit of its gripper; without it, m."""

LARGEST_ACTION = LARGEST_STATE = 1e6
"""A metre in micrometres: no arm is commanded, or says where it is, in smaller units."""

LONE = 1000
"""A number this many times as large as 1, and as at every other step, is no measurement but a mark, such as -9999."""


class EpisodeError(UserError, ValueError):
    """A demonstration that cannot be used; the message says where, what was found and what to do."""


LABELS = ("rho", "change_point")


def label_problems(labels: Mapping[str, np.ndarray]) -> Iterator[tuple[str, int | None]]:
    """What is wrong with those of `LABELS` that an episode has, and at which step; there are both or none."""
    for key, value in labels.items():
        if value.ndim != 1 or value.dtype.kind not in "biuf":
            yield f"{key} is no number per step but {value.dtype}{[*value.shape]}", None
            return
        wrong = ~((value >= 0) & (value <= 1)) if key == "rho" else (value != 0) & (value != 1)
        if wrong.any():
            yield f"{key} is {value[wrong.argmax()]:g} at step {wrong.argmax()}", int(wrong.argmax())
    if len(labels) == 1:
        yield f"{', '.join(labels)} without {', '.join({*LABELS} - {*labels})}", None
    elif labels and labels["change_point"][:1].any():
        yield "change_point is true at the first step, which begins no change", 0


def nameless(phase: Iterable[Any]) -> list[int]:
    """The steps to which a table gives no phase, but None, NaN, NaT or NA; a text is a name, whatever it says."""
    missing = "None", "nan", "NaT", "<NA>"
    return [step for step, name in enumerate(phase) if not isinstance(name, str | bytes) and str(name) in missing]


def require_measured(state: np.ndarray, what: str) -> None:
    """Compares the numbers of a state, (T, any width), with what a robot can measure.

    Raises:
        EpisodeError: one is beyond `LARGEST_STATE`, or `LONE` times as large as all others of its column, between two
            of them, as a recording may begin or end with another state; says `what`, step and column. A negative one
            may come several times.
    """
    state = np.asarray(state, np.float64)  # of int8, the size of -128 is -128, and 1000 is none of its numbers
    if (beyond := np.abs(state) > LARGEST_STATE).any():
        step, column = np.argwhere(beyond)[0]
        raise EpisodeError(
            f"{what} is {state[step, column]:g} at step {step}, column {column}; no robot's unit is that small: "
            "repair or drop the episode"
        )
    size = np.abs(state)
    largest = size.argmax(axis=0)
    marked = (state == state[largest, np.arange(state.shape[1])]) & (state < 0)
    marked[largest, np.arange(state.shape[1])] = True
    others = np.where(marked, 0, size).max(axis=0)
    between = np.logical_or.accumulate(~marked) & np.logical_or.accumulate(~marked[::-1])[::-1]
    if (lone := marked & between & (size > LONE * np.maximum(others, 1))).any():
        step, column = np.argwhere(lone)[0]
        steps = np.flatnonzero(marked[:, column])
        more = f" (and {len(steps) - 1} more)" * (len(steps) > 1)
        raise EpisodeError(
            f"{what} is {state[step, column]:g} at step {step}{more}, column {column}, and within {others[column]:g} "
            "at all others; if it marks a lost measurement, repair or drop the episode"
        )


@dataclasses.dataclass(frozen=True)
class Arm:
    """Proprioceptive signals of one arm."""

    position: np.ndarray  # float32[T, 3], end effector, m, world frame
    quaternion: np.ndarray  # float32[T, 4], wxyz, unit
    gripper: np.ndarray  # float32[T, G], finger positions (m) or one opening


@dataclasses.dataclass(frozen=True)
class Episode:
    """One demonstration of `T` steps.

    Attributes:
        images: camera name (`"image_primary"`, `"image_wrist"`) to uint8[T, h, w, 3], row 0 is the top.
        proprio: float32[T, 9 * arms]; per arm eef xyz (m, world), quaternion wxyz, two finger positions (m).
        action: float32[T, 7 * arms]; per arm delta xyz, delta rotation vector, gripper (+1 closes), in [-1, 1], or in
            the range that the reader's option `action_limit` states.
        language_instruction: what the robot is told to do.
        success: whether the task was achieved.
        phase: the expert's own phase name per step, or None. Ground truth for change points, never a policy input.
        rho: float32[T] in [0, 1], probability that the step is in a motion transition, or None before annotation.
        change_point: bool[T], True at the first step of every segment but the first, or None before annotation.
        metadata: where the episode comes from (file, seed, task, …); a dataset keeps what JSON can hold
            (arrays and sets as lists, bytes as the text that they are), and of anything else the text.
    """

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray
    action: np.ndarray
    language_instruction: str = ""
    success: bool = True
    phase: np.ndarray | None = None
    rho: np.ndarray | None = None
    change_point: np.ndarray | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.proprio)

    @property
    def name(self) -> str:
        """How error messages call this episode."""
        where = self.metadata.get("file_path", "memory")
        return f"{where}, episode {self.metadata.get('episode_id', '?')}"

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that there is, by camera or attribute."""
        given = {"rho": self.rho, "change_point": self.change_point, "phase": self.phase}
        optional = {key: value for key, value in given.items() if value is not None}
        return {**self.images, "proprio": self.proprio, "action": self.action, **optional}

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The proprioception split by arm; only for the 9-per-arm layout."""
        if not self.proprio.shape[1] or self.proprio.shape[1] % PROPRIO_PER_ARM:
            raise EpisodeError(
                f"{self.name}: proprio is {self.proprio.shape[1]} wide, not a multiple of {PROPRIO_PER_ARM} "
                "(xyz, quaternion wxyz, two fingers per arm); name its columns with the option layout (docs/RLDS.md)"
            )
        blocks = np.split(self.proprio, self.proprio.shape[1] // PROPRIO_PER_ARM, axis=1)
        return tuple(Arm(b[:, :3], b[:, 3:7], b[:, 7:]) for b in blocks)

    def replace(self, **changes: Any) -> Episode:
        return dataclasses.replace(self, **changes)

    def require_rows(self) -> None:
        """Raises EpisodeError: states or actions are no array of a row per step, or a part has other steps."""
        for key, value in (("proprio", self.proprio), ("action", self.action)):
            if not isinstance(value, np.ndarray) or value.ndim != 2:
                found = f"has shape {value.shape}" if isinstance(value, np.ndarray) else f"is {value!r:.60}"
                raise EpisodeError(f"{self.name}: {key} {found}; it must be an array (T, width), one row per step")
        for key, value in self.arrays.items():
            if key not in (*LABELS, "phase") and np.ndim(value) and len(value) != len(self.proprio):
                raise EpisodeError(
                    f"{self.name}: {key} has {len(value)} steps, proprio has {len(self.proprio)}; cut them to the same "
                    "steps or drop the episode"
                )

    def validate(self, where: str = "") -> Episode:
        """Returns the episode, or raises EpisodeError naming `where`, the field and the first bad step."""
        where = where or self.name
        if (steps := len(np.atleast_1d(self.proprio))) == 0:
            raise EpisodeError(f"{where}: no steps; drop the episode")
        if not isinstance(self.language_instruction, str):
            raise EpisodeError(f"{where}: the instruction is {self.language_instruction!r:.60}, not text")
        if not isinstance(self.success, bool | np.bool_):
            raise EpisodeError(f"{where}: success is {self.success!r:.60}; it must be True or False")
        for key, value in self.arrays.items():
            if not isinstance(value, np.ndarray) or value.ndim == 0 or np.ma.is_masked(value):
                what = "masked in places" if np.ma.is_masked(value) else f"{value!r:.60}"
                raise EpisodeError(f"{where}: {key} is {what}; it must be an array with a row per step")
            if len(value) != steps:
                raise EpisodeError(
                    f"{where}: {key} has {len(value)} steps, proprio has {steps}; cut them to the same steps "
                    "or drop the episode"
                )
            if value.dtype.kind == "f":
                with np.errstate(over="ignore", invalid="ignore"):  # numbers are stored in float32
                    bad = ~np.isfinite(value.astype(np.float32, copy=False)).reshape(steps, -1).all(1)
                if bad.any():
                    step = bad.argmax()
                    raise EpisodeError(f"{where}: {key} is NaN or infinite at step {step}; repair or drop the episode")
        labels = {key: value for key, value in self.arrays.items() if key in LABELS}
        for problem, _ in label_problems(labels):
            raise EpisodeError(f"{where}: {problem}; annotate again, or rename it if it is yours")
        for key, value in self.images.items():
            if value.dtype != np.uint8 or value.ndim != 4 or value.shape[-1] != 3 or 0 in value.shape:
                raise EpisodeError(
                    f"{where}: {key} is {value.dtype}{list(value.shape)}, not uint8[T, h, w, 3]; "
                    "store pictures as RGB bytes"
                )
        for key in ("proprio", "action"):
            value = getattr(self, key)
            if value.ndim != 2:
                raise EpisodeError(f"{where}: {key} has shape {value.shape}, not (T, width); store one row per step")
            if value.dtype.kind not in "fiu":
                raise EpisodeError(f"{where}: {key} is {value.dtype}; it must be numbers")
            require_measured(value, f"{where}: {key}")
        if self.phase is not None and self.phase.ndim != 1:
            raise EpisodeError(f"{where}: phase has shape {self.phase.shape}; give one name per step")
        if self.phase is not None and self.phase.dtype.kind in "OTMm" and (lost := nameless(names := [*self.phase])):
            raise EpisodeError(f"{where}: phase is {names[lost[0]]} at step {lost[0]}; give each a name")
        return self
