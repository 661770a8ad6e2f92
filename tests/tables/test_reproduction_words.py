"""What is written about differences and looks fits what was measured."""

import dataclasses
from types import SimpleNamespace

import pytest
from fake_cells import ORIGIN, cells_of, fake_kind, fake_table
from test_reproduction_tables import entry_of, rendered

from experiments.pages import FRONT, markers
from experiments.tables.front import NOTHING, write_front_page
from experiments.tables.ledger import FAILED, Ledger
from experiments.tables.looks import Looks
from experiments.tables.render import notes
from experiments.tables.results import analyse, verdict
from gap_vla.rollouts.statistics import PairedDifference


def difference(low, high, seeds=3):
    return PairedDifference((low + high) / 2, (low, high), 1e-9, (0.1,) * seeds, seeds, 100)


@pytest.mark.parametrize(
    "low, high, words",
    [
        (-0.13, 0.29, "undecided between `a` and `b`: +8 points (−13 to +29 over 3 seeds)"),
        (0.02, 0.2, "`a` succeeds more often than `b`: +11 points (+2 to +20 over 3 seeds)"),
        (-0.4, -0.2, "`a` succeeds less often than `b`: −30 points (−40 to −20 over 3 seeds)"),
        (-0.02, 0.04, "`a` is as good as `b`: +1 points (−2 to +4 over 3 seeds)"),
        (0.02, 0.04, "`a` is as good as `b`: +3 points (+2 to +4 over 3 seeds)"),
    ],
)
def test_a_sentence_claims_what_its_interval_allows(low, high, words):
    assert verdict("a", "b", difference(low, high)) == words


def test_one_seed_is_never_more_than_two_policies():
    words = "with one seed each, `a` succeeded more often than `b`: +20 points (+10 to +30 for these two policies)"
    assert verdict("a", "b", difference(0.1, 0.3, seeds=1)) == words
    assert verdict("a", "b", difference(-0.3, -0.1, seeds=1)).startswith("with one seed each, `a` succeeded less often")
    for low, high in ((-0.1, 0.3), (-0.02, 0.02)):
        assert verdict("a", "b", difference(low, high, seeds=1)).startswith("with one seed each, undecided between")


def test_looks_stand_below_their_cells_and_below_the_stale_ones_when_those_are_stale(tmp_path):
    kind = fake_kind(tmp_path)
    table = fake_table("concat", "gap", seeds=(0, 1))
    cells, ledger = cells_of(table, kind), Ledger(tmp_path / "results", "fake", "cpu")
    for cell in cells:
        ledger.write(cell, entry_of(cell, [1, 0] * 100))
        error = 0.010 + 0.002 * cell.seed
        probe = {"positions": {"peg": {"before grasp": {"error": error}, "all steps": {"error": 9.0}}}}
        probe["beyond_proprio"] = {"peg": {"before transport": {"r2": -0.1 if cell.arm.name == "gap" else 0.5}}}
        outcomes = {"never": "0000010", "start of transport": "1111101", "always": "1111111"}
        looks = {"takeover": {"other": "vision, seed 0", "outcomes": outcomes}} if cell is cells[0] else {}
        Looks(ledger).add(ledger.read(cell), probe=probe, **looks)
    page = tmp_path / "page.md"
    text = rendered(table, "cpu", cells, ledger, page)
    assert "| concat | 11.0 (10.0, 12.0) | 0.50 (0.50, 0.50) |" in text and "−0.10" in text
    assert "9000" not in text, "where a carried object is, the hand tells"
    assert "| start of transport | 6 | 6 / 1 | 0.12 |" in text and "undecided between `gap` and `concat`" not in text
    text = rendered(table, "cpu", cells_of(table, fake_kind(tmp_path, learning_rate=0.5)), ledger, page)
    assert text.index("What was found out about stale cells") < text.index("| concat | 11.0")
    assert not any(word in text for word in ("succeeds", "undecided", "as good as"))


def test_the_front_page_speaks_only_of_cells_that_count(tmp_path):
    kind = fake_kind(tmp_path)
    table = fake_table("concat", "gap", seeds=(0, 1, 2))
    cells, ledger = cells_of(table, kind), Ledger(tmp_path / "results", "fake", "cpu")
    for cell in cells:
        ledger.write(cell, entry_of(cell, [cell.arm.name == "gap"] * 40))
    page = tmp_path / "README.md"
    begin, end = markers(FRONT)
    page.write_text(f"# A project\n\n{begin}\n{end}\n\nMore.\n")
    write_front_page([(analyse(table.blocks[0], cells, ledger), ())], page)
    text = page.read_text()
    assert "| 0 (0 to 3) | 100 (97 to 100) |  |  | above: +100 (+97 to +100) |  |" in text
    assert text.startswith("# A project") and text.endswith("More.\n") and "cut short" not in text
    lost = dataclasses.replace(entry_of(cells[0], [False] * 40), simulator_errors={"default": 2})
    ledger.write(cells[0], lost)
    result = analyse(table.blocks[0], cells, ledger)
    write_front_page([(result, ())], page)
    said = "Rollouts that were cut short by the simulator, not by the policy, count as failed: concat 2."
    assert notes(result).count(said) == 1 and f"torch policy: {said}" in page.read_text()
    ledger.write(cells[0], dataclasses.replace(lost, simulator_errors={}))
    alone = analyse(table.blocks[0], cells[:1], ledger)
    write_front_page([(alone, ())], page)
    assert NOTHING in page.read_text() and "1 cell, commit" in " ".join(notes(alone))
    more = cells_of(fake_table("concat", "gap", seeds=(0, 1, 2, 3)), kind)
    write_front_page([(analyse(table.blocks[0], more, ledger), ())], page)
    assert NOTHING in page.read_text(), "a seed of GAP is missing"
    ledger.write(more[-1], entry_of(more[-1], [True] * 40))
    assert more[-1].arm.name == "gap"
    write_front_page([(analyse(table.blocks[0], more, ledger), ())], page)
    assert NOTHING in page.read_text(), "a seed of what GAP is compared with is missing"
    ledger.write(more[-2], entry_of(more[-2], [True] * 40))
    write_front_page([(analyse(table.blocks[0], more, ledger), ())], page)
    assert NOTHING not in page.read_text()
    other_demos = dataclasses.replace(entry_of(more[-2], [True] * 40), origin={**ORIGIN, "episodes": "others"})
    ledger.write(more[-2], other_demos)
    mixed = [*more[:-2], dataclasses.replace(more[-2], origin=other_demos.origin), more[-1]]
    assert not analyse(table.blocks[0], mixed, ledger).stale
    write_front_page([(analyse(table.blocks[0], mixed, ledger), ())], page)
    assert NOTHING in page.read_text(), "cells of one seed saw other demonstrations"
    ledger.write(more[-2], entry_of(more[-2], [], FAILED, "DivergedError"))
    write_front_page([(analyse(table.blocks[0], more, ledger), ())], page)
    assert NOTHING in page.read_text(), "a seed has failed"
    other = cells_of(table, fake_kind(tmp_path, learning_rate=0.5))
    write_front_page([(analyse(table.blocks[0], other, ledger), ())], page)
    text = page.read_text()
    assert NOTHING in text and "above" not in text
    said = " ".join(notes(analyse(table.blocks[0], other, ledger)))
    assert "concat, seeds 0, 1, 2: in distribution 0, 0, 0 %" in said


def test_a_front_page_without_the_markers_stays_as_it_is(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# A project\n")
    write_front_page([], page)
    assert page.read_text() == "# A project\n"


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({10: "aa", 11: "aa"}, None),
        ({10: "aa", 11: "bb"}, "Each seed has demonstrations of its own, the same for every method."),
        ({10: "ab", 11: "bb"}, "Cells of one seed were not all trained on the same demonstrations"),
    ],
)
def test_a_table_says_whose_demonstrations_differ(contents, said, monkeypatch):
    monkeypatch.setattr("experiments.tables.render._origin", lambda result: "")
    cells = [SimpleNamespace(seed=s, origin={"episodes": one}) for s, each in contents.items() for one in each]
    found = SimpleNamespace(notes=list, cut_short=list)
    told = " ".join(notes(SimpleNamespace(found=found, missing=(), failed=(), stale=(), finished=cells)))
    assert (said in told) if said else "demonstrations" not in told
