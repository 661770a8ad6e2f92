"""What every experiment is configured with: frozen dataclasses that reject unknown keys and impossible values.

A file in `finetune_configs/` returns an `ml_collections.ConfigDict`, which `from_dict` turns into these types. Nothing
heavy is imported, so a wrong value is reported before TensorFlow, JAX, torch or MuJoCo load.
"""

from __future__ import annotations

import abc
import dataclasses
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.typed_config import (
    CAMERAS,
    EPISODES,
    HORIZON,
    LAYOUT_SEED,
    SEED,
    STEPS,
    WORKERS,
    Bounds,
    ConfigError,
    Items,
    apply_changes,
    build_config,
    check_numbers,
    choose,
    require_own_sections,
    to_plain,
)
from gap_vla.demos import READERS
from gap_vla.phases import METHODS as METHODS_OF_RHO
from gap_vla.policies.registry import method_name
from gap_vla.rlds.augmentation import AugmentConfig
from gap_vla.sim import TASK_NAMES, task_spec

STEP_COUNT = Bounds(1, STEPS, "steps are counted in 32 bits")
BATCH = Bounds(1, 65_536, "windows computed at once")
SHARE = Bounds(1e-3, 1e3, "windows for each one of the main dataset")
LOGGERS = ("wandb", "trackio")
"""Packages with the same `init`, `log` and `finish`."""


@dataclasses.dataclass(frozen=True)
class DemosConfig:
    """Demonstrations: from a file of other people's tools, or from the scripted expert in the simulator."""

    episodes: Annotated[int, Bounds(2, 100_000, "one to learn from, one to measure with")] = 100
    seed: Annotated[int, SEED] = 0
    image_size: Annotated[int, Bounds(16, 1024, "pixels; smaller ones show nothing")] = 64  # square
    cameras: Annotated[tuple[str, ...], Items(1, 2)] = ("primary",)
    # the view of `primary` in demonstrations and rollouts: the task's own, or one of the simulator's
    camera: str = "near"
    # std of what disturbs the executed action; the recorded label stays clean
    action_noise: Annotated[float, Bounds(0, 1, "actions lie in -1 to 1")] = 0.0
    path: str = ""  # an existing demonstration file or folder; empty: collect from the expert
    kind: str = "robomimic_hdf5"  # reader of `path`

    def __post_init__(self) -> None:
        check_numbers(self, "demos")
        for camera in self.cameras:
            choose(camera, CAMERAS, "demos.cameras")
        if len(set(self.cameras)) < len(self.cameras):
            raise ConfigError(f"demos.cameras is {self.cameras}; name each once")
        choose(self.kind, tuple(READERS), "demos.kind")

    @property
    def read_as(self) -> str:
        """The kind of the demonstrations: `kind` is that of `path`, and collected ones have one of their own."""
        return self.kind if self.path else DemosConfig.kind


@dataclasses.dataclass(frozen=True)
class PhasesConfig:
    """How ρ is found (M1 to M5)."""

    method: str = "lstm"
    seed: Annotated[int, SEED] = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self, "phases")
        choose(self.method, (*METHODS_OF_RHO, "none"), "phases.method")
        if (self.options or self.seed) and self.method == "none":
            raise ConfigError("phases.method is 'none'; phases.options and phases.seed have no effect with it")
        if self.options or self.seed:
            from gap_vla.phases.annotation import checked_options

            try:
                checked_options(self.method, self.options, self.seed)
            except ValueError as error:
                raise ConfigError(f"phases.options: {error}") from None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The RLDS dataset and how windows are read from it."""

    root: str = "data"  # where collected demonstrations, RLDS datasets and episode stores are kept
    rlds: str = ""  # an existing RLDS dataset (…/name/version) with steps/rho; empty: made from the demonstrations
    # Octo only: more such datasets, as pairs (path, weight). The main one (above) has weight 1; a weight divided by the
    # sum of all is a share of the training windows. Each is normalised with its own statistics; held-out windows,
    # rollouts and the statistics in the checkpoint are those of the main one.
    mixture: Annotated[tuple[tuple[str, Annotated[float, SHARE]], ...], Items(0, 64)] = ()
    val_fraction: Annotated[float, Bounds(0.0001, 0.9, "both splits need episodes")] = 0.1
    normalization: str = "normal"  # of action and proprio: normal | bounds
    shuffle_images: bool = False  # a control that cannot see: train with pictures of other episodes (DIAGNOSIS.md)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "data")
        choose(self.normalization, ("normal", "bounds"), "data.normalization")
        if self.mixture and self.shuffle_images:
            raise ConfigError("data.shuffle_images draws pictures of one dataset; leave data.mixture empty")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay to zero over the training run."""

    learning_rate: Annotated[float, Bounds(1e-10, 1.0, "about how far Adam moves a parameter in a step")] = 3e-4
    warmup_steps: Annotated[int, Bounds(0, STEPS, "steps are counted in 32 bits")] = 100
    weight_decay: Annotated[float, Bounds(0, 1, "share of a parameter taken away, times the learning rate")] = 0.01
    clip_gradient: Annotated[float, Bounds(1e-9, 1e9, "norm of the whole gradient; the greatest never clips")] = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "optimizer")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of the training run."""

    steps: Annotated[int, STEP_COUNT] = 2000
    batch_size: Annotated[int, BATCH] = 64
    seed: Annotated[int, SEED] = 0
    log_every: Annotated[int, STEP_COUNT] = 50
    validate_every: Annotated[int, STEP_COUNT] = 500
    save_every: Annotated[int, STEP_COUNT] = 500
    logger: str = "none"  # where measurements go besides metrics.jsonl and TensorBoard: none | wandb | trackio

    def __post_init__(self) -> None:
        check_numbers(self, "train")
        choose(self.logger, ("none", *LOGGERS), "train.logger")


class Layouts(NamedTuple):
    """Layouts of one variant of the task to roll out on: the first one's seed, and where the outcomes lie."""

    variant: str
    first_seed: int
    folder: str  # below the run's `rollouts/`


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Rollouts in the simulator after training, on the same layouts for every method and seed."""

    episodes: Annotated[int, EPISODES] = 20  # of each variant
    seed: Annotated[int, LAYOUT_SEED] = 0
    workers: Annotated[int, WORKERS] = 1  # processes that collect demonstrations, and that roll out
    execute: Annotated[int, HORIZON] = 1  # actions executed of each predicted chunk
    ensemble: bool = False  # temporal ensembling instead of executing chunks
    videos: Annotated[int, EPISODES] = 2

    def __post_init__(self) -> None:
        check_numbers(self, "eval")

    def layouts(self) -> list[Layouts]:
        """Where the policy is rolled out."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Experiment(abc.ABC):
    """One experiment, from demonstrations to a success rate. A backend's subclass says how its policy is trained.

    Attributes:
        backend: its name, as recorded with versions of the training code.
        trained_by: module and name of its `gap_vla.training.loop.Trainer`.
        methods: the methods that it trains.
        prefix: what the names of its run directories begin with.
        several_hosts: whether it can train on several (`gap_vla.training.hosts`).
        memory_advice: what to lower where memory is short.
        exported: the files of a finished run's checkpoint; `{steps}` is their number.
    """

    backend: ClassVar[str]
    trained_by: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str] = ""
    several_hosts: ClassVar[bool] = False
    memory_advice: ClassVar[str] = "train.batch_size"
    exported: ClassVar[tuple[str, ...]]

    task: str
    method: str = ""
    runs: str = "runs"  # parent of run directories
    demos: DemosConfig = DemosConfig()
    phases: PhasesConfig = PhasesConfig()
    data: DataConfig = DataConfig()
    model: Any = None
    adjustment: AdjustmentSchedule = dataclasses.field(default_factory=AdjustmentSchedule)
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self) -> None:
        require_own_sections(self)
        choose(self.task, TASK_NAMES, "task")
        object.__setattr__(self, "method", method_name(self.method, self.methods))
        choose(self.demos.camera, task_spec(self.task).views, "demos.camera")
        if len(set(changed := self.data.augment.cameras)) < len(changed):
            raise ConfigError(f"data.augment.cameras is {changed}; name each once")
        for camera in changed:
            if camera not in self.demos.cameras and self.method != "proprio":
                raise ConfigError(
                    f"data.augment.cameras names {camera!r}, but demos.cameras is {self.demos.cameras}; take it out "
                    'there (--config.data.augment.cameras="()" changes no pictures), or train on that camera'
                )
        if not self.eval.ensemble and self.eval.execute > (most := self.model.action_horizon):
            predicted = f"only model.action_horizon = {most} actions are predicted at a time"
            raise ConfigError(f"eval.execute is {self.eval.execute}, but {predicted}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the typed configuration.

        Raises:
            ConfigError: unknown key (names the nearest), wrong type, or an impossible value.
        """
        return build_config(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, ready for JSON; `from_dict` reads it back.

        An empty mixture and no logger are left out: runs without them are recorded, and named by hashes, as ever.
        """
        values = to_plain(dataclasses.asdict(self))
        if not self.data.mixture:
            del values["data"]["mixture"]
        if self.train.logger == "none":
            del values["train"]["logger"]
        return values

    @property
    @abc.abstractmethod
    def schedule(self) -> AdjustmentSchedule:
        """The gradient adjustment of this method."""

    @property
    def needed_labels(self) -> tuple[str, ...]:
        """What every step of the dataset must carry for this method: of `rho`, `change_point`, `phase`."""
        return ("rho",) if self.schedule.needs_rho else ()

    @property
    @abc.abstractmethod
    def on_cpu(self) -> bool:
        """Whether the model is computed there."""

    @abc.abstractmethod
    def memory(self, image_size: float | None = None, held_out: int = 0) -> dict[str, float]:
        """Bytes by part that training takes (`gap_vla.training.preflight`), of pictures of that size (default:
        `demos.image_size`), and measuring that many held-out windows, which is done between steps; `batches` among
        them."""

    @abc.abstractmethod
    def disk(self) -> float:
        """Bytes that training states and checkpoint take at once."""

    @abc.abstractmethod
    def require_ready(self, dry_run: bool = False) -> None:
        """Checks weights and devices before any work begins.

        Raises:
            ConfigError: they are not there, or do not fit the configuration.
        """

    def require_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises ConfigError if no policy can be made for data of these `shapes`."""
        del shapes  # nobody knows before it is made

    def require_place(self, run: Path) -> None:
        """Raises ConfigError if the backend cannot keep its states in a run's folder."""
        del run  # any will do

    def trainer(self) -> Any:
        """The backend's `gap_vla.training.loop.Trainer`; loads the framework."""
        return pkgutil.resolve_name(self.trained_by)


def experiment(
    kind: type[Experiment],
    task: str,
    changes: Sequence[Mapping[str, Any]],
    profiles: Mapping[str, Mapping[str, Any]],
    profile: str,
) -> Any:
    """The ConfigDict of one experiment file: defaults, then the `changes` in turn, then those of the profile.

    Every key is present, so that each can be overridden on the command line.

    Raises:
        ConfigError: unknown profile or key.
    """
    from ml_collections import ConfigDict

    choose(profile, tuple(profiles), "profile")
    values = dataclasses.asdict(kind(task=task))
    for source in (*changes, profiles[profile]):
        apply_changes(values, source)
    return ConfigDict(values)
