"""The backend that trains small policies, in torch: its settings, and what must be there before it starts.

Importing it loads no torch; `gap_vla.training.torch_trainer` is what trains.
"""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic.dataclasses import dataclass as pydantic_dataclass

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.config import STRICT
from gap_vla.core.typed_config import EPISODES, Bounds, ConfigError, Items, choose
from gap_vla.policies import registry
from gap_vla.policies.config import RivalsConfig, SmallModelConfig
from gap_vla.sim import VARIANT_NAMES, variant_spec
from gap_vla.training.config import STEP_COUNT, EvalConfig, Experiment, Layouts, TrainConfig
from gap_vla.training.idle_keys import without_effect

if TYPE_CHECKING:
    from gap_vla.policies.methods import Method


@dataclasses.dataclass(frozen=True)
class SmallTrainConfig(TrainConfig):
    """The run, and where it runs."""

    steps: Annotated[int, STEP_COUNT] = 2500
    epochs: Annotated[int, Bounds(0, 100_000, "0: train.steps counts")] = 0  # passes over the training windows instead
    # processor threads; with 1, two runs share two cores without waiting for each other
    threads: Annotated[int, Bounds(1, 256, "processors of a machine")] = 1
    device: str = "cpu"  # cpu | cuda
    precision: str = "bfloat16"  # of the image encoder: bfloat16 | float32

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.device, ("cpu", "cuda"), "train.device")
        choose(self.precision, ("bfloat16", "float32"), "train.precision")


@dataclasses.dataclass(frozen=True)
class SmallEvalConfig(EvalConfig):
    """Rollouts on several variants of the task."""

    episodes: Annotated[int, EPISODES] = 100  # of each variant
    # first layout, counted from the first seed of each variant
    seed: Annotated[int, Bounds(0, 2_000_000_000, "layouts count from it and their variant's first, in 31 bits")] = 0
    variants: Annotated[tuple[str, ...], Items(1, len(VARIANT_NAMES))] = ("default",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for variant in self.variants:
            choose(variant, tuple(VARIANT_NAMES), "eval.variants")
        if len(set(self.variants)) < len(self.variants):
            raise ConfigError(f"eval.variants is {self.variants}; name each once")

    def layouts(self) -> list[Layouts]:
        return [Layouts(name, variant_spec(name).first_seed + self.seed, name) for name in self.variants]


@pydantic_dataclass(frozen=True, config=STRICT)
class SmallAdjustment(AdjustmentSchedule):
    """The adjusted gradient of a policy with one loss per window."""

    rho: Literal["step", "current"] = "current"


@dataclasses.dataclass(frozen=True)
class SmallConfig(Experiment):
    """A small vision-proprioception policy from scratch."""

    backend: ClassVar[str] = "small"
    trained_by: ClassVar[str] = "gap_vla.training.torch_trainer:SmallTrainer"
    methods: ClassVar[tuple[str, ...]] = tuple(registry.METHODS)
    prefix: ClassVar[str] = "small-"
    exported: ClassVar[tuple[str, ...]] = ("policy.json", "dataset_statistics.json", "policy.safetensors")

    method: str = "gap"
    model: SmallModelConfig = dataclasses.field(default_factory=SmallModelConfig)
    adjustment: SmallAdjustment = dataclasses.field(default_factory=SmallAdjustment)
    train: SmallTrainConfig = SmallTrainConfig()
    eval: SmallEvalConfig = SmallEvalConfig()
    rivals: RivalsConfig = dataclasses.field(default_factory=RivalsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.mixture:
            raise ConfigError("data.mixture is for `gap-vla finetune`; a small policy is trained on one dataset")
        mode = registry.CONTROLS.get(self.method, {}).get("mode", self.adjustment.mode)
        per_step = self.adjustment.rho == "step" and mode in ("sample", "sample_lambda")
        one_feature = self.model.temporal == "none" and self.model.proprio_history > 1
        if per_step and one_feature and not without_effect(self, "adjustment.rho"):
            raise ConfigError(
                "adjustment.rho is 'step', and without model.temporal one feature is made of all steps of the state; "
                "set --config.adjustment.rho=current, or --config.model.temporal=transformer"
            )
        if self.method == "gap_watched" and (mode := self.adjustment.mode) != "sample":
            raise ConfigError(
                f"adjustment.mode is {mode!r}, and method gap_watched sets how deep it goes in mode 'sample' alone; "
                f"take method {'concat' if mode == 'none' else 'gap'}"
            )
        smallest = registry.SMALLEST_IMAGE[self.model.encoder]
        if self.demos.image_size < smallest and self.method != "proprio":
            raise ConfigError(
                f"demos.image_size is {self.demos.image_size}; model.encoder {self.model.encoder!r} needs at least "
                f"{smallest}"
            )

    @property
    def how(self) -> Method:
        """The method with its settings; loads torch."""
        from gap_vla.policies.methods import method_of

        return method_of(self.method, self.rivals)

    @property
    def schedule(self) -> AdjustmentSchedule:
        return self.how.schedule(self.adjustment)

    @property
    def needed_labels(self) -> tuple[str, ...]:
        rho = self.how.rho_source in registry.OF_THE_DATASET and self.schedule.needs_rho
        needs = {"rho": rho, "change_point": self.how.needs_change_points, "phase": self.how.needs_phase}
        return tuple(label for label, needed in needs.items() if needed)

    @property
    def on_cpu(self) -> bool:
        return self.train.device == "cpu"

    @property
    def _seen(self) -> int:
        """Number of cameras that the policy sees."""
        return len(self.demos.cameras) * (self.method != "proprio")

    @property
    def _parameters(self) -> float:
        """How many numbers are trained, at least; what a fusion other than concat or a method adds is left out."""
        model, cameras, features = self.model, self._seen, self.model.feature_dim
        w, states = model.encoder_width, self.method != "vision"
        encoder = 11_200_000 if model.encoder == "resnet18" else 370 * w**2 + 330 * w
        found = cameras * (encoder + 129 * features) + states * features**2 * (model.proprio_layers - 1)
        fused = features * (states + cameras * (1 if model.temporal == "transformer" else model.image_history))
        if model.fusion != "concat" or self.method == "msbot":
            fused = min(fused, features)
        if model.temporal == "transformer":
            width = model.temporal_heads * model.temporal_head_dim
            found += fused * width + model.temporal_layers * 12 * width**2
            fused = width
        return float(found + fused * model.head_dim + model.head_dim**2 * (model.head_layers - 1))

    def memory(self, image_size: float | None = None, held_out: int = 0) -> dict[str, float]:
        model, size = self.model, image_size or self.demos.image_size
        seen = model.image_history * self._seen
        frames, half = self.train.batch_size * seen, self.train.precision == "bfloat16"
        if model.encoder == "resnet18":
            bytes_each, measured = 2.8 if half else 4.4, 36 + 2 * 64
            stages = sum(8 * 64 * 2**n * (size / 4 / 2**n) ** 2 for n in range(4))
            values = 2 * 64 * (size / 2) ** 2 + stages
        else:
            w, bytes_each = model.encoder_width, 4.0 if half else 5.4
            measured, values = 36 + 4 * w, 6 * w * (size / 2) ** 2 + 30 * w * (size / 4) ** 2
        windows = min(registry.WINDOWS_AT_ONCE, held_out)  # without gradients: some layers' maps
        pixels = min(windows * model.image_history * bool(self._seen) * size**2, registry.PIXELS_AT_ONCE)
        return {
            "parameters, gradients, optimizer": 16.0 * self._parameters,
            "batches": max(10.0 * frames, 1.0 * windows * seen) * 3.0 * size**2,
            "image encoder": max(frames * values * bytes_each, pixels * measured * (0.75 if half else 0.9)),
        }

    def disk(self) -> float:
        state, checkpoint = 12.0 * self._parameters, 4.0 * self._parameters
        again = not self.train.epochs and self.train.steps > self.train.save_every  # the last is kept meanwhile
        return max(2 * state * again, state + checkpoint)

    def require_ready(self, dry_run: bool = False) -> None:
        require_device(self.train.device)
        if self.model.encoder_weights and not Path(self.model.encoder_weights).is_file():
            raise ConfigError(f"model.encoder_weights is {self.model.encoder_weights!r}, which is no file")
        if self.model.encoder_weights:
            size = self.demos.image_size
            registry.find(registry.ENCODERS, self.model.encoder)(self.model, (size, size, 3))
        self.how.check(self.method, self.model)
        if self.how.needs_phase and not (self.data.rlds or self.demos.path):
            from gap_vla.sim import task_spec

            if (known := len(task_spec(self.task).phases)) > self.model.phases:
                raise ConfigError(
                    f"model.phases is {self.model.phases}; demonstrations of {self.task} have up to {known}: set "
                    f"--config.model.phases={known} or more"
                )
        if self.data.rlds and self.how.rho_source not in registry.OF_THE_DATASET:  # phases.* labels nothing else
            from gap_vla.phases.annotation import checked_options

            checked_options(self.how.rho_source, self.phases.options, self.phases.seed)


def require_device(device: str) -> None:
    """Asks the driver itself, for importing torch takes longer than two seconds on a busy machine."""
    if device != "cuda":
        return
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        found = False
    if not found:
        raise ConfigError("train.device is 'cuda', but there is no such device; use --config.train.device=cpu")


PAPER = dict(
    model=dict(encoder="resnet18", feature_dim=512, image_history=5, proprio_history=5, temporal="transformer"),
    optimizer=dict(learning_rate=3e-4, warmup_steps=0, weight_decay=1e-4),
    train=dict(epochs=100, batch_size=128, device="cuda", threads=4, log_every=100, validate_every=1000),
    eval=dict(episodes=100, workers=4),
)
"""The paper's recipe, for a GPU, without its demonstrations."""

DEBUG = dict(
    model=dict(encoder_width=8, feature_dim=32, head_dim=32),
    train=dict(steps=12, batch_size=8, log_every=4, validate_every=6, save_every=6),
)
"""The same path in less than a minute."""
