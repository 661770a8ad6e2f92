"""Claims about the comparison of methods over seeds."""

import json

import numpy as np
import pytest

from gap_vla.report.compare import Cell, as_markdown, as_text, compare, render
from gap_vla.rollouts.record import EvaluationError


def cells(rates, *, seeds=(0, 1, 2), layouts=60):
    """Cells whose outcomes share the difficulty of each layout, so that pairing has something to gain from."""
    difficulty = np.random.default_rng(0).random(layouts)
    return [
        Cell(method, seed, {100_000 + i: bool(d < rate + 0.02 * seed) for i, d in enumerate(difficulty)})
        for method, rate in rates.items()
        for seed in seeds
    ]


def test_a_cell_is_read_from_a_summary():
    summary = {"layout_seeds": [7, 9], "outcomes": [1, 0], "success_rate": 0.5}
    assert Cell.from_summary("vp", 3, summary).outcomes == {7: True, 9: False}


def test_methods_stand_in_the_papers_order_with_all_pairs():
    found = compare(cells({"vp_gap": 0.7, "v": 0.4, "vp": 0.5, "aux": 0.3}))
    assert [row.method for row in found.methods] == ["v", "vp", "vp_gap", "aux"]
    assert ("vp_gap", "vp") in [(pair.first, pair.second) for pair in found.pairs]
    assert len(found.pairs) == 6 and not found.notes


def test_a_real_difference_excludes_zero_and_equal_methods_do_not():
    found = compare(cells({"v": 0.5, "vp": 0.5, "vp_gap": 0.8}))
    by_name = {(pair.first, pair.second): pair.found for pair in found.pairs}
    assert by_name["vp_gap", "vp"].interval[0] > 0
    assert by_name["vp", "v"].difference == 0 and by_name["vp", "v"].p_mcnemar == 1


def test_only_shared_seeds_and_layouts_are_paired_and_the_rest_is_noted():
    some = cells({"v": 0.5, "vp": 0.6})
    some = [cell for cell in some if (cell.method, cell.seed) != ("vp", 2)]
    some[0] = Cell("v", 0, dict(list(some[0].outcomes.items())[:40]))
    found = compare(some)
    assert (found.pairs[0].found.seeds, found.pairs[0].found.layouts) == (2, 40)
    assert any("VP has no finished evaluation for seed 2" in note for note in found.notes)
    assert any("40 layouts" in note for note in found.notes)


def test_nothing_shared_is_said_and_not_computed():
    found = compare([Cell("v", 0, {1: True}), Cell("vp", 0, {2: True})])
    assert found.pairs[0].found is None
    assert "nothing shared" in as_text(found)


def test_one_cell_alone_makes_a_table():
    assert "V " in as_text(compare([Cell("v", 0, {1: True, 2: False})]))


def test_duplicates_and_emptiness_are_refused():
    with pytest.raises(EvaluationError, match="two evaluations of method v, seed 0"):
        compare([Cell("v", 0, {1: True})] * 2)
    with pytest.raises(EvaluationError, match="no finished evaluation"):
        compare([])


def runs(folder, table, task="assembly"):
    paths = []
    for cell in table:
        rollouts = {"layout_seeds": list(cell.outcomes), "outcomes": [int(won) for won in cell.outcomes.values()]}
        paths.append(folder / f"{task}_{cell.method}_{cell.seed}.json")
        content = {"task": task, "method": cell.method, "seed": cell.seed, "rollouts": rollouts}
        paths[-1].write_text(json.dumps(content))
    return paths


def test_text_markdown_json_and_picture_say_the_same_and_come_out_the_same(tmp_path):
    table = cells({"v": 0.4, "vp": 0.5, "vp_gap": 0.7})
    text = render(runs(tmp_path, table), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    markdown = (tmp_path / "out" / "table.md").read_text()
    assert markdown == as_markdown(compare(table), "assembly: V, VP, VP+GAP")
    for row in content["methods"]:
        shown = f"{100 * row['mean']:.0f}"
        assert shown in text and f"| {shown} |" in markdown
    first = (tmp_path / "out" / "table.png").read_bytes()
    render(runs(tmp_path, table), tmp_path / "out")
    assert (tmp_path / "out" / "table.png").read_bytes() == first


def test_methods_can_be_chosen_and_tasks_cannot_be_mixed(tmp_path):
    paths = runs(tmp_path, cells({"v": 0.4, "vp": 0.5}))
    assert "VP" not in render(paths, tmp_path, methods=["v"])
    with pytest.raises(EvaluationError, match="different tasks cannot be compared: assembly, stack"):
        render([*paths, *runs(tmp_path, cells({"v": 0.4}), task="stack")], tmp_path)
