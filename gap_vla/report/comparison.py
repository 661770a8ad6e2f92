"""Methods over training seeds on the same layouts: who is better, by how much, how surely."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, one_line
from gap_vla.core.run_settings import of_result
from gap_vla.core.seals import DIGESTS
from gap_vla.rollouts.statistics import OutcomesError, PairedDifference, as_outcomes, mean_rate, paired_difference
from gap_vla.rollouts.summary import read_outcomes, told_cut_short
from gap_vla.sim import variant_spec

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

SCENE = {"task": ("image_size", "cameras", "camera"), "policy": ("execute", "normalization")}
"""What an evaluation says of how a policy was rolled out, which its run's settings ask for."""

Name = Callable[[str], str]


def label(method: str) -> str:
    return LABELS.get(method, method)


def words(name: str) -> str:
    """What readers call a variant of the scene, or a phase."""
    return SCENES.get(name, name.replace("_", " "))


Rollouts = dict[int, bool]
"""Outcomes of one policy on one variant of the scene: layout seed to success."""

BySeed = Mapping[int, Mapping[str, Rollouts]]
"""Training seed to variant to outcomes."""


def read_rollouts(summary: Section) -> dict[str, Rollouts]:
    """Variant to outcomes, from a run's summary; raises its error for what cannot be or is of another task."""
    found = {}
    for variant, one in evaluations_of(summary).items():
        task, policy = one.section("task", {}), one.section("policy", {})
        own = (task, "task", summary.text("task")), (task, "variant", variant), (policy, "name", summary.text("method"))
        for part, key, value in own:
            if part.text(key, value) != value:
                raise part.refuse(key, f"{value!r}, as in the rest of the file; copy it again")
        found[variant] = read_outcomes(one)
        first = next(iter(found[variant]))
        if [*found[variant]] != [*range(first, first + len(found[variant]))]:  # as our commands play them
            raise one.error(f"{one.where}: the layouts of {variant} are not counted from {first} on; copy it again")
    return found


def evaluations_of(summary: Section) -> dict[str, Section]:
    """Variant to what `evaluate` returned, from a run's summary: one evaluation for each variant, or only one."""
    variants, one = summary.section("variants", {}), summary.section("rollouts", {})
    if variants.values:
        return {name: variants.section(name) for name in variants.values}
    return {one.section("task", {}).text("variant", "default"): one} if one.values else {}


def require_asked(found: Section, layouts: Mapping[str, Collection[int]], asked: Section) -> None:
    """Raises the section's error unless a configuration's `eval` asks for these variants, on these layouts."""
    episodes = asked.whole("episodes", 0, 2**53)
    variants = asked.list("variants", Section.text) if "variants" in asked else None
    wanted = dict.fromkeys([asked.text("variant")] if variants is None else variants, episodes)
    counts = {variant: len(seeds) for variant, seeds in layouts.items()}
    if counts != (wanted if episodes else {}):
        raise found.error(f"{found.where}: its rollouts are {counts}, its settings ask for {wanted}")
    seed = asked.whole("seed", 0, 2**53) if episodes else 0
    firsts = {variant: min(seeds) for variant, seeds in layouts.items()}
    own = {variant: seed if variants is None else variant_spec(variant).first_seed + seed for variant in layouts}
    if firsts != own:
        raise found.error(f"{found.where}: its first layouts are {firsts}, its settings ask for {own}")


def require_settings(summary: Section, config: Section) -> None:
    """Raises the summary's error for rollouts of a run that its configuration does not ask for, where both tell."""
    demos, asked = config.section("demos", {}).values, config.section("eval", {}).values
    wanted = {"execute": "ensemble" if asked.get("ensemble") else asked.get("execute")}
    wanted |= {**demos, "normalization": config.section("data", {}).values.get("normalization")}
    for one in evaluations_of(summary).values():
        for part, key in ((one.section(part, {}), key) for part, keys in SCENE.items() for key in keys):
            value = wanted.get(key)
            if value is not None and (given := part.values.get(key, value)) != value:
                said = f"{one_line(given, 60)}, {config.where} asks for {one_line(value, 60)}"
                raise part.error(f"{part.name(key)} is {said}; copy the run again")


Measured = tuple[str, int, Mapping[str, Any], Mapping[str, Mapping[str, Any]]]
"""Name and training seed of a run, its held-out measurements, and variant to what `evaluate` returned."""


def require_comparable(runs: Sequence[Measured], error: type[UserError]) -> None:
    """Raises `error` for two runs with other horizons or views on one variant, or two seeds of one training. Two
    methods may come to the same parameters on one seed, where what they differ in has no effect.
    """
    for (one, seed, measured, of_one), (other, other_seed, also, of_other) in itertools.combinations(runs, 2):
        seeds = f"{one} and {other} are of seeds {seed} and {other_seed}"
        if seed != other_seed and measured and measured == also:
            raise error(f"{seeds}, but measured exactly the same; keep one")
        for variant in of_one.keys() & of_other.keys():
            first, second = of_one[variant], of_other[variant]
            for part, key in (("task", "horizon"), ("task", "camera"), ("policy", "parameters")):
                given, another = (found.get(part, {}).get(key) for found in (first, second))
                if given is None or another is None:
                    continue
                if key == "parameters" and given == another and seed != other_seed:
                    raise error(f"{seeds}, but of one policy; keep one")
                if key != "parameters" and given != another:
                    said = f"{part}.{key} {one_line(given, 40)} and {one_line(another, 40)}"
                    raise error(f"{one} and {other} were evaluated on {variant} with {said}; compare them apart")


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
        apart: what the runs differ in besides, see `apart`; `unknown`: number of runs whose settings are not known;
            `unsealed`: of those without digests, as 0.1.0 left them.
        simulator_errors: method to how many of its rollouts the simulator cut short, as far as that was counted.
        failed: names of runs that were asked for and failed, and are in no figure.
    """

    success: Mapping[str, Mapping[str, Success]]
    differences: Mapping[tuple[str, str], Mapping[str, PairedDifference]]
    apart: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    unknown: int = 0
    unsealed: int = 0
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
                unequal = len({*map(len, of_method.values())}) > 1
                said = {m: len(found) if unequal else " ".join(map(str, found)) for m, found in of_method.items()}
                what = f"{'Unequal numbers of' if unequal else 'Different'} training seeds so far"
                listing = ", ".join(f"{name(method)} {text}" for method, text in said.items())
                notes.append(f"{what} ({listing}); differences use those that both methods have.")
        for (first, second), found in self.differences.items():
            pair = f"{name(first)} − {name(second)}"
            notes += [f"{pair}{why}, so nothing is paired." for why in self._unpaired(first, second, found)]
            for variant, one in found.items():
                a, b = (self.success[method][variant].layouts for method in (first, second))
                if max(max(a[seed], b[seed]) for seed in {*a} & {*b}) > one.layouts:
                    notes.append(f"{pair} uses the {one.layouts} layouts that all their evaluations share.")
        notes += [f"Failed, and in no figure: {'; '.join(self.failed)}."] if self.failed else []
        notes += self.cut_short(name)
        notes += told_apart(self.apart)
        if self.unknown:
            runs = f"{self.unknown} run{'s' * (self.unknown > 1)}"
            notes.append(f"The settings of {runs} are not known: no config.json lies beside the summary.")
        if self.unsealed:
            runs = f"{self.unsealed} run{'s' * (self.unsealed > 1)}"
            notes.append(f"The summary of {runs} holds no digests (version 0.1.0): edits of the files are not seen.")
        if any(max(map(len, of_method.values())) < 3 for of_method in seeds):
            notes.append("Fewer than three training seeds: seeds often differ as much as methods do.")
        return list(dict.fromkeys(notes))

    def cut_short(self, name: Name = str) -> list[str]:
        """Of which methods the simulator cut rollouts short, and how many."""
        told = told_cut_short({name(method): count for method, count in self.simulator_errors.items()})
        return [told] if told else []

    def _unpaired(self, first: str, second: str, paired: Collection[str]) -> list[str]:
        """What two methods do not share, of each variant that both have and of which no difference is `paired`."""
        a, b = self.success[first], self.success[second]
        if not {*a} & {*b}:
            return [": no variant of the scene is shared"]
        said = []
        for variant in [one for one in a if one in b and one not in paired]:
            seeds = {*a[variant].layouts} & {*b[variant].layouts}
            what = "no layout is shared by all evaluations of their seeds" if seeds else "no training seed is shared"
            said.append(f"{f' on {words(variant)}' if len(self.variants) > 1 else ''}: {what}")
        return said


NOT_GIVEN = "not given"
"""The value of a setting which a run does not have, such as one that an earlier version did not know."""


def apart(configs: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """By dotted key, the values that runs have of settings which are no part of a comparison of methods over seeds.
    Those that some runs do not have stand last.

    >>> apart([{"method": "v", "optimizer": {"learning_rate": rate}} for rate in (1e-3, 3e-4)])
    {'optimizer.learning_rate': [0.001, 0.0003]}
    """
    compared = ("method", "train.seed", "eval.episodes", "eval.seed", "eval.variant", "eval.variants")
    runs = [{key: value for key, value in of_result(one).items() if value != {}} for one in configs]
    found: dict[str, list[Any]] = {key: [] for settings in runs for key in settings if key not in compared}
    for settings, (key, values) in itertools.product(runs, found.items()):
        if (value := settings.get(key, NOT_GIVEN)) not in values:
            values.append(value)
    differing = [(key, values) for key, values in found.items() if len(values) > 1]
    return dict(sorted(differing, key=lambda one: NOT_GIVEN in one[1]))


def told_apart(found: Mapping[str, Sequence[Any]]) -> list[str]:
    """What `apart` found as a note; none where it found nothing."""
    told = [f"{key} {', '.join(map(one_line, values))}" for key, values in found.items()]
    shown = max(5, sum(NOT_GIVEN not in values for values in found.values()))
    more = [f"and {len(told) - shown} more that not all of them give"] if len(told) > shown else []
    differing = "; ".join([*told[:shown], *more])
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
            of `outcomes` has no rollouts are left out.
        configs: of the runs, where they are known.
        summaries: of every run, which tell its data, versions of the code, and how it was rolled out.

    Raises:
        OutcomesError: an outcome is not 0 or 1, a variant has none, or a pair names a method that is not there.
    """
    outcomes = {
        method: {
            seed: {v: _as_bool(one, f"{method}, seed {seed}, {v}") for v, one in of_seed.items()}
            for seed, of_seed in by_seed.items()
        }
        for method, by_seed in outcomes.items()
    }
    if unknown_names := {name for pair in pairs or () for name in pair} - {*outcomes}:
        raise OutcomesError(f"pairs name {min(unknown_names)}; there is {', '.join(outcomes)}")
    methods = [method for method, by_seed in outcomes.items() if any(by_seed.values())]
    asked = [(b, a) for a, b in itertools.combinations(methods, 2)] if pairs is None else pairs
    differences = {(a, b): _differences(outcomes[a], outcomes[b]) for a, b in asked if a in methods and b in methods}
    differing = apart(configs) | apart(map(_made_with, summaries))
    unknown = max(0, len(summaries) - len(configs))
    success = {method: _success(outcomes[method]) for method in methods}
    unsealed = sum(DIGESTS not in one for one in summaries)
    return Comparison(success, differences, differing, unknown, unsealed, count_simulator_errors(summaries))


def count_simulator_errors(summaries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Method to how many rollouts of its runs the simulator cut short, from their summaries."""
    found: dict[str, int] = {}
    for one in summaries:
        evaluations = one.get("variants") or {"": one.get("rollouts", {})}
        errors = sum(of_variant.get("simulator_errors", 0) for of_variant in evaluations.values())
        found[one.get("method", "")] = found.get(one.get("method", ""), 0) + errors
    return found


def _as_bool(rollouts: Mapping[int, Any], where: str) -> Rollouts:
    if not rollouts:
        raise OutcomesError(f"{where} has no rollouts; leave it out")
    return dict(zip(rollouts, as_outcomes([*rollouts.values()]).tolist()))


def _made_with(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's summary says of its data and versions, and of how it was rolled out."""
    first = next(iter(summary.get("variants", {}).values()), summary.get("rollouts", {}))
    told = {key: first.get(part, {}) for part, keys in SCENE.items() for key in keys}
    told["horizon"] = first.get("task", {})
    return {"origin": summary.get("origin", {}), "rollouts": {key: of[key] for key, of in told.items() if key in of}}


def _success(by_seed: BySeed) -> dict[str, Success]:
    found = {}
    for variant in dict.fromkeys(name for of_seed in by_seed.values() for name in of_seed):
        rollouts = {seed: by_seed[seed][variant] for seed in sorted(by_seed) if variant in by_seed[seed]}
        counts = [(sum(one.values()), len(one)) for one in rollouts.values()]
        per_seed = {seed: won / episodes for seed, (won, episodes) in zip(rollouts, counts)}
        wins, episodes = map(sum, zip(*counts))
        found[variant] = Success(
            per_seed, wins, episodes, mean_rate(counts), {s: len(one) for s, one in rollouts.items()}
        )
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
