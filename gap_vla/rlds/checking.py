"""Is a dataset usable, whoever recorded it: runs every check and shows what was found.

Pictures of one episode at a time are in memory, and those of the episodes that the page shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing, write_json
from gap_vla.demos.source import Source
from gap_vla.drawing.episode import EpisodeView, episode_png
from gap_vla.drawing.markup import data_uri, plain, render
from gap_vla.rlds.checks import (
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
from gap_vla.rlds.motion_checks import arms_of, check_jumps, check_motion, check_units

LEVELS = ("error", "warning", "note")


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """One for all findings that say the same, with the episodes of all; errors first."""
    found: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        found.setdefault((one.level, one.check, one.message), []).append(one)
    together = [
        dataclasses.replace(same[0], episodes=tuple(dict.fromkeys(name for one in same for name in one.episodes)))
        for same in found.values()
    ]
    return sorted(together, key=lambda one: LEVELS.index(one.level))


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_source` found.

    Attributes:
        dataset: what was checked.
        account: which array was read as what.
        summary: counts and lengths; JSON-able.
        findings: every kind of finding, errors first.
        pictures: (caption, PNG) of some episodes, those with the worst findings first.
    """

    dataset: Path
    account: str
    summary: Mapping[str, Any]
    findings: list[Finding]
    pictures: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)

    def count(self, level: str) -> int:
        return sum(one.level == level for one in self.findings)

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

    def save(self, directory: Path) -> Path:
        """Writes the folder, with `check.json` and `check.html`; returns the page, which needs no network."""
        page = render(
            "rlds/templates/check.html",
            title=str(self.dataset),
            verdict=self.verdict,
            findings=self.findings,
            account=self.account,
            summary=plain(self.summary),
            pictures=[(caption, data_uri(png, "image/png")) for caption, png in self.pictures],
        )
        with replacing(directory) as folder:
            folder.mkdir()
            found = [dataclasses.asdict(one) for one in self.findings]
            content = {"dataset": str(self.dataset), "verdict": self.verdict, **self.summary, "findings": found}
            write_json(folder / "check.json", content)
            (folder / "check.html").write_text(page, encoding="utf-8")
            mark(folder, "check")
        return directory / "check.html"


def check_source(source: Source, pictures: int = 6) -> Report:
    """Checks demonstrations of any format, whoever recorded them; `pictures`: episodes on the page.

    Without columns of state and action, what these mean together is not checked.
    """
    findings: list[Finding] = []
    kept: dict[str, Episode] = {}  # without pictures
    films: dict[str, dict[str, bytes]] = {}
    views: list[tuple[int, str, EpisodeView]] = []
    splits, read = getattr(source, "splits", None) or [""] * len(source), []
    for index, name in enumerate(_names(source)):
        try:
            episode = source.read(index)
        except EpisodeError as error:
            text = "episodes that cannot be read"
            findings.append(Finding("error", "unreadable", text, str(error), (name,)))
            continue
        checks = (check_recorded, check_labels, check_units, check_jumps, check_pictures)
        own = [*_ends(source, index), *(finding for check in checks for finding in check(episode))]
        own = sorted_findings(dataclasses.replace(one, episodes=(name,)) for one in own)
        findings += own
        worst = LEVELS.index(own[0].level) if own else len(LEVELS)
        if len(views) < pictures or (worst < 2 and sum(other < 2 for other, _, _ in views) < pictures):
            told = [f"{one.message}{f' ({one.detail})' if one.detail else ''}" for one in own[:2]]
            caption = " | ".join([f"{name}, {len(episode)} steps", *told])
            views.append((worst, caption, EpisodeView.of(episode, title="")))
        films[name] = prints_of(episode)
        kept[name] = episode.replace(images={})
        read.append(splits[index])
    findings += _over_all(kept, read)
    findings += check_films(films)
    views.sort(key=lambda view: view[0])
    return Report(
        source.path,
        source.account(),
        _summary(kept, read),
        sorted_findings(findings),
        [(caption, episode_png(view, dpi=90)) for _, caption, view in views[:pictures]],
    )


def _names(source: Source) -> list[str]:
    """What the episodes are called; with their files, if some of several files have the same name."""
    names = [place.name for place in source.places]
    return names if len({*names}) == len(names) else [f"{place.file.name} {place.name}" for place in source.places]


def _ends(source: Source, index: int) -> Iterator[Finding]:
    """The flags of an RLDS episode, which an Episode does not hold."""
    if source.kind == "rlds":
        keys = ("is_first", "is_last", "is_terminal")
        with source.recording(source.places[index]) as recording:
            yield from check_ends({key: recording.arrays[key] for key in keys if key in recording.arrays})


def _over_all(kept: dict[str, Episode], splits: list[str]) -> Iterator[Finding]:
    """Checks over all episodes: labels, motion, duplicates."""
    episodes = [*kept.values()]
    yield from check_weak(
        [(e.rho, e.change_point) for e in episodes if e.rho is not None and e.change_point is not None]
    )
    widths = {(e.proprio.shape[1], e.action.shape[1]) for e in episodes}
    if len(widths) != 1:
        if widths:
            text = "episodes have different widths of state and action"
            yield Finding("error", "structure", text, f"{widths}")
        return
    rows = [np.concatenate([e.proprio, e.action], axis=1) for e in episodes]
    yield from check_duplicates([*kept], rows, splits)
    if not episodes[0].action.shape[1]:
        yield Finding("note", "convention", "no action is given, so actions are not checked")
        return
    arms = arms_of(episodes)
    for arm in arms:
        yield from check_motion(arm)
    if not arms:
        text = "what actions do to the state is not checked; describe both with --columns and --action-columns"
        yield Finding("note", "columns", text)


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
