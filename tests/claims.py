"""What pages say in prose, computed from the files under results/, for tests/test_claims.py."""

import functools
import json
import re
from pathlib import Path

from experiments.tables.cells import KINDS, plan
from experiments.tables.confirmation import counted
from experiments.tables.ledger import Ledger
from experiments.tables.proprio_map import places_of
from experiments.tables.results import analyse
from experiments.tables.tables import TABLES
from gap_vla.rollouts.statistics import points

ROOT = Path(__file__).parents[1]


def result(name):
    return json.loads((ROOT / "results" / name).read_text())


def text_of(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def finders():
    """Mean F1 at ±5 steps of our defaults and of the best other finder, on our tasks and on others."""
    both = []
    untouched = result("phases/untouched.json")["results"]
    for results in (result("phases/finders.json"), untouched["metaworld"], untouched["robosuite"]):
        found = {name: one["mean"]["f1@5"] for name, one in results["results"].items()}
        rivals = [score for name, score in found.items() if not re.match("ours|paper|release|uniform", name)]
        both.append((found["ours, defaults"], max(rivals)))
    (ours, rival), (elsewhere, rival_elsewhere), (robosuite, rival_robosuite) = both
    return (
        f"{ours:.2f} on our 9 tasks, on which the defaults were chosen "
        f"(best single rival, tuned on each task: {rival:.2f}); "
        f"{elsewhere:.2f} on 10 tasks and experts of Meta-World ({rival_elsewhere:.2f}); "
        f"{robosuite:.2f} on 2 tasks of robosuite ({rival_robosuite:.2f})"
    )


def diagnosed():
    words = result("diagnosis/assembly-vp.json")["verdict"]
    pictures, proprio = re.search(r"by ([\d.]+) \(.*?proprioception by ([\d.]+) ", words).groups()
    return (
        f"another episode's proprioception multiplies its error by {proprio}, another episode's pictures by {pictures}"
    )


def seeing():
    return result("diagnosis/assembly-vp.json")["verdict"]


def blind():
    return result("diagnosis/assembly-vp-shuffled-images.json")["verdict"]


def looking():
    sees, cannot = (re.search(r"multiply its error by ([\d.]+ \(.*?\))", said()).group(1) for said in (seeing, blind))
    return (
        f"multiply the error of a policy that sees by {sees}, and of one that was trained on wrong pictures by {cannot}"
    )


def tasks():
    """Successes of the Octo of each task."""
    cells = [json.loads(path.read_text()) for path in (ROOT / "results/tasks/cpu").glob("*.json")]
    scores = {cell["task"]: cell["variants"]["default"] for cell in cells}
    assert len(scores) == 9 and {score["episodes"] for score in scores.values()} == {50}
    handover = scores.pop("handover")["successes"]
    others = sorted(score["successes"] for score in scores.values())
    return f"eight between {others[0]} and {others[-1]} of 50 rollouts, handover {handover}."


@functools.cache
def blocks(name):
    """What the ledger says about each block of a table."""
    table = TABLES[name]
    cells = plan(table, "cpu", KINDS[table.kind])
    return [analyse(block, cells, Ledger(ROOT / "results", name, "cpu")) for block in table.blocks]


def confirmation():
    return blocks("confirmation")


def rule_of_thumb():
    """What docs/RESULTS.md computes of the rule, in the words of the page that sums up."""
    right, asked, often = re.search(
        r"right about the sign of VP − V in (\d+) of (\d+) places .*? of the other tasks is right in (\d+)",
        text_of("docs/RESULTS.md"),
    ).groups()
    return f'is right in {right} of {asked} places, and always answering "it helps" in {often} '


def below_in_the_map():
    """From the stock view: where VP is below V, and the other tasks of which V succeeds too rarely to fall."""
    places = places_of(blocks("map"))
    low = [place for place in places if place.difference.interval[1] < 0]
    assert len(places) == 36 and low and all(place.view == "stock" for place in low)
    tasks, early = {place.task for place in low}, {place.task for place in low if place.history == 1}
    words = "zero one two three four five six seven eight nine".split()
    rare = [place for place in places if place.v < 0.1]
    far = {place.task for place in rare} - tasks
    return (
        f"VP is below V in no near cell, and from the stock view on {words[len(tasks)]} of nine tasks, on "
        f"{words[len(tasks - early)]} of these with five steps of state alone. On {words[len(far)]} further tasks V "
        f"succeeds in at most {100 * max(place.v for place in rare):.0f} % of rollouts"
    )


def a_fraction():
    """What proprioception leaves of the success where harm is shown."""
    [harmed] = [place for place in confirmation() if place.block.task == "bin_picking"]
    vision, concat = (harmed.found.success[arm]["default"].mean for arm in ("vision", "concat"))
    assert 0.2 < concat / vision < 0.3
    return "seen from far, falls to a quarter of its success."


def what_five_seeds_see():
    """Half the intervals of what is not shown on assembly (harm) and disassemble (harm and repair)."""
    for place in confirmation()[:2]:
        for pair in (("vision", "concat"), ("gap", "concat"))[: 1 + (place.block.task == "disassemble")]:
            low, high = place.found.differences[pair]["default"].interval
            assert 43 < 100 * (high - low) / 2 < 48, (place.block.task, pair)
    return "harm on assembly, and harm or repair on disassemble, would have had to be some 45 points or more to be seen"


def shown():
    return counted(confirmation())


def per_place(text):
    """Text about each place, one after the other."""
    each = [f"{text(place)} on {place.block.task}" for place in confirmation()]
    return f"{', '.join(each[:-1])} and {each[-1]}"


def difference(first, second):
    def of(place):
        found = place.found.differences[first, second]["default"]
        low, high = map(points, found.interval)
        return f"{points(found.difference)} ({low} to {high})"

    return of


def wide():
    return f"In points, `gap_gaussian` − `concat` is {per_place(difference('gap_gaussian', 'concat'))}"


def dropped():
    [place, *_] = confirmation()
    return f"`state_dropout` − `concat` {difference('state_dropout', 'concat')(place)}"


def starved():
    def share(place, arm):
        norms = {entry.seed: entry.gradients["branch/vision_gradient"] for entry in place.finished if entry.arm == arm}
        assert len(norms) == 5
        return sum(norms.values())

    def text(place):
        low, high = (100 * share(place, arm) / share(place, "vision") for arm in ("concat", "gap"))
        return f"{low:.0f} % ({high:.0f} %)"

    return f"mean over seeds and the first half of training: {per_place(text)}"


def looked():
    """Of the policies of the spread: how much other pictures cost them, and how often they succeed."""
    found = {}
    for method in ("concat", "gap"):
        cells = [f"spread/cpu/{{}}assembly-stock-{method}-seed{seed}.json" for seed in range(10, 20)]
        costs = [result(name.format("looks/"))["reliance"]["images_swapped"]["cost"] for name in cells]
        won = [result(name.format(""))["variants"]["default"]["successes"] for name in cells]
        blind, seeing = ([pair for pair in zip(costs, won) if (pair[0] < 1.05) == low] for low in (True, False))
        found[method] = (
            len(blind),
            *(
                f"{min(of):{form}} to {max(of):{form}}"
                for of, form in (
                    ([number for _, number in blind], "d"),
                    ([100 * (cost - 1) for cost, _ in seeing], ".0f"),
                    ([number for _, number in seeing], "d"),
                )
            ),
        )
    (blind, failed, more, won), (blind_too, failed_too, more_too, won_too) = found["concat"], found["gap"]
    return (
        f"with {blind} of the ten seeds of `concat` and {blind_too} of `gap` they raise the error by less than 5 %, "
        f"and those policies succeed in {failed} and {failed_too} of 100 rollouts. With the others they raise it by "
        f"{more} % and by {more_too} %, and those succeed in {won} and in {won_too}."
    )


def won(place, arm):
    """Successes of 100 of an arm, seed by seed."""
    found = {entry.seed: entry.variants["default"] for entry in place.finished if entry.arm == arm}
    return ", ".join(str(sum(found[seed].values())) for seed in sorted(found))


def watched():
    """Successes of GAP that watches itself, seed by seed, and its difference from GAP."""
    [place] = blocks("watched")
    watching, gap, concat, vision = (won(place, arm) for arm in ("gap_watched", "gap", "concat", "vision"))
    return (
        f"it succeeds in {watching} of 100 rollouts, `gap` in {gap}, `concat` in {concat}, "
        f"`vision` in {vision}; `gap_watched` − `gap` is {difference('gap_watched', 'gap')(place)} points"
    )


def unwatched():
    """A wide ρ on the same seeds."""
    [place] = blocks("watched")
    apart = place.found.differences["gap_watched", "gap_gaussian"]["default"]
    assert len(apart.per_seed) == 3 and max(apart.per_seed) < 0
    wide_and_gap, wide_and_concat, watching = (
        difference(*pair)(place)
        for pair in (("gap_gaussian", "gap"), ("gap_gaussian", "concat"), ("gap_watched", "gap_gaussian"))
    )
    return (
        f"succeeds in {won(place, 'gap_gaussian')}: `gap_gaussian` − `gap` is {wide_and_gap} points, `gap_gaussian` − "
        f"`concat` {wide_and_concat}, and `gap_watched` − `gap_gaussian` {watching}, below zero with each seed"
    )


def longer():
    """Successes of two seeds after 2,500, 5,000 and 10,000 steps."""
    [place] = blocks("longer")
    first = {
        method: [
            result(f"spread/cpu/assembly-stock-{method}-seed{seed}.json")["variants"]["default"]["successes"]
            for seed in (10, 11)
        ]
        for method in ("concat", "gap")
    }
    concat, gap = (", ".join(map(str, first[method])) for method in ("concat", "gap"))
    said = [f"after 2,500 steps `concat` succeeds in {concat} and `gap` in {gap};"]
    for steps in (5_000, 10_000):
        said.append(f"after {steps:,} in {won(place, f'concat_{steps}')} and {won(place, f'gap_{steps}')}")
    assert not place.missing and not place.stale
    return f"{said[0]} {said[1]}; {said[2]}."


def one_token():
    """The Octo whose proprioception is a token of an MLP, beside the one without."""
    [place] = blocks("octo_tokens")
    v, vp, gap, vp_mlp, gap_mlp = (won(place, arm) for arm in ("v", "vp", "vp_gap", "vp_mlp", "vp_gap_mlp"))
    return (
        f"`v` succeeds in {v} of 100 rollouts, `vp` in {vp} and `vp_gap` in {gap}; with one token that an MLP makes of "
        f"the five states (`model.proprio_tokens=1`), `vp` in {vp_mlp} and `vp_gap` in {gap_mlp}."
    )


def what_octos_rely_on():
    """Mean cost over seeds of another episode's pictures and proprioception, on threading and on assembly."""
    costs = {}
    for place in ("threading", "assembly-stock"):
        for arm in ("vp", "vp_gap"):
            looks = [result(f"octo_confirmation/cpu/looks/{place}-{arm}-seed{seed}.json") for seed in range(10, 15)]
            for what in ("images", "proprio"):
                costs[place, arm, what] = [one["reliance"][f"{what}_swapped"]["cost"] for one in looks]
        pairs = zip(costs[place, "vp", "proprio"], costs[place, "vp_gap", "proprio"], strict=True)
        assert all(gap < vp for vp, gap in pairs)
    pictures, state, with_gap = (
        [f"{sum(costs[place, arm, what]) / 5:.1f}" for place in ("threading", "assembly-stock")]
        for arm, what in (("vp", "images"), ("vp", "proprio"), ("vp_gap", "proprio"))
    )
    return (
        f"multiply the error of VP by {pictures[0]} on threading and {pictures[1]} on assembly, another episode's "
        f"proprioception by {' and '.join(state)}; with GAP the latter is {' and '.join(with_gap)}, lower with each of "
        "the ten seeds."
    )


def octo():
    """Differences of the Octo."""
    places = octo_places()
    near, far = (
        f"(VP+GAP) − VP is {difference('vp_gap', 'vp')(place)} points, V − VP {difference('v', 'vp')(place)}."
        for place in places
    )
    below = places[0].found.differences["vp_gap", "vp"]["default"].per_seed
    assert len(below) == 5 and max(below) < 0
    return (
        f"On threading (near view), {near} On assembly from the stock view, with five steps of state as tokens, {far} "
        "No interval lies on one side of zero"
    )


def undecided_octo():
    """What the front page says of the Octo holds while no interval lies on one side of zero."""
    assert len(octo_places()) == 2
    return (
        "A small Octo, trained from scratch with the same five seeds, shows neither harm by proprioception nor repair"
    )


def octo_places():
    places = blocks("octo_confirmation")
    for place in places:
        assert not place.missing and not place.stale
        for pair in (("v", "vp"), ("vp_gap", "vp")):
            low, high = place.found.differences[pair]["default"].interval
            assert low < 0 < high
    return places


def predicted():
    """Of how many of the nine fresh policies the prediction of the protocol is right."""
    cells = [
        f"watched/cpu/{{}}assembly-stock-{method}-seed{seed}.json"
        for method in ("concat", "gap", "gap_watched")
        for seed in (20, 21, 22)
    ]
    looks = [result(name.format("looks/"))["reliance"]["images_swapped"]["cost"] >= 1.05 for name in cells]
    won = [result(name.format(""))["variants"]["default"]["successes"] >= 40 for name in cells]
    right = sum(one == other for one, other in zip(looks, won, strict=True))
    assert right == 7 and len(cells) == 9
    return "was right of seven, and eight were asked for: it did not hold"


def two_sets_of_seeds():
    """GAP − VP of the same settings with two sets of seeds."""
    found = []
    for name, seeds in (("watched", range(20, 23)), ("spread", range(10, 20))):
        gap, concat = (
            [
                result(f"{name}/cpu/assembly-stock-{method}-seed{seed}.json")["variants"]["default"]["successes"]
                for seed in seeds
            ]
            for method in ("gap", "concat")
        )
        found.append(f"{(sum(gap) - sum(concat)) / len(seeds):+.0f}")
    return f"`gap` − `concat` is {found[0]} points with these three and {found[1]} with the ten above"


CLAIMS = [
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", predicted),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", two_sets_of_seeds),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", watched),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", unwatched),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", longer),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", what_octos_rely_on),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", one_token),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", octo),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", looked),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", rule_of_thumb),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", below_in_the_map),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", a_fraction),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", what_five_seeds_see),
    ("README.md", shown),
    ("README.md", undecided_octo),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", wide),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", dropped),
    ("docs/WHEN_PROPRIOCEPTION_HURTS.md", starved),
    ("README.md", tasks),
    ("README.md", finders),
    ("docs/RESULTS.md", diagnosed),
    ("docs/DIAGNOSIS.md", seeing),
    ("docs/DIAGNOSIS.md", blind),
    ("README.md", looking),
]
"""A page, and a function that gives words which have to stand in it."""
