"""What checks say, and the page that shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from gap_vla.core.files import mark, replacing, write_json
from gap_vla.drawing.markup import data_uri, plain, render

LEVELS = ("error", "warning", "note")
"""`error`: training on it would be wrong; `warning`: look at it; `note`: a convention, which is as good as another."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement about one episode, or about all.

    Attributes:
        check: name of the check.
        message: what was found and what to do; the same for every episode of which it is found.
        episode: its name; "" for the whole dataset.
        detail: the value in this episode, or the place.
    """

    level: Literal["error", "warning", "note"]
    check: str
    message: str
    episode: str = ""
    detail: str = ""


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
