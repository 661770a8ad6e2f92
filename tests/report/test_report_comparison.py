"""Claims about the comparison of methods over seeds."""

import json

import numpy as np
import pytest

from gap_vla.core.errors import UserError
from gap_vla.report.comparison import as_text, compare, label, render
from tests.helpers.evaluations import evaluation_of
from tests.helpers.finished_runs import make_run


def methods(rates, *, seeds=(0, 1, 2), layouts=60):
    """Outcomes that share the difficulty of each layout, so that pairing has something to gain from."""
    difficulty = np.random.default_rng(0).random(layouts)
    return {
        method: {
            seed: {"default": {100_000 + i: bool(d < rate + 0.02 * seed) for i, d in enumerate(difficulty)}}
            for seed in seeds
        }
        for method, rate in rates.items()
    }


def one(outcomes):
    return {0: {"default": outcomes}}


def test_every_method_is_subtracted_from_every_later_one_unless_pairs_are_given():
    some = methods({"v": 0.4, "vp": 0.5, "vp_gap": 0.7, "aux": 0.3})
    found = compare(some)
    assert list(found.success) == ["v", "vp", "vp_gap", "aux"]
    assert ("vp_gap", "vp") in found.differences and len(found.differences) == 6 and not found.notes()
    assert list(compare({**some, "gap": {}}, [("aux", "v"), ("gap", "v")]).differences) == [("aux", "v")]


def test_a_real_difference_excludes_zero_and_equal_methods_do_not():
    found = compare(methods({"v": 0.5, "vp": 0.5, "vp_gap": 0.8})).differences
    assert found["vp_gap", "vp"]["default"].interval[0] > 0
    equal = found["vp", "v"]["default"]
    assert equal.difference == 0 and equal.p_mcnemar == 1


def test_only_shared_seeds_and_layouts_are_paired_and_the_rest_is_noted():
    some = methods({"v": 0.5, "vp": 0.6})
    del some["vp"][2]
    some["v"][0] = {"default": dict(list(some["v"][0]["default"].items())[:40])}
    found = compare(some)
    difference = found.differences["vp", "v"]["default"]
    assert (difference.seeds, difference.layouts) == (2, 40)
    assert any("(V: 0 1 2, VP: 0 1)" in note for note in found.notes(label))


def test_methods_that_share_no_layouts_are_not_paired():
    first, second = ({"default": {layout: True for layout in range(10 * n, 10 * n + 10)}} for n in (0, 1))
    for other in ({1: first}, {0: second}):
        assert "nothing shared" in as_text(compare({"v": {0: first}, "vp": other}))


def test_variants_are_compared_each_with_itself():
    some = methods({"v": 0.5, "vp": 0.8})
    for of_seed in some["vp"].values():
        of_seed["positions_wide"] = of_seed["default"]
    found = compare(some)
    assert found.variants == ("default", "positions_wide")
    assert list(found.differences["vp", "v"]) == ["default"] and "wide positions" in as_text(found)


def runs(folder, table, task="assembly"):
    paths = []
    for method, seed in [(method, seed) for method, by_seed in table.items() for seed in by_seed]:
        path = folder / f"{task}_{method}_{seed}"
        path.mkdir()
        rollouts = evaluation_of(table[method][seed]["default"])
        (path / "summary.json").write_text(json.dumps({"task": task, "rollouts": rollouts}))
        train = {"seed": seed, "log_every": len(paths)}
        (path / "config.json").write_text(json.dumps({"task": task, "method": method, "train": train}))
        paths.append(path)
    return paths


def change(file, how):
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def test_no_run_twins_runs_without_rollouts_and_mixed_tasks_are_refused(tmp_path):
    paths = runs(tmp_path, {"v": one({1: True}), "aux": one({1: True})})
    stack = runs(tmp_path, methods({"v": 0.4}), task="stack")
    (paths[1] / "summary.json").unlink()
    for some, named in (([], "none"), (paths[:1] * 2, "seed 0"), ([*paths, *stack], "assembly, stack"), (paths, "aux")):
        with pytest.raises(UserError, match=named):
            render(some, tmp_path / "out")


def test_runs_of_one_seed_from_different_commits_are_refused(tmp_path):
    # an audit of our tables: the same seed and settings, trained on another day, gave another policy
    for method, commit in (("concat", "abc123"), ("gap", "def456")):
        path = make_run(tmp_path, method, 0, [True, False])
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps({**summary, "machine": {"commit": commit, "cores": len(method)}}))
    with pytest.raises(UserError, match=r"abc123.*def456"):
        render([tmp_path / "concat-seed0", tmp_path / "gap-seed0"], tmp_path / "out")


def test_text_markdown_and_json_say_the_same_in_the_papers_order(tmp_path):
    paths = runs(tmp_path, methods({"aux": 0.3, "vp_gap": 0.7, "v": 0.4}))
    change(paths[0] / "summary.json", lambda found: found["rollouts"].update(simulator_errors=3))
    text, returned = render(paths, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content == json.loads(json.dumps(returned)) and (tmp_path / "out" / "table.png").stat().st_size
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["V", "VP+GAP", "aux"]
    assert all(len(pair["found"]["per_seed"]) == 3 for pair in content["pairs"])
    for row in content["methods"]:
        shown = f"{100 * row['mean']:.0f}"
        assert shown in text and f"| {shown} |" in (tmp_path / "out" / "table.md").read_text()
    assert "cut short by the simulator" in text and "aux 3" in text


def test_runs_that_differ_in_further_settings_are_compared_with_a_note(tmp_path):
    paths = runs(tmp_path, methods({"v": 0.4, "vp": 0.5}, seeds=(0,)))
    assert "differ in settings" not in render(paths, tmp_path / "out")[0]
    for path, rate in zip(paths, (1e-3, 3e-4)):
        change(path / "config.json", lambda found, rate=rate: found.update(optimizer={"learning_rate": rate}))
    assert "optimizer.learning_rate 0.001, 0.0003" in render(paths, tmp_path / "out")[0]
