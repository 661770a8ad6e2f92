"""GAP's forward side in torch: hooks on the places' outputs, and which factors the samples of a pass carry."""

from __future__ import annotations

import collections
import contextlib
import io
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint
from torch.utils._pytree import tree_flatten, tree_unflatten

from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.adjustment.torch_gradients import in_backward, overlap, scale_columns, scaled
from gap_vla.adjustment.torch_places import Place, factor_of_columns, factor_of_output, is_learned, tensors_in

_PLAIN, _FORGOTTEN = torch.ones(()), torch.ones(())  # in the place of factors: of a plain pass, and of one without rho


def _may_hide(part: object) -> bool:
    """Whether a part of an output holds tensors with a gradient, or cannot be looked into without using it up."""
    return isinstance(part, Iterator) or any(t.requires_grad for t in tensors_in(part, functions=True))


def _checkpoints(method: Any) -> list[Any]:
    """The contexts of torch's reentrant activation checkpointing in whose `forward` or `backward` this is called, the
    innermost first."""
    frame: types.FrameType | None = sys._getframe()
    found = []
    while frame is not None and (frame := frame.f_back):
        if frame.f_code is method.__code__:
            found.append(frame.f_locals["ctx"])
    return found


class Hook:
    """What a place's forward pass calls, before and after. A copy of the policy, and a file that all of it is saved to,
    have one in its place that does nothing and, as the file is to be read where this package is not, is Python's own.
    """

    def __init__(self, owner: ForwardHooks, place: Place):
        self.owner, self.place, self.called = owner, place, False  # in this context of `carrying`
        self.reads_learned = False

    def __call__(self, module: nn.Module, inputs: Any, keywords: Any, *output: Any) -> Any:
        act = self.owner.on_output if output else self.owner.on_input
        return act(self, module, inputs, keywords, *output)

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


class ForwardHooks:
    """Hooks on the places of one policy.

    Args:
        places: where.
        outside: called at a pass in eval mode that has a graph and no rho.
    """

    def __init__(self, places: Sequence[Place], outside: Callable[[], None]):
        self._sample: torch.Tensor | None = None  # float32[B, W], or [] for all
        self._thread = 0  # of the context that has set it
        self._identity = False
        self._plain = False
        self._scaled = False  # whether the last pass with a graph was adjusted
        self._recomputed = False
        # factors of passes without a graph: those that reentrant checkpointing will recompute (or validation)
        self._unrecorded: collections.deque[torch.Tensor] = collections.deque(maxlen=64)
        self.differs = False  # whether the factors differ over the window
        self._outside = outside
        self._hooks = [Hook(self, place) for place in places]
        self._handles = [
            hook.place.module.register_forward_pre_hook(hook, with_kwargs=True)
            for hook in self._hooks
            if hook.place.columns is None
        ]
        self._handles += [  # first of all hooks: what others make of the output is no part of the place
            hook.place.module.register_forward_hook(hook, prepend=True, with_kwargs=True) for hook in self._hooks
        ]

    @contextlib.contextmanager
    def carrying(self, sample: torch.Tensor, identity: bool) -> Iterator[None]:
        """Within this context passes carry these factors; `identity`: which are all 1, and change no graph.

        Raises:
            AdjustmentError: the factors act, and no pass went through one of the places; another thread is within.
        """
        self.require_own_thread()
        self._thread = threading.get_ident()
        before = self._sample, self._identity, {hook for hook in self._hooks if hook.called}
        self._sample, self._identity = sample, identity
        for hook in self._hooks:
            hook.called = False
        try:
            yield
            passed = [hook.place.name for hook in self._hooks if not hook.called]
        finally:
            self._sample, self._identity, around = before
            for hook in around:
                hook.called = True
        if passed and not (identity or self._plain) and torch.is_grad_enabled():
            raise AdjustmentError(
                f"no forward pass went through {', '.join(passed)} while rho was set, so GAP adjusts nothing there. "
                "Is another submodule used? Was the policy compiled so that no hook is looked at? A step that is to "
                "leave it out says so: `with gap.adjusting(rho, step), gap.plain():`"
            )

    def require_own_thread(self) -> None:
        if self._sample is not None and self._thread != threading.get_ident():
            raise AdjustmentError(
                "another thread is within `gap.adjusting` of this policy, and what one sets would hold for the other's "
                "pass; train a policy in one thread at a time"
            )

    @property
    def is_plain(self) -> bool:
        return self._plain

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Within this context passes carry no factors, and need none; nor need there be any."""
        before, self._plain = self._plain, True
        for hook in self._hooks:
            hook.called = True
        try:
            yield
        finally:
            self._plain = before

    def step_is_over(self) -> None:
        """What was not recomputed by now will not be, unless an optimizer steps within the backward pass."""
        if not in_backward():
            self._unrecorded.clear()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def on_input(self, hook: Hook, module: nn.Module, inputs: Any, keywords: Any) -> None:
        """Sees whether the place reads what is learned; afterwards its own output may stand there too."""
        if torch.compiler.is_compiling():
            return
        acts = torch.is_grad_enabled() and (in_backward() or not (self._plain or self._identity))
        hook.reads_learned = acts and any(map(is_learned, tensors_in((inputs, keywords))))

    def on_output(self, hook: Hook, module: nn.Module, inputs: Any, keywords: Any, output: Any) -> Any:
        """The output with the pass's factors on its gradient; None: as it is."""
        place = hook.place
        if self._sample is not None:
            hook.called = True
        if not torch.is_grad_enabled():
            if not torch.compiler.is_compiling() and (contexts := _checkpoints(checkpoint.CheckpointFunction.forward)):
                forgotten = _FORGOTTEN if module.training else _PLAIN
                now = _PLAIN if self._plain else forgotten if self._sample is None else self._sample
                around = _checkpoints(checkpoint.CheckpointFunction.backward) if in_backward() else []
                known = around[0].__dict__.get("of_gap", {}) if around else {id(self): now}
                for context in contexts:
                    context.of_gap = context.__dict__.get("of_gap", {}) | known
            elif self._sample is not None and not self._plain:
                self._remember(self._sample)
            return None
        if self._plain and (torch.compiler.is_compiling() or not in_backward()):
            return None
        sample, identity = self._sample, self._identity
        if sample is None or (not torch.compiler.is_compiling() and in_backward()):
            sample, identity = self._sample_outside(place, module), False
            if sample is None:
                return None
        else:
            self._scaled = not identity
        if place.columns is not None:
            assert isinstance(module, nn.Linear)
            x = inputs[0] if inputs else keywords["input"]
            factor = factor_of_columns(place, sample, x, self.differs)
            return None if identity else scale_columns(output, x, module, factor)
        leaves, structure = tree_flatten(output)
        missed = None
        if not identity and not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
            missed = "no tensor with a gradient to adjust"
        if not identity and not torch.compiler.is_compiling():
            if hook.reads_learned:
                raise AdjustmentError(
                    f"submodule {place.name!r} reads a tensor that has a gradient of its own, so GAP would adjust what "
                    "lies before it too; attach to the part that reads the raw state, or to columns with attach_columns"
                )
            others = (leaf for leaf in leaves if not isinstance(leaf, torch.Tensor))
            others = (leaf for leaf in others if not isinstance(leaf, io.IOBase))
            hidden = (type(leaf).__name__ for leaf in others if _may_hide(leaf))
            missed = missed or next((f"a {name}, whose tensors would not be adjusted" for name in hidden), None)
            known = set(map(id, leaves))
            if any(t.requires_grad and id(t) not in known for t in tensors_in(output)):
                missed = missed or "a tensor as a key or an attribute, which would not be adjusted"
        if missed and any(p.requires_grad for p in module.parameters()):
            raise AdjustmentError(
                f"submodule {place.name!r} gives {type(output).__name__}, in which there is {missed}; attach to a part "
                "of it that gives tensors (in tuples, lists or dictionaries)"
            )
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        given = list(leaves)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                factor = factor_of_output(place.name, sample, leaf.shape, self.differs)
                twins = [j for j in range(i) if leaves[j] is leaf]
                beside = [] if identity or torch.compiler.is_compiling() else tensors
                shared = any(overlap(leaf, other) for other in beside if other is not leaf)
                given[i] = given[twins[0]] if twins else leaf if identity else scaled(leaf, factor, shared=shared)
        return None if identity else tree_unflatten(given, structure)

    def _remember(self, sample: torch.Tensor) -> None:
        if self._recomputed:
            self._unrecorded.clear()
            self._recomputed = False
        self._unrecorded.append(sample)

    def _sample_outside(self, place: Place, module: nn.Module) -> torch.Tensor | None:
        """The factors of a pass with a graph of which the ρ that is set is not, or none is: recomputation, inference,
        or a mistake.
        """
        if not torch.compiler.is_compiling() and in_backward():
            around = _checkpoints(checkpoint.CheckpointFunction.backward)
            known = around[0].__dict__.get("of_gap", {}).get(id(self)) if around else None
            if known is not None:
                if known is _FORGOTTEN and any(p.requires_grad for p in module.parameters()):
                    self._refuse_without_rho(place)
                return None if known is _PLAIN or known is _FORGOTTEN else known
            if any(sample is not self._unrecorded[0] for sample in self._unrecorded):
                raise AdjustmentError(
                    "reentrant activation checkpointing recomputes one of several forward passes, and GAP cannot tell "
                    "whose rho is meant; pass use_reentrant=False, or go backward after each forward pass"
                )
            if self._unrecorded:
                self._recomputed = True
                return self._unrecorded[0]
            # not reentrant: the first pass's nodes hold its factors; the same tensors must be saved once more
            return torch.ones(()) if place.columns is not None and self._scaled else None
        if module.training and any(p.requires_grad for p in module.parameters()):
            self._refuse_without_rho(place)
        self._outside()
        return None

    def _refuse_without_rho(self, place: Place) -> None:
        raise AdjustmentError(
            f"the policy is in training mode and went through {place.name!r} without rho: wrap the forward pass in "
            "`with gap.adjusting(batch['rho'], step):`, or in `with gap.plain():` for gradients without GAP"
        )
