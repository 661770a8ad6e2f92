"""What goes with success over training seeds is said where it is shown, and not where it is not."""

import dataclasses

import pytest
from fake_cells import cells_of, fake_kind, fake_table
from test_reproduction_tables import entry_of, rendered

from experiments.tables.ledger import Ledger
from experiments.tables.looks import Looks
from experiments.tables.render import SUMMARY_PAGE, marker_name

SUCCESSES = (2, 9, 4, 7, 1, 8, 5)
NAME = "error with another episode's pictures, times"


def page_of(tmp_path, costs, seeds=7):
    """The spread's page: GAP's success by seed is `SUCCESSES`, and what other pictures cost it `costs`."""
    kind = fake_kind(tmp_path)
    table = dataclasses.replace(fake_table("concat", "gap", seeds=tuple(range(seeds))), shape="spread")
    cells, ledger = cells_of(table, kind), Ledger(tmp_path / "results", "fake", "cpu")
    for cell in cells:
        of_gap = cell.arm.name == "gap"
        won = SUCCESSES[cell.seed] if of_gap else 3
        ledger.write(cell, entry_of(cell, [1] * won + [0] * (10 - won)))
        cost = costs[cell.seed] if of_gap else 1.0
        reliance = {"images_swapped": {"cost": cost, "cost_interval": [cost, cost]}}
        Looks(ledger).add(ledger.read(cell), probe={"positions": {}}, reliance=reliance)
    page = tmp_path / "page.md"
    name = marker_name("fake", "cpu")
    page.with_name(SUMMARY_PAGE).write_text(f"<!-- begin: {name} -->\n\n<!-- end: {name} -->\n")
    return rendered(table, "cpu", cells, ledger, page), page.with_name(SUMMARY_PAGE).read_text()


def test_a_measure_that_goes_with_success_is_named_on_both_pages(tmp_path):
    text, summary = page_of(tmp_path, [1 + won / 10 for won in SUCCESSES])
    found = f"{NAME} (gap: r +1.00); {NAME} (gap − concat: r +1.00)"
    sentence = f"6 measures over 7 seeds, 1 of them with 5 values or more: shown to go with success: {found}."
    assert sentence in text and sentence in summary
    row = next(line for line in text.splitlines() if line.startswith(f"| {NAME}") and "r (p)" not in line)
    assert row.endswith("|  | +1.00 (0.00) | +1.00 (0.00) |"), "concat's success never varies: nothing goes with it"


def test_a_measure_that_does_not_is_not(tmp_path):
    text, summary = page_of(tmp_path, [1.3, 1.1, 1.5, 1.2, 1.4, 1.6, 1.0])
    sentence = "6 measures over 7 seeds, 1 of them with 5 values or more: none is shown to go with success."
    assert sentence in text and sentence in summary


@pytest.mark.parametrize("seeds", [1, 4])
def test_few_seeds_say_nothing(tmp_path, seeds):
    text, _ = page_of(tmp_path, [1 + won / 10 for won in SUCCESSES], seeds=seeds)
    assert "6 measures" not in text
