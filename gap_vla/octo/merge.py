"""Pretrained parameters into a model of another shape, with an account of every leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util


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
        for prefix, count, size in _grouped(self.dropped):
            lines.append(f"  dropped {prefix}: {count} leaves ({size:,} parameters) the model has no place for")
        return "\n".join(lines)


def merge_params(
    target: Mapping[str, Any], pretrained: Mapping[str, Any], *, verbose: bool = True
) -> tuple[dict[str, Any], MergeAccount]:
    """Take every leaf of `pretrained` whose full path and shape also exist in `target`; keep `target`'s others.

    A changed image size, window limit, instruction length, action horizon or proprioception width changes shapes,
    so those leaves start anew as a whole, as upstream; `verbose` prints which.

    Example:
        >>> params, account = merge_params({"a": np.zeros(2), "b": np.zeros(1)}, {"a": np.ones(2)}, verbose=False)
        >>> params["a"], sorted(account.fresh)
        (array([1., 1.]), ['b'])
    """
    have = traverse_util.flatten_dict(dict(target), sep="/")
    source = traverse_util.flatten_dict(dict(pretrained), sep="/")
    account = MergeAccount({}, {}, {}, {})
    merged = dict(have)
    for path, leaf in have.items():
        shape = tuple(np.shape(leaf))
        if path not in source:
            account.new[path] = shape
        elif tuple(np.shape(source[path])) != shape:
            account.reshaped[path] = (shape, tuple(np.shape(source[path])))
        else:
            account.loaded[path] = shape
            merged[path] = source[path]
    account.dropped.update({path: tuple(np.shape(source[path])) for path in source if path not in have})
    if verbose:
        print(account)
    return traverse_util.unflatten_dict(merged, sep="/"), account


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _grouped(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int, int]]:
    """(prefix of two path components, leaves, parameters), so that a dropped tokenizer is one line."""
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, shape in sorted(shapes.items()):
        groups.setdefault("/".join(path.split("/")[:2]), {})[path] = shape
    return [(prefix, len(group), _count(group)) for prefix, group in groups.items()]
