"""What a configuration will take of memory and disk, by simple formulas that leave out what is small.

E episodes of T steps, C cameras of s × s pixels, B samples a batch (those computed at once), W steps a window, P
parameters; all estimates are of the low side, so that what is refused could not have run.

    pictures of a step     3 C s² bytes; a demonstration has about half as many steps as the task's horizon
    store                  E T 3 C s² bytes; the RLDS dataset, compressed, a third of that
    parameters             4 P bytes, gradients 4 P, AdamW 6 P (first moment in 16 bits) to 8 P; a frozen one 4 bytes
    batch                  3 B W C s² bytes, two batches at a time, and once more as float32
    image encoder          float32 of each stage before and after its normalisation
    transformer            per layer float32 of N tokens × (8 d + 2 mlp) and of heads × N² attention weights
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.resources import require_disk, require_memory
from gap_vla.policies.config import SmallConfig
from gap_vla.training.config import FinetuneConfig, SharedStages

PROCESS = 300 * 2**20
"""Python with its libraries."""

PUBLISHED = {"small": (27e6, 12, 384, 1536, 6), "base": (93e6, 12, 768, 3072, 12)}
"""Trainable parameters, layers, token size, mlp and heads of Octo 1.5; beside them a frozen T5 of 110 M."""

T5 = 110e6


def require_data_space(config: FinetuneConfig | SharedStages, episodes: int, steps: float, folder: Path) -> None:
    """Raises ResourceError if the RLDS dataset and the episode store of so many episodes do not fit onto the disk."""
    raw = episodes * steps * _pictures(config.demos.image_size, len(config.demos.cameras))
    needs = {"RLDS dataset": raw / 3, "episode store": raw}
    require_disk(needs, folder, "demos.image_size, or give fewer episodes")


def require_training_memory(config: FinetuneConfig | SmallConfig, on_cpu: bool) -> None:
    """Raises ResourceError if model, batch and activations do not fit into the machine's memory.

    Args:
        on_cpu: whether the model is computed there; otherwise only the batches are counted.
    """
    needs = octo_memory(config) if isinstance(config, FinetuneConfig) else small_memory(config)
    if not on_cpu:
        needs = {name: size for name, size in needs.items() if name == "batches"}
    parts = " (or raise train.accumulate)" if isinstance(config, FinetuneConfig) else ""
    advice = f"train.batch_size{parts}, demos.image_size, or the sizes in model"
    require_memory({"libraries": PROCESS, **needs}, advice)


def octo_memory(config: FinetuneConfig) -> dict[str, float]:
    """Bytes by part for training Octo."""
    model, cameras, size = config.model, len(config.demos.cameras), config.demos.image_size
    samples = config.train.batch_size / config.train.accumulate
    frames = samples * model.window_size * cameras
    if model.pretrained:
        kind = "base" if "base" in model.pretrained else "small"
        trained, layers, width, mlp, heads = PUBLISHED[kind]
        frozen = T5
        stem: tuple[int, ...] = (32, 96, 192, 384)
    else:
        layers, width, mlp, heads = model.num_layers, model.token_embedding_size, model.mlp_dim, model.num_heads
        stem, frozen = model.stem_features, 0.0
        convolutions = sum(9 * a * b for a, b in zip((3, *stem), stem)) + stem[-1] * width
        trained = layers * (4 * width**2 + 2 * width * mlp) + cameras * convolutions
    side = size / model.pixels_of_token
    tokens = model.window_size * (cameras * side**2 + 10)
    return {
        "parameters, gradients, optimizer": 14.0 * trained + 4 * frozen,
        "batches": 2.0 * config.train.batch_size * model.window_size * _pictures(size, cameras),
        "image encoder": frames * sum(8 * f * (side * 2**n) ** 2 for n, f in enumerate(reversed(stem))),
        "transformer": 4 * samples * layers * (tokens * (8 * width + 2 * mlp) + heads * tokens**2),
    }


def small_memory(config: SmallConfig) -> dict[str, float]:
    """Bytes by part for training a small torch policy."""
    model, cameras, size = config.model, len(config.demos.cameras), config.demos.image_size
    samples, frames = config.train.batch_size, config.train.batch_size * model.image_history * cameras
    bytes_each = 2 if config.train.precision == "bfloat16" else 4
    if model.encoder == "resnet18":
        encoder, values = 11e6, 2 * 64 * (size / 2) ** 2 + sum(8 * 64 * 2**n * (size / 4 / 2**n) ** 2 for n in range(4))
    else:
        w = model.encoder_width
        encoder, values = 100 * w**2, 6 * w * (size / 2) ** 2 + 30 * w * (size / 4) ** 2
    fused = model.feature_dim * (1 + cameras * (1 if model.temporal == "transformer" else model.image_history))
    inner = model.temporal_heads * model.temporal_head_dim
    trained = cameras * encoder + model.feature_dim**2 * model.proprio_layers + fused * model.head_dim
    trained += model.head_dim**2 * (model.head_layers - 1)
    if model.temporal == "transformer":
        trained += model.temporal_layers * (4 * fused * inner + 8 * fused**2)
    return {
        "parameters, gradients, optimizer": 16.0 * trained,
        "batches": 2.0 * samples * model.image_history * _pictures(size, cameras),
        "image encoder": frames * values * bytes_each,
    }


def _pictures(size: int, cameras: int) -> float:
    return 3.0 * cameras * size**2
