"""GAP inside a Flax model's gradient (M6 to M8): a method interceptor, and an optax transformation for λ.

Nothing of the model changes: the forward pass, the parameter names and the checkpoints are the same with and without.
It works on `gap_vla.octo` and on upstream Octo (only API that jax 0.4.20 and flax 0.7.5 have too is used).

    with adjusted_gradients(sample, token_group="obs_proprio"):      # inside the loss function
        outputs = module.apply(variables, observations, tasks, pad_mask, method="octo_transformer")
    (loss, metrics), gradients = chunk_gradients(losses, params, group)     # in its place with rho="chunk"
    tx = optax.chain(clip, optax.scale_by_adam(), scale_group_updates(group), decay, learning_rate)
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gap_vla.core.errors import ConfigError

PROPRIO_TOKEN_GROUP = "obs_proprio"
"""Name that Octo gives to the tokens of the observation tokenizer called `proprio`."""


def scale_gradient(x: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
    """Returns `x` unchanged; its cotangent is multiplied by `factor`.

    Args:
        factor: broadcast against `x` from the left: [B] or [B, T] (M6: 1 - ρ), or anything of x's number of axes.
    """
    factor = jnp.asarray(factor)
    factor = jnp.reshape(factor, factor.shape + (1,) * (jnp.ndim(x) - factor.ndim))
    return _scale_gradient(x, factor if jnp.issubdtype(factor.dtype, jnp.floating) else factor.astype(jnp.float32))


@jax.custom_vjp
def _scale_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    return x


def _times(gradient: jax.Array, factor: jax.Array) -> jax.Array:
    full = jnp.promote_types(gradient.dtype, jnp.float32)  # half precision is rounded once, after the product
    return (gradient.astype(full) * factor.astype(full)).astype(gradient.dtype)


def _scale_gradient_backward(factor: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _times(cotangent, factor), jnp.zeros_like(factor)


_scale_gradient.defvjp(lambda x, factor: (x, factor), _scale_gradient_backward)


@contextlib.contextmanager
def adjusted_gradients(sample: jax.Array, token_group: str = PROPRIO_TOKEN_GROUP) -> Iterator[None]:
    """Within this context, the gradient into the embedded tokens of one group is multiplied by `sample` (M8).

    The tokens are taken where they enter the block transformer: after projection and positional embedding, before the
    first attention block. So exactly `<group>_projection/{kernel,bias}` and `<group>_pos_embedding` are affected.

    Enter it inside the function that is compiled: around a call of a compiled one it acts while that is traced, with
    these factors for good.

    Args:
        sample: float32[B, W], multiplied into the cotangent of every token of sample b at window step w (M6: 1 - ρ).
        token_group: name of the timestep token group.

    Raises:
        ConfigError: no tokens of that group entered a transformer, or they are of other samples or window steps.
    """
    hits = 0

    def intercept(next_call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        nonlocal hits
        if type(context.module).__name__ != "BlockTransformer" or context.method_name != "__call__":
            return next_call(*args, **kwargs)
        prefix_groups, timestep_groups, *rest = args
        adjusted = []
        for group in timestep_groups:
            if group.name == token_group:
                hits += 1
                if jnp.shape(sample) != group.tokens.shape[:2]:
                    tokens_of = f"{token_group} has tokens of {[*group.tokens.shape[:2]]}"
                    raise ConfigError(f"sample is {[*jnp.shape(sample)]}, {tokens_of}")
                tokens = scale_gradient(group.tokens, sample[:, :, None, None])
                group = dataclasses.replace(group, tokens=tokens)
            adjusted.append(group)
        return next_call(prefix_groups, adjusted, *rest, **kwargs)

    with nn.intercept_methods(intercept):
        yield
    if not hits:
        raise ConfigError(
            f"no token group {token_group!r} entered the transformer, so GAP would adjust nothing; the model needs an "
            "observation tokenizer of that name (`proprio` gives `obs_proprio`) and the batch its observation"
        )


def path_of(key_path: tuple) -> str:
    """The '/'-joined name of a leaf in a parameter tree."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in key_path)


def match_group(params: Mapping[str, Any], token_group: str = PROPRIO_TOKEN_GROUP) -> dict[str, tuple[int, ...]]:
    """The leaves before the transformer that belong to one token group (M8), as {path: shape}.

    Matched are the projection and the positional embedding of the group, and the layers of an MLP in its tokenizer, by
    their whole name; never by a substring.

    Raises:
        ConfigError: nothing matches, or the group has learned parameters elsewhere (a tokenizer with an encoder, such
            as an image tokenizer, is not a proprioceptive branch).
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    shapes = {path_of(path): tuple(jnp.shape(leaf)) for path, leaf in leaves}
    own = {f"{token_group}_projection", f"{token_group}_pos_embedding"}
    tokenizer = token_group.replace("obs_", "observation_tokenizers_", 1)
    matched = {
        path: shape
        for path, shape in shapes.items()
        if own & set(path.split("/")) or re.search(f"(^|/){re.escape(tokenizer)}/Dense_[0-9]+/", path)
    }
    if not own & {part for path in matched for part in path.split("/")}:
        groups = sorted({found for path in shapes for found in re.findall(r"(?:^|/)([^/]+)_projection(?:/|$)", path)})
        raise ConfigError(
            f"no parameter belongs to the token group {token_group!r}; the model's groups are "
            f"{', '.join(groups) or 'none'}. GAP needs a policy with proprioception (any method but v)"
        )
    inside = [path for path in shapes if tokenizer in path.split("/") and path not in matched]
    if inside:
        raise ConfigError(
            f"the tokenizer of {token_group!r} has parameters of its own ({inside[0]}, …): it is an encoder, not a "
            "tokenizer of low-dimensional states, and GAP would leave part of its branch unadjusted"
        )
    return matched


def chunk_gradients(function: Callable[[Any], Any], params: Any, group: Mapping[str, Any]) -> Any:
    """The loss and its gradients; the group's are those of the loss with every action's part times 1 - ρ (M6).

    That is the gradient of w·head(v, p) + (1 - w)·head(v, stop_gradient(p)), w = 1 - ρ of each action, whatever lies
    behind the group's leaves and however an action's loss is computed. The forward pass is gone through once, the
    backward pass twice; the second computes no gradient of other leaves.

    Args:
        function: params to ((loss, weighted loss), anything else).
        group: {path: …} of the adjusted leaves.

    Returns:
        (loss, anything else), gradients.

    Raises:
        ConfigError: the group names a leaf that is not there, or none.
    """
    _require_leaves(group, params, False)
    (loss, weighted), pull, aux = jax.vjp(function, params, has_aux=True)
    (plain,), (adjusted,) = (pull((jnp.full_like(loss, one), jnp.full_like(weighted, 1 - one))) for one in (1, 0))
    merged = jax.tree_util.tree_map_with_path(lambda path, a, b: b if path_of(path) in group else a, plain, adjusted)
    return (loss, aux), merged


def scale_group_gradients(
    gradients: Any, group: Mapping[str, Any], factor: jax.Array | float, *, may_be_empty: bool = False
) -> Any:
    """Multiplies the gradients of the leaves named in `group` by one number (M7); each keeps its dtype.

    Raises:
        ConfigError: the group names a leaf that is not there, or none (`may_be_empty`: as for a policy without
            proprioception).
    """
    _require_leaves(group, gradients, may_be_empty)
    return jax.tree_util.tree_map_with_path(
        lambda path, g: _times(g, jnp.asarray(factor)) if path_of(path) in group else g, gradients
    )


def _require_leaves(group: Mapping[str, Any], tree: Any, may_be_empty: bool) -> None:
    known = [path_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    lost = sorted({*group} - {*known})
    if lost or not (group or may_be_empty):
        what = f"no parameter {lost[0]!r}" if lost else "no parameter is named"
        raise ConfigError(f"{what}, so GAP would not act; there are {', '.join(known[:8]) or 'none'}")


class ScaleGroupState(NamedTuple):
    """State of `scale_group_updates`: the number of updates so far."""

    updates_done: jax.Array


def scale_group_updates(
    group: Mapping[str, Any], schedule: Callable[[jax.Array], Any] | None = None, *, may_be_empty: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the updates of the leaves named in `group` by λ (M6).

    Place it after the optimizer's normalisation (`scale_by_adam`), where a constant factor no longer cancels, and
    before `add_decayed_weights`, so that weight decay is not scaled.

    Args:
        group: {path: …} of the leaves, from `match_group`; paths are compared, shapes are not (those of an ensemble or
            of replicated parameters differ).
        schedule: factor as a function of the number of updates. Without it the training step passes the factor:
            `tx.update(gradients, state, params, update_factor=λ)`.
        may_be_empty: whether the group may name no leaf, as that of a policy without proprioception.

    Raises:
        ConfigError: the group names a leaf that is not there, or none; a step has neither a schedule nor a factor.
    """

    def init(params: Any) -> ScaleGroupState:
        _require_leaves(group, params, may_be_empty)
        return ScaleGroupState(jnp.zeros([], jnp.int32))

    def update(updates: Any, state: ScaleGroupState, params: Any = None, *, update_factor: Any = None, **extra: Any):
        if schedule is not None:
            update_factor = schedule(state.updates_done)
        if update_factor is None:
            raise ConfigError("scale_group_updates needs a schedule, or update_factor passed to tx.update")
        scaled = scale_group_gradients(updates, group, update_factor, may_be_empty=may_be_empty)
        return scaled, ScaleGroupState(state.updates_done + 1)

    return optax.GradientTransformationExtraArgs(init, update)
