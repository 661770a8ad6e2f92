"""The weights that a training starts from: which they are, and of an Octo how large; importing it loads no JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gap_vla.core.foreign import CheckpointError, Section, real_path
from gap_vla.core.hub import PREFIX, kept_directory
from gap_vla.core.marks import file_mark
from gap_vla.core.typed_config import ConfigError

PUBLISHED = {"small": (27e6, 12, 384, 1536, 6), "base": (93e6, 12, 768, 3072, 12)}
"""Trainable parameters, layers, token size, mlp and heads of Octo 1.5; beside them a frozen T5 of 110 M."""

T5 = 110e6

WEIGHTS = "pretrained_crc32"
"""Name of their CRC-32 in a run's saved states, and among the facts of its summary."""


def require_weights(pretrained: str) -> None:
    """Raises ConfigError or CheckpointError: no checkpoint, a damaged one, or one without its tokenizer."""
    if not (pretrained.startswith(PREFIX) or (Path(pretrained) / "config.json").is_file()):
        raise ConfigError(f"model.pretrained is {pretrained!r}, which holds no checkpoint (config.json)")
    from gap_vla.octo import OctoModel
    from gap_vla.octo.text import HFTokenizer

    words = OctoModel.load_pretrained(pretrained).text_processor  # all of it, while nothing else is begun
    if isinstance(words, HFTokenizer):
        words.require_vocabulary()


def parameters_of(pretrained: str) -> Path | None:
    """The file with the parameters of a checkpoint that is here, their latest step; None: it is not."""
    from gap_vla.octo import checkpoint

    root = kept_directory(pretrained) if pretrained.startswith(PREFIX) else Path(pretrained)
    if root is None or not root.is_dir() or not (steps := checkpoint.available_steps(root)):
        return None
    return checkpoint.params_path(root, steps[-1])


def _source(model: Any) -> tuple[str, str, Path | None]:
    """The key of `model` that names what training starts from, its value, and the file; None: it is not here."""
    if encoder := getattr(model, "encoder_weights", ""):
        return "encoder_weights", encoder, Path(encoder)
    pretrained = getattr(model, "pretrained", "")
    return "pretrained", pretrained, parameters_of(pretrained) if pretrained else None


def weights_of(model: Any) -> dict[str, int]:
    """`WEIGHTS` of what training starts from; empty: that is not here, or it starts from nothing."""
    *_, path = _source(model)
    found = path and path.is_file() and file_mark(real_path(path))
    return {WEIGHTS: int(found.split()[-1], 16)} if found else {}


def require_same_weights(model: Any, trained_from: Mapping[str, Any]) -> None:
    """Raises ConfigError: other weights are in the place of those that a state or summary says it was trained from."""
    found = weights_of(model) if WEIGHTS in trained_from else {}
    if found and found[WEIGHTS] != trained_from[WEIGHTS]:
        key, named, _ = _source(model)
        raise ConfigError(
            f"model.{key}, {named}, holds other parameters (CRC-32 {found[WEIGHTS]:08x}) than this run was trained "
            f"from ({trained_from[WEIGHTS]:08x}); put these back, or give another --run-name"
        )


def sizes_of(pretrained: str, frozen_keys: Sequence[str] = ()) -> tuple[float, int, int, int, int, float]:
    """As in `PUBLISHED`, and what is frozen: of a checkpoint that is here as its files say, else by its name.

    Args:
        frozen_keys: patterns of leaves that are frozen, beside an encoder that no gradient is let into.

    Raises:
        CheckpointError: its config.json cannot be read.
    """
    if (path := parameters_of(pretrained)) is None:
        return (*PUBLISHED["base" if "base" in pretrained else "small"], T5)
    model = Section.read(path.parents[2] / "config.json", CheckpointError).section("model")
    inside, tasks = model.section("transformer_kwargs"), model.section("task_tokenizers", {})
    layers, mlp, heads = (inside.whole(key, 1, 10**6) for key in ("num_layers", "mlp_dim", "num_attention_heads"))
    count, frozen = path.stat().st_size / 4, 0.0
    for name in tasks.values:
        options = tasks.section(name).section("kwargs", {}).values
        leaf = f"octo_transformer.task_tokenizers_{name}.hf_model.shared.embedding"
        still = not options.get("finetune_encoder") or any(fnmatch(leaf, pattern) for pattern in frozen_keys)
        if still and options.get("encoder") == "t5-base":
            frozen = min(T5, count)
    return count - frozen, layers, model.whole("token_embedding_size", 1, 10**6), mlp, heads, frozen
