"""What checks read, what they say, and the page that shows it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from gap_vla.core.outputs import writing_all
from gap_vla.drawing.markup import data_uri, html_table, page, part, plain

Level = Literal["error", "warning", "note"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement about the data.

    Attributes:
        level: `error` (training on it would be wrong), `warning` (look at it), `note`.
        check: name of the check.
        message: what was found and what to do.
        episode: `split[index]`, with its name in the source where that is known; "" for the whole dataset.
        step: first step concerned, or None.
    """

    level: Level
    check: str
    message: str
    episode: str = ""
    step: int | None = None

    @property
    def where(self) -> str:
        return self.episode + (f" step {self.step}" if self.step is not None else "")

    def __str__(self) -> str:
        return f"{self.level}: {self.check}: {self.where + ': ' if self.where else ''}{self.message}"


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode of any RLDS dataset.

    Attributes:
        name: `split[index]`.
        images: camera to uint8[T, h, w, 3].
        fields: every other numeric step field by path (`observation/proprio`, `action`, …), leading dimension T; and
            `rho` and `change_point`, whatever they are.
        language: instruction per step.
        proprio: float32[T, 9 * arms] if the layout of the state is known, else None.
        action: float32[T, A], or float64 where numbers are stored in more bits.
        action_limit: the largest action that there may be; None: in the robot's own units.
        glances: camera to its mean picture in a few cells, which stays when the pictures go.
        source: its name in what the dataset was made from, where the dataset tells.
        state: [T, S], the state as it is stored; None: there is none.
        unsaid: what lies in the place of the instruction, if not one text a step.
        doubt: why the layout does not read this state as what it says, if so.
        prints: camera to a hash of each of its pictures; these stay too.
        read: every step field that was read, whatever it holds.
        texts: fields that tell the instruction, a text per step.
        about: `episode_metadata`, its texts and numbers.
        extra: what its `extra_json` says.
    """

    name: str
    images: dict[str, np.ndarray]
    fields: dict[str, np.ndarray]
    language: list[str]
    proprio: np.ndarray | None
    action: np.ndarray
    action_limit: float | None = 1.0
    glances: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    source: str = ""
    prints: dict[str, frozenset[bytes]] = dataclasses.field(default_factory=dict)
    state: np.ndarray | None = None
    doubt: str = ""
    unsaid: str = ""
    read: frozenset[str] = frozenset()
    texts: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)

    @property
    def known_state(self) -> np.ndarray | None:
        """[T, S], `proprio`, or where the layout is not known the state as it is stored; None: there is none."""
        return self.state if self.proprio is None else self.proprio

    @property
    def arms(self) -> int:
        return 0 if self.proprio is None else self.proprio.shape[1] // 9


_SHOWN_PER_CHECK = 8


@dataclasses.dataclass
class Report:
    """What `check_dataset` found.

    Attributes:
        dataset: the version directory.
        summary: counts, lengths, fields, identity; JSON-able.
        findings: every statement, errors first.
        pictures: (caption, PNG) of some episodes, those with findings first.
    """

    dataset: Path
    summary: dict[str, Any]
    findings: list[Finding]
    pictures: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)

    def count(self, level: str) -> int:
        return sum(f.level == level for f in self.findings)

    def exit_status(self, strict: bool = False) -> int:
        """0 if usable, 1 with errors (`strict`: or warnings)."""
        return int(self.count("error") > 0 or (strict and self.count("warning") > 0))

    def text(self) -> str:
        """The summary, the findings (the first few of each kind), and the verdict."""
        lines = [f"{self.dataset}"]
        lines += [f"  {key}: {value}" for key, value in self.summary.items() if not isinstance(value, dict)]
        shown: Counter[tuple[str, str]] = Counter()
        for finding in self.findings:
            kind = (finding.level, finding.check)
            shown[kind] += 1
            if shown[kind] <= _SHOWN_PER_CHECK:
                lines.append(str(finding))
        for (level, check), count in shown.items():
            if count > _SHOWN_PER_CHECK:
                lines.append(f"{level}: {check}: … {count} of these in all")
        lines.append(f"{self.count('error')} errors, {self.count('warning')} warnings, {self.count('note')} notes")
        return "\n".join(lines)

    def account(self) -> dict[str, Any]:
        """All but the pictures; JSON-able with `default=str`."""
        return {"dataset": self.dataset, **self.summary, "findings": [dataclasses.asdict(f) for f in self.findings]}

    def save(self, directory: Path) -> Path:
        """Writes `check.json` and `check.html`; returns the page."""
        html = directory / "check.html"
        with writing_all([directory / "check.json", html], "check") as (account, page):
            account.write_text(json.dumps(self.account(), indent=2, default=str) + "\n")
            page.write_text(self.page(), encoding="utf-8", errors="backslashreplace")
        return html

    def page(self) -> str:
        """HTML without any outside resource."""
        counts = f"{self.count('error')} errors, {self.count('warning')} warnings, {self.count('note')} notes"
        rows = [(f.level, f.check, f.episode, "" if f.step is None else f.step, f.message) for f in self.findings]
        found = html_table([("level", "check", "episode", "step", "finding"), *rows])
        image = '<h3>{}</h3><img class="chart" src="{}">'
        pictures = [Markup(image).format(caption, data_uri(png, "image/png")) for caption, png in self.pictures]
        head = Markup("<p>{}</p>").format(counts), part("facts", plain(self.summary)), Markup("<h2>Findings</h2>")
        return page(f"{self.dataset.parent.name} {self.dataset.name}", *head, found, *pictures)
