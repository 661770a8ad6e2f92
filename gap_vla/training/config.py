"""What every experiment is configured with, whatever backend trains it.

A file in `finetune_configs/` returns one `Experiment` (a subclass of it, one for each backend). Nothing heavy is
imported, so a wrong value is reported at once.
"""

from __future__ import annotations

import abc
import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.config import (
    STRICT,
    Camera,
    Episodes,
    Horizon,
    LayoutSeed,
    Seed,
    Steps,
    Workers,
    build,
    choose,
    merge,
    nearest,
)
from gap_vla.core.errors import ConfigError
from gap_vla.core.identity import plain
from gap_vla.demos.fields import Fields
from gap_vla.demos.source import READERS
from gap_vla.phases.methods import METHODS as METHODS_OF_RHO
from gap_vla.policies.registry import method_name
from gap_vla.rlds.augmentation import AugmentConfig
from gap_vla.sim.specs import TASK_NAMES, task_spec

Batch = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class DemosConfig:
    """Demonstrations: a file or folder of other people's tools, or the scripted expert in the simulator."""

    episodes: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Episodes that the expert collects."""
    seed: Seed = 0
    """Seed of the collection."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 64
    """Height and width of the pictures in pixels, in demonstrations and rollouts."""
    cameras: Annotated[tuple[Camera, ...], Field(min_length=1, max_length=2)] = ("primary",)
    """Cameras that the policy sees."""
    camera: str = "near"
    """View of the primary camera: the task's own, `near`, or one of the simulator's."""
    action_noise: Share = 0.0
    """Standard deviation of what disturbs the expert's executed action; the recorded action stays clean."""
    path: str = ""
    """Demonstrations to train on, in any format that `gap-vla build-dataset` reads; empty: the expert collects them."""
    kind: str = "robomimic_hdf5"
    """Format of `path`, where it is not recognised."""

    def __post_init__(self) -> None:
        choose(self.kind, tuple(READERS), "demos.kind")


@dataclass(frozen=True, config=STRICT)
class PhasesConfig:
    """How ρ is found (M1 to M5)."""

    method: str = "lstm"
    """Annotator of ρ; `none` writes a dataset without ρ."""
    seed: Seed = 0
    """Seed of the annotator."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the annotator, one by one as phases.options.NAME."""

    def __post_init__(self) -> None:
        choose(self.method, (*METHODS_OF_RHO, "none"), "phases.method")
        if self.options and self.method != "none":
            from gap_vla.phases.annotation import checked_options

            checked_options(self.method, self.options, self.seed)


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """The RLDS dataset, and how windows are read from it."""

    root: str = "data"
    """Folder of collected demonstrations, converted datasets and episode stores."""
    rlds: str = ""
    """An RLDS dataset (.../NAME/VERSION) to train on; empty: it is made from the demonstrations."""
    fields: Fields = Fields()
    """What is where in `data.rlds` or `demos.path`."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the episodes that is held out, if the dataset has no split `val`."""
    normalization: Literal["normal", "bounds"] = "normal"
    """How actions and states are normalised: to mean 0 and deviation 1, or to [-1, 1]."""
    shuffle_images: bool = False
    """A control that cannot see: every window is shown the pictures of a random episode."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of training pictures."""


@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay to zero."""

    learning_rate: Positive = 3e-4
    """Highest learning rate."""
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] = 100
    """Steps until the highest learning rate is reached."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW, which is multiplied by the learning rate."""
    clip_gradient: Positive = 1.0
    """Norm to which the whole gradient is clipped."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Length and rhythm of the training."""

    steps: Steps = 2000
    """Training steps."""
    batch_size: Batch = 64
    """Windows in a batch."""
    seed: Seed = 0
    """Seed of the parameters, the order of the data and all noise."""
    log_every: Steps = 50
    """Steps from one line of metrics.jsonl to the next."""
    validate_every: Steps = 500
    """Steps from one held-out measurement to the next."""
    save_every: Steps = 500
    """Steps from one saved state to the next."""


class Layouts(NamedTuple):
    """Layouts of one variant of the task to roll out on: the first one's seed, and where the outcomes lie."""

    variant: str
    first_seed: int
    folder: str  # below the run's `rollouts/`


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    """Rollouts in the simulator after training, on the same layouts for every method and seed."""

    episodes: Episodes = 20
    """Rollouts of each variant; 0: the policy is only trained."""
    seed: LayoutSeed = 0
    """Seed of the first layout."""
    workers: Workers = 1
    """Processes that collect demonstrations, and that roll out."""
    execute: Horizon = 1
    """Actions that are executed of each predicted chunk."""
    videos: Episodes = 2
    """Rollouts that are filmed."""

    def layouts(self) -> list[Layouts]:
        """Where the policy is rolled out."""
        return []


@dataclass(frozen=True, config=STRICT)
class Experiment(abc.ABC):
    """One experiment, from demonstrations to a success rate. A backend's subclass says how its policy is trained.

    Class attributes: `backend`, its name; `trained_by`, module and name of its `gap_vla.training.loop.Trainer`;
    `methods` that it trains; `prefix` of its run directories; `unrecorded`, dotted keys that `to_dict` leaves out at
    their default; `gone`, those that there are no more, with the value at which records still have them.
    """

    backend: ClassVar[str]
    trained_by: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str] = ""
    unrecorded: ClassVar[tuple[str, ...]] = ("data.fields", "adjustment.constant")
    gone: ClassVar[Mapping[str, Any]] = {"eval.ensemble": False}

    task: str
    """Name of the task; one of our simulated tasks, or any other name without rollouts."""
    method: str = ""
    """Training method."""
    runs: str = "runs"
    """Parent folder of run directories."""
    demos: DemosConfig = DemosConfig()
    """Demonstrations."""
    phases: PhasesConfig = PhasesConfig()
    """How ρ is found."""
    data: DataConfig = DataConfig()
    """The dataset."""
    model: Any = None
    """The policy."""
    adjustment: AdjustmentSchedule = AdjustmentSchedule()
    """How the branch is slowed."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""
    train: TrainConfig = TrainConfig()
    """The training."""
    eval: EvalConfig = EvalConfig()
    """The rollouts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", method_name(self.method, self.methods))
        if self.simulated:
            choose(self.demos.camera, task_spec(self.task).views, "demos.camera")
        elif not (self.demos.path or self.data.rlds):
            hint = nearest(self.task, TASK_NAMES, " (did you mean {!r}?)")
            raise ConfigError(
                f"task {self.task!r} is none of the simulated ones{hint}: {', '.join(TASK_NAMES)}; for any other, name "
                "data with demos.path or data.rlds"
            )
        if self.eval.execute > (most := self.model.action_horizon):
            raise ConfigError(f"eval.execute is {self.eval.execute}; model.action_horizon is only {most}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From nested dictionaries, as `to_dict` gives them. Raises ConfigError: an unknown key or impossible value."""
        kept: dict[str, Any] = {key: {**part} if isinstance(part, Mapping) else part for key, part in values.items()}
        for key, value in cls.gone.items():
            section, _, name = key.rpartition(".")
            part = kept.get(section, {}) if section else kept
            if part.get(name) == value:
                del part[name]
        return build(cls, kept)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, ready for JSON; names of run directories are a hash of them."""
        values = plain(self)
        usual = plain(type(self)(task=TASK_NAMES[0]))
        for key in self.unrecorded:
            section, name = key.split(".")
            if values[section][name] == usual[section][name]:
                del values[section][name]
        for key, value in self.gone.items():
            section, _, name = key.rpartition(".")
            (values[section] if section else values)[name] = value
        return values

    @property
    def simulated(self) -> bool:
        """Whether there is a simulator of the task."""
        return self.task in TASK_NAMES

    @property
    def rollouts(self) -> int:
        """Rollouts of each variant; 0 where there is no simulator of the task."""
        return self.eval.episodes if self.simulated else 0

    @property
    @abc.abstractmethod
    def schedule(self) -> AdjustmentSchedule:
        """The gradient adjustment of this method."""

    @property
    def needed_labels(self) -> tuple[str, ...]:
        """What every step of the dataset must carry for this method: of `rho`, `change_point`, `phase`."""
        return ("rho",) if self.schedule.needs_rho else ()

    @abc.abstractmethod
    def check_model(self) -> None:
        """Checks weights and devices before any work begins. Raises OSError or ConfigError: they are not there, or do
        not fit."""

    def trainer(self) -> Any:
        """The backend's `gap_vla.training.loop.Trainer`; loads the framework."""
        return pkgutil.resolve_name(self.trained_by)


E = TypeVar("E", bound=Experiment)


def experiment(kind: type[E], task: str, *changes: Mapping[str, Any]) -> E:
    """The configuration of a backend: its defaults, with the nested `changes` written over them in turn.

    Raises:
        ConfigError: an unknown key or an impossible value.
    """
    values = {**dataclasses.asdict(kind(task=TASK_NAMES[0])), "task": task}
    for change in changes:
        values = merge(values, change)
    return build(kind, values)


def profile_of(profiles: Mapping[str, Any], name: str) -> Any:
    """One of the profiles of a configuration file. Raises ConfigError: there is none of that name."""
    return profiles[choose(name, tuple(profiles), "profile")]
