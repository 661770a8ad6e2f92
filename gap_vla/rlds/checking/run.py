"""Runs every check on a dataset and shows what was found. Pictures of one episode at a time are in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing, write_json
from gap_vla.demos.fields import Fields
from gap_vla.demos.source import Source, open_source
from gap_vla.drawing.episode import EpisodeView, episode_png
from gap_vla.drawing.markup import data_uri, plain, render
from gap_vla.rlds.checking.motion import Track, are_targets, check_jumps, check_motion, check_units, tracks_of
from gap_vla.rlds.checking.records import (
    Finding,
    check_duplicates,
    check_ends,
    check_films,
    check_labels,
    check_pictures,
    check_recorded,
    check_weak,
    prints_of,
)

LEVELS = ("error", "warning", "note")
CONSTANT = 1e-6
"""Standard deviation, below which a column of the actions does not vary."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Findings that say the same: the first one, and of which episodes they are."""

    first: Finding
    episodes: tuple[str, ...]

    @property
    def where(self) -> str:
        if not self.episodes:
            return self.first.detail
        count = f"{len(self.episodes)} episodes, first " if len(self.episodes) > 1 else ""
        return f"{count}{self.episodes[0]}" + (f": {self.first.detail}" if self.first.detail else "")

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.first.level}: {self.first.check}: {self.first.message}{where}"


def kinds(findings: Iterable[Finding]) -> list[Kind]:
    """One for all findings that say the same; errors first."""
    found: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        found.setdefault((one.level, one.check, one.message), []).append(one)
    grouped = [Kind(all_[0], tuple(dict.fromkeys(f.episode for f in all_ if f.episode))) for all_ in found.values()]
    return sorted(grouped, key=lambda kind: LEVELS.index(kind.first.level))


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_dataset` found.

    Attributes:
        dataset: what was checked.
        account: which array was read as what.
        summary: counts and lengths; JSON-able.
        findings: every kind of finding, errors first.
        pictures: (caption, PNG) of some episodes, those with findings first.
    """

    dataset: Path
    account: str
    summary: Mapping[str, Any]
    findings: list[Kind]
    pictures: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)

    def count(self, level: str) -> int:
        return sum(kind.first.level == level for kind in self.findings)

    def exit_status(self, strict: bool = False) -> int:
        """0 if usable, 1 with errors (`strict`: or warnings)."""
        return int(self.count("error") > 0 or (strict and self.count("warning") > 0))

    @property
    def verdict(self) -> str:
        usable = "it would spoil a training" if self.count("error") else "usable"
        counts = (f"{self.count(level)} {level}{'s' * (self.count(level) != 1)}" for level in LEVELS)
        return f"{usable}: {', '.join(counts)}"

    def text(self) -> str:
        """What was read, every kind of finding in a line, and the verdict."""
        lines = [self.account, *(f"  {key}: {value}" for key, value in self.summary.items())]
        return "\n".join([*lines, *map(str, self.findings), self.verdict])

    def content(self) -> dict[str, Any]:
        """All but the pictures, for JSON."""
        found = [{**dataclasses.asdict(kind.first), "episodes": kind.episodes} for kind in self.findings]
        return {"dataset": str(self.dataset), "verdict": self.verdict, **self.summary, "findings": found}

    def save(self, directory: Path) -> Path:
        """Writes the folder, with `check.json` and `check.html`; returns the page."""
        with replacing(directory) as folder:
            folder.mkdir()
            write_json(folder / "check.json", self.content())
            (folder / "check.html").write_text(self.page(), encoding="utf-8")
            mark(folder, "check")
        return directory / "check.html"

    def page(self) -> str:
        """HTML without any outside resource."""
        return render(
            "rlds/checking/templates/check.html",
            title=str(self.dataset),
            verdict=self.verdict,
            findings=self.findings,
            account=self.account,
            summary=plain(self.summary),
            pictures=[(caption, data_uri(png, "image/png")) for caption, png in self.pictures],
        )


def check_dataset(
    path: str | Path, fields: Fields | None = None, *, kind: str | None = None, pictures: int = 6
) -> Report:
    """Checks demonstrations of any format that `open_source` knows, whoever recorded them.

    Args:
        path: an RLDS version such as `data/threading/1.0.0`, a LeRobot folder, an HDF5 file, a folder of npz, …
        fields: what is taken for what; default: what the files declare. Without columns of state and action, what these
            mean together is not checked.
        kind: format of the files; default: what they look like.
        pictures: episodes on the page.
    """
    return check_source(open_source(path, fields=fields or Fields(), kind=kind), pictures)


def check_source(source: Source, pictures: int = 6) -> Report:
    """The same for demonstrations that are open."""
    findings: list[Finding] = []
    kept: dict[str, Episode] = {}  # without pictures
    splits: list[str] = []
    films: dict[str, dict[str, bytes]] = {}
    views: list[tuple[bool, str, EpisodeView]] = []
    for index in range(len(source)):
        name, split = _name(source, index)
        findings += _ends(source, index, name)
        try:
            episode = source.read(index)
        except EpisodeError as error:
            findings.append(Finding("error", "unreadable", "episodes that cannot be read", name, str(error)))
            continue
        missing = episode.metadata.get("missing_cameras", ())
        found = [
            *check_recorded(name, episode),
            *check_labels(name, episode),
            *check_units(name, episode),
            *check_jumps(name, episode),
            *check_pictures(name, episode, missing),
        ]
        findings += found
        suspicious = any(one.level != "note" for one in found)
        if len(views) < pictures or (suspicious and sum(odd for odd, _, _ in views) < pictures):
            caption = " | ".join([f"{name}, {len(episode)} steps", *map(_told, found[:2])])
            views.append((suspicious, caption, EpisodeView.of(episode, title="")))
        films[name] = prints_of(episode)
        kept[name] = episode.replace(images={})
        splits.append(split)
    findings += _over_all(kept, splits)
    findings += check_films(films)
    views.sort(key=lambda one: not one[0])
    return Report(
        source.path,
        source.account(),
        _summary(kept, splits),
        kinds(findings),
        [(caption, episode_png(view, dpi=90)) for _, caption, view in views[:pictures]],
    )


def _name(source: Source, index: int) -> tuple[str, str]:
    """What an episode is called, and its split, if the format has splits."""
    places, splits = getattr(source, "places", None), getattr(source, "splits", None)
    return (places[index].name if places else f"episode {index}"), (splits[index] if splits else "")


def _told(finding: Finding) -> str:
    return f"{finding.message}{f' ({finding.detail})' if finding.detail else ''}"


def _ends(source: Source, index: int, name: str) -> Iterator[Finding]:
    """The flags of an RLDS episode, which an Episode does not hold."""
    if source.kind == "rlds":
        keys = ("is_first", "is_last", "is_terminal")
        with source.recording(source.places[index]) as recording:  # type: ignore[attr-defined]
            yield from check_ends(name, {key: recording.arrays[key] for key in keys if key in recording.arrays})


def _over_all(kept: dict[str, Episode], splits: list[str]) -> Iterator[Finding]:
    """Checks over all episodes: labels, actions, motion, duplicates."""
    episodes = [*kept.values()]
    if not episodes:
        return
    yield from check_weak(
        [(e.rho, e.change_point) for e in episodes if e.rho is not None and e.change_point is not None]
    )
    widths = {(e.proprio.shape[1], e.action.shape[1]) for e in episodes}
    if len(widths) > 1:
        yield Finding("error", "structure", "episodes have different widths of state and action", detail=f"{widths}")
        return
    rows = [np.concatenate([e.proprio, e.action], axis=1) for e in episodes]
    yield from check_duplicates([*kept], rows, splits if any(splits) else ())
    if not episodes[0].action.shape[1]:
        yield Finding("note", "convention", "no action is given, so actions are not checked")
        return
    yield from _actions(episodes)
    arms: dict[int, list[Track]] = {}
    for name, episode in kept.items():
        for number, track in enumerate(tracks_of(name, episode)):
            arms.setdefault(number, []).append(track)
    for number, tracks in arms.items():
        yield from check_motion(f"arm {number}", tracks)
    if not arms:
        yield _not_compared(episodes)


def _actions(episodes: list[Episode]) -> Iterator[Finding]:
    """What a reader should know of the range of the actions, which a training normalises."""
    actions = np.concatenate([e.action for e in episodes]).astype(np.float64)
    largest = abs(actions).max()
    if largest > 1.001:
        text = "actions are not within [-1, 1]; a training normalises them"
        yield Finding("note", "convention", text, detail=f"up to {largest:.3g}")
    constant = np.flatnonzero(actions.std(0) < CONSTANT)
    if len(constant):
        text = "columns of the action do not vary; normalisation leaves them out"
        yield Finding("note", "range", text, detail=f"columns {constant.tolist()}")


def _not_compared(episodes: list[Episode]) -> Finding:
    """Why actions and motion are not compared."""
    first = episodes[0]
    if first.columns is not None and first.action_columns is not None:
        text = "state and action have neither position nor joints in common, so what actions do is not checked"
        return Finding("note", "columns", text)
    if first.proprio.shape == first.action.shape:
        if are_targets([e.proprio for e in episodes], [e.action for e in episodes]):
            return Finding("note", "convention", "actions are targets for the columns of the state")
    text = "what actions do to the state is not checked; describe both with --columns and --action-columns"
    return Finding("note", "columns", text)


def _summary(kept: dict[str, Episode], splits: list[str]) -> dict[str, Any]:
    lengths = np.array([len(e) for e in kept.values()] or [0])
    told = (e.language_instruction for e in kept.values())
    texts = {text for one in told for text in ((one,) if isinstance(one, str) else one) if text.strip()}
    counts = {split: splits.count(split) for split in dict.fromkeys(splits) if split}
    return {
        "episodes": f"{len(kept)}" + "".join(f", {split} {count}" for split, count in counts.items()),
        "steps": f"{lengths.sum()}; {lengths.min()} to {lengths.max()} an episode, median {np.median(lengths):.10g}",
        "instructions": f"{len(texts)}: {'; '.join(sorted(texts)[:5])}" if texts else "none",
        "ρ": f"in {sum(e.rho is not None for e in kept.values())} of {len(kept)} episodes",
    }
