"""Resumable checkpoints: everything that a step depends on, written by orbax in the background."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from gap_vla.core.foreign import Section, refusing
from gap_vla.core.identity import digest
from gap_vla.core.run_directory import killed_saves
from gap_vla.core.typed_config import ConfigError
from gap_vla.training.hosts import is_first_host
from gap_vla.training.octo import require_plain
from gap_vla.training.step import TrainState

_ADVICE = "move it away: --resume goes on without it"

_PARTS = {"_CHECKPOINT_METADATA", "state", "loader"}
"""What lies in the folder of a state."""


@partial(jax.jit, static_argnames="mixed")
def _sums(state: dict[str, Any], mixed: bool) -> list[jax.Array]:
    """uint32 of every array: its words, each times an odd number of its own, summed where they lie; `mixed` before,
    since of two that changed in their highest bit, the sign, the sum does not tell."""

    def of(leaf: jax.Array) -> jax.Array:
        flat = jnp.ravel(leaf)
        words = jax.lax.bitcast_convert_type(flat, jnp.dtype(f"uint{8 * flat.dtype.itemsize}")).astype(jnp.uint32)
        own = 2 * jnp.arange(len(words), dtype=jnp.uint32) + 1
        if mixed:  # as hashes of 32 bits do at their end (Murmur3's "finalization mix")
            words = words + own * jnp.uint32(0x9E3779B9)
            words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
            words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
            words = words ^ (words >> 16)
        return jnp.sum(words * own, dtype=jnp.uint32)

    return [of(leaf) for leaf in jax.tree_util.tree_leaves(state)]


_CHECKSUMS = {"checksum": False, "checksum_2": True}
"""By the name that one is kept under, whether it is of `mixed` words; the first was written before 2026-11-29."""


def _checksum(state: TrainState, said: dict[str, str], name: str = "checksum_2") -> str:
    """Of the arrays, and of what is said about them."""
    return digest({**said, "arrays": [int(value) for value in _sums(vars(state), _CHECKSUMS[name])]})


def _require_states(directory: Path) -> None:
    for place in (one for one in sorted(directory.iterdir()) if re.fullmatch("[0-9]+", one.name)):
        if place.is_symlink():
            raise ConfigError(f"{place} is a link, and old states are removed; move its folder here")
        held = {*os.listdir(place)} if place.is_dir() else None
        if held is None or (held and not held & _PARTS):  # a kill as it was removed leaves some of them, or none
            raise ConfigError(f"{place} is no training state, and would be replaced or removed as one; {_ADVICE}")


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Orbax prints the traceback of what it cannot write, and raises it too."""
    return not (record.exc_info and "/orbax/checkpoint/" in record.pathname)


class StateCheckpoints:
    """Training states under one folder, for the one training that writes there; the newest two are kept.

    Each holds the train state and the data loader's position. One that a kill interrupted has no final name yet, and
    goes when the folder is opened.

    Args:
        layout: which number of the packed parameters means what (`Packing.identity`); another one is not restored.
        settings: hash of what is trained; nor is a state of other settings.

    Raises:
        ConfigError: something that is no state has the name of one, and would be replaced or removed as one is.
    """

    def __init__(self, directory: Path | str, layout: str = "", settings: str = ""):
        self._layout, self._settings = layout, settings
        directory = require_plain(Path(directory))
        logging.getLogger("absl").addFilter(_is_not_raised)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=True)
        directory.mkdir(parents=True, exist_ok=True)  # orbax hangs where that fails
        _require_states(directory)
        for place in killed_saves(directory) if is_first_host() else ():
            shutil.rmtree(place, ignore_errors=True)  # orbax itself removes it where that step is saved again
        self._manager = ocp.CheckpointManager(directory, options=options)

    @property
    def latest(self) -> int | None:
        """Number of training steps of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, loader_state: dict[str, Any]) -> None:
        """Starts writing; returns before it is on disk."""
        said = {"state": json.dumps(loader_state), "layout": self._layout, "settings": self._settings}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(vars(state)),
            loader=ocp.args.JsonSave({**said, "checksum_2": _checksum(state, said)}),
        )
        self._manager.save(step, args=args)

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint with the template's structure and placement, and the loader's position.

        Raises:
            ConfigError: it is damaged, of another step or model, or was written by another version of this code.
        """
        where = f"{self._manager.directory}/{self.latest}"
        with refusing(f"{where} cannot be read", _ADVICE, ConfigError):
            found = Section(self._read(where, loader=ocp.args.JsonRestore())["loader"], where, ConfigError)
            said = {key: found.text(key, "") for key in ("state", "layout", "settings")}
            position = json.loads(said["state"])
        if said["layout"] != self._layout:
            raise ConfigError(
                f"{where} holds parameters in another order or of another model; it cannot be resumed by this "
                "version: start a new run with --run-name NAME"
            )
        if said["settings"] != self._settings:
            raise ConfigError(f"{where} is of a run with other settings; copy this run's own, or {_ADVICE}")
        if not (kept := [name for name in _CHECKSUMS if name in found]):
            raise ConfigError(f"{where} is of an earlier version; {_ADVICE}")
        abstract = jax.tree_util.tree_map(ocp.utils.to_shape_dtype_struct, vars(template))
        state = TrainState(**self._read(where, state=ocp.args.StandardRestore(abstract))["state"])
        if found.text(kept[-1]) != _checksum(state, said, kept[-1]):
            raise ConfigError(f"{where} is damaged: its checksum differs; {_ADVICE}")
        if int(state.step) != self.latest:
            raise ConfigError(f"{where} holds the state of step {int(state.step)}; copy it again, or {_ADVICE}")
        return state, position

    def _read(self, where: str, **parts: Any) -> Any:
        with refusing(f"{where} cannot be read", _ADVICE, ConfigError, (Exception,)):  # orbax raises just that
            return self._manager.restore(self.latest, args=ocp.args.Composite(**parts))

    def close(self) -> None:
        """Returns when what was saved is on disk."""
        self._manager.close()
