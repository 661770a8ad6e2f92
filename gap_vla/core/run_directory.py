"""The folder of one training run: never overwritten, resumed only with the settings and data that it is trained with.

config.json        resolved configuration            dataset.json  what the data were made from
first_batch.png    what the model saw, with ρ        metrics.jsonl, tensorboard/   what was measured while training
state/             resumable checkpoints             checkpoint/   exported in upstream's layout
rollouts/          videos, a line per episode        summary.json  written last: the run is complete
report.html        one page: success, videos, curves, ρ over a demonstration, how far episodes got

Which settings are part of what: `core.run_settings`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, content, shown
from gap_vla.core.identity import differences, in_words
from gap_vla.core.locks import alone
from gap_vla.core.marks import others_in
from gap_vla.core.run_settings import of_result, of_training
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import HIDDEN, as_written, clear_leftovers, write_json

SOURCE_HASH = "source_hash"
"""Key of `dataset.json` that says what a dataset that is no run's own held when training began."""

EARLIER = "earlier"
"""Key of `config.json` that lists values which were changed when the run was taken up again."""

_KILLED_SAVE = re.compile(r"[0-9]+\.orbax-checkpoint-tmp(-[0-9]+)?")


class RunExistsError(UserError, RuntimeError):
    """The run directory is there already and resuming was not asked for."""


def named(name: str) -> str:
    """The name that somebody gave to a run.

    Raises:
        ConfigError: it is none of one folder, so the run would lie elsewhere.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._=,+-]{0,127}", name):
        raise ConfigError(f"--run-name is {shown(name)}; give up to 128 letters, digits and '_', inside also . - = , +")
    return name


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
        self.page = self.path / "report.html"
        self.lock = self.path / ".lock"
        self._claimed: os.stat_result | None = None
        self._to_measure_as: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        return os.path.lexists(self.summary) and self._to_measure_as is None

    @property
    def has_state(self) -> bool:
        """Whether a training can go on from what was saved."""
        states = (p for p in self.state.glob("*") if re.fullmatch("[0-9]+", p.name) and p.is_dir())
        return (self.state / "training.pt").exists() or any(states)

    @property
    def measures_anew(self) -> bool:
        """Whether it was taken up to make other rollouts than it has."""
        return self._to_measure_as is not None

    def complete_with(self, config: Mapping[str, Any]) -> bool:
        """Whether it is complete, and was trained and measured as this configuration says."""
        return self.complete and self.config.exists() and of_result(self.read_config()) == of_result(config)

    def stands(self, config: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
        """What a dry run says of it: whether it is there already, and whether `--resume` would go on with it."""
        if not self.config.exists():
            return ""
        try:
            self._require_same(config, dataset)
        except ConfigError as error:
            return f" (there already; --resume would be refused: {error})"
        return f" (there already, {'finished' if self.complete else 'started'}; --resume goes on with it)"

    def read_config(self, error: type[UserError] = ConfigError) -> dict[str, Any]:
        """The configuration, without the note on earlier values; raises `error` if the file holds none."""
        stored = Section.read(self.config, error).values
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
        wait: bool = False,
    ) -> Iterator[RunDirectory]:
        """`claim` for the duration of the block, alone; a new directory in which nothing came to be is removed again.

        Args:
            lock: False for the other hosts of a training on several.
            wait: until another process that is at work in it is done.

        Raises:
            InUseError: another process is at work in it, and not `wait`.
        """
        run = cls(path)
        with contextlib.ExitStack() as stack:
            if lock:
                run.require_free_place(dataset)
                stack.enter_context(alone(run.lock, f"{run.path}", wait))
                for place in (run.path, run.state, run.checkpoint):
                    clear_leftovers(place)
                for leftover in run._left(dataset):
                    leftover.unlink()
            new = lock and not run.config.exists()
            try:
                yield cls.claim(path, config, resume, dataset)
            except BaseException:
                begun = (p not in (run.config, run.dataset, run.lock) for p in run.path.glob("*"))
                if new and not any(begun):
                    run.config.unlink(missing_ok=True)
                    run.dataset.unlink(missing_ok=True)
                raise

    def _left(self, dataset: Mapping[str, Any] | None) -> list[Path]:
        """What one who was killed as he began this run wrote, or a beginning of that; the configuration comes last."""
        if self.config.exists() or dataset is None or not self.dataset.is_file():
            return []
        return [self.dataset] if as_written(dict(dataset)).startswith(content(self.dataset)) else []

    def require_free_place(self, dataset: Mapping[str, Any] | None = None) -> None:
        """Raises RunExistsError if something that is no run of ours lies there, or a link to write through."""
        self._require_no_link()
        own = [self.lock, *self._left(dataset)]
        others = (p for p in self.path.glob("*") if p not in own and not HIDDEN.fullmatch(p.name))
        if not self.config.exists() and any(others):
            lost = "has lost its config.json: copy the run again" if self.metrics.exists() else "is no run: move it"
            raise RunExistsError(f"{self.path} exists and {lost}, or pass --run-name NAME")

    def _require_no_link(self) -> None:
        if links := [place for place in self.path.glob("*") if place.is_symlink()]:
            raise _link_refused(links[0])

    def require_own(self, place: Path) -> None:
        """Raises RunExistsError if a folder of this run, in which a file is to be written, is a link."""
        folders = [self.path / part for part in place.relative_to(self.path).parents][:-1]
        if links := [folder for folder in reversed(folders) if folder.is_symlink()]:
            raise _link_refused(links[0])

    def require_there(self) -> None:
        """Raises UserError if the folder was renamed, removed or replaced while its training, which measures into it,
        ran, or a link was put into it."""
        another = self._claimed and self.path.exists() and not os.path.samestat(self._claimed, self.path.stat())
        if another or not self.metrics.exists():
            raise UserError(f"{self.path} was renamed or removed meanwhile; give it its name again, then --resume")
        self._require_no_link()

    @classmethod
    def claim(
        cls, path: Path | str, config: dict[str, Any], resume: bool, dataset: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Creates the directory, or takes an existing one up again.

        Settings that are no part of what was trained (`run_settings`) may have changed; the new values
        are recorded and the old ones noted. Where they decide what is measured, that is left to `measure_anew`.

        Args:
            config: the resolved configuration.
            dataset: what the data are made from, versions of the code that makes them included, and `SOURCE_HASH` where
                they were named; it is not compared with a run that has none.

        Raises:
            RunExistsError: it exists, of these settings, and `resume` is False.
            ConfigError: it was trained with another configuration or on other data; the differing keys are named.
        """
        run = cls(path)
        if not run.config.exists():
            run.require_free_place(dataset)
            if dataset is not None:
                write_json(run.dataset, dict(dataset))
            write_json(run.config, config)
            run._claimed = run.path.stat()
            return run
        run._claimed = run.path.stat()
        run._require_same(config, dataset)
        if not resume:
            raise RunExistsError(
                f"{run.path} holds a {'finished' if run.complete else 'started'} run; "
                "pass --resume to go on with it, or --run-name NAME to start another"
            )
        run._take_up(config)
        return run

    def _require_same(self, config: Mapping[str, Any], dataset: Mapping[str, Any] | None) -> None:
        """Raises ConfigError: it was trained with another configuration or on other data."""
        if dataset is not None:
            if not self.dataset.exists():
                raise ConfigError(
                    f"{self.dataset} is missing; copy the run again, or start another with --run-name NAME"
                )
            stored = Section.read(self.dataset, ConfigError).values
            made_from = json.loads(json.dumps(dataset))
            if (changed := differences(stored, made_from)).keys() == {SOURCE_HASH}:
                raise ConfigError(
                    f"{made_from.get('rlds')} holds other data than this run was trained on; give another --run-name"
                )
            if changed:
                raise ConfigError(
                    f"{self.path} was trained on other data ({in_words(changed)}), perhaps by an older version; "
                    "start another run with --run-name NAME"
                )
        if changed := differences(of_training(self.read_config()), of_training(config)):
            raise ConfigError(
                f"{self.path} was trained with another configuration ({in_words(changed)}); "
                "resume with the same settings, or start another run with --run-name NAME"
            )

    def _take_up(self, config: dict[str, Any]) -> None:
        stored = self.read_config()
        self._earlier()  # which is refused now, not when it is trained
        if of_result(stored) != of_result(config):
            self._to_measure_as = config
        elif differences(stored, config):
            print(self._note(config), flush=True)

    def measure_anew(self, trained: bool = True) -> None:
        """Sets rollouts of other settings aside and records these, once the trained state is known to be sound.

        Raises:
            ConfigError: it has been trained, and what would make these rollouts is not (`trained`) there any more.
        """
        if self._to_measure_as is None:
            return
        if not trained and (self.summary.exists() or self.checkpoint.exists()):
            raise ConfigError(
                f"{self.path}: its rollouts cannot be made again without the state in {self.state.name}/; copy that "
                "back, or give another --run-name"
            )
        before = sum(len(of_result(one)) > 1 for one in self._earlier())  # beside "until"
        # first what says that the run is complete; a number of this change's own, as the rest goes with it after a kill
        moved = self._set_aside(self.summary, self.rollouts, first=before + 1)
        try:
            told = self._note(self._to_measure_as)
        except (OSError, UserError):  # as on a full disk
            _move_back(moved)
            raise
        self._to_measure_as = None
        print(told, flush=True)  # once it is so: a log may be full, too
        _tell(moved)

    def set_metrics_aside(self) -> bool:
        """Keeps what was measured after step 0 under another name, where no state of it is left; False: nothing was."""
        measured = self.metrics.exists() and content(self.metrics).count(b"\n") > 1
        if measured:
            _tell(self._set_aside(self.metrics))
        return measured

    def _earlier(self) -> list[Any]:
        file = Section.read(self.config, ConfigError)
        return [one.values for one in file.list(EARLIER, Section.section)] if EARLIER in file else []

    def _note(self, config: dict[str, Any]) -> str:
        """Records the configuration; returns what to say of it."""
        changed = differences(self.read_config(), config)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        last = {"until": now, **{key: old for key, (old, _) in changed.items()}}
        write_json(self.config, {**config, EARLIER: [*self._earlier(), last]})
        return f"resume: {in_words(changed)}; no part of what is trained"

    def _set_aside(self, *paths: Path, first: int = 1) -> list[tuple[Path, Path]]:
        """Under other names with one number, but folders in which nothing is except locks of killed processes.

        Args:
            paths: in the order in which they are moved; one who was killed meanwhile has moved the first of them.
            first: the least number.
        """
        left = [*itertools.dropwhile(lambda path: not path.exists(), paths)]
        for number in itertools.count(first):
            aside = [path.with_name(f"{path.stem}-earlier-{number}{path.suffix}") for path in left]
            if not any(path.exists() for path in aside):
                break
        moved: list[tuple[Path, Path]] = []
        for path, new in zip(left, aside):
            if path.exists() and not _only_locks(path):
                try:
                    path.rename(new)
                except OSError:  # as of a folder in the lower layer of an overlay
                    _move_back(moved)
                    raise
                moved.append((path, new))
        return moved


def _move_back(moved: list[tuple[Path, Path]]) -> None:
    for path, kept in reversed(moved):
        kept.rename(path)


def _tell(moved: list[tuple[Path, Path]]) -> None:
    for path, kept in moved:
        print(f"resume: the earlier {path.name} is kept as {kept.name}", flush=True)


def killed_saves(state: Path) -> list[Path]:
    """The folders that orbax did not finish in a run's `state/`."""
    return [p for p in state.glob("*") if _KILLED_SAVE.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _link_refused(link: Path) -> RunExistsError:
    return RunExistsError(f"{link} is a link; a run writes files of its own: remove it, or move them here")


def _only_locks(path: Path) -> bool:
    with contextlib.suppress(PermissionError):  # what may not be looked into is something
        return path.is_dir() and not others_in(path, r"(.+/)?\.lock")
    return False
