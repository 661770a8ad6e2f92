"""The results as Markdown tables and as pictures; differences are of the same recordings, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.joints import joints_table
from experiments.phase_benchmark.rates import rates_table
from experiments.phase_benchmark.study import TITLES
from gap_vla.core.files import read_json
from gap_vla.drawing.episode import EpisodeView, Plot, draw_plot
from gap_vla.drawing.figures import figure_with, save_picture
from gap_vla.drawing.markup import markdown_table

DEFAULT = "ours, defaults"
OWN = ("ours", "paper", "release")
"""How the names of lines begin that are our segmentation under some option, and no rival to it."""

SHOWN = {
    "F1@2": "f1@2",
    "F1@5": "f1@5",
    "F1@10": "f1@10",
    "precision@5": "precision@5",
    "recall@5": "recall@5",
    "timing error (steps)": "timing_error",
    "AUPRC of bumps": "auprc",
}
OF_RHO = {
    "AUPRC": ("auprc", 2),
    "mean ρ": ("rho_mean", 2),
    "width (steps)": ("rho_width", 1),
    "calibration error": ("calibration", 3),
}
CURVES = {
    "penalty": "penalty",
    "alpha": "alpha",
    "beta": "beta",
    "rest": "rest",
    "noise": "noise (mm and °)",
    "rate": "rate (Hz)",
    "min_size": "min_size",
    "demos": "demonstrations (AUPRC of ρ)",
}
"""What is drawn as a curve, and its title."""


def write(files: Mapping[str, Path], out: Path, figures: Path) -> list[Path]:
    """Writes tables and pictures of the JSON file of every stage; returns their paths."""
    results = {stage: read_json(file) for stage, file in files.items()}
    tables = out / "tables.md"
    tables.write_text(markdown(results), encoding="utf-8")
    figures.mkdir(parents=True, exist_ok=True)
    drawn = {
        "finders": draw_finders(results["finders"]["results"]),
        "sensitivity": draw_curves(curves_of(results)),
        "width": draw_widths(results["width"]["results"]),
    }
    for name, picture in drawn.items():
        save_picture(picture, figures / f"phases_{name}.png", dpi=110)
    return [tables, *(figures / f"phases_{name}.png" for name in drawn)]


# ---- differences


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
        values.append(_pooled_f1(first) - _pooled_f1(second))
        drawn += (_pooled_f1(first[chosen]) - _pooled_f1(second[chosen])) / len(pairs)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def _pooled_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of [..., recordings, (matched, found, true)], counts pooled over recordings; 1 where there are none."""
    matched, found, true = np.moveaxis(np.asarray(counts, float).sum(axis=-2), -1, 0)
    return np.where(found + true > 0, 2 * matched / np.maximum(found + true, 1), 1.0)


def _difference(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Of the scores of two finders on each task, as text."""

    def counts(scores: Mapping[str, Any]) -> np.ndarray:
        return np.array([[int(number) for number in one.split("/")] for one in scores["counts@5"].split()])

    found = mean_difference([(counts(first), counts(second)) for first, second in pairs])
    value, low, high = (f"{number:+.2f}".replace("-", "−") for number in found)
    return f"{value} ({low} to {high})"


def _rivals(finders: Mapping[str, Any]) -> list[str]:
    return [name for name in finders if not name.startswith(OWN)]


def over_the_tasks(finders: Mapping[str, Any], shown: int = 3) -> list[list[str]]:
    """Rows of the default beside rivals, as means over the tasks: rival, its F1@5, the default's less the rival's.
    First the best rivals as one method each, then the best rival of each task: the one that is best on the recordings
    it is tuned on, which is what a user can choose, and the one that is best on those it is scored on, which is in its
    favour.
    """
    rivals, default = _rivals(finders), finders[DEFAULT]["tasks"]

    def f1(name: str) -> float:
        return float(np.mean([scores["f1@5"] for scores in finders[name]["tasks"].values()]))

    def row(title: str, chosen: Mapping[str, str]) -> list[str]:
        scores = {task: finders[name]["tasks"][task] for task, name in chosen.items()}
        mean = float(np.mean([one["f1@5"] for one in scores.values()]))
        return [title, f"{mean:.2f}", _difference([(default[task], scores[task]) for task in default])]

    rows = [row(name, dict.fromkeys(default, name)) for name in sorted(rivals, key=f1, reverse=True)[:shown]]
    for title, key in (("chosen on the tuning half", "tuning_f1@5"), ("chosen on the test half", "f1@5")):
        best = {task: _best(finders, task, key) for task in default}
        rows.append(row(f"best rival of each task, {title}", best))
    return rows


def _best(finders: Mapping[str, Any], task: str, key: str = "f1@5") -> str:
    """The rival that is best on a task."""
    return max(_rivals(finders), key=lambda name: finders[name]["tasks"][task][key])


def against_the_best(finders: Mapping[str, Any]) -> list[list[str]]:
    """A row per task: the default, the best rival on it (by F1@5 on the same test recordings, in its favour), and the
    difference.
    """
    rows = []
    for task, default in finders[DEFAULT]["tasks"].items():
        best = _best(finders, task)
        rival = finders[best]["tasks"][task]
        difference = _difference([(default, rival)])
        rows.append([task, f"{default['f1@5']:.2f}", best, f"{rival['f1@5']:.2f}", difference])
    return rows


# ---- tables


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a benchmark run; `results` holds the JSON of every stage."""
    counts, finders, rho = (
        results["finders"]["recordings"],
        results["finders"]["results"],
        results["rho"]["results"],
    )
    tasks = [*finders[DEFAULT]["tasks"]]
    means = [[name, *(f"{finders[name]['mean'][key]:.2f}" for key in SHOWN.values())] for name in _ranked(finders)]
    beside = ["task", "default", "best rival, tuned", "its F1@5", "default − rival (95 %)"]
    of_rho = []
    for name in sorted(rho, key=lambda name: -rho[name]["mean"]["auprc"]):
        for title, (what, (key, digits)) in zip((name, "", "", ""), OF_RHO.items()):
            each = [rho[name]["tasks"][task][key] for task in tasks]
            of_rho.append([title, what, *(f"{value:.{digits}f}" for value in (*each, rho[name]["mean"][key]))])
    tables: dict[str, list[list[str]]] = {
        "**Change points, mean over the tasks** (test half)": [["finder", *SHOWN], *means],
        "**F1@5 by task**": _by_task(finders),
        "**F1@5 beside the best rival of each task**": [beside, *against_the_best(finders)],
        "**F1@5 beside rivals, mean over the tasks**": [OVER_THE_TASKS, *over_the_tasks(finders)],
        **untouched_tables(results["untouched"]["results"]),
        "**ρ by task**": [["ρ", "figure", *tasks, "mean"], *of_rho],
    }
    if "rates" in results:
        tables["**Rates and numbers of demonstrations**"] = rates_table(results["rates"]["results"])
    if "joints" in results:
        tables["**F1@5 from joints**"] = joints_table(results["joints"]["results"])
    for what, values in curves_of(results).items():
        scores = [f"{score['mean']:.3f}" for score in values.values()]
        tables[f"**{what}**"] = [["", *map(str, values)], ["AUPRC of ρ" if what == "demos" else "F1", *scores]]
    intro = f"Recordings: {', '.join(f'{task} {n}' for task, n in counts.items())}; every second one tunes."
    return "\n\n".join([intro, *(f"{title}\n\n{markdown_table(rows)}" for title, rows in tables.items())]) + "\n"


OVER_THE_TASKS = ["rival, tuned", "its F1@5", "default − rival (95 %)"]


def untouched_tables(sets: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By title a table of all sets that nobody tuned on, and F1@5 by task for each."""
    rows, each = [["recordings", "default", *OVER_THE_TASKS]], {}
    for name, found in sets.items():
        finders = found["results"]
        first = [f"{TITLES[name]} ({sum(found['recordings'].values())} recordings)"]
        first.append(f"{finders[DEFAULT]['mean']['f1@5']:.2f}")
        for title, rival in zip((first, ["", ""], ["", ""]), over_the_tasks(finders, shown=1)):
            rows.append([*title, *rival])
        each[f"**{TITLES[name]}: F1@5 by task**"] = _by_task(finders)
    return {"**Recordings that nobody tuned on: F1@5, mean over the tasks**": rows, **each}


def _ranked(finders: Mapping[str, Any]) -> list[str]:
    return sorted(finders, key=lambda name: -finders[name]["mean"]["f1@5"])


def _by_task(finders: Mapping[str, Any]) -> list[list[str]]:
    rows = [["finder", *finders[DEFAULT]["tasks"]]]
    for name in _ranked(finders):
        rows.append([name, *(f"{scores['f1@5']:.2f}" for scores in finders[name]["tasks"].values())])
    return rows


def curves_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """{what: {value: {"mean"}}} of all that was varied."""
    return {**results["sensitivity"]["results"], "demos": results["demonstrations"]["results"]}


# ---- pictures


def draw_finders(finders: Mapping[str, Any]) -> Any:
    """A bar a finder, a dot a task."""
    ranked = _ranked(finders)[::-1]
    figure, ((axes,),) = figure_with(9, 0.36 * len(ranked) + 1.2)
    for row, name in enumerate(ranked):
        scores = [s["f1@5"] for s in finders[name]["tasks"].values()]
        colour = "#1f6feb" if name.startswith("ours") else "#9aa4b2"
        axes.barh(row, finders[name]["mean"]["f1@5"], color=colour)
        axes.plot(scores, [row] * len(scores), ".", color="0.15", ms=4)
    axes.set_yticks(range(len(ranked)), ranked, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1 at ±5 steps (bar: mean, dots: tasks)")
    return figure


def draw_curves(curves: Mapping[str, Any]) -> Any:
    """A panel for each of `CURVES`."""
    figure, panels = figure_with(11, 5.2, 4, 2)
    for panel, (what, title) in zip(panels.flat, CURVES.items()):
        lines = {"defaults": what}
        if what == "noise":
            lines["without smoothing and dead-band"] = "noise, no smoothing, no dead-band"
        for label, line in lines.items():
            scores = [score["mean"] for score in curves[line].values()]
            panel.plot([str(value) for value in curves[line]], scores, "o-", ms=3, label=label)
        panel.set_ylim(0, 1)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)
        if len(lines) > 1:
            panel.legend(fontsize=6)
    return figure


def draw_widths(found: Mapping[str, Any]) -> Any:
    """A column a task, a row a variant of ρ; red: change points, dashed: true switches."""
    names = list(next(iter(found.values()))["rho"])
    figure, axes = figure_with(11, 1.15 * len(names) + 0.6, len(found), len(names), sharex="col", sharey=True)
    for column, (task, one) in enumerate(found.items()):
        for row, name in enumerate(names):
            panel, values = axes[row, column], np.array(one["rho"][name])
            phases = np.searchsorted(one["switches"], np.arange(len(values)), side="right")
            view = EpisodeView(task, len(values), change_points=np.array(one["change_points"]), phases=phases)
            draw_plot(panel, Plot("ρ", {name: values}), view)
            panel.tick_params(labelsize=7)
            panel.set_title(f"{task}: {name}, mean {np.mean(values):.2f}", fontsize=8, loc="left", pad=3)
    for panel in axes[-1]:
        panel.set_xlabel("step", fontsize=8)
    return figure
