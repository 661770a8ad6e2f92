"""Where GAP acts in a torch policy: named submodules, or the columns of linear layers that read proprioception.

There ρ[B, W] lies in the leading axes of the tensors; the window may be missing or flattened.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import functools
import itertools
import logging
import threading
import types
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import SUPPORTED_NODES, tree_flatten

from gap_vla.adjustment.schedule import AdjustmentError


@dataclasses.dataclass(eq=False)
class Place:
    """One hooked module.

    Attributes:
        columns: None: all its parameters are adjusted, through its output. Otherwise parts of its input's last axis,
            in the order of the window's steps.
    """

    name: str
    module: nn.Module
    columns: tuple[slice, ...] | None = None

    def __post_init__(self) -> None:  # what may be trained here
        self._known = [p for p in self.module.parameters() if p.requires_grad or self.columns is not None]

    def parameters(self) -> dict[str, nn.Parameter]:
        """The adjusted parameters by their full name."""
        named = dict(self.module.named_parameters())
        names = ["weight"] if self.columns is not None else list(named)
        return {f"{self.name}.{n}": named[n] for n in names if named[n].requires_grad}

    def changed(self, policy: nn.Module) -> bool:
        """Whether another module has taken its name (a wrapper that trains nothing of its own may), or what was frozen
        or absent is trained in it."""
        try:
            now = policy.get_submodule(self.name)
        except AttributeError:  # something lies around a module above it
            now = next((module for module in policy.modules() if module is self.module), nn.Identity())
        known = {id(p) for p in self._known}
        trained = (p for p in now.parameters() if p.requires_grad)
        gone = self.columns is not None and "weight" not in self.module._parameters  # as pruning computes it
        return gone or all(m is not self.module for m in now.modules()) or any(id(p) not in known for p in trained)


def find_places(policy: nn.Module, names: Sequence[str]) -> list[Place]:
    """The submodules of these names.

    Raises:
        AdjustmentError: no such submodule, nothing trainable in it, parameters that are used outside of it too, or one
            that lies in another.
    """
    if not names:
        raise AdjustmentError("no submodule is named, so GAP would adjust nothing")
    places = [Place(name, _submodule(policy, name)) for name in names]
    for place in places:
        if not place.parameters():
            raise AdjustmentError(f"submodule {place.name!r} has no trainable parameter, so GAP would adjust nothing")
    for one, other in itertools.permutations(places, 2):
        if other.module in set(one.module.modules()):
            raise AdjustmentError(f"{other.name!r} is part of {one.name!r}, and GAP would act twice; name one of them")
    refuse_shared(policy, places)
    return places


def find_columns(policy: nn.Module, columns: Mapping[str, slice | Sequence[slice]]) -> list[Place]:
    """The linear layers of these names, with the columns that read proprioception.

    Raises:
        AdjustmentError: no such layer, not a linear one, columns outside of its input or overlapping, a shared weight.
    """
    if not isinstance(columns, Mapping):
        raise AdjustmentError(f"columns is {columns!r:.60}; give a dictionary from a layer's name to its slices")
    if not columns:
        raise AdjustmentError("no layer is named, so GAP would adjust nothing")
    places: list[Place] = []
    for name, slices in columns.items():
        layer = _submodule(policy, name)
        if not isinstance(layer, nn.Linear):
            raise AdjustmentError(
                f"{name!r} is a {type(layer).__name__}; columns can be adjusted in nn.Linear only. Give the state a "
                "linear layer of its own and attach GAP to that"
            )
        own_forward = type(layer).forward is not nn.Linear.forward or "forward" in vars(layer)
        if own_forward or "weight" not in dict(layer.named_parameters(recurse=False)):
            raise AdjustmentError(
                f"{name!r} is a {type(layer).__name__}, which computes something else than a linear layer from "
                "parameters of its own; attach GAP to a plain nn.Linear"
            )
        width = layer.in_features
        try:
            parts = (slices,) if isinstance(slices, slice) else tuple(slices)
            ends = [(part.start or 0, width if part.stop is None else part.stop) for part in parts]
            read = [[*range(width)[part]] for part in parts]
        except (AttributeError, TypeError, ValueError):
            raise AdjustmentError(f"{slices!r:.60} are no columns of {name!r}; give slices, as slice(3, 5)") from None
        columns_read = [column for some in read for column in some]
        whole = [len(some) for some in read] == [stop - start for start, stop in ends]
        if not (read and all(read) and whole) or len({*columns_read}) < len(columns_read):
            raise AdjustmentError(
                f"{list(parts)} is no choice of columns of {name!r}: it reads {width} values; give slices within them "
                "that do not overlap, one for each step of the window"
            )
        if not layer.weight.requires_grad:
            raise AdjustmentError(f"the weight of {name!r} is not trained, so GAP would adjust nothing")
        if twice := [place.name for place in places if place.module is layer]:
            raise AdjustmentError(f"{name!r} is the same layer as {twice[0]!r}; name it once")
        places.append(Place(name, layer, tuple(slice(*end) for end in ends)))
    refuse_shared(policy, places)
    return places


def _submodule(policy: nn.Module, name: str) -> nn.Module:
    if not isinstance(policy, nn.Module):
        raise AdjustmentError(f"the policy is a {type(policy).__name__}; give the torch.nn.Module")
    submodules = dict(policy.named_modules(remove_duplicate=False))
    if name and name in submodules:
        return submodules[name]
    names = [n for n in submodules if n]
    last = name.rpartition(".")[2]
    near = [n for n in names if n.rpartition(".")[2] == last]
    near += [n for n in difflib.get_close_matches(name, names, n=5, cutoff=0.6) if n not in near]
    near += [n for n in names if n not in near and ("state" in n or "proprio" in n) and not n[-1].isdigit()]
    if near:
        raise AdjustmentError(f"the policy has no submodule {name!r}; near that: {', '.join(near[:8])}")
    known = ", ".join(n for n in names if n.count(".") <= 1)
    raise AdjustmentError(f"the policy has no submodule {name!r}; it has {known or 'none'}")


def refuse_shared(policy: nn.Module, places: Sequence[Place]) -> None:
    """Raises AdjustmentError: a parameter of these places belongs to another module of the policy too."""
    own = {id(p): place.name for place in places for p in place.parameters().values()}
    hooked = {id(place.module) for place in places}
    prefixes = [n for n, m in policy.named_modules(remove_duplicate=False) if id(m) in hooked and n]
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if id(parameter) in own and not any(name.startswith(f"{prefix}.") for prefix in prefixes):
            raise AdjustmentError(
                f"{name} is shared with {own[id(parameter)]!r}: GAP would adjust it outside the proprio branch"
            )


LEVELS, OBJECTS = 3, 10_000
"""How many objects one within the other, and how many of all kinds, are looked into for tensors: what is given may know
a whole data set, or the trainer."""
_WITHOUT = (nn.Module, torch.optim.Optimizer, logging.Logger, threading.Thread, type, types.ModuleType)
_SIMPLE = {str, bytes, int, float, bool, complex, types.NoneType}
_CONTAINERS = (list, tuple, set, frozenset, collections.deque, dict, types.MappingProxyType)


def tensors_in(tree: object, functions: bool = False) -> Iterator[torch.Tensor]:
    """The tensors of a tree, and those that containers and objects in it, as a batch's or a distribution's, hold.

    With `functions` also what functions close over, which an input's, as a trainer's `log`, are not asked for. Of an
    object within another only what a batch or an output is made of is looked into: an object of any kind, as a
    trainer, is no part of them.
    """
    parts, seen, looked = collections.deque([tree]), dict[int, object](), 1
    for level in range(LEVELS + 1):
        objects: list[object] = []
        while parts:
            part = parts.popleft()
            if isinstance(part, torch.Tensor):
                yield part
            elif id(part) not in seen and looked < OBJECTS and not isinstance(part, _WITHOUT):
                seen[id(part)] = part  # kept, so that its id stays its own
                held = _contained(part)
                if held is None:
                    objects.append(part)
                else:
                    looked += len(held)
                    parts += [value for value in held if type(value) not in _SIMPLE]
        for part in objects if level < LEVELS else ():
            held = _attributes(part) + (_closed_over(part) if functions else [])
            looked += len(held)
            if level and not _carries(part):
                held = [value for value in held if _carries(value)]
            parts += [value for value in held if type(value) not in _SIMPLE]
            if looked >= OBJECTS:
                break


def _carries(part: object) -> bool:
    """Whether an object is of the kinds that outputs and batches are made of."""
    kinds = torch.Tensor, Mapping, torch.distributions.Distribution, *_CONTAINERS
    return isinstance(part, kinds) or type(part) in SUPPORTED_NODES or dataclasses.is_dataclass(part)


def _contained(part: object) -> list[object] | None:
    """What a container holds; None: it is none."""
    if isinstance(part, (dict, types.MappingProxyType)):
        held = [*part, *(dict.values(part) if isinstance(part, dict) else part.values())]
    elif isinstance(part, (*_CONTAINERS, KeysView, ValuesView, ItemsView)):
        held = [*part]
    else:  # of those that torch was told of
        return tree_flatten(part)[0] if type(part) in SUPPORTED_NODES else None
    return held if type(part).__module__ == "builtins" else held + _attributes(part)


def _attributes(part: object) -> list[object]:
    """What an object holds in its attributes and slots."""
    held = list(vars(part).values()) if hasattr(part, "__dict__") else []
    kind: Any = type(part)
    return held + [getattr(part, name) for name in _slots(kind) if hasattr(part, name)]


def _closed_over(part: object) -> list[object]:
    """What a function, a method or a partial call brings along."""
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, types.MethodType):
        return [part.__self__, part.__func__]
    if not isinstance(part, types.FunctionType):
        return []
    held = [*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()]
    for cell in part.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            held.append(cell.cell_contents)
    return held


@functools.lru_cache(maxsize=1024)
def _slots(kind: Any) -> tuple[str, ...]:
    with_slots = (vars(base) for base in kind.__mro__ if "__slots__" in vars(base))
    return tuple(
        {n for names in with_slots for n, slot in names.items() if isinstance(slot, types.MemberDescriptorType)}
    )


def is_learned(value: torch.Tensor) -> bool:
    """Whether it is computed by trained parameters, or one of them."""
    node, place = value.grad_fn, value.output_nr
    while node is not None and node.name() == "BackwardHookFunctionBackward":  # of others, on the module's inputs
        node, place = node.next_functions[place]
    leaf = value if node is None else getattr(node, "variable", None)
    return leaf is None or (isinstance(leaf, nn.Parameter) and leaf.requires_grad)


def factor_of_output(name: str, sample: torch.Tensor, shape: torch.Size, differs: bool) -> torch.Tensor:
    """The factors in the leading axes of a tensor: (B, W, …), (B·W, …), or (B, …) for one ρ of the whole window.

    Args:
        name: of the submodule, for the error.
        sample: float32[B, W], or a single number.
        shape: of the tensor.
        differs: whether the factors differ over the window, so that a tensor without its axis is an error.

    Raises:
        AdjustmentError: the tensor has no such axes.
    """
    if sample.ndim == 0:
        return sample
    batch, window = sample.shape
    if len(shape) >= 3 and tuple(shape[:2]) == (batch, window):
        return sample
    if len(shape) and shape[0] == batch:
        if differs and window > 1:
            raise AdjustmentError(
                f"rho of shape {tuple(sample.shape)} differs over the window, for which {name!r} has no axis in shape "
                f"{tuple(shape)}; choose AdjustmentSchedule(rho='current'), or set rho[:, t] around the pass of step t"
            )
        return sample[:, -1]
    if len(shape) and shape[0] == batch * window:
        return sample.reshape(batch * window)
    raise AdjustmentError(
        f"submodule {name!r} has a tensor of shape {tuple(shape)} for rho of shape {tuple(sample.shape)}; "
        "its first axis must be the batch (or batch times window)"
    )


def factor_of_columns(place: Place, sample: torch.Tensor, x: torch.Tensor, differs: bool) -> torch.Tensor:
    """The factors of a linear layer's input x[B, …, in]: float32, broadcast against x, 1 outside the columns.

    With as many slices as the window has steps, each slice carries the factors of its step.

    Raises:
        AdjustmentError: as in `factor_of_output`.
    """
    assert place.columns is not None
    parts = place.columns
    window_axis = x.ndim >= 3 and x.shape[:2] == sample.shape
    if sample.ndim == 2 and 1 < len(parts) == sample.shape[1] and x.shape[0] == len(sample) and not window_axis:
        steps = list(sample.unbind(1))
    else:
        same = factor_of_output(place.name, sample, x.shape, differs)
        steps = [same if same.ndim else same.reshape(1)] * len(parts)
    lead = steps[0].shape
    factor = torch.ones(*lead, *[1] * (x.ndim - 1 - len(lead)), x.shape[-1], device=x.device)
    for columns, of_step in zip(parts, steps):
        factor[..., columns] = of_step.to(x.device).reshape(*lead, *[1] * (x.ndim - len(lead)))
    return factor
