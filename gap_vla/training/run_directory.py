"""The folder of one training run: never overwritten, resumed only with the configuration and data that made it.

config.json        resolved configuration            dataset.json  what the data were made from
first_batch.png    what the model saw, with ρ        metrics.jsonl, tensorboard/   what was measured while training
state/             resumable checkpoints             checkpoint/   exported in upstream's layout
rollouts/          videos, a line per episode        summary.json  written last: the run is complete
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.whole import write_json
from gap_vla.typed_config import ConfigError


class RunExistsError(UserError, RuntimeError):
    """The run directory is there already and resuming was not asked for."""


class RunDirectory:
    """Paths of one run; see the module."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.dataset = self.path / "dataset.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.first_batch = self.path / "first_batch.png"
        self.state = self.path / "state"
        self.checkpoint = self.path / "checkpoint"
        self.rollouts = self.path / "rollouts"
        self.summary = self.path / "summary.json"

    @property
    def complete(self) -> bool:
        return self.summary.exists()

    def read_summary(self) -> dict[str, Any]:
        return json.loads(self.summary.read_text())

    @classmethod
    def claim(
        cls, path: Path | str, config: dict[str, Any], resume: bool, dataset: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Creates the directory, or takes an existing one up again.

        Args:
            path: of the directory.
            config: the resolved configuration.
            resume: whether an existing run may be taken up.
            dataset: what the data are made from, versions of the code that makes them included.

        Raises:
            RunExistsError: it exists and `resume` is False.
            ConfigError: it was made with another configuration or from other data; the differing keys are named.
        """
        run = cls(path)
        if run.config.exists():
            if not resume:
                raise RunExistsError(
                    f"{run.path} holds a {'finished' if run.complete else 'started'} run; "
                    "pass --resume to go on with it, or --run_name NAME to start another"
                )
            changed = _differences(json.loads(run.config.read_text()), config)
            if changed:
                raise ConfigError(
                    f"{run.path} was made with another configuration ({'; '.join(changed)}); "
                    "resume with the same settings, or start another run with --run_name NAME"
                )
            if dataset is not None:
                stored = json.loads(run.dataset.read_text()) if run.dataset.exists() else {}  # older versions: unknown
                changed = _differences(stored, json.loads(json.dumps(dataset)))
                if changed:
                    raise ConfigError(
                        f"{run.path} was trained on other data ({'; '.join(changed)}), perhaps by an older version; "
                        "start another run with --run_name NAME"
                    )
            return run
        if run.path.exists() and any(run.path.iterdir()):
            raise RunExistsError(f"{run.path} exists and is no run of ours (no config.json); pass --run_name NAME")
        if dataset is not None:
            write_json(run.dataset, dict(dataset))
        write_json(run.config, config)
        return run


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]
    return [] if old == new else [f"{where}: {old!r} then, {new!r} now"]
