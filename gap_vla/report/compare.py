"""Methods over training seeds, from the summaries of their evaluations: who is better, by how much, how surely."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.foreign import Section
from gap_vla.core.whole import replacing, write_json
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.statistics import PairedDifference, mean_rate, paired_difference, points

HOW_INTERVALS = (
    "Success is the mean over training seeds, differences are paired on shared seeds and layouts. Intervals (95 %) are "
    "over training seeds (Student's t with their number) and never narrower than what the rollouts alone leave open "
    "(Wilson's interval; for differences a bootstrap over layouts); one seed alone speaks about those policies only."
)

LABELS = {"v": "V", "vp": "VP", "vp_gap": "VP+GAP"}
"""How the paper calls the methods; others go by their own names."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trained policy, evaluated.

    Attributes:
        method: `v`, `vp`, `vp_gap`, or any other name.
        seed: of the training.
        outcomes: layout seed to success.
    """

    method: str
    seed: int
    outcomes: Mapping[int, bool]

    @classmethod
    def from_summary(cls, method: str, seed: int, summary: Mapping[str, Any]) -> Cell:
        """From what `evaluate` returns and `summary.json` holds (`layout_seeds` and `outcomes` are read).

        Raises:
            EvaluationError: no outcomes, others than 0 and 1, or not one for each layout.
        """
        found = Section(summary, f"the evaluation of {method}, seed {seed}", EvaluationError)
        layouts = found.list("layout_seeds", lambda items, key: items.whole(key, 0, 2**53))
        outcomes = found.list("outcomes", lambda items, key: items.whole(key, 0, 1))
        if not outcomes or not len(set(layouts)) == len(layouts) == len(outcomes):
            raise EvaluationError(f"{found.where}: {len(outcomes)} outcomes of {len(set(layouts))} layouts")
        return cls(method, seed, {layout: won == 1 for layout, won in zip(layouts, outcomes, strict=True)})


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """Success of one method; `interval` is over training seeds (`gap_vla.rollouts.statistics.mean_rate`)."""

    method: str
    per_seed: Mapping[int, float]
    successes: int
    rollouts: int
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        """Over the seeds, each counting once."""
        return float(np.mean(list(self.per_seed.values())))


@dataclasses.dataclass(frozen=True)
class PairRow:
    """`first` minus `second`, over the training seeds and layouts that both have; None if they share none."""

    first: str
    second: str
    found: PairedDifference | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found; `notes` says what is missing or was left out."""

    methods: tuple[MethodRow, ...]
    pairs: tuple[PairRow, ...]
    notes: tuple[str, ...]


def label(method: str) -> str:
    return LABELS.get(method, method)


def compare(cells: Sequence[Cell]) -> Comparison:
    """Compares the methods of `cells`, in the paper's order, then alphabetically.

    Raises:
        EvaluationError: no cells, or two of the same method and seed.
    """
    if not cells:
        raise EvaluationError("no finished evaluation to compare")
    found = [(cell.method, cell.seed) for cell in cells]
    for twice in {key for key in found if found.count(key) > 1}:
        raise EvaluationError(f"two evaluations of method {twice[0]}, seed {twice[1]}; give one of each")
    order = list(LABELS)
    names = sorted({cell.method for cell in cells}, key=lambda m: (order.index(m) if m in order else len(order), m))
    by_method = {name: {cell.seed: cell for cell in cells if cell.method == name} for name in names}
    notes: list[str] = []
    pairs = [_pair(by_method[b], by_method[a], notes) for a, b in itertools.combinations(names, 2)]
    seeds = sorted({cell.seed for cell in cells})
    for name in names:
        missing = [str(seed) for seed in seeds if seed not in by_method[name]]
        if missing:
            notes.append(f"{label(name)} has no finished evaluation for seed {', '.join(missing)} yet")
    if len(seeds) < 3:
        notes.append(f"{len(seeds)} training seed(s): differences between seeds are often as large; use three or more")
    return Comparison(tuple(_row(name, by_method[name]) for name in names), tuple(pairs), tuple(dict.fromkeys(notes)))


def _row(method: str, cells: Mapping[int, Cell]) -> MethodRow:
    outcomes = [won for cell in cells.values() for won in cell.outcomes.values()]
    per_seed = {seed: float(np.mean(list(cells[seed].outcomes.values()))) for seed in sorted(cells)}
    counts = [(sum(cell.outcomes.values()), len(cell.outcomes)) for cell in cells.values()]
    return MethodRow(method, per_seed, sum(outcomes), len(outcomes), mean_rate(counts))


def _pair(first: Mapping[int, Cell], second: Mapping[int, Cell], notes: list[str]) -> PairRow:
    names = next(iter(first.values())).method, next(iter(second.values())).method
    seeds = sorted(set(first) & set(second))
    pooled = [cells[seed] for cells in (first, second) for seed in seeds]
    layouts = sorted(set.intersection(*(set(cell.outcomes) for cell in pooled))) if pooled else []
    if not layouts:
        notes.append(f"{label(names[0])} and {label(names[1])} share no training seed and layout: nothing is paired")
        return PairRow(*names, None)
    if any(len(cell.outcomes) > len(layouts) for cell in pooled):
        notes.append(
            f"{label(names[0])} − {label(names[1])} uses the {len(layouts)} layouts that all their evaluations share"
        )
    a, b = (np.array([[cells[s].outcomes[layout] for layout in layouts] for s in seeds]) for cells in (first, second))
    return PairRow(*names, paired_difference(a, b))


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _tables(comparison: Comparison) -> list[list[list[str]]]:
    """Two tables as rows of texts, headings first: success, and paired differences."""
    success = [["method", "success %", "95 % interval", "rollouts", "per seed %"]]
    for row in comparison.methods:
        low, high = row.interval
        per_seed = ", ".join(f"{seed}: {_percent(rate)}" for seed, rate in row.per_seed.items())
        interval = f"{_percent(low)} to {_percent(high)}"
        success.append([label(row.method), _percent(row.mean), interval, str(row.rollouts), per_seed])
    pairs = [["difference", "points", "95 % interval", "seeds × layouts", "per seed", "McNemar p"]]
    for pair in comparison.pairs:
        name = f"{label(pair.first)} − {label(pair.second)}"
        if pair.found is None:
            pairs.append([name, "", "", "nothing shared", "", ""])
            continue
        low, high = pair.found.interval
        pairs.append(
            [
                name,
                points(pair.found.difference),
                f"{points(low)} to {points(high)}",
                f"{pair.found.seeds} × {pair.found.layouts}",
                ", ".join(points(value) for value in pair.found.per_seed),
                f"{pair.found.p_mcnemar:.2g}",
            ]
        )
    return [success, pairs] if len(pairs) > 1 else [success]


def as_text(comparison: Comparison) -> str:
    """Tables for a terminal."""
    blocks = []
    for table in _tables(comparison):
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        blocks.append("\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in table))
    return "\n\n".join([*blocks, *(f"Note: {note}." for note in comparison.notes)])


def as_markdown(comparison: Comparison, title: str) -> str:
    """The same tables for a README or a report."""
    blocks = [f"# {title}"]
    for table in _tables(comparison):
        heading, *rows = ["| " + " | ".join(row) + " |" for row in table]
        blocks.append("\n".join([heading, "|" + "---|" * len(table[0]), *rows]))
    blocks.append(f"{HOW_INTERVALS} McNemar's test counts all pairs as independent.")
    return "\n\n".join([*blocks, *(f"Note: {note}." for note in comparison.notes)]) + "\n"


def render(summaries: Sequence[str | Path], out_dir: str | Path, *, methods: Sequence[str] | None = None) -> str:
    """Compares finished runs; writes `table.md`, `table.json` and `table.png` into `out_dir`.

    Args:
        summaries: `summary.json` files of training runs (`task`, `method`, `seed`, and `rollouts` as `evaluate`
            returns them).
        methods: which to show; default: all there are.

    Returns:
        The tables as text.

    Raises:
        EvaluationError: runs of different tasks, of the same method and seed, or without rollouts.
    """
    from gap_vla.report.compare_picture import draw_comparison

    runs = [Section.read(Path(path), EvaluationError) for path in summaries]
    runs = [run for run in runs if methods is None or run.text("method") in methods]
    cells = []
    for run in runs:
        if not run.values.get("rollouts"):
            raise EvaluationError(
                f"{run.where}: the run was not evaluated (eval.episodes is 0); there is nothing to compare"
            )
        rollouts = run.section("rollouts").values
        cells.append(Cell.from_summary(run.text("method"), run.whole("seed", 0, 2**53), rollouts))
    tasks = sorted({run.text("task") for run in runs})
    if len(tasks) > 1:
        raise EvaluationError(f"runs of different tasks cannot be compared: {', '.join(tasks)}")
    comparison = compare(cells)
    title = f"{tasks[0]}: {', '.join(label(row.method) for row in comparison.methods)}"
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "table.md") as temporary:
        temporary.write_text(as_markdown(comparison, title), encoding="utf-8")
    rows = [{**dataclasses.asdict(row), "mean": row.mean} for row in comparison.methods]
    pairs = [dataclasses.asdict(pair) for pair in comparison.pairs]
    write_json(out / "table.json", {"title": title, "methods": rows, "pairs": pairs, "notes": comparison.notes})
    draw_comparison(comparison, out / "table.png", title=title)
    return as_text(comparison)
