"""Through which view pictures were taken, as far as files tell: rollouts have to show the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gap_vla.core.typed_config import ConfigError
from gap_vla.training.config import FinetuneConfig, SharedStages


def require_view(config: FinetuneConfig | SharedStages) -> None:
    """Checks that the named demonstrations or dataset show what `demos.camera` says.

    Raises:
        ConfigError: they were recorded through another view.
    """
    source = config.data.rlds or config.demos.path
    found = view_of_dataset(Path(source)) if config.data.rlds else view_of_demos(Path(source)) if source else None
    if found not in (None, config.demos.camera):
        raise ConfigError(
            f"{source} was recorded through the view {found!r}, and demos.camera is {config.demos.camera!r}; rollouts "
            f"would show another view than training: set --config.demos.camera={found}"
        )


def view_of_demos(path: Path) -> str | None:
    """The primary camera's view in a file of `collect_demos`; None for files of other tools."""
    from gap_vla.demos.hdf5_members import attributes_of_data

    view = _at(_parsed(attributes_of_data(path).get("env_args")), "env_kwargs", "camera")
    return view if isinstance(view, str) else None


def view_of_dataset(directory: Path) -> str | None:
    """The same for an RLDS dataset; None unless this toolkit collected the demonstrations in it."""
    metadata = directory / "metadata.json"
    demos = _at(_parsed(metadata.read_bytes()), "identity", "data", "demos") if metadata.is_file() else None
    return str(demos.get("camera", "near")) if isinstance(demos, dict) and "task" in demos else None


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, (str, bytes)) else None
    except ValueError:
        return None


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
