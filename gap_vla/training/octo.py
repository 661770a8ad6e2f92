"""The backend that fine-tunes Octo, in JAX: its settings, and what must be there before it starts.

Importing it loads no JAX; `gap_vla.training.octo_trainer` is what trains.
"""

from __future__ import annotations

import dataclasses
import glob
import math
import os
import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.hub import PREFIX
from gap_vla.core.resources import require_jax_device, require_usual_jax
from gap_vla.core.typed_config import (
    EPISODES,
    HORIZON,
    LAYOUT_SEED,
    WORKERS,
    Bounds,
    ConfigError,
    Items,
    check_numbers,
    choose,
)
from gap_vla.sim import VARIANT_NAMES
from gap_vla.training.config import BATCH, EvalConfig, Experiment, Layouts, OptimizerConfig, TrainConfig
from gap_vla.training.hosts import place_among_hosts
from gap_vla.training.octo_weights import require_weights, sizes_of

METHODS = ("v", "vp", "vp_gap")
"""V sees images only; VP adds proprioception; VP+GAP trains VP with gradient adjustment."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Octo: pretrained weights, or a small one from scratch."""

    pretrained: str = ""  # checkpoint directory or hf://…; empty: the small model below
    window_size: Annotated[int, Bounds(1, 128, "steps of history; attention grows with the square")] = 1
    # states that each step of the window shows as tokens, the last ones and its own; an extension, upstream shows one
    proprio_history: Annotated[int, Bounds(1, 64, "states; each number of each is a token")] = 1
    # tokens that an MLP makes of the whole state, such as one for each arm; an extension. 0: each number is a token
    proprio_tokens: Annotated[int, Bounds(0, 64, "tokens of a state")] = 0
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
class OctoOptimizerConfig(OptimizerConfig):
    """As upstream's."""

    frozen_keys: Annotated[tuple[str, ...], Items(0, 1000)] = ()
    moment_dtype: str = "bfloat16"  # of AdamW's stored first moment; upstream's is bfloat16

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.frozen_keys)) < len(self.frozen_keys):
            raise ConfigError(f"optimizer.frozen_keys is {self.frozen_keys}; name each once")
        choose(self.moment_dtype, ("bfloat16", "float32"), "optimizer.moment_dtype")


@dataclasses.dataclass(frozen=True)
class OctoTrainConfig(TrainConfig):
    """The run, and how it is spread over memory and devices."""

    accumulate: Annotated[int, BATCH] = 1  # parts that a batch is computed in, one after the other, to save memory
    # devices that share one copy of parameters and optimizer; the others repeat it
    fsdp: Annotated[int, Bounds(1, 4096, "devices")] = 1
    precision: str = "float32"  # of arithmetic, not of parameters: float32 | bfloat16, which pays on accelerators only
    remat: bool = False  # compute a layer's activations again in the backward pass: less memory, a third more time

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.precision, ("float32", "bfloat16"), "train.precision")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"train.accumulate {self.accumulate} does not divide train.batch_size {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class OctoEvalConfig(EvalConfig):
    """Rollouts on one variant of the task."""

    seed: Annotated[int, LAYOUT_SEED] = 100_000  # first layout, of any variant; demonstrations draw by demos.seed
    workers: Annotated[int, WORKERS] = 2
    execute: Annotated[int, HORIZON] = 4  # actions executed of each predicted chunk
    videos: Annotated[int, EPISODES] = 4
    variant: str = "default"  # out-of-distribution variant of the task, by name

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(self.variant, tuple(VARIANT_NAMES), "eval.variant")

    def layouts(self) -> list[Layouts]:
        return [Layouts(self.variant, self.seed, "")]


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(Experiment):
    """Octo, fine-tuned or from scratch."""

    backend: ClassVar[str] = "octo"
    trained_by: ClassVar[str] = "gap_vla.training.octo_trainer:OctoTrainer"
    methods: ClassVar[tuple[str, ...]] = METHODS
    several_hosts: ClassVar[bool] = True
    exported: ClassVar[tuple[str, ...]] = (
        "config.json",
        "dataset_statistics.json",
        "example_batch.msgpack",
        "{steps}/default/checkpoint",
    )
    memory_advice: ClassVar[str] = "train.batch_size (or raise train.accumulate)"

    method: str = "vp_gap"
    model: ModelConfig = ModelConfig()
    optimizer: OctoOptimizerConfig = OctoOptimizerConfig()
    train: OctoTrainConfig = OctoTrainConfig()
    eval: OctoEvalConfig = OctoEvalConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        token = self.model.pixels_of_token
        if self.demos.image_size % token:
            raise ConfigError(
                f"demos.image_size is {self.demos.image_size}; model.stem_features and model.stem_patch make one token "
                f"of {token} × {token} pixels, so it must be a multiple of {token}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        if hasattr(values, "items"):
            values = {key: value for key, value in values.items() if value or key != "rival"}
        return super().from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """As of every experiment, in the form that recorded configurations have: names of run directories are its hash.

        They hold an empty `rival`, and of the extensions of proprioception what is not upstream's way.
        """
        values = super().to_dict()
        for key, without in (("proprio_history", 1), ("proprio_tokens", 0)):
            if values["model"][key] == without:
                del values["model"][key]
        return {**values, "rival": {}}

    @property
    def uses_proprio(self) -> bool:
        return self.method != "v"

    @property
    def schedule(self) -> AdjustmentSchedule:
        """The configured one for vp_gap, none for v and vp."""
        return self.adjustment if self.method == "vp_gap" else AdjustmentSchedule(mode="none")

    @property
    def accelerators(self) -> list[str]:
        """The device files of the GPUs or TPUs that JAX would take; opens none."""
        there = glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/accel*")
        return [] if os.environ.get("JAX_PLATFORMS") == "cpu" else there

    @property
    def on_cpu(self) -> bool:
        return not self.accelerators

    def require_place(self, run: Path) -> None:
        require_plain(run)

    @property
    def _sizes(self) -> tuple[float, float, tuple[float, ...], tuple[int, ...]]:
        """Numbers that are trained and that are not; layers, width, MLP, heads; features of the image stem."""
        model = self.model
        if model.pretrained:
            trained, layers, width, mlp, heads, frozen = sizes_of(model.pretrained, self.optimizer.frozen_keys)
            return trained, frozen, (layers, width, mlp, heads), (32, 96, 192, 384)
        layers, width, mlp, stem = model.num_layers, model.token_embedding_size, model.mlp_dim, model.stem_features
        convolutions = sum(9 * a * b for a, b in zip((3, *stem), stem)) + stem[-1] * width
        trained = layers * (4 * width**2 + 2 * width * mlp) + len(self.demos.cameras) * convolutions
        trained += 12 * width**2  # the head's attention over its readouts
        return trained, 0.0, (layers, width, mlp, model.num_heads), stem

    def memory(self, image_size: float | None = None, held_out: int = 0) -> dict[str, float]:
        model, cameras, size = self.model, len(self.demos.cameras), image_size or self.demos.image_size
        trained, frozen, (layers, width, mlp, heads), stem = self._sizes
        side = size / model.pixels_of_token
        number = 2 if self.train.precision == "bfloat16" else 4
        kept = 1 if self.train.remat else layers
        tokens = model.window_size * (cameras * side**2 + 10 * model.proprio_history)
        samples = self.train.batch_size / self.train.accumulate
        windows = min(self.train.batch_size, held_out)  # without gradients, a layer's input and output are there
        maps = [2 * f * (side * 2**n) ** 2 for n, f in enumerate(reversed(stem))]
        pictures = max(samples * sum(maps), windows * max(maps))
        layer = max(tokens * (width + mlp), heads * tokens**2)
        activations = samples * kept * (tokens * (8 * width + 2 * mlp) + heads * tokens**2)
        return {
            "parameters, gradients, optimizer": 14.0 * trained + 4 * frozen,
            "batches": 2.0 * self.train.batch_size * model.window_size * 3.0 * cameras * size**2,
            "image encoder": number * model.window_size * cameras * pictures,
            "transformer": number * max(activations, windows * layer),
        }

    def disk(self) -> float:
        trained, frozen, *_ = self._sizes
        state, checkpoint = 8.0 * trained, 4.0 * (trained + frozen)  # 10 with the moments, compressed
        states = math.ceil(self.train.steps / self.train.save_every)  # two are kept, until a third is there
        return max(min(states, 3) * state, min(states, 2) * state + checkpoint)

    def require_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        if shapes:
            pkgutil.resolve_name("gap_vla.training.octo_model:planned_parameters")(self, shapes)

    def require_ready(self, dry_run: bool = False) -> None:
        place_among_hosts()
        require_usual_jax()
        if os.environ.get("JAX_PLATFORMS", "") not in ("", "cpu"):
            require_jax_device()  # loads JAX, which takes seconds
        unread = dry_run and self.model.pretrained.startswith(PREFIX)
        if self.model.pretrained and not unread:
            require_weights(self.model.pretrained)
        if (self.optimizer.frozen_keys or self.model.pretrained) and not unread:
            pkgutil.resolve_name("gap_vla.training.octo_model:planned_parameters")(self)
        said = "device_count" in os.environ.get("XLA_FLAGS", "") or "JAX_NUM_CPU_DEVICES" in os.environ
        if self.train.fsdp > 1 or said or len(self.accelerators) > 1:  # counting loads JAX and opens them, in seconds
            from gap_vla.training.mesh import make_mesh

            make_mesh(self.train.fsdp, self.train.batch_size // self.train.accumulate)


def require_plain(folder: Path) -> Path:
    r"""The folder's absolute path as orbax is to be given it, which takes `link/..` for the folder of the link.

    Raises ConfigError: orbax takes a part of it for a pattern, `\` for `/`, `gs:/` for a bucket, or no bytes that are
    no text. Its states would lie elsewhere, or nobody could read them.
    """
    path = folder.absolute()
    if os.path.realpath(os.path.normpath(path)) != os.path.realpath(path):
        path = Path(os.path.realpath(path))
    if odd := re.search(r"\[.+\]|\\|gs:(?=/|$)|[\udc80-\udcff]", str(path), re.DOTALL):
        raise ConfigError(f"{path}: no training state can be kept where {odd[0]} is a part of the path")
    return path
