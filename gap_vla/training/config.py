"""Experiment configuration: frozen dataclasses that reject unknown keys and impossible values.

A file in `finetune_configs/` returns an `ml_collections.ConfigDict`; `FinetuneConfig.from_dict` turns it into these
types. Only the standard library is imported, so a wrong value is reported before TensorFlow, JAX or MuJoCo load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.typed_config import (
    SEED,
    STEPS,
    Bounds,
    ConfigError,
    Items,
    apply_changes,
    build_config,
    check_numbers,
    choose,
    to_plain,
)
from gap_vla.demos import READERS
from gap_vla.phases import METHODS as METHODS_OF_RHO
from gap_vla.policies.registry import method_name
from gap_vla.rlds.augmentation import UPSTREAM, Augmentation
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES, task_spec

METHODS = ("v", "vp", "vp_gap")
"""V sees images only; VP adds proprioception; VP+GAP trains VP with gradient adjustment."""

EPISODES = Bounds(0, 100_000, "0: none; each takes seconds")
STEP_COUNT = Bounds(1, STEPS, "steps are counted in 32 bits")
BATCH = Bounds(1, 65_536, "windows computed at once")
HORIZON = Bounds(1, 256, "control steps; a task takes some hundred")
LAYOUT_SEED = Bounds(0, SEED.most - EPISODES.most, "layouts count from it, in 31 bits")
WORKERS = Bounds(1, 256, "processes, each with a simulator")
PEAK_RATE = Bounds(1e-10, 1.0, "about how far Adam moves a parameter in a step")
DECAY = Bounds(0, 1, "share of a parameter that is taken away, times the learning rate")
CLIP = Bounds(1e-9, 1e9, "norm of the whole gradient; the greatest never clips")


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
            choose(camera, ("primary", "wrist"), "demos.cameras")
        if len(set(self.cameras)) < len(self.cameras):
            raise ConfigError(f"demos.cameras is {self.cameras}; name each once")
        choose(self.kind, tuple(READERS), "demos.kind")


@dataclasses.dataclass(frozen=True)
class PhasesConfig:
    """How ρ is found (M1 to M5)."""

    method: str = "lstm"
    seed: Annotated[int, SEED] = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self, "phases")
        choose(self.method, (*METHODS_OF_RHO, "none"), "phases.method")
        if self.options and self.method != "none":
            from gap_vla.phases.annotation import checked_options

            try:
                checked_options(self.method, self.options)
            except ValueError as error:
                raise ConfigError(f"phases.options: {error}") from None


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training pictures, drawn once for all frames of a window."""

    # whose pictures are changed, each as below; empty: none are
    cameras: Annotated[tuple[str, ...], Items(0, 2)] = ()
    primary: Augmentation = UPSTREAM["primary"]
    wrist: Augmentation = UPSTREAM["wrist"]

    def __post_init__(self) -> None:
        check_numbers(self, "data.augment")
        for camera in self.cameras:
            choose(camera, ("primary", "wrist"), "data.augment.cameras")
        for camera in ("primary", "wrist"):
            getattr(self, camera).check(f"data.augment.{camera}")

    @property
    def of_images(self) -> dict[str, Augmentation]:
        """`image_<camera>` to its changes, for the cameras that are changed."""
        return {f"image_{camera}": getattr(self, camera) for camera in self.cameras}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The RLDS dataset and how windows are read from it."""

    root: str = "data"  # where collected demonstrations, RLDS datasets and episode stores are kept
    rlds: str = ""  # an existing RLDS dataset (…/name/version) with steps/rho; empty: made from the demonstrations
    val_fraction: Annotated[float, Bounds(0.0001, 0.9, "both splits need episodes")] = 0.1
    normalization: str = "normal"  # of action and proprio: normal | bounds
    shuffle_images: bool = False  # a control that cannot see: train with pictures of other episodes (EVALUATION.md)
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        check_numbers(self, "data")
        choose(self.normalization, ("normal", "bounds"), "data.normalization")


def check_pictures(task: str, demos: DemosConfig, data: DataConfig) -> None:
    """Raises ConfigError for a view that the task's simulator lacks, or changes of a camera that is not trained on."""
    choose(demos.camera, task_spec(task).views, "demos.camera")
    for camera in data.augment.cameras:
        if camera not in demos.cameras:
            raise ConfigError(
                f"data.augment.cameras names {camera!r}, but demos.cameras is {demos.cameras}; take it out there "
                '(--config.data.augment.cameras="()" changes no pictures), or train on that camera'
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Octo: pretrained weights, or a small one from scratch."""

    pretrained: str = ""  # checkpoint directory or hf://…; empty: the small model below
    window_size: Annotated[int, Bounds(1, 128, "steps of history; attention grows with the square")] = 1
    action_horizon: Annotated[int, HORIZON] = 8
    head: str = "l1"  # l1 | mse | diffusion
    token_embedding_size: Annotated[int, Bounds(8, 4096, "numbers of a token; the published have 384 and 768")] = 128
    num_layers: Annotated[int, Bounds(1, 64, "the published have 12")] = 4
    num_heads: Annotated[int, Bounds(1, 64, "the published have 6 and 12")] = 4
    mlp_dim: Annotated[int, Bounds(1, 16_384, "the published have 1536 and 3072")] = 256
    stem_features: Annotated[tuple[Annotated[int, Bounds(32, 2048, "channels in groups of 32")], ...], Items(1, 6)] = (
        32,
        64,
        128,
    )  # one stride-2 stage each, multiples of 32
    # pixels of the patches that the first stage maps; 0: it is a 3×3 convolution of stride 2 as the others
    stem_patch: Annotated[int, Bounds(0, 16, "pixels of a patch")] = 0

    def __post_init__(self) -> None:
        choose(self.head, ("l1", "mse", "diffusion"), "model.head")
        check_numbers(self, "model")
        if self.token_embedding_size % self.num_heads or self.token_embedding_size % 8:
            raise ConfigError(
                f"model.token_embedding_size is {self.token_embedding_size}; it must be divisible by "
                f"model.num_heads ({self.num_heads}) and by 8 (the heads' attention pooling)"
            )
        if any(f % 32 for f in self.stem_features):
            raise ConfigError(f"model.stem_features is {self.stem_features}; each must be a multiple of 32 (GroupNorm)")

    @property
    def pixels_of_token(self) -> int:
        """Along each side of a picture: the first stage of the stem maps patches, each further one halves."""
        return 16 if self.pretrained else (self.stem_patch or 2) * 2 ** (len(self.stem_features) - 1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay over the training run, as upstream."""

    learning_rate: Annotated[float, PEAK_RATE] = 3e-4
    warmup_steps: Annotated[int, Bounds(0, STEPS, "steps are counted in 32 bits")] = 100
    weight_decay: Annotated[float, DECAY] = 0.01
    clip_gradient: Annotated[float, CLIP] = 1.0
    frozen_keys: Annotated[tuple[str, ...], Items(0, 1000)] = ()
    moment_dtype: str = "bfloat16"  # of AdamW's stored first moment; upstream's is bfloat16

    def __post_init__(self) -> None:
        check_numbers(self, "optimizer")
        choose(self.moment_dtype, ("bfloat16", "float32"), "optimizer.moment_dtype")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of the training run."""

    steps: Annotated[int, STEP_COUNT] = 2000
    batch_size: Annotated[int, BATCH] = 64
    seed: Annotated[int, SEED] = 0
    log_every: Annotated[int, STEP_COUNT] = 50
    validate_every: Annotated[int, STEP_COUNT] = 500
    save_every: Annotated[int, STEP_COUNT] = 500
    accumulate: Annotated[int, BATCH] = 1  # parts that a batch is computed in, one after the other, to save memory
    # devices that share one copy of parameters and optimizer; the others repeat it
    fsdp: Annotated[int, Bounds(1, 4096, "devices")] = 1

    def __post_init__(self) -> None:
        check_numbers(self, "train")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"train.accumulate {self.accumulate} does not divide train.batch_size {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Rollouts in the simulator after training."""

    episodes: Annotated[int, EPISODES] = 20
    seed: Annotated[int, LAYOUT_SEED] = 100_000  # first layout; demonstrations use seeds from demos.seed on
    workers: Annotated[int, WORKERS] = 2
    execute: Annotated[int, HORIZON] = 4  # actions executed of each predicted chunk
    ensemble: bool = False  # temporal ensembling instead of executing chunks
    videos: Annotated[int, EPISODES] = 4
    variant: str = "default"  # out-of-distribution variant of the task, by name

    def __post_init__(self) -> None:
        check_numbers(self, "eval")
        choose(self.variant, tuple(VARIANT_NAMES), "eval.variant")


@dataclasses.dataclass(frozen=True)
class SharedStages:
    """What the stages before training read of an experiment, whatever policy is trained."""

    task: str
    demos: DemosConfig
    phases: PhasesConfig
    data: DataConfig
    eval: EvalConfig


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """One experiment, from demonstrations to a success rate."""

    task: str
    method: str = "vp_gap"
    runs: str = "runs"  # parent of run directories
    demos: DemosConfig = DemosConfig()
    phases: PhasesConfig = PhasesConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    adjustment: AdjustmentSchedule = dataclasses.field(default_factory=AdjustmentSchedule)
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def __post_init__(self) -> None:
        choose(self.task, TASK_NAMES, "task")
        object.__setattr__(self, "method", method_name(self.method, METHODS))
        check_pictures(self.task, self.demos, self.data)
        token = self.model.pixels_of_token
        if self.demos.image_size % token:
            raise ConfigError(
                f"demos.image_size is {self.demos.image_size}; model.stem_features and model.stem_patch make one token "
                f"of {token} × {token} pixels, so it must be a multiple of {token}"
            )
        if self.eval.execute > self.model.action_horizon:
            raise ConfigError(
                f"eval.execute is {self.eval.execute}, but only model.action_horizon = {self.model.action_horizon} "
                "actions are predicted at a time"
            )

    @property
    def uses_proprio(self) -> bool:
        return self.method != "v"

    @property
    def schedule(self) -> AdjustmentSchedule:
        """The adjustment of this method: the configured one for vp_gap, none for v and vp."""
        return self.adjustment if self.method == "vp_gap" else AdjustmentSchedule(mode="none")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """Builds the typed configuration.

        Raises:
            ConfigError: unknown key (names the nearest), wrong type, or an impossible value.
        """
        if hasattr(values, "items"):
            values = dict(values.items())
            if options := values.pop("rival", None):
                raise ConfigError(
                    f"rival is {dict(options)}; Octo is trained by {', '.join(METHODS)} only, the other methods are of "
                    "the small policies: scripts/train_small.py --config.method=NAME"
                )
        return build_config(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, ready for JSON; `from_dict` reads it back.

        The empty `rival` is what recorded configurations hold; the names of run directories are hashes of it.
        """
        return {**to_plain(dataclasses.asdict(self)), "rival": {}}


def experiment(
    task: str, changes: Sequence[Mapping[str, Any]], profiles: Mapping[str, Mapping[str, Any]], profile: str
) -> Any:
    """The ConfigDict of one experiment file: defaults, then the `changes` in turn, then those of the profile.

    Every key is present, so that each can be overridden on the command line.

    Raises:
        ConfigError: unknown profile or key.
    """
    from ml_collections import ConfigDict

    choose(profile, tuple(profiles), "profile")
    values = dataclasses.asdict(FinetuneConfig(task=task))
    for source in (*changes, profiles[profile]):
        apply_changes(values, source)
    return ConfigDict(values)
