"""Claims about the comparison of methods over seeds."""

import json

import numpy as np
import pytest
from evaluations import evaluation_of

from gap_vla.core.foreign import Section
from gap_vla.core.resources import ResourceError
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.seals import sealed
from gap_vla.report.comparison import apart, compare, label
from gap_vla.report.comparison_render import as_markdown, as_text, draw_comparison, render
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.statistics import OutcomesError
from gap_vla.rollouts.summary import read_outcomes
from gap_vla.sim import VARIANT_NAMES


@pytest.fixture(autouse=True)
def charts(request):
    """Of the tests that compare them, charts are drawn."""
    if "picture" not in request.node.name:
        request.getfixturevalue("blank_charts")


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


def test_outcomes_are_read_from_a_summary():
    outcomes = {7: True, 9: False}
    assert read_outcomes(Section(evaluation_of(outcomes), "summary.json")) == outcomes


def test_every_method_is_subtracted_from_every_later_one_unless_pairs_are_given():
    some = methods({"v": 0.4, "vp": 0.5, "vp_gap": 0.7, "aux": 0.3})
    found = compare(some)
    assert list(found.success) == ["v", "vp", "vp_gap", "aux"]
    assert ("vp_gap", "vp") in found.differences and len(found.differences) == 6 and not found.notes()
    assert list(compare({**some, "gap": {}}, [("aux", "v"), ("gap", "v")]).differences) == [("aux", "v")]


@pytest.mark.parametrize(
    ("outcomes", "pairs", "named"),
    [
        ({"v": one({1: 2})}, None, "must be 0 or 1"),
        ({"v": one({1: "yes"})}, None, "must be 0 or 1"),
        ({"v": one({})}, None, "v, seed 0, default has no rollouts"),
        ({"v": one({1: 1})}, [("vp", "v")], "pairs name vp; there is v"),
    ],
)
def test_what_cannot_be_compared_is_refused(outcomes, pairs, named):
    with pytest.raises(OutcomesError, match=named):
        compare(outcomes, pairs)


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
    notes = found.notes(label)
    assert any("Unequal numbers of training seeds so far (V 3, VP 2)" in note for note in notes)
    assert any("VP − V uses the 40 layouts" in note for note in notes)


def test_which_seeds_there_are_is_noted_of_every_variant():
    some = methods({"v": 0.5, "vp": 0.6})
    assert not compare(some).notes()
    some["vp"][7] = some["vp"].pop(2)
    assert any("Different training seeds so far (V 0 1 2, VP 0 1 7)" in note for note in compare(some).notes(label))
    some = methods({"v": 0.5, "vp": 0.6})
    for method, seed in (("v", 0), ("v", 1), ("vp", 0)):
        some[method][seed] = {**some[method][seed], "light": some[method][seed]["default"]}
    notes = compare(some).notes(label)
    assert any("Unequal numbers of training seeds so far (V 2, VP 1)" in note for note in notes)
    assert any("Fewer than three training seeds" in note for note in notes)


def test_rollouts_that_the_simulator_cut_short_are_counted_of_each_method():
    some = methods({"v": 0.5, "vp": 0.6}, seeds=(0, 1, 2))
    summaries = [{"method": "v", "rollouts": {}}, {"method": "vp", "rollouts": {"simulator_errors": 1}}]
    summaries.append({"method": "vp", "variants": {"default": {"simulator_errors": 2}, "light": {}}})
    said = "Rollouts that were cut short by the simulator, not by the policy, count as failed: VP 3."
    assert said in compare(some, summaries=summaries).notes(label)
    assert not any("cut short" in note for note in compare(some, summaries=summaries[:1]).notes(label))


def test_nothing_shared_is_said_and_not_computed():
    found = compare({"v": one({1: True}), "vp": one({2: True})})
    assert found.differences == {("vp", "v"): {}}
    said = "VP − V: no layout is shared by all evaluations of their seeds, so nothing is paired."
    assert "nothing shared" in as_text(found) and said in as_text(found)


def test_what_is_not_shared_is_said_of_each_variant():
    def note(v, vp):
        return [n for n in compare({"v": v, "vp": vp}).notes(label) if n.startswith("VP − V")]

    rows = [{layout: True for layout in range(10 * place, 10 * place + 10)} for place in range(3)]
    each = {seed: {"default": rows[seed]} for seed in (0, 1)}
    no_layout = "no layout is shared by all evaluations of their seeds, so nothing is paired."
    assert note(each, each) == [f"VP − V: {no_layout}"], "each seed shares its layouts, but not with the other"
    assert note({0: each[0]}, {1: each[0]}) == ["VP − V: no training seed is shared, so nothing is paired."]
    both = [{0: {"default": rows[0], "light": rows[place]}} for place in (1, 2)]
    assert note(*both) == [f"VP − V on light: {no_layout}"]
    assert note({0: {"light": rows[0]}}, each) == ["VP − V: no variant of the scene is shared, so nothing is paired."]


def test_a_pair_of_fewer_layouts_is_noted_whatever_seeds_one_of_them_has_besides():
    for extra in ({}, {1: {layout: True for layout in range(20)}}):
        a = {0: {layout: True for layout in range(100)}, **extra}
        b = {0: {layout: True for layout in range(80)}}
        outcomes = {m: {s: {"default": rows} for s, rows in of.items()} for m, of in {"v": a, "vp": b}.items()}
        assert any("uses the 80 layouts that all their evaluations share" in note for note in compare(outcomes).notes())


def test_variants_are_compared_each_with_itself():
    some = methods({"v": 0.5, "vp": 0.8})
    for of_seed in some["vp"].values():
        of_seed["positions_wide"] = of_seed["default"]
    found = compare(some)
    assert found.variants == ("default", "positions_wide")
    assert list(found.differences["vp", "v"]) == ["default"] and "wide positions" in as_text(found)


@pytest.mark.parametrize(("seeds", "over"), [((0,), "layouts (one seed)"), ((0, 1), "seeds")])
def test_the_picture_says_what_its_intervals_are_over(seeds, over):
    figure = draw_comparison(compare(methods({"v": 0.4, "vp": 0.5}, seeds=seeds)))
    assert figure.axes[1].get_title().endswith(f"95 % interval over {over}")


def test_the_picture_says_so_where_one_pair_has_one_seed_and_another_has_several():
    some = methods({"v": 0.4, "vp": 0.5, "aux": 0.3})
    some["aux"] = {0: some["aux"][0]}
    title = draw_comparison(compare(some)).axes[1].get_title()
    assert title == "paired; 95 % interval over seeds; of one seed over layouts"


@pytest.mark.parametrize("variants", [1, 3, 4, 6, 9])
def test_however_many_variants_are_drawn_none_lies_outside_or_looks_like_another(variants):
    some = methods({"v": 0.4, "vp": 0.5})
    for of_seed in (of for by_seed in some.values() for of in by_seed.values()):
        of_seed.update({name: of_seed["default"] for name in VARIANT_NAMES[:variants]})
    figure = draw_comparison(compare(some))
    low, high = figure.axes[0].get_ylim()
    means = [line for line in figure.axes[0].lines if line.get_marker() != "o" and len(line.get_ydata())]
    heights = sorted(line.get_ydata()[0] for line in means)
    assert len(means) == 2 * variants and low < heights[0] and heights[-1] < high
    gaps = np.diff(heights)
    assert (gaps > 0.08).all() and gaps[variants - 1] >= gaps.min(), "points of one method stay together"
    assert len({(line.get_color(), line.get_marker()) for line in means}) == variants
    inches = gaps.min() * (figure.get_figheight() - 1.5) / 2
    assert inches > 0.08 and (variants > 4 or figure.get_figheight() == 1.5 + 0.42 * 2)
    if 1 < variants <= 4:
        assert gaps.min() == pytest.approx(0.22)


def test_a_name_from_a_file_stays_in_its_place_on_the_page():
    told = as_markdown(compare({"a|b<!-- end -->": one({1: True, 2: False})}), "assembly: <script>\n# More")
    assert told.startswith("# assembly: &lt;script> # More\n") and "<!--" not in told
    assert r"| a\|b&lt;!-- end --> | in distribution | 50 |" in told


def test_one_method_alone_makes_a_table():
    assert "V " in as_text(compare({"v": one({1: True, 2: False})}))


def runs(folder, table, task="assembly"):
    paths = []
    for method, by_seed in table.items():
        for seed, variants in by_seed.items():
            rollouts = evaluation_of(variants["default"])
            paths.append(folder / f"{task}_{method}_{seed}.json")
            content = {"task": task, "method": method, "seed": seed, "rollouts": rollouts}
            paths[-1].write_text(json.dumps(content))
    return paths


def test_duplicates_and_emptiness_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="two evaluations of method v, seed 0"):
        render(runs(tmp_path, {"v": one({1: True})}) * 2, tmp_path)
    with pytest.raises(EvaluationError, match="no finished evaluation"):
        render([], tmp_path)
    with pytest.raises(EvaluationError, match=r"summary\.json: one name; give a list"):
        render(tmp_path / "summary.json", tmp_path)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ResourceError, match=r"out is a file; give a folder"):
        render(runs(tmp_path, {"v": one({1: True})}), tmp_path / "out")


def test_methods_stand_in_the_papers_order_whatever_the_files_order(tmp_path):
    text, _ = render(runs(tmp_path, methods({"aux": 0.3, "vp_gap": 0.7, "v": 0.4})), tmp_path)
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["V", "VP+GAP", "aux"]


def test_text_markdown_json_and_picture_say_the_same_and_come_out_the_same(tmp_path):
    table = methods({"v": 0.4, "vp": 0.5, "vp_gap": 0.7})
    text, returned = render(runs(tmp_path, table), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content == {"made_by": "gap_vla:comparison", **json.loads(json.dumps(returned))}
    markdown = (tmp_path / "out" / "table.md").read_text()
    told = as_markdown(compare(table, summaries=[{}] * 9), "assembly: V, VP, VP+GAP")
    assert markdown == f"{told.rstrip()}\n<!-- gap_vla:comparison -->\n"
    assert all(pair["of_seeds"] == [0, 1, 2] and len(pair["found"]["per_seed"]) == 3 for pair in content["pairs"])
    for row in content["methods"]:
        shown = f"{100 * row['mean']:.0f}"
        assert shown in text and f"| {shown} |" in markdown
    first = (tmp_path / "out" / "table.png").read_bytes()
    render(runs(tmp_path, table), tmp_path / "out")
    assert (tmp_path / "out" / "table.png").read_bytes() == first


def beside_settings(folder):
    """Summaries of V and VP, each in a folder of its own with settings."""
    table = methods({"v": 0.4, "vp": 0.5})
    paths = []
    for number, summary in enumerate(runs(folder, {m: {0: by_seed[0]} for m, by_seed in table.items()})):
        (folder / f"{number}").mkdir()
        path = summary.rename(folder / f"{number}" / "summary.json")
        paths.append(path)
        settings = {"method": ("v", "vp")[number], "train": {"seed": 0, "log_every": number}, "runs": f"{number}"}
        (path.parent / "config.json").write_text(json.dumps(settings))
    return paths


def test_runs_that_differ_in_further_settings_are_compared_with_a_note(tmp_path):
    paths = beside_settings(tmp_path)
    text = render(paths, tmp_path / "out")[0]
    assert "differ in settings" not in text
    assert "The summary of 2 runs holds no digests (version 0.1.0): edits of the files are not seen." in text
    for number, rate in ((0, 1e-3), (1, 3e-4)):
        settings = json.loads((paths[number].parent / "config.json").read_text())
        settings["optimizer"] = {"learning_rate": rate}
        (paths[number].parent / "config.json").write_text(json.dumps(settings))
    said = "Not method and seed alone: the runs also differ in settings (optimizer.learning_rate 0.001, 0.0003)."
    assert said in render(iter(paths), tmp_path / "out")[0]
    assert said in json.loads((tmp_path / "out" / "table.json").read_text())["notes"]


@pytest.mark.parametrize(
    ("other", "key"), [({"task": "stack"}, "task"), ({"method": "aux"}, "method"), ({"train": {"seed": 7}}, "seed")]
)
def test_a_summary_beside_the_settings_of_another_run_is_refused(tmp_path, other, key):
    paths = beside_settings(tmp_path)
    file = paths[1].parent / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | other))
    with pytest.raises(EvaluationError, match=rf"summary\.json is of another {key} than .*config\.json; copy the run"):
        render(paths, tmp_path / "out")


def test_what_one_run_alone_has_set_is_noted_and_not_a_page_of_it():
    one = {"optimizer": {"rate": 0.1}, "data": {"augment": {}}}
    assert apart([one, {"optimizer": {}}]) == {"optimizer.rate": [0.1, "not given"]}
    later = {"optimizer": {"rate": 0.2}, "new": {f"setting{number}": number for number in range(20)}}
    note = next(note for note in compare(methods({"v": 0.4}), None, [one, later]).notes() if "settings" in note)
    assert "(optimizer.rate 0.1, 0.2; new.setting0 not given, 0; " in note
    assert note.endswith("; new.setting3 not given, 3; and 16 more that not all of them give).")


def test_of_summaries_that_were_copied_alone_edits_and_other_data_are_seen(tmp_path):
    paths = beside_settings(tmp_path)
    for number, path in enumerate(paths):
        summary = {**json.loads(path.read_text()), "origin": {"episodes": f"digest {number}"}}
        path.write_text(json.dumps(sealed(RunDirectory(path.parent), summary)))
        (path.parent / "config.json").unlink()
    notes = render(paths, tmp_path / "out")[1]["notes"]
    assert not any("holds no digests" in note for note in notes)
    assert any("origin.episodes digest 0, digest 1" in note for note in notes)
    assert "The settings of 2 runs are not known: no config.json lies beside the summary." in notes
    copied = paths[1].rename(tmp_path / "copied.json")
    render([paths[0], copied], tmp_path / "out")
    copied.write_text(json.dumps({**json.loads(copied.read_text()), "seed": 7}))
    with pytest.raises(
        EvaluationError, match=r"copied\.json is not what it was when the run ended; copy the run again"
    ):
        render([paths[0], copied], tmp_path / "out")


def test_evaluations_of_one_policy_are_not_two_seeds_and_layouts_are_counted(tmp_path):
    paths = runs(tmp_path, methods({"v": 0.4}, seeds=(0, 1), layouts=3))

    def change(path, **more):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "rollouts": {**found["rollouts"], **more}}))

    for path, own in zip(paths, "ab"):
        change(path, policy={"name": "v", "parameters": own}, seed=100_000)
    render(paths, tmp_path / "out")
    change(paths[1], policy={"name": "v", "parameters": "a"})
    with pytest.raises(EvaluationError, match="are of seeds 0 and 1, but of one policy; keep one"):
        render(paths, tmp_path / "out")
    change(paths[1], layout_seeds=[100_000, 100_777, 100_002])
    with pytest.raises(EvaluationError, match="layouts of default are not counted from 100000 on; copy it again"):
        render(paths, tmp_path / "out")


def test_other_pictures_or_actions_in_rollouts_are_noted_where_no_settings_say_so(tmp_path):
    paths = runs(tmp_path, methods({"v": 0.4, "vp": 0.5}, seeds=(0,)))
    for path, size, execute in ((paths[0], 64, 1), (paths[1], 32, 5)):
        found = json.loads(path.read_text())
        found["rollouts"] |= {"task": {"image_size": size}, "policy": {"execute": execute}}
        found["rollouts"]["task"] |= {"horizon": 200} if size == 64 else {}
        path.write_text(json.dumps(found))
    said = "(rollouts.image_size 64, 32; rollouts.execute 1, 5; rollouts.horizon 200, not given)."
    assert said in render(paths, tmp_path / "out")[0]


def test_runs_that_measured_exactly_the_same_are_not_two_seeds(tmp_path):
    paths = runs(tmp_path, methods({"v": 0.4}, seeds=(0, 1)))
    for path in paths:
        path.write_text(json.dumps({**json.loads(path.read_text()), "validation": {"val/action_mse": 0.25}}))
    with pytest.raises(EvaluationError, match="are of seeds 0 and 1, but measured exactly the same; keep one"):
        render(paths, tmp_path / "out")


def test_tasks_cannot_be_mixed(tmp_path):
    paths = runs(tmp_path, methods({"v": 0.4, "vp": 0.5}))
    with pytest.raises(EvaluationError, match="different tasks cannot be compared: assembly, stack"):
        render([*paths, *runs(tmp_path, methods({"v": 0.4}), task="stack")], tmp_path)
