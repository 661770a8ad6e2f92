"""The confirmation says what docs/PROTOCOL.md allows: t-tests over seeds, corrected by Holm within one question."""

import numpy as np
import pytest
from scipy import stats

from experiments.pages import FRONT, markers
from experiments.tables.cells import KINDS, plan
from experiments.tables.confirmation import (
    BLOCKS,
    CONTROLS,
    HURTS,
    HURTS_HERE,
    REASON,
    REPAIRED,
    REPAIRS,
    Corrected,
    corrected_comparisons,
    counted,
    holm,
    judged,
    p_of_seeds,
)
from experiments.tables.front import front_rows, write_front_page
from experiments.tables.ledger import FINISHED, Entry, Ledger
from experiments.tables.render import render
from experiments.tables.results import BlockResult, analyse
from experiments.tables.tables import IN, TABLES
from gap_vla.report.comparison import Comparison
from gap_vla.rollouts.statistics import OutcomesError, paired_difference

LAYOUTS = range(600_000, 600_100)
SUCCESSES = {  # of 100, for each of five seeds
    "vision": (60, 62, 58, 61, 59),
    "concat": (30, 35, 28, 33, 30),
    "gap": (50, 57, 49, 55, 51),
    "lambda_matched": (32, 33, 31, 35, 30),
    "gap_shuffled": (30, 31, 34, 33, 28),
}


def difference(*gains):
    """Of seeds in which `a` wins so many of 100 layouts more than `b`."""
    outcomes = [np.arange(100) < abs(gain) for gain in gains]
    zero = np.zeros(100, bool)
    a, b = zip(*[(one, zero) if gain > 0 else (zero, one) for one, gain in zip(outcomes, gains, strict=True)])
    return paired_difference(np.array(a), np.array(b))


def found(**gains):
    names = {"hurts": HURTS, "repairs": REPAIRS, "matched": CONTROLS[0], "shuffled": CONTROLS[1]}
    return {
        names[name]: Corrected(difference(*of_seeds), p_of_seeds(np.array(of_seeds)))
        for name, of_seeds in gains.items()
    }


CLEAR, UNCLEAR, WORSE = (20, 25, 22, 24, 21), (20, -25, 2, 4, -3), (-20, -25, -22, -24, -21)


def test_p_values_are_students_over_the_seeds():
    assert p_of_seeds([0.1, 0.3, 0.2]) == pytest.approx(2 * stats.t.sf(0.2 / (0.1 / np.sqrt(3)), 2))
    assert p_of_seeds([0.4]) == 1.0 and p_of_seeds([0.0, 0.0]) == 1.0 and p_of_seeds([0.1, 0.1]) == 0.0


def test_holms_correction_counts_what_has_not_run():
    assert holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.005], 4) == pytest.approx([0.02])
    assert holm([0.9, 0.5], 8) == [1.0, 1.0] and holm([], 4) == []
    with pytest.raises(OutcomesError, match="3 comparisons of a family of 2"):
        holm([0.01, 0.02, 0.03], 2)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        (dict(hurts=CLEAR, repairs=CLEAR, matched=CLEAR, shuffled=CLEAR), ["shown", "shown", "shown"]),
        (dict(hurts=CLEAR, repairs=CLEAR, matched=CLEAR, shuffled=UNCLEAR), ["shown", "shown", "not shown"]),
        (dict(hurts=CLEAR, repairs=CLEAR, matched=CLEAR), ["shown", "shown", "not shown"]),
        (dict(hurts=UNCLEAR, repairs=CLEAR, matched=CLEAR, shuffled=CLEAR), ["not shown"] * 3),
        (dict(hurts=WORSE, repairs=UNCLEAR), ["not shown", "not shown"]),
        (dict(hurts=CLEAR, repairs=WORSE), ["shown", "harms"]),
        (dict(hurts=CLEAR[:4], repairs=CLEAR[:4]), []),
        (dict(repairs=CLEAR), ["not shown"]),
        (dict(hurts=(1,) * 5, repairs=(-1,) * 5), ["not shown", "not shown"]),  # p is 0, and the intervals hold 0
        ({}, []),
    ],
)
def test_only_what_the_rules_allow_is_said(gains, expected):
    said = judged(found(**gains))
    assert len(said) == len(expected)
    for one, word in zip(said, expected, strict=True):
        for sentence in (str(one), one.short):
            assert (word in sentence) and ("not shown" in sentence) == (word == "not shown")


def test_cells_are_counted_once_everything_that_is_compared_in_them_has_been_trained():
    blocks = TABLES["confirmation"].blocks

    def told(*pairs):
        of_block = [{HURTS: {IN: difference(*CLEAR)}}] + [{p: {IN: difference(*CLEAR)} for p in pairs}] * 3
        return counted([BlockResult(b, Comparison({}, d), (), (), (), ()) for b, d in zip(blocks, of_block)])

    assert told(HURTS) == told(HURTS, REPAIRS) == told(HURTS, REPAIRS, *CONTROLS) == ""
    of_block = {pair: {IN: difference(*CLEAR)} for pair in (HURTS, REPAIRS, *CONTROLS)}
    whole = [BlockResult(block, Comparison({}, of_block), (), (), (), ()) for block in blocks]
    assert "hurt in four, GAP to repair it in four and to harm in none" in counted(whole)


def test_the_table_says_it_above_its_sections(tmp_path):
    table = TABLES["confirmation"]
    cells = plan(table, "cpu", KINDS["small"])
    ledger = Ledger(tmp_path / "results", "confirmation", "cpu")
    assert "not run yet" in page_of(table, cells, ledger, tmp_path).lower()

    def train(seeds, *tasks):
        for cell in cells:
            if (wins := SUCCESSES.get(cell.arm.name)) and cell.block.task in tasks and cell.seed in seeds:
                won = wins[cell.seed - 10]
                firsts = {"default": LAYOUTS[0], "positions_wide": LAYOUTS[0] + 100_000}
                rollouts = {
                    variant: {firsts[variant] + place: place < won for place in range(len(LAYOUTS))}
                    for variant in cell.settings["eval"]["variants"]
                }
                steps = cell.settings["train"]["steps"]
                known = (cell.block.task, cell.arm.name, cell.arm.method, cell.seed, steps, 60.0, True)
                account = {"commit": "abc", "machine": {"cores": 2, "device": "cpu", "jobs": 1}}
                more = dict(config=cell.settings, origin=cell.origin, account=account)
                ledger.write(cell, Entry(cell.name, FINISHED, cell.hash, *known, rollouts, None, **more))

    train((10, 11), "assembly")
    page = page_of(table, cells, ledger, tmp_path)
    assert "Nothing yet: 2 of 5 seeds have been trained." in page and "That GAP repairs it" not in page
    assert front_rows(table, [analyse(block, cells, ledger) for block in table.blocks]) == []
    train((10, 11, 12, 13, 14), "assembly")
    results = [analyse(block, cells, ledger) for block in table.blocks]
    of_block, *others = corrected_comparisons(results)
    assert len(others) == BLOCKS - 1 and not any(others)
    gains = np.array(SUCCESSES["gap"]) - np.array(SUCCESSES["concat"])
    assert of_block[REPAIRS].p == pytest.approx(4 * stats.ttest_1samp(gains, 0).pvalue)
    page = page_of(table, cells, ledger, tmp_path)
    assert "That GAP repairs it is shown: GAP − VP = +21 points" in page
    assert "That the steps which ρ marks are the reason is shown" in page
    [(result, said)] = front_rows(table, results)
    assert result.block.name == "assembly-stock" and [one.claim for one in said] == [HURTS_HERE, REPAIRED, REASON]
    front = tmp_path / "README.md"
    front.write_text("\n".join(markers(FRONT)))
    write_front_page([(result, said)], front)
    [line] = [line for line in front.read_text().splitlines() if line.startswith("| assembly")]
    assert [cell.split(" (")[0] for cell in line.split(" | ")[6:]] == ["shown: +21", "shown: +20"]
    assert "Of four places" not in page


def page_of(table, cells, ledger, folder):
    page = folder / "page.md"
    page.write_text("")
    render(table, "cpu", cells, ledger, page)
    return page.read_text()
