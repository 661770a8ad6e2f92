"""Methods over training seeds on the same layouts: who is better, by how much, how surely."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.identity import flat
from gap_vla.rollouts.records import told_cut_short
from gap_vla.rollouts.statistics import PairedDifference, mean_rate, paired_difference

HOW_INTERVALS = (
    "Success is the mean over training seeds, differences are paired on shared seeds and layouts. Intervals (95 %) are "
    "over training seeds (Student's t with their number) and never narrower than what the rollouts leave open "
    "(Wilson's interval; for differences a bootstrap over seeds and layouts); one seed alone speaks about those "
    "policies only."
)
WITH_P = f"{HOW_INTERVALS} McNemar's test counts all pairs as independent."

LABELS = {"v": "V", "vp": "VP", "vp_gap": "VP+GAP"}
"""How the paper calls Octo's methods; others go by their own names."""

SCENES = {"default": "in distribution", "positions_wide": "wide positions"}

COMPARED = ("method", "train.seed", "eval.episodes", "eval.seed", "eval.variant", "eval.variants")
"""Settings in which the runs of a comparison may differ."""

NO_PART_OF_THE_RESULT = (
    *("runs", "data.root", "eval.workers", "eval.videos", "train.log_every", "train.validate_every"),
    *("train.save_every", "train.threads", "train.device", "train.logger"),
)

SCENE = {"task": ("image_size", "cameras", "camera", "horizon"), "policy": ("execute", "normalization")}
"""What an evaluation says of how a policy was rolled out."""

Name = Callable[[str], str]

Rollouts = dict[int, bool]
"""Outcomes of one policy on one variant of the scene: layout seed to success."""

BySeed = Mapping[int, Mapping[str, Rollouts]]
"""Training seed to variant to outcomes."""


def label(method: str) -> str:
    return LABELS.get(method, method)


def words(name: str) -> str:
    """What readers call a variant of the scene, or a phase."""
    return SCENES.get(name, name.replace("_", " "))


def evaluations_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Variant to what `evaluate` returned, from a run's summary: one evaluation for each variant, or only one."""
    if variants := summary.get("variants"):
        return dict(variants)
    one = summary.get("rollouts")
    return {one.get("task", {}).get("variant", "default"): one} if one else {}


def read_rollouts(summary: Mapping[str, Any]) -> dict[str, Rollouts]:
    """Variant to outcomes, from a run's summary."""
    return {
        variant: {layout: bool(won) for layout, won in zip(one["layout_seeds"], one["outcomes"])}
        for variant, one in evaluations_of(summary).items()
    }


@dataclasses.dataclass(frozen=True)
class Success:
    """Success of one method on one variant: training seed to rate and to number of layouts, and the 95 % interval over
    training seeds (`gap_vla.rollouts.statistics.mean_rate`).
    """

    per_seed: Mapping[int, float]
    successes: int
    episodes: int
    interval: tuple[float, float]
    layouts: Mapping[int, int]

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
        apart: what the runs differ in besides, see `apart`.
        simulator_errors: method to how many of its rollouts the simulator cut short.
        failed: names of runs that were asked for and failed, and are in no figure.
    """

    success: Mapping[str, Mapping[str, Success]]
    differences: Mapping[tuple[str, str], Mapping[str, PairedDifference]]
    apart: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    simulator_errors: Mapping[str, int] = dataclasses.field(default_factory=dict)
    failed: Sequence[str] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(variant for found in self.success.values() for variant in found))

    def notes(self, name: Name = str) -> list[str]:
        """What a reader has to know before trusting the figures."""
        seeds = [{m: sorted(of[v].per_seed) for m, of in self.success.items() if v in of} for v in self.variants]
        notes = []
        for of_method in seeds:
            if len({*map(tuple, of_method.values())}) > 1:
                listing = ", ".join(f"{name(m)}: {' '.join(map(str, found))}" for m, found in of_method.items())
                notes.append(f"Training seeds differ so far ({listing}); differences use those that both methods have.")
        for (first, second), found in self.differences.items():
            a, b = self.success[first], self.success[second]
            pair = f"{name(first)} − {name(second)}"
            unpaired = [words(variant) for variant in a if variant in b and variant not in found]
            if unpaired or not {*a} & {*b}:
                where = f" on {', '.join(unpaired)}" if unpaired and len(self.variants) > 1 else ""
                notes.append(f"{pair}{where}: no layouts of the same seeds are shared, so nothing is paired.")
            for variant, one in found.items():
                layouts = [max(of[variant].layouts[seed] for of in (a, b)) for seed in shared_seeds(a, b, variant)]
                if max(layouts) > one.layouts:
                    notes.append(f"{pair} uses the {one.layouts} layouts that all their evaluations share.")
        notes += [f"Failed, and in no figure: {'; '.join(self.failed)}."] if self.failed else []
        notes.append(told_cut_short({name(method): count for method, count in self.simulator_errors.items()}))
        notes += told_apart(self.apart)
        if any(max(map(len, of_method.values())) < 3 for of_method in seeds):
            notes.append("Fewer than three training seeds: seeds often differ as much as methods do.")
        return [*dict.fromkeys(filter(None, notes))]


NOT_GIVEN = "not given"
"""The value of a setting which a run does not have, such as one that an earlier version did not know."""


def apart(configs: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """By dotted key, the values that runs have of settings which are no part of a comparison of methods over seeds.
    Those that some runs do not have stand last.

    >>> apart([{"method": "v", "optimizer": {"learning_rate": rate}} for rate in (1e-3, 3e-4)])
    {'optimizer.learning_rate': [0.001, 0.0003]}
    """
    left_out = {*COMPARED, *NO_PART_OF_THE_RESULT}
    runs = [{key: value for key, value in flat(one) if value != {}} for one in configs]
    found: dict[str, list[Any]] = {key: [] for settings in runs for key in settings if key not in left_out}
    for settings, (key, values) in itertools.product(runs, found.items()):
        if (value := settings.get(key, NOT_GIVEN)) not in values:
            values.append(value)
    differing = [(key, values) for key, values in found.items() if len(values) > 1]
    return dict(sorted(differing, key=lambda one: NOT_GIVEN in one[1]))


def told_apart(found: Mapping[str, Sequence[Any]], most: int = 8) -> list[str]:
    """What `apart` found as a note; none where it found nothing."""
    told = [f"{key} {', '.join(map(str, values))}" for key, values in found.items()]
    more = [f"and {len(told) - most} more"] if len(told) > most else []
    differing = "; ".join([*told[:most], *more])
    return [f"Not method and seed alone: the runs also differ in settings ({differing})."] if told else []


def compare(
    outcomes: Mapping[str, BySeed],
    pairs: Sequence[tuple[str, str]] | None = None,
    configs: Sequence[Mapping[str, Any]] = (),
    summaries: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
    """Success of each method on each variant, and paired differences.

    Args:
        outcomes: method to training seed to variant to outcomes.
        pairs: which to subtract, (first, second); default: every method from every later one. Those of which a method
            has no rollouts are left out.
        configs: of the runs, where they are known.
        summaries: of every run, which tell its data, versions of the code, and how it was rolled out.
    """
    methods = [method for method, by_seed in outcomes.items() if any(by_seed.values())]
    asked = [(b, a) for a, b in itertools.combinations(methods, 2)] if pairs is None else pairs
    return Comparison(
        success={method: _success(outcomes[method]) for method in methods},
        differences={(a, b): _differences(outcomes[a], outcomes[b]) for a, b in asked if a in methods and b in methods},
        apart=apart(configs) | apart(map(_made_with, summaries)),
        simulator_errors=_simulator_errors(summaries),
    )


def _simulator_errors(summaries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Method to how many rollouts of its runs the simulator cut short."""
    found: dict[str, int] = collections.defaultdict(int)
    for one in summaries:
        for evaluation in evaluations_of(one).values():
            found[one.get("method", "")] += evaluation.get("simulator_errors", 0)
    return found


def _made_with(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's summary says of its data and versions, and of how it was rolled out."""
    first = next(iter(evaluations_of(summary).values()), {})
    rolled_out = {key: first[part][key] for part, keys in SCENE.items() for key in keys if key in first.get(part, {})}
    return {"origin": summary.get("origin", {}), "rollouts": rolled_out}


def shared_seeds(first: Mapping[str, Success], second: Mapping[str, Success], variant: str) -> list[int]:
    """The training seeds of which both methods were rolled out on a variant."""
    return [seed for seed in first[variant].per_seed if seed in second[variant].per_seed]


def _success(by_seed: BySeed) -> dict[str, Success]:
    found = {}
    for variant in dict.fromkeys(name for of_seed in by_seed.values() for name in of_seed):
        rollouts = {seed: by_seed[seed][variant] for seed in sorted(by_seed) if variant in by_seed[seed]}
        if not all(rollouts.values()):
            raise UserError(f"an evaluation on {variant} has no rollouts; leave it out")
        counts = [(sum(one.values()), len(one)) for one in rollouts.values()]
        per_seed = {seed: won / episodes for seed, (won, episodes) in zip(rollouts, counts)}
        wins, episodes = map(sum, zip(*counts))
        layouts = {seed: len(one) for seed, one in rollouts.items()}
        found[variant] = Success(per_seed, wins, episodes, mean_rate(counts), layouts)
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
