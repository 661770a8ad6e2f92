"""The folder of one training run: never overwritten, resumed only with the settings and data it is trained with."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section
from gap_vla.core.identity import differences
from gap_vla.core.locks import alone
from gap_vla.core.run_files import RunFiles
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import write_json
from gap_vla.training.settings import in_words, of_result, of_training

EARLIER = "earlier"
"""Key of `config.json` that lists values which were changed when the run was taken up again."""


class RunExistsError(UserError, RuntimeError):
    """The run directory is there already and resuming was not asked for."""


def named(name: str) -> str:
    """The name that somebody gave to a run.

    Raises:
        ConfigError: it is none of one folder, so the run would lie elsewhere.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", name):
        raise ConfigError(f"--run_name is {name!r}; give letters, digits and '_', inside also '.' and '-'")
    return name


class RunDirectory(RunFiles):
    """The files of one run, and who may write them."""

    def complete_with(self, config: Mapping[str, Any]) -> bool:
        """Whether it is complete, and was trained and measured as this configuration says."""
        return self.complete and of_result(self.read_config()) == of_result(config)

    def read_config(self) -> dict[str, Any]:
        """The configuration, without the note on earlier values."""
        stored = Section.read(self.config, ConfigError).values
        return {key: value for key, value in stored.items() if key != EARLIER}

    @classmethod
    @contextlib.contextmanager
    def held(
        cls,
        path: Path | str,
        config: dict[str, Any],
        resume: bool,
        dataset: Mapping[str, Any] | None = None,
        lock: bool = True,
    ) -> Iterator[RunDirectory]:
        """`claim` for the duration of the block, alone; a new directory in which nothing came to be is removed again.

        Args:
            lock: False for the other hosts of a training on several.

        Raises:
            InUseError: another process is at work in it.
        """
        run = cls(path)
        with contextlib.ExitStack() as stack:
            if lock:
                run.require_free_place()
                run.path.mkdir(parents=True, exist_ok=True)
                stack.callback(run._remove_if_empty)
                stack.enter_context(alone(run.lock, f"{run.path}"))
            new = lock and not run.config.exists()
            try:
                yield cls.claim(path, config, resume, dataset)
            except BaseException:
                if new and not any(p not in (run.config, run.dataset, run.lock) for p in run.path.iterdir()):
                    run.config.unlink(missing_ok=True)
                    run.dataset.unlink(missing_ok=True)
                raise

    def require_free_place(self) -> None:
        """Raises RunExistsError if something that is no run of ours lies there."""
        if not self.config.exists() and self.path.exists() and any(p != self.lock for p in self.path.iterdir()):
            raise RunExistsError(f"{self.path} exists and is no run of ours (no config.json); pass --run_name NAME")

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @classmethod
    def claim(
        cls, path: Path | str, config: dict[str, Any], resume: bool, dataset: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Creates the directory, or takes an existing one up again.

        Settings that are no part of what was trained (`gap_vla.training.settings`) may have changed; the new values
        are recorded and the old ones noted. Where they decide what is measured, rollouts that are there are set aside.

        Args:
            path: of the directory.
            config: the resolved configuration.
            resume: whether an existing run may be taken up.
            dataset: what the data are made from, versions of the code that makes them included.

        Raises:
            RunExistsError: it exists and `resume` is False.
            ConfigError: it was trained with another configuration or on other data; the differing keys are named.
        """
        run = cls(path)
        if not run.config.exists():
            run.require_free_place()
            if dataset is not None:
                write_json(run.dataset, dict(dataset))
            write_json(run.config, config)
            return run
        if not resume:
            raise RunExistsError(
                f"{run.path} holds a {'finished' if run.complete else 'started'} run; "
                "pass --resume to go on with it, or --run_name NAME to start another"
            )
        if dataset is not None:
            stored = Section.read(run.dataset, ConfigError).values if run.dataset.exists() else {}  # older versions
            if changed := differences(stored, json.loads(json.dumps(dataset))):
                raise ConfigError(
                    f"{run.path} was trained on other data ({in_words(changed)}), perhaps by an older version; "
                    "start another run with --run_name NAME"
                )
        run._take_up(config)
        return run

    def _take_up(self, config: dict[str, Any]) -> None:
        stored = self.read_config()
        if changed := differences(of_training(stored), of_training(config)):
            raise ConfigError(
                f"{self.path} was trained with another configuration ({in_words(changed)}); "
                "resume with the same settings, or start another run with --run_name NAME"
            )
        changed = differences(stored, config)
        if not changed:
            return
        if of_result(stored) != of_result(config):
            self._set_rollouts_aside()
        noted = json.loads(self.config.read_text()).get(EARLIER, [])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        noted.append({"until": now, **{key: old for key, (old, _) in changed.items()}})
        write_json(self.config, {**config, EARLIER: noted})
        print(f"resume: {in_words(changed)}; no part of what is trained", flush=True)

    def _set_rollouts_aside(self) -> None:
        number = 1
        while any(self._aside(p, number).exists() for p in (self.summary, self.rollouts)):
            number += 1
        for path in (self.summary, self.rollouts):  # first what says that the run is complete
            if path.exists():
                path.rename(self._aside(path, number))
                print(f"resume: the earlier {path.name} is kept as {self._aside(path, number).name}", flush=True)

    def _aside(self, path: Path, number: int) -> Path:
        return path.with_name(f"{path.stem}-earlier-{number}{path.suffix}")
