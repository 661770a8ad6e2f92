"""What the looks into cells found, as Markdown: what each method sees and needs, and when it has to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.tables.ledger import Entry
from experiments.tables.looks import Looks
from experiments.tables.tables import Block
from experiments.tables.tables_text import markdown_table
from gap_vla.rollouts.statistics import mcnemar

PARTS = ("before grasp", "before transport")
"""Steps at which an object that varies is asked for: later it is in the hand, which proprioception knows."""

MEANING = (
    "Means over training seeds (each seed in brackets). Position errors are those of a ridge regression on frozen "
    "visual features, on episodes that neither it nor the policy saw; objects that stand still or are in the hand are "
    "left out. Beyond proprioception: the share that the features explain of what a quadratic function of the hand's "
    "pose, gripper and motion leaves open (0: nothing). Alone: held-out loss when the other branch's features are "
    "replaced by their mean. Gradient: norm at the vision branch's parameters, mean over the first half of training."
)

Reader = Callable[[Entry, Mapping[str, Any]], float | None]


def looks_text(block: Block, entries: Sequence[Entry], looks: Looks) -> list[str]:
    """Paragraphs and tables about these entries; empty where nobody looked."""
    found = [(entry, looks.of(entry)) for entry in entries]
    seen = [(entry, one) for entry, one in found if one or entry.gradients]
    if not seen:
        return []
    return [*_what_is_seen(block, seen, looks.untrained(block.name)), *_takeovers(seen)]


def _what_is_seen(
    block: Block, seen: Sequence[tuple[Entry, Mapping[str, Any]]], untrained: Mapping[str, Any]
) -> list[str]:
    readers = _readers([one for _, one in seen])
    rows = [["method", *readers]]
    for arm in block.arms:
        of_arm = [(entry, one) for entry, one in seen if entry.arm == arm.name]
        cells = [_mean_and_each([read(*pair) for pair in of_arm], name) for name, read in readers.items()]
        if any(cells):
            rows.append([arm.name, *cells])
    if len(rows) == 1:
        return []
    if untrained and any(one.get("probe") for _, one in seen):
        nobody = seen[0][0]
        values = [_probe_only(name, read, nobody, untrained) for name, read in readers.items()]
        rows.append(["the same encoder, untrained", *values])
    kept = [place for place in range(len(rows[0])) if place == 0 or any(row[place] for row in rows[1:])]
    return [markdown_table([[row[place] for place in kept] for row in rows]), MEANING]


def _probe_only(name: str, read: Reader, entry: Entry, look: Mapping[str, Any]) -> str:
    return "" if name.startswith("vision gradient") else _mean_and_each([read(entry, look)], name)


def _readers(found: Sequence[Mapping[str, Any]]) -> dict[str, Reader]:
    """Heading to how its figure is read, for everything that any of these looks has."""
    readers: dict[str, Reader] = {"vision gradient": lambda e, _: e.gradients.get("branch/vision_gradient")}
    probes = [one["probe"] for one in found if one.get("probe")]
    for name in dict.fromkeys(name for one in probes for name in one["positions"]):
        for part in PARTS:
            readers[f"{name} {part}: error, mm"] = _within("probe", "positions", name, part, "error", scale=1000.0)
    for name in dict.fromkeys(name for one in probes for name in one.get("beyond_proprio", {})):
        for part in (*PARTS, "all steps"):
            heading = f"{name} {part}, beyond proprioception: R²"
            readers[heading] = _within("probe", "beyond_proprio", name, part, "r2")
    for part in ("all steps", "transitions"):
        readers[f"expert's action, {part}, beyond proprioception: R²"] = _within("probe", "actions", part, "r2")
    for branch, words in (("vision", "vision"), ("proprio", "proprioception")):
        readers[f"loss with {words} alone"] = _within("branch_losses", branch, "all")
    return readers


def _within(*keys: str, scale: float = 1.0) -> Reader:
    def read(entry: Entry, look: Mapping[str, Any]) -> float | None:
        place: Any = look
        for key in keys:
            place = place.get(key) if isinstance(place, Mapping) else None
        return None if place is None else scale * float(place)

    return read


def _mean_and_each(values: Sequence[float | None], heading: str) -> str:
    """
    >>> _mean_and_each([10.04, 12.0], "error, mm"), _mean_and_each([0.25], "R²"), _mean_and_each([None], "R²")
    ('11.0 (10.0, 12.0)', '0.25', '')
    """
    there = [value for value in values if value is not None]
    digits = 1 if heading.endswith("mm") else 2
    if not there:
        return ""
    each = ", ".join(f"{value:.{digits}f}" for value in there)
    mean = f"{np.mean(there):.{digits}f}"
    return (f"{mean} ({each})" if len(there) > 1 else mean).replace("-", "−")


def _takeovers(seen: Sequence[tuple[Entry, Mapping[str, Any]]]) -> list[str]:
    parts = []
    for entry, one in seen:
        if not one.get("takeover"):
            continue
        outcomes = {
            name: np.array([digit == "1" for digit in text]) for name, text in one["takeover"]["outcomes"].items()
        }
        never = outcomes["never"]
        rows = [["the vision policy acts", f"success of {len(never)}", "gained / lost", "exact McNemar p"]]
        for name, won in outcomes.items():
            against = ["", ""]
            if name != "never":
                against = [f"{(won & ~never).sum()} / {(never & ~won).sum()}", f"{mcnemar(won, never):.2g}"]
            rows.append([name, str(won.sum()), *against])
        windows = len(outcomes) - 1
        parts += [
            f"**{entry.arm}, seed {entry.seed}, with takeovers**: in each window {one['takeover']['other']} acts for "
            f"ten steps, on the same layouts; gained and lost against never. p is of {windows} comparisons and not "
            "corrected for their number.",
            markdown_table(rows),
        ]
    return parts
