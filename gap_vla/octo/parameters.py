"""Parameters of a module: fresh ones, and pretrained ones in a model of another shape with an account of every leaf."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from gap_vla.core.errors import UserError
from gap_vla.octo.module import OctoModule


def parameter_shapes(module: OctoModule, example_batch: Mapping[str, Any]) -> Any:
    """The tree of parameters that `module` has for such a batch, as shapes; nothing is computed."""
    return jax.eval_shape(lambda rng: _initialize(module, _one(example_batch), rng), jax.random.PRNGKey(0))


def initialize(
    module: OctoModule, example_batch: Mapping[str, Any], rng: jax.Array, only: Collection[str] | None = None
) -> Any:
    """The parameters, or a dictionary of those whose '/'-joined path is in `only`, with the same values."""
    example = _one(example_batch)

    def run(rng: jax.Array) -> Any:
        params = _initialize(module, example, rng)
        if only is None:
            return params
        return {path: leaf for path, leaf in traverse_util.flatten_dict(params, sep="/").items() if path in only}

    # This code runs once: on a CPU the compiler's optimizations would cost more than they save.
    options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(run).lower(rng).compile(options)(rng)


def initialize_around(
    module: OctoModule, example_batch: Mapping[str, Any], rng: jax.Array, pretrained: Mapping[str, Any]
) -> tuple[dict[str, Any], MergeAccount]:
    """`merge_params(initialize(...), pretrained)`, computing only what stays fresh: a T5 is not drawn in vain."""
    merged, account = merge_params(parameter_shapes(module, example_batch), pretrained)
    flat = traverse_util.flatten_dict(merged, sep="/")
    if account.fresh:
        flat |= initialize(module, example_batch, rng, only=frozenset(account.fresh))
    return traverse_util.unflatten_dict(flat, sep="/"), account


def _one(example_batch: Mapping[str, Any]) -> dict[str, Any]:
    parts = {key: example_batch[key] for key in ("observation", "task")}
    return jax.tree.map(lambda leaf: np.asarray(leaf[:1]), parts)


def _initialize(module: OctoModule, example: Mapping[str, Any], rng: jax.Array) -> Any:
    params_key, dropout_key = jax.random.split(rng)
    observation = example["observation"]
    rngs = {"params": params_key, "dropout": dropout_key}
    return module.init(rngs, observation, example["task"], observation["timestep_pad_mask"], train=False)["params"]


@dataclasses.dataclass(frozen=True)
class MergeAccount:
    """What became of every leaf; paths are '/'-joined.

    Attributes:
        loaded: leaves taken from the pretrained tree, with their shape.
        new: leaves the pretrained tree lacks; they keep the target's values.
        reshaped: leaves of another shape there, (target's shape, pretrained shape); they keep the target's values
            as a whole: nothing is sliced or padded.
        dropped: pretrained leaves that the target lacks, with their shape.
    """

    loaded: dict[str, tuple[int, ...]]
    new: dict[str, tuple[int, ...]]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dropped: dict[str, tuple[int, ...]]

    @property
    def fresh(self) -> dict[str, tuple[int, ...]]:
        """All leaves that kept their initialisation, new or of another shape."""
        return {**self.new, **{path: shapes[0] for path, shapes in self.reshaped.items()}}

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} leaves ({_count(self.loaded):,} parameters)"]
        for path, (target, pretrained) in sorted(self.reshaped.items()):
            lines.append(f"  re-initialised {path} {target}: its shape was {pretrained}")
        for path, shape in sorted(self.new.items()):
            lines.append(f"  new {path} {shape}: not in the pretrained model")
        # by two components of the path, so that a dropped tokenizer is one line
        for prefix, some in itertools.groupby(sorted(self.dropped), lambda path: "/".join(path.split("/")[:2])):
            leaves = {path: self.dropped[path] for path in some}
            size = f"{len(leaves)} leaves ({_count(leaves):,} parameters)"
            lines.append(f"  dropped {prefix}: {size} the model has no place for")
        return "\n".join(lines)


def merge_params(
    target: Mapping[str, Any], pretrained: Mapping[str, Any], *, verbose: bool = True
) -> tuple[dict[str, Any], MergeAccount]:
    """Take every leaf of `pretrained` whose full path and shape also exist in `target`, in its kind of numbers
    where that is the wider (of 16 bits, most training steps would be rounded away); keep `target`'s others.

    A changed image size, window limit, instruction length, action horizon or proprioception width changes shapes,
    so those leaves start anew as a whole, as upstream; `verbose` prints which.

    Example:
        >>> params, account = merge_params({"a": np.zeros(2), "b": np.zeros(1)}, {"a": np.ones(2)}, verbose=False)
        >>> params["a"], sorted(account.fresh)
        (array([1., 1.]), ['b'])
    """
    have = traverse_util.flatten_dict(dict(target), sep="/")
    source = traverse_util.flatten_dict(dict(pretrained), sep="/")
    wanted, given = ({path: tuple(np.shape(leaf)) for path, leaf in tree.items()} for tree in (have, source))
    account = MergeAccount(
        loaded={path: shape for path, shape in wanted.items() if given.get(path) == shape},
        new={path: shape for path, shape in wanted.items() if path not in given},
        reshaped={path: (shape, given[path]) for path, shape in wanted.items() if given.get(path, shape) != shape},
        dropped={path: shape for path, shape in given.items() if path not in wanted},
    )
    if not account.loaded:
        raise UserError(f"of {len(given)} pretrained leaves none has a name and shape of the model's {len(wanted)}")
    if verbose:
        print(account)
    merged = have | {path: _as(have[path], source[path]) for path in account.loaded}
    return traverse_util.unflatten_dict(merged, sep="/"), account


def _as(own: Any, leaf: Any) -> Any:
    known = hasattr(own, "dtype") and hasattr(leaf, "astype")  # not of Python's numbers, or of shapes alone
    wider = known and leaf.dtype != own.dtype == jnp.promote_types(own.dtype, leaf.dtype)
    return leaf.astype(own.dtype) if wider else leaf


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())
