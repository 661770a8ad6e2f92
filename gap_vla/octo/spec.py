"""Classes named in a config: `{"module", "name", "args", "kwargs"}` dictionaries, and the table that resolves them.

Checkpoints of Octo name upstream's classes by import path. `ModuleSpec.instantiate` looks such a pair up in a table
and never imports what a file names, so loading a checkpoint runs no code of the file's choosing. A class of your own
becomes loadable with `register("my_package.my_module", "MyTokenizer", MyTokenizer)`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from flax.core import FrozenDict

from gap_vla.core.errors import ConfigError

TOKENIZERS = "octo.model.components.tokenizers"
ENCODERS = "octo.model.components.vit_encoders"
HEADS = "octo.model.components.action_heads"
TEXT = "octo.data.utils.text_processing"
OWN = "gap_vla.octo.tokenizers"

_HOMES = (
    (TOKENIZERS, "ImageTokenizer LanguageTokenizer LowdimObsTokenizer BinTokenizer", "gap_vla.octo.tokenizers"),
    (OWN, "MLPObsTokenizer", "gap_vla.octo.tokenizers"),
    (ENCODERS, "PatchEncoder SmallStem SmallStem16 SmallStem32", "gap_vla.octo.encoders"),
    (HEADS, "ContinuousActionHead MSEActionHead L1ActionHead", "gap_vla.octo.heads"),
    (HEADS, "DiscreteActionHead TokenPerDimActionHead", "gap_vla.octo.heads"),
    (HEADS, "DiffusionActionHead", "gap_vla.octo.diffusion"),
    (TEXT, "HFTokenizer", "gap_vla.octo.language"),
)
_TABLE: dict[tuple[str, str], str | Callable[..., Any]] = {
    (module, name): home for module, names, home in _HOMES for name in names.split()
}


def register(module: str, name: str, target: Callable[..., Any]) -> None:
    """Make `target` loadable from configs that name it `module`, `name`."""
    _TABLE[(module, name)] = target


class ModuleSpec:
    """Upstream's config entry for a class with arguments; all methods are static, a spec itself is a plain dict."""

    @staticmethod
    def create(target: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Describe `target` called with `args` and `kwargs`; what is written is upstream's import path.

        Args:
            target: a class of `gap_vla.octo` or one that was registered, or its upstream `"module:name"`.

        Example:
            >>> ModuleSpec.create("octo.model.components.tokenizers:LowdimObsTokenizer", obs_keys=["proprio"])["name"]
            'LowdimObsTokenizer'
        """
        if isinstance(target, str):
            module, _, name = target.rpartition(":")
        else:
            here = target.__module__, target.__name__
            paths = (path for path, home in _TABLE.items() if home is target or (home, path[1]) == here)
            module, name = next(paths, here)
        _entry(module, name)
        return {"module": module, "name": name, "args": tuple(args), "kwargs": kwargs}

    @staticmethod
    def instantiate(spec: Mapping[str, Any]) -> Callable[..., Any]:
        """The class that `spec` names, with its arguments bound; call the result to construct it."""
        target = _entry(spec["module"], spec["name"])
        if isinstance(target, str):
            target = getattr(importlib.import_module(target), spec["name"])
        kwargs = {key: hashable(value) for key, value in spec["kwargs"].items()}
        return functools.partial(target, *(hashable(value) for value in spec["args"]), **kwargs)


def hashable(value: Any) -> Any:
    """Lists as tuples and dictionaries frozen, at any depth: module fields must hash, and JSON gives neither."""
    if isinstance(value, list | tuple):
        return tuple(hashable(item) for item in value)
    if isinstance(value, Mapping):
        return FrozenDict({key: hashable(item) for key, item in value.items()})
    return value


def _entry(module: str, name: str) -> str | Callable[..., Any]:
    if (module, name) in _TABLE:
        return _TABLE[(module, name)]
    known = ", ".join(sorted(name for _, name in _TABLE))
    raise ConfigError(
        f"no class is registered for {module}:{name}; known are {known}; add yours with gap_vla.octo.spec.register"
    )
