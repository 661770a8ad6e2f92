"""Methods over training seeds on the same layouts: who is better, by how much, how surely."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core import identity
from gap_vla.core.errors import UserError
from gap_vla.core.files import replacing, write_json
from gap_vla.core.identity import flat, in_words
from gap_vla.drawing.figures import distinct, figure_with, save_picture
from gap_vla.drawing.markup import markdown_table, text_table, untagged
from gap_vla.report.runs import NO_PART_OF_THE_RESULT, Rollouts, Run, by_method, read_runs
from gap_vla.rollouts.records import told_cut_short
from gap_vla.rollouts.statistics import PairedDifference, mean_rate, paired_difference, percent, points

HOW_INTERVALS = (
    "Success is the mean over training seeds, differences are paired on shared seeds and layouts. Intervals (95 %) are "
    "over training seeds (Student's t with their number) and never narrower than what the rollouts leave open "
    "(Wilson's interval; for differences a bootstrap over seeds and layouts); one seed alone speaks about those "
    "policies only."
)
WITH_P = f"{HOW_INTERVALS} McNemar's test counts all pairs as independent."

LABELS = {"v": "V", "vp": "VP", "vp_slow": "VP, slower branch", "vp_gap": "VP+GAP"}
"""How the paper calls Octo's methods; others go by their own names."""

SCENES = {"default": "in distribution", "positions_wide": "wide positions"}

COMPARED = ("method", "train.seed", "eval.episodes", "eval.seed", "eval.variant", "eval.variants")
"""Settings in which the runs of a comparison may differ."""

Name = Callable[[str], str]

BySeed = Mapping[int, Mapping[str, Rollouts]]
"""Training seed to variant to outcomes."""


def label(method: str) -> str:
    return LABELS.get(method, method)


def words(name: str) -> str:
    """What readers call a variant of the scene, or a phase."""
    return SCENES.get(name, name.replace("_", " "))


@dataclasses.dataclass(frozen=True)
class Success:
    """Success of one method on one variant: training seed to rate, and the 95 % interval over training seeds
    (`gap_vla.rollouts.statistics.mean_rate`).
    """

    per_seed: Mapping[int, float]
    successes: int
    episodes: int
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        """Over the seeds, each counting once."""
        return float(np.mean(list(self.per_seed.values())))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        success: method to variant to success; methods without rollouts are missing.
        differences: (first, second) to variant to first minus second, over the training seeds and layouts that both
            have; empty where they share none.
        apart: a note on what the runs differ in besides, see `apart`.
        simulator_errors: method to how many of its rollouts the simulator cut short.
        failed: names of runs that were asked for and failed, and are in no figure.
    """

    success: Mapping[str, Mapping[str, Success]]
    differences: Mapping[tuple[str, str], Mapping[str, PairedDifference]]
    apart: str = ""
    simulator_errors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    failed: Sequence[str] = ()

    @property
    def by_variant(self) -> dict[str, dict[str, Success]]:
        """Variant to method to success."""
        variants = dict.fromkeys(variant for found in self.success.values() for variant in found)
        return {v: {method: found[v] for method, found in self.success.items() if v in found} for v in variants}

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.by_variant)

    def notes(self, name: Name = str) -> list[str]:
        """What a reader has to know before trusting the figures."""
        notes = []
        for found in self.by_variant.values():
            seeds = {name(method): " ".join(map(str, one.per_seed)) for method, one in found.items()}
            if len({*seeds.values()}) > 1:
                listing = ", ".join(f"{method}: {given}" for method, given in seeds.items())
                notes.append(f"Training seeds differ so far ({listing}); differences use those that both methods have.")
        notes += [f"Failed, and in no figure: {'; '.join(self.failed)}."] if self.failed else []
        notes.append(told_cut_short({name(method): count for method, count in self.simulator_errors.items()}))
        notes.append(self.apart)
        if any(max(len(one.per_seed) for one in found.values()) < 3 for found in self.by_variant.values()):
            notes.append("Fewer than three training seeds: seeds often differ as much as methods do.")
        return [*dict.fromkeys(filter(None, notes))]


def apart(configs: Iterable[Mapping[str, Any]], most: int = 8) -> str:
    """A note on the settings in which runs differ and which are no part of a comparison of methods over seeds; "" where
    there are none.

    >>> apart([{"method": "v", "optimizer": {"learning_rate": rate}} for rate in (1e-3, 3e-4)])
    'Not method and seed alone: the runs also differ in settings (optimizer.learning_rate 0.001, 0.0003).'
    """
    runs = [{key: value for key, value in flat(one) if value != {}} for one in configs]
    told = []
    for key in dict.fromkeys(key for settings in runs for key in settings):
        values = dict.fromkeys(str(settings.get(key, "not given")) for settings in runs)
        if len(values) > 1 and key not in {*COMPARED, *NO_PART_OF_THE_RESULT}:
            told.append(f"{key} {', '.join(values)}")
    differing = "; ".join(told[:most] + [f"and {len(told) - most} more"] * (len(told) > most))
    return f"Not method and seed alone: the runs also differ in settings ({differing})." if told else ""


def compare(outcomes: Mapping[str, BySeed], pairs: Sequence[tuple[str, str]] | None = None) -> Comparison:
    """Success of each method on each variant, and paired differences.

    Args:
        outcomes: method to training seed to variant to outcomes.
        pairs: which to subtract, (first, second); default: every method from every later one. Those of which a method
            has no rollouts are left out.
    """
    methods = [method for method, by_seed in outcomes.items() if any(by_seed.values())]
    asked = [(b, a) for a, b in itertools.combinations(methods, 2)] if pairs is None else pairs
    return Comparison(
        success={method: _success(outcomes[method]) for method in methods},
        differences={(a, b): _differences(outcomes[a], outcomes[b]) for a, b in asked if a in methods and b in methods},
    )


def compare_runs(runs: Sequence[Run], pairs: Sequence[tuple[str, str]] | None = None) -> Comparison:
    """The same of runs, with what they differ in besides, and how many rollouts the simulator cut short.

    Raises:
        UserError: runs of one seed were trained on different processors, versions or commits, so that they differ by
            more than their method.
    """
    require_one_machine(runs)
    errors: dict[str, int] = collections.defaultdict(int)
    for run in runs:
        errors[run.method] += sum(found.get("simulator_errors", 0) for found in run.evaluations.values())
    outcomes = {m: {run.seed: run.rollouts for run in of_method} for m, of_method in by_method(runs).items()}
    made_with = [{"origin": run.summary.get("origin", {}), **run.config} for run in runs if run.rollouts]
    return dataclasses.replace(compare(outcomes, pairs), apart=apart(made_with), simulator_errors=errors)


def require_one_machine(runs: Sequence[Run]) -> None:
    """Raises UserError: see `compare_runs`. What an older run did not record is not compared."""
    first: dict[int, Run] = {}
    for run in runs:
        there, made = (one.summary.get("machine", {}) for one in (first.setdefault(run.seed, run), run))
        known = (there.keys() & made.keys()) - {"cores"}
        changed = identity.differences({key: there[key] for key in known}, {key: made[key] for key in known})
        if changed:
            raise UserError(
                f"{first[run.seed].path} and {run.path} are of one seed, and differ by more than their method "
                f"({in_words(changed)}); train both on one machine at one commit"
            )


def _success(by_seed: BySeed) -> dict[str, Success]:
    found = {}
    for variant in dict.fromkeys(name for of_seed in by_seed.values() for name in of_seed):
        rollouts = {seed: by_seed[seed][variant] for seed in sorted(by_seed) if variant in by_seed[seed]}
        counts = [(sum(one.values()), len(one)) for one in rollouts.values()]
        per_seed = {seed: won / episodes for seed, (won, episodes) in zip(rollouts, counts)}
        wins, episodes = map(sum, zip(*counts))
        found[variant] = Success(per_seed, wins, episodes, mean_rate(counts))
    return found


def _differences(first: BySeed, second: BySeed) -> dict[str, PairedDifference]:
    seeds = sorted(set(first) & set(second))
    found = {}
    for variant in dict.fromkeys(name for seed in seeds for name in first[seed]):
        both = [seed for seed in seeds if variant in first[seed] and variant in second[seed]]
        rows = [[of[seed][variant] for seed in both] for of in (first, second)]
        layouts = sorted(set.intersection(*(set(outcomes) for outcomes in (*rows[0], *rows[1])))) if both else []
        if layouts:
            a, b = (np.array([[outcomes[layout] for layout in layouts] for outcomes in some]) for some in rows)
            found[variant] = paired_difference(a, b)
    return found


# ---- shown

Marks = Mapping[tuple[str, str], float]
"""(method, variant) to a figure in % that others published."""


def percents(found: Success) -> tuple[str, str, str]:
    """Mean, interval and the rate of each seed, as texts in per cent."""
    low, high = found.interval
    per_seed = ", ".join(map(percent, found.per_seed.values()))
    return percent(found.mean), f"{percent(low)} to {percent(high)}", per_seed


def in_points(found: PairedDifference) -> tuple[str, str, str]:
    """Difference, interval and the difference of each seed, as texts in points."""
    low, high = found.interval
    return points(found.difference), f"{points(low)} to {points(high)}", ", ".join(map(points, found.per_seed))


def tables(comparison: Comparison, name: Name = str) -> list[list[list[str]]]:
    """Success, and paired differences if there are any, as rows of texts, headings first."""
    success = [["method", "scene", "success %", "95 % interval", "rollouts", "per seed %"]]
    for method, found in comparison.success.items():
        for variant, one in found.items():
            mean, interval, _ = percents(one)
            per_seed = ", ".join(f"{seed}: {percent(rate)}" for seed, rate in one.per_seed.items())
            success.append([name(method), words(variant), mean, interval, str(one.episodes), per_seed])
    pairs = [["difference", "scene", "points", "95 % interval", "seeds × layouts", "per seed", "McNemar p"]]
    for (first, second), differences in comparison.differences.items():
        title = f"{name(first)} − {name(second)}"
        for variant, difference in differences.items():
            mean, interval, per_seed = in_points(difference)
            count = f"{difference.seeds} × {difference.layouts}"
            pairs.append([title, words(variant), mean, interval, count, per_seed, f"{difference.p_mcnemar:.2g}"])
        if not differences:
            pairs.append([title, "", "", "", "nothing shared", "", ""])
    return [success, pairs] if len(pairs) > 1 else [success]


def as_text(comparison: Comparison) -> str:
    """The tables for a terminal."""
    blocks = map(text_table, tables(comparison, label))
    return "\n\n".join([*blocks, *(f"Note: {note}" for note in comparison.notes(label))])


def as_markdown(comparison: Comparison, title: str) -> str:
    """The same tables for a README or a report."""
    blocks = [f"# {untagged(title)}", *(markdown_table(table) for table in tables(comparison, label)), WITH_P]
    return "\n\n".join([*blocks, *(f"Note: {untagged(note)}" for note in comparison.notes(label))]) + "\n"


def draw_comparison(comparison: Comparison, *, title: str = "", name: Name = str, marks: Marks | None = None) -> Any:
    """A matplotlib figure, the same for the same comparison; `name` is what a method is called, `marks` stand as ×
    beside ours.
    """
    variants, success = comparison.variants, comparison.success
    pairs = {pair: found for pair, found in comparison.differences.items() if found}
    rows = max(len(success), len(pairs), 2)
    step = 0.22 if len(variants) <= 4 else 0.8 / len(variants)  # of a row, which is higher where this is less
    columns = min(len(variants), 6)
    height = 1.5 + 0.42 * rows * (0.22 / step) + 0.2 * (-(-len(variants) // max(columns, 1)) - 1)
    figure, (panels,) = figure_with(10, height, 2 if pairs else 1)
    looks = distinct(variants)
    heights = {variant: step * ((len(variants) - 1) / 2 - place) for place, variant in enumerate(variants)}

    def draw(
        axes: Any, names: Sequence[str], shown: Iterable[Mapping[str, tuple[float, Any, Sequence[float]]]]
    ) -> None:
        """Rows from the top; of each variant the mean, the interval and the figure of each seed."""
        for row, found in zip(reversed(range(len(names))), shown):
            for variant, (mean, interval, each) in found.items():
                y, (color, marker) = row + heights[variant], looks[variant]
                axes.hlines(y, *(100 * end for end in interval), color=color, linewidth=2.5)
                axes.plot([100 * x for x in each], [y] * len(each), "o", color=color, alpha=0.4, ms=5, mew=0)
                axes.plot(100 * mean, y, marker, color=color, markersize=6)
        axes.set_yticks(range(len(names)), names[::-1])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)

    left = panels[0]
    draw(
        left,
        [name(method) for method in success],
        [{v: (one.mean, one.interval, [*one.per_seed.values()]) for v, one in of.items()} for of in success.values()],
    )
    for (method, variant), rate in (marks or {}).items():
        if variant in success.get(method, {}):
            row = len(success) - 1 - list(success).index(method)
            left.plot(rate, row + heights[variant], "x", color="#222222", markersize=6)
    left.set_xlim(-3, 103)
    left.set_xlabel("success, %")
    left.set_title(f"mean, seeds (pale), 95 % interval{'; ×: the paper' if marks else ''}", fontsize=9)
    if pairs:
        right = panels[1]
        right.axvline(0, color="#999999", linewidth=1)
        draw(
            right,
            [f"{name(first)} − {name(second)}" for first, second in pairs],
            [{v: (one.difference, one.interval, one.per_seed) for v, one in of.items()} for of in pairs.values()],
        )
        right.set_xlabel("difference in success, points")
        seeds = [one.seeds for found in pairs.values() for one in found.values()]
        over = "seeds" if max(seeds) > 1 else "layouts (one seed)"
        over += "; of one seed over layouts" if min(seeds) == 1 < max(seeds) else ""
        right.set_title(f"paired; 95 % interval over {over}", fontsize=9)
    for variant, (color, marker) in looks.items():
        left.plot([], [], marker, color=color, label=words(variant))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def render(runs: Sequence[Path], out_dir: str | Path, failed: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Compares finished runs; writes `table.md`, `table.json` and `table.png` into `out_dir`, and returns the tables as
    text, and what `table.json` holds. The paper's methods stand in its order, before the others by name.

    Args:
        runs: their directories.
        failed: names of further runs, which failed: a note says that they are in no figure.

    Raises:
        UserError: no runs, runs of different tasks, or without rollouts, or two of a method and seed.
    """
    found = read_runs(runs)
    if idle := [run.path for run in found if not run.rollouts]:
        raise UserError(f"{idle[0]} was not evaluated (eval.episodes is 0); there is nothing to compare")
    order = [*LABELS, *sorted({run.method for run in found})]
    found.sort(key=lambda run: order.index(run.method))
    comparison = dataclasses.replace(compare_runs(found), failed=failed)
    success = comparison.success
    title = f"{found[0].task}: {', '.join(map(label, success))}"
    content = {
        "title": title,
        "methods": [
            {"method": method, "scene": variant, **dataclasses.asdict(one), "mean": one.mean}
            for method, of_method in success.items()
            for variant, one in of_method.items()
        ],
        "pairs": [
            {"first": a, "second": b, "scene": variant, "found": dataclasses.asdict(one)}
            for (a, b), differences in comparison.differences.items()
            for variant, one in differences.items()
        ],
        "notes": comparison.notes(label),
    }
    out = Path(out_dir)
    with replacing(out / "table.md") as temporary:
        temporary.write_text(as_markdown(comparison, title), encoding="utf-8")
    write_json(out / "table.json", content)
    with replacing(out / "table.png") as temporary:
        save_picture(draw_comparison(comparison, title=title, name=label), temporary)
    return as_text(comparison), content
