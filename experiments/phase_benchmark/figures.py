"""The results as Markdown tables and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.phase_benchmark.differences import DEFAULT, against_the_best, over_the_tasks
from experiments.phase_benchmark.untouched import TITLES as SETS
from gap_vla.core.outputs import writing
from gap_vla.core.whole import replacing

TITLES = {"noise": "noise (mm and °)", "rate": "rate (Hz)", "demos": "demonstrations (AUPRC of ρ)"}
OVER_THE_TASKS = ("rival, tuned", "its F1@5", "default − rival (95 %)")
OF_RHO = {
    "AUPRC": ("auprc", 2),
    "mean ρ": ("rho_mean", 2),
    "width (steps)": ("rho_width", 1),
    "calibration error": ("calibration", 3),
}
SHOWN = ("f1@2", "f1@5", "f1@10", "precision@5", "recall@5", "timing_error", "auprc")


def markdown(results: Mapping[str, Any]) -> str:
    """All tables of a benchmark run; `results` holds the JSON of every stage."""
    counts = results["finders"]["recordings"]
    parts = [f"Recordings: {', '.join(f'{task} {n}' for task, n in counts.items())}; every second one tunes.", ""]
    finders = results["finders"]["results"]
    ranked = sorted(finders, key=lambda name: -finders[name]["mean"]["f1@5"])
    head = ("finder", "F1@2", "F1@5", "F1@10", "precision@5", "recall@5", "timing error (steps)", "AUPRC of bumps")
    rows = [[name, *(f"{finders[name]['mean'][key]:.2f}" for key in SHOWN)] for name in ranked]
    parts += ["**Change points, mean over the tasks** (test half)", "", table(head, rows)]
    tasks = list(next(iter(finders.values()))["tasks"])
    rows = [[name, *(f"{finders[name]['tasks'][task]['f1@5']:.2f}" for task in tasks)] for name in ranked]
    parts += ["**F1@5 by task**", "", table(("finder", *tasks), rows)]
    if rows := against_the_best(finders):
        beside = ["task", "default", "best rival, tuned", "its F1@5", "default − rival (95 %)"]
        beside += ["before", "default − before (95 %)"][: len(rows[0]) - len(beside)]
        parts += ["**F1@5 beside the best rival of each task**", "", table(beside, rows)]
    if rows := over_the_tasks(finders):
        parts += ["**F1@5 beside rivals, mean over the tasks**", "", table(OVER_THE_TASKS, rows)]
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
    parts += ["**ρ by task**", "", table(("ρ", "figure", *tasks, "mean"), rows)]
    for what, values in _curves(results).items():
        name = "AUPRC of ρ" if what == "demos" else "F1"
        rows = [[name, *(f"{score['mean']:.3f}" for score in values.values())]]
        parts += [f"**{what}**", "", table(("", *(str(value) for value in values)), rows)]
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
        each += [f"**{SETS[name]}: F1@5 by task**", "", table(("finder", *tasks), cells)]
    head = ("recordings", "default", *OVER_THE_TASKS)
    return ["**Recordings that nobody tuned on: F1@5, mean over the tasks**", "", table(head, rows), *each]


BEGIN, END = "<!-- tables of results/phases/tables.md -->", "<!-- end of tables -->"


def into_page(tables: str, page: Path) -> Path:
    """Puts the tables between the page's two marks, in place of what is there."""
    head, rest = page.read_text().split(BEGIN)
    _, tail = rest.split(END)
    with replacing(page) as temporary:
        temporary.write_text(f"{head}{BEGIN}\n\n{tables}\n{END}{tail}")
    return page


def _curves(results: Mapping[str, Any]) -> dict[str, Any]:
    return {**results["sensitivity"]["results"], "demos": results["demonstrations"]["results"]}


def table(head: Sequence[str], rows: list[list[str]]) -> str:
    """A Markdown table with a blank line after it."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes phases_finders.png and phases_sensitivity.png."""
    from matplotlib.figure import Figure

    finders = results["finders"]["results"]
    ranked = sorted(finders, key=lambda name: finders[name]["mean"]["f1@5"])
    figure = Figure(figsize=(9, 0.36 * len(ranked) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for row, name in enumerate(ranked):
        scores = [s["f1@5"] for s in finders[name]["tasks"].values()]
        colour = "#1f6feb" if name.startswith("ours") else "#9aa4b2"
        axes.barh(row, finders[name]["mean"]["f1@5"], color=colour)
        axes.plot(scores, [row] * len(scores), ".", color="0.15", ms=4)
    axes.set_yticks(range(len(ranked)), ranked, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1 at ±5 steps (bar: mean, dots: tasks)")
    sheet = Figure(figsize=(11, 5.2), layout="constrained")
    shown = ("penalty", "alpha", "beta", "rest", "noise", "rate", "min_size", "demos")
    for place, what in enumerate(shown, 1):
        panel = sheet.add_subplot(2, 4, place)
        for line in [what, *(["noise, no smoothing, no dead-band"] if what == "noise" else [])]:
            values = _curves(results)[line]
            label = "defaults" if line == "noise" else "without smoothing and dead-band"
            scores = [score["mean"] for score in values.values()]
            panel.plot([str(v) for v in values], scores, "o-", ms=3, label=label if what == "noise" else None)
        panel.set_ylim(0, 1)
        panel.set_title(
            {"noise": "noise (mm and °)", "rate": "rate (Hz)", "demos": "demonstrations (AUPRC of ρ)"}.get(what, what),
            fontsize=9,
        )
        panel.tick_params(labelsize=7)
        if what == "noise":
            panel.legend(fontsize=6)
    out = []
    for name, picture in (("phases_finders", figure), ("phases_sensitivity", sheet)):
        out.append(folder / f"{name}.png")
        with writing(out[-1], "phase_benchmark") as temporary:
            picture.savefig(temporary, dpi=110, format="png")
    return out
