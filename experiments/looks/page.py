"""What probes and takeovers found, as sections of the page about runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from experiments.looks.kept import require_takeover
from gap_vla.core.foreign import content, parsed, refusing
from gap_vla.drawing.figures import COLORS, chart, figure_with
from gap_vla.drawing.markup import command_block, html_table, note
from gap_vla.report.comparison import words
from gap_vla.report.runs import Run
from gap_vla.rollouts.summary import told_cut_short

LOWEST = -0.25
"""Of the axes for R²; what is worse stands at the edge as an arrow (the table has its value)."""


def sections(runs: Sequence[Run], probe: Mapping[str, Any] | None) -> list[tuple[str, str, Markup]]:
    """Key, title and HTML of each section, empty where there is nothing to show: of what `probe_runs` returned, and of
    the takeovers that lie in the runs.
    """
    return [
        ("probe", "Linear probe of the frozen visual features", probe_section(probe)),
        ("silenced", "What the policies need", silenced_section(probe)),
        ("takeover", "Another policy takes over", takeovers_section(runs)),
    ]


def probe_section(probe: Mapping[str, Any] | None) -> Markup:
    if not probe:
        return Markup()
    told = note(
        f"{probe['episodes']} episodes of the expert, {probe['steps']} steps; every step is predicted by a ridge "
        "regression that saw no step of its episode. Before the grasp only the pictures tell where an object is; "
        "afterwards it moves with the hand. Beyond proprioception: what the features explain of what the hand's pose, "
        "gripper and motion leave open. The figure's intervals are bootstrapped over episodes. Untrained: a network of "
        f"the architecture of {probe['labels'][0]}, with fresh weights. The paper's probe on "
        "assembly is another one (its text gives concat 61 %, gap 74 %)."
    )
    if still := probe.get("still"):
        told += note(f"Not asked for, since it stands still in these episodes: {', '.join(still)}.")
    return (
        chart(probe_chart(probe), "probe results")
        + html_table(_probe_rows(probe))
        + told
        + command_block(probe["command"])
    )


def _probe_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """What is read off, one line each; R² and error in cm, or AUC, of every run's features."""
    found = probe["probes"]
    of_all = {label: one["positions"] for label, one in found.items()}
    kinds = dict.fromkeys((name, part) for of_run in of_all.values() for name in of_run for part in of_run[name])
    rows = [["held-out", *found, "guessing the mean"]]
    for name, part in kinds:
        ones = [of_run.get(name, {}).get(part) for of_run in of_all.values()]
        cells = ["" if one is None else f"R² {one['r2']:.2f}, {100 * one['error']:.1f} cm" for one in ones]
        guess = next(one["mean_error"] for one in ones if one is not None)
        rows.append([f"position of {name}, {part}", *cells, f"{100 * guess:.1f} cm"])
    for what, figures in _beyond_proprioception(found).items():
        cells = ["" if one is None else f"R² {one['r2']:.2f}" for one in figures]
        rows.append([f"{what}, beyond proprioception", *cells, "R² 0"])
    areas = [one["transition"] for one in found.values()]
    cells = [f"AUC {one['auc']:.3f}, {100 * one['balanced_accuracy']:.0f} %" for one in areas]
    return [*rows, ["near a switch of phase (balanced accuracy)", *cells, "50 %"]]


def _beyond_proprioception(found: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What is asked to the result of each run's features, None where it was not asked."""
    flat: list[dict[str, Any]] = []
    for one in found.values():
        objects = one.get("beyond_proprio", {}).items()
        of_run = {f"position of {name}, {part}": result for name, parts in objects for part, result in parts.items()}
        flat.append(of_run | {f"expert's action, {part}": result for part, result in one.get("actions", {}).items()})
    names = dict.fromkeys(name for of_run in flat for name in of_run)
    return {name: [of_run.get(name) for of_run in flat] for name in names}


def silenced_section(probe: Mapping[str, Any] | None) -> Markup:
    if not probe or not probe.get("branch_losses"):
        return Markup()
    rows = [["held-out loss of", "windows", "both branches", "vision alone", "proprioception alone"]]
    for label, found in probe["branch_losses"].items():
        for part in found["both"]:
            losses = [f"{found[heard][part]:.4f}" for heard in ("both", "vision", "proprio")]
            rows.append([label, part, *losses])
    told = note(
        "Finished policies on the held-out episodes of their own dataset. Alone: the other branch's features are "
        "replaced by their mean. A large loss with vision alone means that the policy leans on proprioception, and the "
        "other way round. Near change points: the window ends within three steps of one."
    )
    return html_table(rows) + told + command_block(probe["command"])


def takeovers_section(runs: Sequence[Run]) -> Markup:
    parts = []
    for run in runs:
        for path in sorted((run.path / "takeover").glob("*/takeover.json")):
            with refusing(f"{path.parent}: a takeover that cannot be read", "move it away, and look again"):
                found, settings = (parsed(content(file)) for file in (path, path.parent / "settings.json"))
                require_takeover(found, path.parent, run, runs)
                title = f"{found['other']} takes over from {found['main']}, {words(settings['variant'])}"
                told = note(
                    f"{found['episodes']} rollouts per window on the same layouts; without any takeover "
                    f"{found['windows'][0]['successes']} succeed. Lines: 95 % intervals of the paired difference. "
                    "Always: the other policy alone."
                )
                if lost := told_cut_short({one["window"]: one.get("simulator_errors") for one in found["windows"]}):
                    told += note(lost)
                drawn = chart(takeover_chart(found), "change of success for each window")
            parts += [Markup("<h3>{}</h3>").format(title), drawn, told, command_block(settings.get("command", ""))]
    return Markup().join(parts)


def probe_chart(result: Mapping[str, Any]) -> Any:
    """R² of each object before the grasp, and AUC of steps near a switch of phase, with bootstrap intervals."""
    labels = result["labels"]
    objects = list(dict.fromkeys(name for found in result["probes"].values() for name in found["positions"]))
    panels: list[tuple[str, list[Any]]] = []
    for name in objects:
        for part in ("before grasp", "all steps"):
            found = [result["probes"][label]["positions"].get(name, {}).get(part) for label in labels]
            if any(found):
                values = [None if f is None else (f["r2"], *f["r2_interval"]) for f in found]
                panels.append((f"position of {name}\n{part}: R²", values))
    areas = [result["probes"][label]["transition"] for label in labels]
    panels.append(("near a switch\nof phase: AUC", [(f["auc"], *f["auc_interval"]) for f in areas]))
    figure, (row,) = figure_with(2.0 + 2.1 * len(panels), 1.0 + 0.36 * len(labels), len(panels), sharey=True)
    for axes, (title, values) in zip(row, panels):
        for place, value in enumerate(reversed(values)):
            if value is not None:
                color = "#999999" if labels[-1 - place] == "untrained" else COLORS[0]
                axes.hlines(place, value[1], value[2], color=color, linewidth=2.5)
                inside = value[0] >= LOWEST
                axes.plot(max(value[0], LOWEST + 0.04), place, "D" if inside else "<", color=color)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(max(axes.get_xlim()[0], LOWEST), 1.03)
        axes.grid(axis="x", color="#eeeeee")
    row[0].set_yticks(range(len(labels)), list(reversed(labels)))
    return figure


def takeover_chart(result: Mapping[str, Any]) -> Any:
    """Change of success for each window, with paired intervals."""
    windows = [w for w in result["windows"] if w["window"] != "never"]
    figure, ((axes,),) = figure_with(max(5.0, 1.6 + 0.62 * len(windows)), 3.4)
    for place, window in enumerate(windows):
        color = "#999999" if window["window"] == "always" else COLORS[0]
        low, high = (100 * end for end in window["difference_interval"])
        axes.vlines(place, low, high, color=color, linewidth=3)
        axes.plot(place, 100 * window["difference"], "D", color=color)
    axes.axhline(0, color="#555555", linewidth=1)
    axes.set_xticks(range(len(windows)), [w["window"] for w in windows], rotation=35, ha="right")
    axes.set_ylabel("change of success, points")
    axes.grid(axis="y", color="#eeeeee")
    return figure
