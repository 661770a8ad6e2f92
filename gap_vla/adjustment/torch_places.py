"""Where GAP acts in a torch policy: named submodules, or the columns of linear layers that read proprioception.

There ρ[B, W] lies in the leading axes of the tensors; the window may be missing or flattened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from gap_vla.adjustment.torch_gradients import scale_columns, scale_gradient
from gap_vla.core.errors import ConfigError


@dataclasses.dataclass(eq=False)
class Place:
    """One hooked module.

    Attributes:
        columns: None: all its parameters are adjusted, through its output. Otherwise parts of its input's last axis,
            in the order of the window's steps, and the columns of its weight that read them are adjusted.
        passed: whether a forward pass with factors went through it.
    """

    name: str
    module: nn.Module
    columns: tuple[slice, ...] | None = None
    passed: bool = False

    def parameters(self) -> dict[str, nn.Parameter]:
        """The adjusted parameters by their full name."""
        named = dict(self.module.named_parameters())
        names = ["weight"] if self.columns is not None else list(named)
        if sharded := [n for n in names if hasattr(named[n], "device_mesh")]:
            raise ConfigError(f"{self.name}.{sharded[0]} is a DTensor: GAP does not work with fully_shard (FSDP2)")
        return {f"{self.name}.{n}": named[n] for n in names if named[n].requires_grad}

    def scaled(self, sample: torch.Tensor, differs: bool, inputs: Any, keywords: Any, output: Any) -> Any:
        """The module's output with the factors `sample`, [B, W] or a single number, on its gradient.

        Args:
            differs: whether the factors differ over the window, so that a tensor without its axis is an error.
        """
        if self.columns is not None:
            assert isinstance(self.module, nn.Linear)
            x = inputs[0] if inputs else keywords["input"]
            return scale_columns(output, x, self.module, self._factor_of_columns(sample, x, differs))
        leaves, structure = tree_flatten(output)
        given: dict[int, torch.Tensor] = {}  # a tensor that stands in two places stays one
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad and id(leaf) not in given:
                given[id(leaf)] = scale_gradient(leaf, self._factor_of_output(sample, leaf.shape, differs))
        if not given and any(p.requires_grad for p in self.module.parameters()):
            raise ConfigError(
                f"submodule {self.name!r} gives {type(output).__name__} without a tensor to adjust; attach to a part "
                "of it that gives tensors (in tuples, lists or dictionaries)"
            )
        return tree_unflatten([given.get(id(leaf), leaf) for leaf in leaves], structure)

    def _factor_of_output(self, sample: torch.Tensor, shape: torch.Size, differs: bool) -> torch.Tensor:
        """The factors in the leading axes of a tensor: (B, W, …), (B·W, …), or (B, …) for one ρ of the whole window."""
        if sample.ndim == 0:
            return sample
        batch, window = sample.shape
        if len(shape) >= 3 and tuple(shape[:2]) == (batch, window):
            return sample
        if len(shape) and shape[0] == batch and not (differs and window > 1):
            return sample[:, -1]
        if len(shape) and shape[0] == batch * window:
            return sample.reshape(batch * window)
        raise ConfigError(
            f"submodule {self.name!r} has a tensor of shape {tuple(shape)} for rho of shape {tuple(sample.shape)}: its "
            "first axis must be the batch, or batch times window. With one feature for the whole window choose "
            "AdjustmentSchedule(rho='current') or 'chunk_max'"
        )

    def _factor_of_columns(self, sample: torch.Tensor, x: torch.Tensor, differs: bool) -> torch.Tensor:
        """The factors of a linear layer's input x[B, …, in]: broadcast against x, 1 outside the columns.

        With as many slices as the window has steps, each slice carries the factors of its step.
        """
        assert self.columns is not None
        window_axis = x.ndim >= 3 and x.shape[:2] == sample.shape
        if sample.ndim == 2 and 1 < len(self.columns) == sample.shape[1] and len(x) == len(sample) and not window_axis:
            steps = list(sample.unbind(1))
        else:
            same = self._factor_of_output(sample, x.shape, differs)
            steps = [same if same.ndim else same.reshape(1)] * len(self.columns)
        lead = steps[0].shape
        factor = torch.ones(*lead, *[1] * (x.ndim - 1 - len(lead)), x.shape[-1], device=x.device)
        for columns, of_step in zip(self.columns, steps):
            factor[..., columns] = of_step.to(x.device).reshape(*lead, *[1] * (x.ndim - len(lead)))
        return factor


class Hook:
    """What a place's forward pass calls. A copy of the policy, and a file that all of it is saved to, have one in its
    place that does nothing and, as the file is to be read where this package is not, is Python's own.
    """

    def __init__(self, act: Callable[..., Any], place: Place):
        self.act, self.place = act, place

    def __call__(self, module: nn.Module, inputs: Any, keywords: Any, *output: Any) -> Any:
        return self.act(self.place, inputs, keywords, *output)

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


def find_places(policy: nn.Module, names: Sequence[str]) -> list[Place]:
    """The submodules of these names. Raises ConfigError: GAP would adjust nothing, or something else as well."""
    places = [Place(name, _submodule(policy, name)) for name in names]
    _require_own(policy, places)
    return places


def find_columns(policy: nn.Module, columns: Mapping[str, slice | Sequence[slice]]) -> list[Place]:
    """The linear layers of these names. Raises ConfigError: as `find_places`, or no such columns."""
    places = []
    for name, slices in columns.items():
        layer = _submodule(policy, name)
        parts = (slices,) if isinstance(slices, slice) else tuple(slices)
        own_forward = type(layer).forward is not nn.Linear.forward or "forward" in vars(layer)
        if not isinstance(layer, nn.Linear) or own_forward or "weight" not in layer._parameters:
            raise ConfigError(
                f"{name!r} is a {type(layer).__name__}; columns can be adjusted in a plain nn.Linear only. Give the "
                "state a linear layer of its own and attach GAP to that"
            )
        width = layer.in_features
        ends = [(part.start or 0, width if part.stop is None else part.stop) for part in parts]
        read = [column for end in ends for column in range(*end)]
        if not read or len({*read}) < len(read) or not all(0 <= start < stop <= width for start, stop in ends):
            raise ConfigError(f"{name!r} reads {width} values; {list(parts)} are no columns of it, each named once")
        places.append(Place(name, layer, tuple(slice(*end) for end in ends)))
    _require_own(policy, places)
    return places


def _submodule(policy: nn.Module, name: str) -> nn.Module:
    submodules = dict(policy.named_modules(remove_duplicate=False))
    if name and name in submodules:
        return submodules[name]
    names = [n for n in submodules if n]
    near = [n for n in names if n.rpartition(".")[2] == name.rpartition(".")[2]]
    near = near or difflib.get_close_matches(name, names, 5) or [n for n in names if n.count(".") < 2]
    raise ConfigError(f"the policy has no submodule {name!r}; near that: {', '.join(near[:8]) or 'none'}")


def _require_own(policy: nn.Module, places: Sequence[Place]) -> None:
    """Raises ConfigError: nothing is trained in one of these places, GAP would act twice, or another part shares it."""
    empty = [place.name for place in places if not place.parameters()]
    if empty or not places:
        what = f"{empty[0]!r} has no trainable parameter" if empty else "no part is named"
        raise ConfigError(f"{what}, so GAP would adjust nothing there")
    attached = [h.place for m in policy.modules() for h in m._forward_hooks.values() if isinstance(h, Hook)]
    known = {id(p) for place in attached for p in place.parameters().values()}
    own: set[int] = set()
    for place in places:
        for name, parameter in place.parameters().items():
            if id(parameter) in known | own:
                raise ConfigError(f"GAP would act twice on {name}; name each part once, and detach() what is attached")
        own |= {id(p) for p in place.parameters().values()}
    modules = {id(place.module) for place in places}
    inside = tuple(f"{n}." for n, m in policy.named_modules(remove_duplicate=False) if n and id(m) in modules)
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not name.startswith(inside):
            raise ConfigError(f"{name} is shared with another part, and GAP would adjust it outside the proprio branch")
