"""Upstream's optimizer: AdamW with a bfloat16 first moment, clipping, frozen parameters and three schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError

Schedule = Callable[[Any], Any]


def create_schedule(name: str, init_value: float, peak_value: float, warmup_steps: int, **options: Any) -> Schedule:
    """Learning rate by step: linear warm-up from `init_value` to `peak_value`, then by `name`.

    `"cosine"`: to `end_value` (default 0) at `decay_steps`, which count from step 0.
    `"rsqrt"`: peak / sqrt((s + timescale) / timescale), s counted from the end of warm-up, timescale 10000.
    `"constant"`: stays.

    Raises:
        ConfigError: another name or option.

    Example:
        >>> float(create_schedule("constant", 0.0, 1.0, 2)(1))
        0.5
    """
    allowed = {"cosine": {"decay_steps", "end_value"}, "rsqrt": {"timescale"}, "constant": set[str]()}
    choose(name, sorted(allowed), "schedule")
    # Configs of one schedule often keep the other schedules' options; upstream ignores those.
    unknown = set(options) - set().union(*allowed.values())
    if unknown:
        raise ConfigError(f"schedule {name!r} does not know {sorted(unknown)}")
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value, peak_value, warmup_steps, options["decay_steps"], options.get("end_value", 0.0)
        )
    warmup = optax.linear_schedule(init_value, peak_value, warmup_steps)
    if name == "constant":
        return optax.join_schedules([warmup, optax.constant_schedule(peak_value)], [warmup_steps])
    timescale = options.get("timescale", 10000)

    def decay(step: Any) -> Any:
        return peak_value / jnp.sqrt((step + timescale) / timescale)

    return optax.join_schedules([warmup, decay], [warmup_steps])


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: leaves with "kernel" in their path, so no biases, norms or embeddings."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), params)


def create_optimizer(
    learning_rate: Mapping[str, Any] | Schedule | float,
    weight_decay: float = 0.01,
    clip_gradient: float | None = None,
    grad_accumulation_steps: int | None = None,
    after_normalization: optax.GradientTransformation | None = None,
    **adam_options: Any,
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer of the published models, of the trainable parameters (`split_frozen`), and its schedule.

    In order: clip every micro-gradient by its global norm, accumulate, AdamW (b1 0.9, b2 0.999, eps 1e-8, first moment
    stored in bfloat16), decoupled decay on kernels, times the learning rate.

    Args:
        learning_rate: arguments of `create_schedule`, a schedule, or a number.
        grad_accumulation_steps: update once per so many calls.
        after_normalization: acts on Adam's normalised direction, before weight decay and learning rate: the place for
            a factor on the update of some parameters (GAP's λ), which before it would cancel.
        adam_options: passed to `optax.scale_by_adam`, such as b1 or `mu_dtype=None` for a float32 first moment.
    """
    if isinstance(learning_rate, Mapping):
        schedule = create_schedule(**learning_rate)
    else:
        schedule = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
    adam_options.setdefault("mu_dtype", jnp.bfloat16)
    tx = optax.chain(
        optax.scale_by_adam(**adam_options),
        optax.identity() if after_normalization is None else after_normalization,
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(schedule),
    )
    if (grad_accumulation_steps or 1) > 1:
        steps = optax.MultiSteps(tx, grad_accumulation_steps)
        tx = optax.GradientTransformationExtraArgs(steps.init, steps.update)  # its own drops them: λ would not arrive
    if clip_gradient is not None:
        tx = optax.chain(optax.clip_by_global_norm(clip_gradient), tx)
    return tx, schedule


def split_frozen(params: Any, frozen_keys: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trainable, frozen); frozen is a leaf whose whole dotted path a pattern matches by `fnmatch`. `join_frozen` is
    the inverse.

    No gradient of a frozen parameter is then computed or stored. Octo-small has 27 million trainable parameters beside
    110 million of a frozen T5: a gradient of all would be four times the size, nearly all zeros.

    Raises:
        ConfigError: a pattern matches nothing, which would silently train what was meant to be frozen.
    """
    flat = traverse_util.flatten_dict(dict(params), sep=".")
    for pattern in frozen_keys:
        if not any(fnmatch(path, pattern) for path in flat):
            raise ConfigError(
                f"optimizer.frozen_keys: {pattern!r} matches no parameter; patterns cover the whole path, such as "
                "'octo_transformer.*' or '*hf_model*'"
            )
    frozen = {path: leaf for path, leaf in flat.items() if any(fnmatch(path, pattern) for pattern in frozen_keys)}
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return traverse_util.unflatten_dict(trainable, sep="."), traverse_util.unflatten_dict(frozen, sep=".")


def join_frozen(trainable: Any, frozen: Any) -> dict[str, Any]:
    """One tree of both."""
    flat = {**traverse_util.flatten_dict(dict(trainable)), **traverse_util.flatten_dict(dict(frozen))}
    return traverse_util.unflatten_dict(flat)
