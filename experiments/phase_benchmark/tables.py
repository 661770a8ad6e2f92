"""The results as Markdown tables and as pictures; differences are of the same recordings, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.study import TITLES as SETS
from gap_vla.drawing.figures import figure_with, save_picture
from gap_vla.drawing.markup import markdown_table

DEFAULT = "ours, defaults"
OWN = ("ours", "paper", "release")
"""How the names of lines begin that are our segmentation under some option, and no rival to it."""

TITLES = {"noise": "noise (mm and °)", "rate": "rate (Hz)", "demos": "demonstrations (AUPRC of ρ)"}
OVER_THE_TASKS = ("rival, tuned", "its F1@5", "default − rival (95 %)")
OF_RHO = {
    "AUPRC": ("auprc", 2),
    "mean ρ": ("rho_mean", 2),
    "width (steps)": ("rho_width", 1),
    "calibration error": ("calibration", 3),
}
SHOWN = ("f1@2", "f1@5", "f1@10", "precision@5", "recall@5", "timing_error", "auprc")


def pooled_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of [..., recordings, (matched, found, true)], counts pooled over recordings; 1 where there are none."""
    matched, found, true = np.moveaxis(np.asarray(counts, float).sum(axis=-2), -1, 0)
    return np.where(found + true > 0, 2 * matched / np.maximum(found + true, 1), 1.0)


def counts_of(text: str) -> np.ndarray:
    """int[recordings, (matched, found, true)] of a line's `counts@5`.

    >>> counts_of("4/5/5 5/5/6").tolist()
    [[4, 5, 5], [5, 5, 6]]
    """
    return np.array([[int(number) for number in recording.split("/")] for recording in text.split()])


def mean_difference(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean over tasks of the difference in F1, and its 95 % interval, recordings resampled within each task.

    Args:
        pairs: for each task int[recordings, (matched, found, true)] of the first and of the second finder, on the same
            recordings.

    >>> better, worse = np.array([(4, 4, 4)] * 5), np.array([(2, 4, 4)] * 5)
    >>> mean_difference([(better, worse), (worse, worse)])
    (0.25, 0.25, 0.25)
    """
    rng = np.random.default_rng(seed)
    values, drawn = [], np.zeros(resamples)
    for first, second in pairs:
        chosen = rng.integers(len(first), size=(resamples, len(first)))
        values.append(pooled_f1(first) - pooled_f1(second))
        drawn += (pooled_f1(first[chosen]) - pooled_f1(second[chosen])) / len(pairs)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def over_the_tasks(finders: Mapping[str, Any], shown: int = 3) -> list[list[str]]:
    """Rows of the default beside rivals, as means over the tasks: rival, its F1@5, the default's less the rival's.
    First the best rivals as one method each, then the best rival of each task: the one that is best on the recordings
    it is tuned on, which is what a user can choose, and the one that is best on those it is scored on, which is in its
    favour.
    """
    rivals = _rivals(finders)
    tasks = list(finders[DEFAULT]["tasks"])

    def row(title: str, chosen: Mapping[str, str]) -> list[str]:
        scores = {task: finders[name]["tasks"][task] for task, name in chosen.items()}
        f1 = float(np.mean([score["f1@5"] for score in scores.values()]))
        return [title, f"{f1:.2f}", _difference([(finders[DEFAULT]["tasks"][t], scores[t]) for t in tasks])]

    ranked = sorted(rivals, key=lambda name: -np.mean([s["f1@5"] for s in finders[name]["tasks"].values()]))
    rows = [row(name, dict.fromkeys(tasks, name)) for name in ranked[:shown]]
    for title, key in (("chosen on the tuning half", "tuning_f1@5"), ("chosen on the test half", "f1@5")):
        scored = {t: [(finders[name]["tasks"][t][key], name) for name in rivals] for t in tasks}
        best = {t: max(scores, key=lambda pair: pair[0])[1] for t, scores in scored.items()}
        rows.append(row(f"best rival of each task, {title}", best))
    return rows


def against_the_best(finders: Mapping[str, Any]) -> list[list[str]]:
    """A row per task: the default, the best rival on it (by F1@5 on the same test recordings, in its favour), and the
    difference; and what the default gained.
    """
    rivals = _rivals(finders)
    before = next(name for name in finders if name.startswith("ours before"))
    rows = []
    for task, default in finders[DEFAULT]["tasks"].items():
        best = max(rivals, key=lambda name: finders[name]["tasks"][task]["f1@5"])
        row = [task, f"{default['f1@5']:.2f}"]
        for shown, name in ([best], best), ([], before):
            other = finders[name]["tasks"][task]
            row += [*shown, f"{other['f1@5']:.2f}", _difference([(default, other)])]
        rows.append(row)
    return rows


def _difference(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Of the scores of two finders on each task, as text."""
    counts = [(counts_of(first["counts@5"]), counts_of(second["counts@5"])) for first, second in pairs]
    value, low, high = (f"{number:+.2f}".replace("-", "−") for number in mean_difference(counts))
    return f"{value} ({low} to {high})"


def _rivals(finders: Mapping[str, Any]) -> list[str]:
    return [name for name in finders if not name.startswith(OWN)]


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a benchmark run; `results` holds the JSON of every stage."""
    counts = results["finders"]["recordings"]
    parts = [f"Recordings: {', '.join(f'{task} {n}' for task, n in counts.items())}; every second one tunes.", ""]
    finders = results["finders"]["results"]
    ranked = sorted(finders, key=lambda name: -finders[name]["mean"]["f1@5"])
    head = ("finder", "F1@2", "F1@5", "F1@10", "precision@5", "recall@5", "timing error (steps)", "AUPRC of bumps")
    rows = [[name, *(f"{finders[name]['mean'][key]:.2f}" for key in SHOWN)] for name in ranked]
    parts += ["**Change points, mean over the tasks** (test half)", "", _table(head, rows)]
    tasks = list(next(iter(finders.values()))["tasks"])
    rows = [[name, *(f"{finders[name]['tasks'][task]['f1@5']:.2f}" for task in tasks)] for name in ranked]
    parts += ["**F1@5 by task**", "", _table(("finder", *tasks), rows)]
    beside = ["task", "default", "best rival, tuned", "its F1@5", "default − rival (95 %)"]
    beside += ["before", "default − before (95 %)"]
    parts += ["**F1@5 beside the best rival of each task**", "", _table(beside, against_the_best(finders))]
    parts += ["**F1@5 beside rivals, mean over the tasks**", "", _table(OVER_THE_TASKS, over_the_tasks(finders))]
    if sets := results.get("untouched", {}).get("results"):
        parts += untouched_tables(sets)
    rho = results["rho"]["results"]
    rows = []
    for name in sorted(rho, key=lambda name: -rho[name]["mean"]["auprc"]):
        title = name
        for what, (key, digits) in OF_RHO.items():
            each = [f"{rho[name]['tasks'][task][key]:.{digits}f}" for task in tasks]
            rows.append([title, what, *each, f"{rho[name]['mean'][key]:.{digits}f}"])
            title = ""
    parts += ["**ρ by task**", "", _table(("ρ", "figure", *tasks, "mean"), rows)]
    for what, values in _curves(results).items():
        name = "AUPRC of ρ" if what == "demos" else "F1"
        rows = [[name, *(f"{score['mean']:.3f}" for score in values.values())]]
        parts += [f"**{what}**", "", _table(("", *(str(value) for value in values)), rows)]
    return "\n".join(parts)


def untouched_tables(sets: Mapping[str, Any]) -> list[str]:
    """A table of all sets that nobody tuned on, and F1@5 by task for each."""
    rows, each = [], []
    for name, found in sets.items():
        finders, counts = found["results"], found["recordings"]
        tasks = list(counts)
        ours = f"{finders[DEFAULT]['mean']['f1@5']:.2f}"
        title = f"{SETS[name]} ({sum(counts.values())} recordings)"
        for rival in over_the_tasks(finders, shown=1):
            rows.append([title, ours, *rival])
            title = ours = ""
        ranked = sorted(finders, key=lambda line: -finders[line]["mean"]["f1@5"])
        cells = [[line, *(f"{finders[line]['tasks'][task]['f1@5']:.2f}" for task in tasks)] for line in ranked]
        each += [f"**{SETS[name]}: F1@5 by task**", "", _table(("finder", *tasks), cells)]
    head = ("recordings", "default", *OVER_THE_TASKS)
    return ["**Recordings that nobody tuned on: F1@5, mean over the tasks**", "", _table(head, rows), *each]


def _curves(results: Mapping[str, Any]) -> dict[str, Any]:
    return {**results["sensitivity"]["results"], "demos": results["demonstrations"]["results"]}


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes phases_finders.png and phases_sensitivity.png."""
    finders = results["finders"]["results"]
    ranked = sorted(finders, key=lambda name: finders[name]["mean"]["f1@5"])
    figure, ((axes,),) = figure_with(9, 0.36 * len(ranked) + 1.2)
    for row, name in enumerate(ranked):
        scores = [s["f1@5"] for s in finders[name]["tasks"].values()]
        colour = "#1f6feb" if name.startswith("ours") else "#9aa4b2"
        axes.barh(row, finders[name]["mean"]["f1@5"], color=colour)
        axes.plot(scores, [row] * len(scores), ".", color="0.15", ms=4)
    axes.set_yticks(range(len(ranked)), ranked, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1 at ±5 steps (bar: mean, dots: tasks)")
    sheet, panels = figure_with(11, 5.2, 4, 2)
    shown = ("penalty", "alpha", "beta", "rest", "noise", "rate", "min_size", "demos")
    for panel, what in zip(panels.flat, shown):
        for line in [what, *(["noise, no smoothing, no dead-band"] if what == "noise" else [])]:
            values = _curves(results)[line]
            label = "defaults" if line == "noise" else "without smoothing and dead-band"
            scores = [score["mean"] for score in values.values()]
            panel.plot([str(v) for v in values], scores, "o-", ms=3, label=label if what == "noise" else None)
        panel.set_ylim(0, 1)
        panel.set_title(TITLES.get(what, what), fontsize=9)
        panel.tick_params(labelsize=7)
        if what == "noise":
            panel.legend(fontsize=6)
    out = []
    for name, picture in (("phases_finders", figure), ("phases_sensitivity", sheet)):
        out.append(folder / f"{name}.png")
        save_picture(picture, out[-1], dpi=110)
    return out


def _table(head: Sequence[str], rows: list[list[str]]) -> str:
    """A Markdown table with a blank line after it."""
    return markdown_table([head, *rows]) + "\n"
