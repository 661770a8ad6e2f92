"""Tables of cells: plans, the table on disk, and the arithmetic of what is said about them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.pages import replace_between
from experiments.tables import results
from experiments.tables.cells import plan
from experiments.tables.command import main
from experiments.tables.confirmation import (
    CONTROLS,
    HURTS,
    REPAIRS,
    Corrected,
    corrected_comparisons,
    judged,
    p_of_seeds,
)
from experiments.tables.proprio_map import Place, effect, places_of
from experiments.tables.results import BlockResult, analyse
from experiments.tables.rule_of_thumb import judge
from experiments.tables.tables import IN, TABLES
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.report.comparison import Comparison
from gap_vla.rollouts.statistics import PairedDifference, paired_difference

PUBLISHED = results.read()


def row_of(cell, won, of=100, **more):
    """A cell's row, as if it had won the first so many of its layouts."""
    outcomes = "1" * won + "0" * (of - won)
    row = {"table": cell.table, "profile": cell.profile, "cell": cell.name, "task": cell.block.task}
    row |= {"arm": cell.arm.name, "seed": cell.seed, "successes_default": won, "outcomes_default": outcomes}
    row |= {"first_layout_default": 600_000, "hours": 0.1, "whole": True, "commit": "abc", "machine": "2 cores"}
    return {**row, **cell.versions, "settings": cell.settings, **more}


# ---- plans


def test_every_table_can_be_planned_and_names_its_cells_once():
    for table in TABLES.values():
        names = [cell.name for cell in plan(table, "cpu")]
        assert names and len(names) == len(set(names))


# ---- the table on disk


def test_every_published_cell_is_one_of_todays_tables_with_todays_settings():
    for name, rows in PUBLISHED.groupby("table"):
        assert len(results.rows_of(plan(TABLES[name], "cpu"), PUBLISHED)) == len(rows)


def test_a_recorded_cell_is_replaced_by_its_own_name_and_not_by_another(tmp_path):
    path, cells = tmp_path / "cells.csv", plan(TABLES["disturbed"], "cpu")[:2]
    for won in (3, 40):
        for cell in cells:
            results.add(row_of(cell, won), path)
    frame = results.read(path)
    assert len(frame) == 2 and set(frame["successes_default"]) == {40}
    found = results.rollouts_of(results.rows_of(cells, frame)[cells[0].name])
    assert list(found) == ["default"] and sum(found["default"].values()) == 40
    assert min(found["default"]) == 600_000


def test_a_cell_of_other_settings_is_not_there_and_one_of_other_code_is_named(tmp_path):
    path, (cell, other, *_) = tmp_path / "cells.csv", plan(TABLES["disturbed"], "cpu")
    results.add(row_of(cell, 3) | {"settings": "{}"}, path)
    assert results.rows_of([cell], results.read(path)) == {}
    for one, change in ((cell, {"training_version": 0}), (other, {})):
        results.add(row_of(one, 3) | change, path)
    recorded = results.rows_of([cell, other], results.read(path))
    assert results.of_other_versions([cell, other], recorded) == [cell.name]
    with pytest.raises(ConfigError, match=cell.name):
        main.__wrapped__(["--table", "disturbed", "--results", str(path)])


def test_only_cells_that_are_missing_would_be_run(tmp_path, capsys):
    path, cells = tmp_path / "cells.csv", plan(TABLES["disturbed"], "cpu")
    results.add(row_of(cells[0], 50), path)
    assert main(["--table", "disturbed", "--dry-run", "--results", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"{len(cells)} cells, {len(cells) - 1} to run" in said and cells[0].name not in said


def test_published_figures():
    """The front page's, from the raw outcomes."""
    cells = plan(TABLES["confirmation"], "cpu")
    found = {block.name: analyse(block, cells, PUBLISHED) for block in TABLES["confirmation"].blocks}
    of = found["bin_picking-stock"].found
    means = {arm: round(100 * of.success[arm][IN].mean) for arm in ("vision", "concat", "gap", "lambda_matched")}
    assert means == {"vision": 82, "concat": 18, "gap": 81, "lambda_matched": 82}
    low, high = of.differences[HURTS][IN].interval
    assert (round(100 * low), round(100 * high)) == (53, 74)
    said = [judged(one) for one in corrected_comparisons(list(found.values()))]
    assert [one["proprioception hurts here"] for one in said] == [False, False, True, False]
    assert not any(one["the steps which ρ marks are the reason"] or one["GAP harms here"] for one in said)


# ---- pages


def test_what_people_wrote_around_a_generated_part_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- begin: x -->\nold\n<!-- end: x -->\n\nBy hand.\n")
    replace_between(page, "x", "new")
    assert page.read_text() == "# Mine\n\n<!-- begin: x -->\n\nnew\n\n<!-- end: x -->\n\nBy hand.\n"
    replace_between(page, "y", "more")
    assert page.read_text().endswith("By hand.\n\n<!-- begin: y -->\n\nmore\n\n<!-- end: y -->\n")
    page.write_text("<!-- begin: x -->")
    with pytest.raises(UserError, match="end: x"):
        replace_between(page, "x", "new")


def test_a_table_is_rendered_with_pictures_and_what_is_missing(tmp_path):
    path, page = tmp_path / "cells.csv", tmp_path / "page.md"
    for cell in plan(TABLES["evidence"], "cpu")[:4]:
        results.add(row_of(cell, 40), path)
    assert main(["--render", "--results", str(path), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| concat | 40 |" in text and "Not run yet" in text
    assert len(list((tmp_path / "pictures").iterdir())) == 1


def test_the_measure_of_an_arm_is_the_mean_over_places_of_each_seed(tmp_path):
    path, page = tmp_path / "cells.csv", tmp_path / "page.md"
    won = {("concat", "assembly"): 10, ("concat", "disassemble"): 20, ("wide", "assembly"): 20}
    for cell in plan(TABLES["choose"], "cpu"):
        extra = 4 * (cell.seed - 30) if cell.arm.name == "wide" else 0  # 0 to 12 of 40 more
        if cell.arm.name in ("concat", "wide"):
            row = row_of(cell, won.get((cell.arm.name, cell.block.task), 24) + extra, of=40, branch_moved=cell.seed)
            results.add(row, path)
    assert main(["--render", "--table", "choose", "--results", str(path), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| concat | 37.5 | 37.5 | 37.5 | 37.5 | 37.5 | 31.50 |" in text
    assert "| wide | 70.0 | 55.0 | 65.0 | 75.0 | 85.0 | 31.50 |" in text
    low, high = stats.t.interval(0.95, 3, 32.5, stats.sem([17.5, 27.5, 37.5, 47.5]))
    assert f"| wide − concat | +32 | +{low:.0f} to +{high:.0f} |" in text


# ---- what may be said


def difference(*gains):
    """Of seeds in which `a` wins so many of 100 layouts more than `b`."""
    outcomes = [np.arange(100) < abs(gain) for gain in gains]
    zero = np.zeros(100, bool)
    a, b = zip(*[(one, zero) if gain > 0 else (zero, one) for one, gain in zip(outcomes, gains, strict=True)])
    return paired_difference(np.array(a), np.array(b))


def found_of(**gains):
    names = {"hurts": HURTS, "repairs": REPAIRS, "matched": CONTROLS[0], "shuffled": CONTROLS[1]}
    return {names[n]: Corrected(difference(*seeds), p_of_seeds(np.array(seeds))) for n, seeds in gains.items()}


CLEAR, UNCLEAR, WORSE = (20, 25, 22, 24, 21), (20, -25, 2, 4, -3), (-20, -25, -22, -24, -21)


@pytest.mark.parametrize(
    ("gains", "shown"),
    [
        (dict(hurts=CLEAR, repairs=CLEAR, matched=CLEAR, shuffled=CLEAR), [True, True, False, True]),
        (dict(hurts=CLEAR, repairs=CLEAR, matched=CLEAR, shuffled=UNCLEAR), [True, True, False, False]),
        (dict(hurts=UNCLEAR, repairs=CLEAR, matched=CLEAR, shuffled=CLEAR), [False, False, False, False]),
        (dict(hurts=CLEAR, repairs=WORSE, matched=UNCLEAR, shuffled=UNCLEAR), [True, False, True, False]),
        (dict(hurts=CLEAR[:4], repairs=CLEAR[:4], matched=CLEAR[:4], shuffled=CLEAR[:4]), []),
        (dict(hurts=CLEAR, repairs=CLEAR), []),
        ({}, []),
    ],
)
def test_only_what_the_rules_allow_is_said(gains, shown):
    assert list(judged(found_of(**gains)).values()) == shown


def test_comparisons_are_corrected_over_all_cells_of_a_question():
    blocks = TABLES["confirmation"].blocks
    pairs = {pair: {IN: difference(*CLEAR)} for pair in (HURTS, REPAIRS, *CONTROLS)}
    [one, *_] = corrected_comparisons([BlockResult(block, Comparison({}, pairs), (), ()) for block in blocks])
    p = p_of_seeds(difference(*CLEAR).per_seed)
    assert one[HURTS].p == pytest.approx(4 * p) and one[CONTROLS[0]].p == pytest.approx(8 * p)


# ---- the map and the rule of thumb


def place(task, gain, history=1, v=0.5, view="near", errors=()):
    found = PairedDifference(gain, (gain, gain), 1.0, (gain,), 1, 100)
    return Place(task, view, history, v, v + gain, found, dict(errors))


def test_effects_are_means_over_tasks_of_differences_within_a_task():
    gains = {("a", "near"): 0.0, ("a", "stock"): -0.15, ("b", "near"): 0.1, ("b", "stock"): -0.15}
    places = [place(task, gain, view=view) for (task, view), gain in gains.items()]
    places += [place("c", -0.01, v=0.99), place("c", -0.5, view="stock")]  # its near view says nothing
    found = effect(places, "view", "near", "stock")
    assert found.tasks == 2 and found.mean == pytest.approx(-0.2)
    half = 12.706 * np.std([-0.15, -0.25], ddof=1) / np.sqrt(2)  # t with one degree of freedom
    assert found.interval == pytest.approx((-0.2 - half, -0.2 + half), abs=1e-3)


def test_the_published_map_has_all_its_places():
    table = TABLES["map"]
    cells = plan(table, "cpu")
    places = places_of([analyse(block, cells, PUBLISHED) for block in table.blocks])
    assert len(places) == 36 and all(one.errors for one in places)
    found = {(p.task, p.view, p.history): round(100 * p.difference.difference) for p in places}
    assert found["disassemble", "stock", 5] == -52 and found["bin_picking", "stock", 1] == -44  # docs/PROTOCOL.md
    assert found["push_wall", "near", 1] == 32


def errors_with(pictures):
    """Of which only the pictures' predictor differs between places."""
    nothing = {"transitions": 0.0, "between": 0.0}
    flat = {"time": nothing, "state": nothing, "history": nothing}
    seen = {"transitions": pictures, "between": 0.0}
    return flat | {"pictures": seen, "state+pictures": seen, "history+pictures": seen}


GAINS = {"a": -0.2, "b": -0.3, "c": 0.1, "d": 0.2, "e": -0.1}


def test_a_rule_that_holds_everywhere_is_right_about_every_task_left_out():
    found = judge([place(task, gain, errors=errors_with(gain)) for task, gain in GAINS.items()])
    assert (found.asked, found.right) == (5, 5) and {rule.sign for rule in found.rules.values()} == {-1}
