"""The report is one file that needs nothing else, and says what it is made of."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluations import evaluation_of
from finished_runs import make_run

from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.outputs import OutputError
from gap_vla.drawing.figures import svg
from gap_vla.report.charts import _mean_curve, branch_chart, curve_chart
from gap_vla.report.page import write_report
from gap_vla.report.runs import ReportError, Run, read_runs
from gap_vla.report.sections import in_order, rho_section
from gap_vla.rlds import EpisodeStore
from gap_vla.rollouts.record import EpisodeRecord
from gap_vla.rollouts.summary import cannot_end_so
from gap_vla.sim.specs import task_spec
from gap_vla.training.data import training_rho
from gap_vla.training.torch import SmallConfig


@pytest.fixture(autouse=True)
def charts(request):
    """Of the tests that ask for `page`, charts are drawn; of most others they are not even put together."""
    if "page" not in request.fixturenames:
        request.getfixturevalue("blank_charts")
    if not {"page", "recwarn"} & {*request.fixturenames}:
        patch, blank = request.getfixturevalue("monkeypatch"), "data:image/svg+xml;base64,"
        for chart in ("curve_chart", "branch_chart"):
            patch.setattr(f"gap_vla.report.charts.{chart}", lambda runs, *_: blank if runs[0].metrics else None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    wins = {"concat": [1, 0, 0, 1], "gap": [1, 1, 0, 1]}
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, method, seed, wins[method]) for seed in (0, 1) for method in ("concat", "gap")]


@pytest.fixture(scope="module")
def page(runs):
    out = runs[0].parent / "report.html"
    return write_report(runs, out, command="python make_page", videos=1).read_text()


@pytest.mark.parametrize("place", ["/run", "/a/run", "/a/b/c/d/run"])
def test_a_run_has_a_store_or_none_however_near_the_root_of_the_disk_it_lies(place, runs):
    moved = dataclasses.replace(Run.read(runs[0]), path=Path(place), summary={"dataset": {"store": "nowhere/store"}})
    assert moved.store is None


def test_the_page_is_one_file_that_fetches_nothing(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"(?:https?:)?//\w+\.\w+", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "<script" not in page and "@import" not in page
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert f'id="{anchor}"' in page


def test_the_page_shows_success_differences_figures_and_videos_with_their_commands(page):
    cells = re.findall(r"<td>([^<]*)</td>", page)
    assert ["concat", "in distribution", "50", "22 to 78", "8", "0: 50, 1: 50"] == cells[:6]
    assert "gap − concat" in cells and cells[cells.index("gap − concat") + 2] == "+25"
    assert "<pre>python make_page</pre>" in page
    assert page.count("data:video/mp4;base64,") == 4 and page.count("data:image/svg+xml;base64,") >= 3
    reached = cells.index("insert")
    assert cells[reached - 2 : reached + 3] == ["concat, seed 0", "in distribution", "insert", "100", "2"]
    assert "abc123" in page and "what they say of themselves, are compared" in page


def test_sections_without_anything_to_show_are_left_out(runs, tmp_path):
    page = write_report(runs[:1], tmp_path / "report.html", command="make").read_text()
    assert 'id="curves"' in page and 'id="rho"' not in page


def test_a_run_that_is_the_present_folder_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs[0])
    page = write_report(["."], tmp_path / "report.html", command="make").read_text()
    assert f"<td>{runs[0]}</td>" in page


def test_a_video_that_was_cut_is_named_in_its_place(runs, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    video = path / "rollouts" / "default" / "videos" / "episode_0001_success.mp4"
    for part in (video.read_bytes()[:900], b"not really a video", b""):
        video.write_bytes(part)
        page = write_report([path], tmp_path / "report.html", command="make").read_text()
        assert f"{video} is a link, huge or no whole MP4 and is not shown" in page and "<video" not in page
    video.unlink()
    page = write_report([path], tmp_path / "report.html", command="make").read_text()
    assert f"{video} is not there any more" in page and "<video" not in page
    whole = (runs[0] / "rollouts/default/videos/episode_0001_failure.mp4").read_bytes()
    video.write_bytes(whole)
    os.truncate(video, 2**26)  # nothing that `evaluate` wrote; the page would hold all of it
    page = write_report([path], tmp_path / "report.html", command="make").read_text()
    assert f"{video} is a link, huge" in page and "<video" not in page


def test_without_an_ffmpeg_that_answers_no_film_is_called_damaged(tmp_path, monkeypatch):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    for exe in ("/bin/false", str(tmp_path / "nowhere")):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", exe)
        page = write_report([path], tmp_path / "report.html", command="make").read_text()
        assert f"{exe} is no ffmpeg that answers; name another with IMAGEIO_FFMPEG_EXE" in page
        assert "no whole MP4" not in page and "<video" not in page


def test_a_link_to_a_video_elsewhere_is_not_put_into_the_page(runs, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    video = path / "rollouts" / "default" / "videos" / "episode_0001_success.mp4"
    video.symlink_to(video.rename(tmp_path / "private.mp4"))
    page = write_report([path], tmp_path / "report.html", command="make").read_text()
    assert f"{video} is a link" in page and "<video" not in page


@pytest.mark.parametrize("other", [range(0, 1000, 100), range(0, 500, 10), range(500, 1000, 20), range(7)])
def test_a_curve_is_the_mean_over_seeds_however_often_and_how_long_each_measured(other):
    def run(steps, value):
        return SimpleNamespace(curve=lambda name: (np.array(steps), np.full(len(steps), value)))

    steps, values = _mean_curve([run(range(0, 1000, 10), 1.0), run(other, 3.0), run(range(0), 9.0)], "loss")
    assert len(steps) and (values == 2).all() and (np.diff(steps) > 0).all()
    assert other.start <= steps[0] <= steps[-1] <= other[-1]
    for apart in ([], [run(range(5), 1.0), run(range(9, 12), 3.0)]):
        assert [len(part) for part in _mean_curve(apart, "loss")] == [0, 0]


def test_the_same_runs_give_the_same_page(runs, page, tmp_path):
    again = write_report(runs, tmp_path / "again.html", command="python make_page", videos=1)
    assert again.read_text() == page


def test_the_data_of_a_run_is_found_from_anywhere(tmp_path, monkeypatch):
    path = make_run(tmp_path / "project" / "runs" / "assembly", "gap", 0, [1, 1, 0, 1])
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "dataset": {"path": "data/store/assembly-1"}}))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model": {"encoder": "small"}}))
    (path / "checkpoint").mkdir()
    assert Run.read(path).store is None
    store = tmp_path / "project" / "data" / "store" / "assembly-1"
    store.mkdir(parents=True)
    (store / "store.json").write_text("{}")
    assert Run.read(path).store == store
    with pytest.raises(OutputError, match=f"page.html lies in {store}, which is read"):
        write_report([path], store / "page.html", command="")
    monkeypatch.chdir(tmp_path / "project")
    assert Run.read("runs/assembly/gap-seed0").store.resolve() == store
    (tmp_path / "project" / "data").rename(tmp_path / "project" / "archive")  # as --resume with data.root=archive takes
    assert Run.read(path).store is None
    (path / "config.json").write_text(
        json.dumps({**config, "model": {"encoder": "small"}, "data": {"root": "archive"}})
    )
    assert Run.read("runs/assembly/gap-seed0").store.resolve() == tmp_path / "project" / "archive/store/assembly-1"
    (path / "summary.json").unlink()
    monkeypatch.chdir(tmp_path / "project" / "archive/store/assembly-1")
    assert Run.read(path).store is None, "a run that is not finished names none, whatever lies in the present folder"


EVALUATED = {**evaluation_of({5: True}, ("reach",)), "videos": []}
NAN = float("nan")


def evaluated(**changes):
    """What `evaluate` returned, with these changes, as a run's summary has it."""
    changed = {**EVALUATED, **changes}
    return {"variants": {"default": changed}, "rollouts": changed}


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("config.json", 5, "config.json is 5"),
        ("config.json", {"task": 5}, "task is 5"),
        ("config.json", {"train": {"seed": "zero"}}, "train.seed is 'zero'"),
        ("config.json", {"train": {"seed": 0, "steps": 30}}, "steps is 20; it must be 30"),
        (
            "config.json",
            {"eval": {"episodes": 100, "variants": ["default", "light"]}},
            "its settings ask for {'default': 100, 'light': 100}",
        ),
        (
            "config.json",
            {"eval": {"episodes": 4, "seed": 1, "variants": ["default"]}},
            "its settings ask for {'default': 100001}",
        ),
        ("config.json", {"eval": {"episodes": 4, "seed": "0", "variants": ["default"]}}, "eval.seed is '0'"),
        ("config.json", {"eval": {"episodes": 4, "seed": 0, "variants": [["default"]]}}, "eval.variants[0] is list"),
        ("summary.json", [], "summary.json is list"),
        ("summary.json", "", "summary.json is ''"),
        ("summary.json", {"variants": {"default": 5}}, "variants.default is 5"),
        ("summary.json", evaluated(outcomes=[NAN]), "variants.default.outcomes[0] is nan"),
        ("summary.json", evaluated(outcomes=[], layout_seeds=[], steps=[], last_phases=[]), "0 outcomes of 0 layouts"),
        ("summary.json", evaluated(outcomes=[0]), "successes is 1, its episodes give 0"),
        ("summary.json", evaluated(successes=7), "successes is 7, its episodes give 1"),
        ("summary.json", evaluated(episodes=10**9), "episodes is 1000000000, its episodes give 1"),
        ("summary.json", evaluated(interval=[0.5]), "interval is [0.5], its episodes give [0.2"),
        ("summary.json", evaluated(interval=[NAN, 1.0]), "interval is [NaN, 1.0]"),
        ("summary.json", evaluated(steps=[5]), "mean_steps is 10.0, its episodes give 5.0"),
        ("summary.json", evaluated(steps=[]), "1 outcomes of 1 layouts"),
        ("summary.json", evaluated(phases={"reached": {"reach": 2.0}, "failed_in": {}}), "phases is "),
        ("summary.json", evaluated(task={"task": "stack"}), "task.task is 'stack' (str); it must be 'assembly'"),
        ("summary.json", evaluated(task={"variant": "light"}), "task.variant is 'light'"),
        ("summary.json", evaluated(policy={"name": "concat"}), "policy.name is 'concat' (str); it must be 'gap'"),
        ("summary.json", {"rollouts": EVALUATED}, "rollouts is dict; it must be that of its first evaluation"),
        ("summary.json", {"interval": [0.1]}, "interval is list; it must be that of its first evaluation"),
        ("summary.json", {"machine": 5}, "machine is 5"),
        ("summary.json", {"origin": None}, "origin is null"),
        (
            "summary.json",
            {"validation": {"val/action_mse": "low", "val/mean_action_mse": 1}},
            "val/action_mse is 'low'",
        ),
        ("summary.json", {"validation": {}}, "validation.val/action_mse is missing"),
        (
            "summary.json",
            {"validation": {"val/action_mse": -0.5, "val/mean_action_mse": 1}},
            "val/action_mse is -0.5; it must be a number from 0",
        ),
        ("summary.json", evaluated(interval_clopper_pearson=[0.0, 0.1]), "interval_clopper_pearson is [0.0, 0.1], its"),
        (
            "summary.json",
            evaluated(interval_method="wilson 90 %"),
            'is "wilson 90 %", its episodes give "wilson 95 %"',
        ),
        (
            "summary.json",
            evaluated(seconds={"simulation": 1, "rendering": 0, "policy": -5}),
            "variants.default.seconds.policy is -5; it must be a number",
        ),
        ("summary.json", {"training": {"mean_rho": 3}}, "training.mean_rho is 3; it must be a number from 0 to 1"),
        ("summary.json", {"training": {"steps_per_second": -3}}, "training.steps_per_second is -3; it must be"),
        (
            "summary.json",
            evaluated(videos=["videos/episode_0000_failure.mp4"]),
            "films of its episodes, and episode 0 was no failure",
        ),
        (
            "summary.json",
            evaluated(videos=["videos/episode_0005_failure.mp4"]),
            "films of its episodes, and there is no episode 5",
        ),
        ("summary.json", evaluated(videos=["/etc/passwd"]), "films in its folder, not '/etc/passwd'"),
        ("summary.json", {"variants": {}, "rollouts": {"task": 5}}, "rollouts.task is 5"),
        ("summary.json", {"success": NAN}, "success is nan"),
        ("summary.json", {"seconds": {"train": NAN}}, "seconds.train is nan"),
        ("summary.json", {"success": 2.0}, "success is 2.0"),
        ("summary.json", {"task": "stack"}, "summary.json is of another task than"),
        ("summary.json", {"method": "concat"}, "gap-seed0/config.json; copy the run again"),
        ("summary.json", {"seed": 1}, "summary.json is of another seed than"),
        ("config.json", {"train": {"seed": 1, "steps": 20}}, "summary.json is of another seed than"),
        ("config.json", {"model": 5}, "model is 5"),
        ("summary.json", {"steps": "many"}, "steps is 'many'"),
        (
            "summary.json",
            {"validation": {"val/action_mse": float("nan"), "val/mean_action_mse": 1}},
            "mse is nan; it must be a number",
        ),
        ("summary.json", evaluated(phases=5), "phases is 5"),
        ("summary.json", evaluated(videos=[5]), "videos[0] is 5"),
        ("summary.json", {"dataset": {"store": 5}}, "dataset.store is 5"),
    ],
)
def test_runs_that_measured_nothing_are_refused_by_file_and_key(tmp_path, file, change, named):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1]) / file
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, **change} if isinstance(change, dict) else change))
    with pytest.raises(UserError) as caught:
        Run.read(path.parent)
    assert named in str(caught.value) and "\n" not in str(caught.value)


SETTINGS = {
    "demos": {"image_size": 64, "cameras": ["primary"], "camera": "near"},
    "data": {"normalization": "normal"},
    "eval": {"episodes": 4, "seed": 0, "variants": ["default"], "execute": 1, "ensemble": False},
}
PLAYED = {
    **evaluation_of(enumerate([1, 1, 0, 1], 100_000), ("reach",), 12),
    "seed": 100_000,
    "task": {"task": "assembly", "variant": "default", "image_size": 64, "cameras": ["primary"], "camera": "near"},
    "policy": {"name": "gap", "execute": 1, "normalization": "normal", "parameters": "0123"},
    "videos": [],
}


def evaluated_run(folder, name="gap", seed=0, settings=SETTINGS, **changes):
    """A run whose evaluation says what it is of."""
    path = make_run(folder / name, "gap", seed, [1, 1, 0, 1])
    played = {**PLAYED, **changes}
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "rollouts": played, "variants": {"default": played}}))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **settings}))
    return path


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("eval", {"execute": 5}, r"policy\.execute is 1, .*config\.json asks for 5; copy the run again"),
        ("eval", {"ensemble": True}, r"policy\.execute is 1, .*config\.json asks for ensemble"),
        ("demos", {"image_size": 32}, r"task\.image_size is 64, .*asks for 32"),
        (
            "demos",
            {"cameras": ["primary", "wrist"]},
            r"task\.cameras is \['primary'\], .*asks for \['primary', 'wrist'\]",
        ),
        ("demos", {"camera": "corner"}, r"task\.camera is near, .*asks for corner"),
        ("data", {"normalization": "bounds"}, r"policy\.normalization is normal, .*asks for bounds"),
    ],
)
def test_rollouts_that_the_settings_of_their_run_do_not_ask_for_are_refused(tmp_path, section, change, said):
    Run.read(evaluated_run(tmp_path, "whole"))
    settings = {**SETTINGS, section: {**SETTINGS[section], **change}}
    with pytest.raises(ReportError, match=said):
        Run.read(evaluated_run(tmp_path, settings=settings))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"layout_seeds": [100_000, 100_777, 100_002, 100_003]},
            "the layouts of default are not counted from 100000 on",
        ),
        (
            {"layout_seeds": [100_000, 100_002, 100_001, 100_003]},
            "the layouts of default are not counted from 100000 on",
        ),
        ({"simulator_errors": 1}, "simulator_errors is 1; it must be 0"),
        ({"episode_numbers": [0, 1, 2, 7]}, r"episode_numbers is \[0, 1, 2, 7\], its episodes give \[0, 1, 2, 3\]"),
        (
            {
                "seconds": {"simulation": 8.0, "rendering": 0.0, "policy": 0.0},
                "seconds_per_step": {"simulation": 3.0, "rendering": 0.0, "policy": 0.0},
            },
            r"seconds_per_step is .*its episodes give",
        ),
        ({"errors": [{"episode": 4, "error": "step 3: fell"}]}, "episode is 4"),
        ({"errors": [{"episode": 2, "error": "fell"}] * 2}, "errors names an episode twice"),
        ({"errors": [{"episode": 0, "error": "fell"}]}, "episode 0 ended without success or error"),
        ({"task": {**PLAYED["task"], "horizon": 200}}, "episode 2 ended without success or error before its horizon"),
    ],
)
def test_episodes_that_no_evaluation_gives_are_refused(tmp_path, change, said):
    with pytest.raises(ReportError, match=said):
        Run.read(evaluated_run(tmp_path, **change))


def test_episodes_end_at_the_tasks_own_horizon_if_the_evaluations_is_longer_and_those_of_others_when_they_like(
    tmp_path,
):
    own = evaluation_of(enumerate([1, 1, 0, 1], 100_000), ("reach",), 200)
    Run.read(evaluated_run(tmp_path, "longer", **own, task={**PLAYED["task"], "horizon": 500}))
    errors = [{"episode": 2, "error": "step 12: the simulator fell"}]
    Run.read(evaluated_run(tmp_path, "cut", errors=errors, simulator_errors=1))
    assert not cannot_end_so(EpisodeRecord(0, 5, False, 3), {"task": "mine", "horizon": 200})


def test_a_copy_of_a_run_is_no_further_seed(tmp_path):
    first = make_run(tmp_path, "concat", 0, [1, 0])
    copy = shutil.copytree(first, tmp_path / "copy")
    for name in ("config.json", "summary.json"):
        (copy / name).write_text((copy / name).read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ReportError, match="are of seeds 0 and 1, but measured exactly the same; keep one"):
        read_runs([first, copy])


def test_a_page_says_that_its_runs_were_trained_on_different_data(tmp_path):
    paths = [make_run(tmp_path, "concat", seed, [1, 0, 1, 0]) for seed in (0, 1)]
    note = "the runs also differ in settings (origin.episodes 0aa, 1aa)"
    for digests, noted in ((("0aa", "0aa"), False), (("0aa", "1aa"), True)):
        for path, digest in zip(paths, digests, strict=True):
            summary = json.loads((path / "summary.json").read_text())
            (path / "summary.json").write_text(json.dumps({**summary, "origin": {"episodes": digest}}))
        page = write_report(paths, tmp_path / "report.html", command="make").read_text()
        assert page.count(note) == noted
        summary = json.loads((paths[0] / "summary.json").read_text())
        bare = {**summary, "rollouts": {}, "variants": {}}  # its curves are drawn beside the other's
        (paths[0] / "summary.json").write_text(json.dumps(bare))
        page = write_report(paths, tmp_path / "report.html", command="make").read_text()
        assert page.count(note) == noted
        (paths[0] / "summary.json").write_text(json.dumps(summary))


def test_runs_that_were_measured_differently_or_share_a_policy_are_not_compared(tmp_path):
    def other(name, seed=1, **changes):
        return evaluated_run(tmp_path, name, seed, **{"policy": {**PLAYED["policy"], "parameters": "4567"}, **changes})

    first, settings = evaluated_run(tmp_path), {**SETTINGS, "demos": {}}
    won = evaluation_of(enumerate([1, 1, 1, 1], 100_000), ("reach",), 12)
    at_horizon = evaluated_run(tmp_path, "100", **won, task={**PLAYED["task"], "horizon": 100})
    assert len(read_runs([first, other("second")])) == 2
    with pytest.raises(ReportError, match="are of seeds 0 and 1, but of one policy; keep one"):
        read_runs([first, other("same", policy=PLAYED["policy"])])
    with pytest.raises(
        ReportError, match=r"evaluated on default with task\.camera near and corner; compare them apart"
    ):
        read_runs([first, other("view", settings=settings, task={**PLAYED["task"], "camera": "corner"})])
    with pytest.raises(ReportError, match=r"evaluated on default with task\.horizon 100 and 50"):
        read_runs([at_horizon, other("50", **won, task={**PLAYED["task"], "horizon": 50})])


def test_a_run_with_the_rollouts_of_another_policy_is_refused(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    summary = json.loads((path / "summary.json").read_text())
    own = {"name": "gap", "weights": "its own"}
    summary["variants"]["default"]["policy"] = summary["rollouts"]["policy"] = own
    (path / "summary.json").write_text(json.dumps(summary))
    kept = path / "rollouts" / "default" / "evaluation.json"
    kept.write_text(json.dumps({"policy": own}))
    played = kept.with_name("episodes.jsonl")
    with pytest.raises(UserError, match=rf"{played} is missing; copy the run again"):
        Run.read(path)
    said = summary["rollouts"]
    ends = zip(said["layout_seeds"], said["outcomes"], said["steps"], said["last_phases"])
    lines = [EpisodeRecord(number, seed, bool(won), *end) for number, (seed, won, *end) in enumerate(ends)]
    for records in (lines[:3], [*lines, dataclasses.replace(lines[3], episode=4, layout_seed=9)]):
        played.write_text("".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records))
        with pytest.raises(
            UserError, match=rf"{played} holds {len(records)} episodes, .*summary\.json 4; copy the run"
        ):
            Run.read(path)
    played.write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in lines))
    Run.read(path)
    kept.write_text(json.dumps({"policy": {**own, "weights": "of another"}}))
    with pytest.raises(
        UserError, match=rf"{kept} is of another policy\.weights than .*summary\.json; copy the run again"
    ):
        Run.read(path)


def test_a_run_of_other_data_than_its_summary_says_is_refused(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    summary = json.loads((path / "summary.json").read_text())
    made = {"demos": {"episodes": 4}, "val_fraction": 0.1}
    (path / "summary.json").write_text(json.dumps({**summary, "dataset": {"identity": made}}))
    kept = path / "dataset.json"
    kept.write_text(json.dumps({**made, "training_version": 2}))
    Run.read(path)
    kept.write_text(json.dumps({**made, "demos": {"episodes": 400}}))
    with pytest.raises(UserError, match=rf"{kept} is of another demos than .*summary\.json; copy the run again"):
        Run.read(path)


def test_a_run_whose_rollouts_ended_otherwise_than_its_summary_says_is_refused(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    said = json.loads((path / "summary.json").read_text())["variants"]["default"]
    kept = path / "rollouts" / "default" / "episodes.jsonl"
    idle = dict.fromkeys(("simulation_seconds", "rendering_seconds", "policy_seconds"), 0.0)
    own = {"layout_seed": said["layout_seeds"][2], "steps": said["steps"][2], "phase": said["last_phases"][2]}
    line = {"episode": 2, "success": False, **own, **idle}
    kept.write_text(json.dumps(line) + '\n{"episode": 3, "lay')  # a part that a kill left
    Run.read(path)
    assert kept.read_text().endswith("lay")
    figures = kept.with_name("summary.json")
    figures.write_text(json.dumps({"interval": [0.9, 0.3], "wall_seconds_of_last_run": 1}))
    with pytest.raises(UserError, match=rf"{figures} is of another interval than .*summary\.json; copy the run again"):
        Run.read(path)
    figures.unlink()
    for other in ({"success": True}, {"steps": own["steps"] + 1}, {"phase": "flying"}, {"episode": 7}):
        kept.write_text(json.dumps(line | other) + "\n")
        with pytest.raises(UserError, match=rf"{kept}: episode [27] is other than .*summary\.json says; copy the"):
            Run.read(path)
    rows = zip(said["layout_seeds"], said["outcomes"], said["steps"], said["last_phases"])
    lines = [{"layout_seed": seed, "success": won == 1, "steps": n, "phase": end} for seed, won, n, end in rows]
    kept.write_text(
        "".join(
            json.dumps({"episode": e, **line, **idle, "policy_seconds": 5.0}) + "\n" for e, line in enumerate(lines)
        )
    )
    with pytest.raises(UserError, match=rf"{kept}: seconds\.policy is other than .*summary\.json says; copy the"):
        Run.read(path)


ENDS = r"metrics\.jsonl does not end with val/action_mse of step 20, where the run ended; copy it again"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], ENDS),
        (lambda lines: lines[:-1], ENDS),
        (lambda lines: [*lines[:-1], lines[-1][:20]], r"line 21: not valid JSON; copy the file again"),  # cut off
        (lambda lines: [*lines, "\0\0"], r"line 22: not valid JSON; copy the file again"),
        (lambda lines: [*lines, '{"step": 21, "train/loss": 0.5}\n'], ENDS),  # of a longer run
        (lambda lines: [*lines[:-1], lines[-1].replace("0.5", "0.6")], r"ends with val/action_mse 0\.6, summary\.json"),
        (
            lambda lines: [*lines[:-1], '{"step": 20, "val/action_mse": 0.5, "val/mean_action_mse": 0.5001}\n'],
            r"ends with val/mean_action_mse 0\.5001, summary\.json has 0\.5; copy the run again",
        ),
        (lambda lines: [lines[0].replace("1.0", "NaN"), *lines[1:]], r"line 1: train/loss is nan; it must be a number"),
        *(
            (
                lambda lines, name=name: [lines[0].replace('"train/loss": 1.0', f'"{name}": -1.0'), *lines[1:]],
                f"line 1: {name} is -1.0; it",
            )
            for name in (
                "val/action_mse",
                "train/gradient_norm",
                "train/grad_norm/vision",
                "train/learning_rate",
                "gap/sample_factor",
                "branch/shared_gradient",
            )
        ),
        (
            lambda lines: [lines[0].replace('"train/loss": 1.0', '"train/loss": -1.0'), *lines[1:]],
            "step 0.train/loss is negative; copy the run again",
        ),
        (
            lambda lines: [lines[0].replace('"train/loss": 1.0', '"gap/update_factor": 3.0'), *lines[1:]],
            "line 1: gap/update_factor is 3.0; it must be a number from 0 to 1",
        ),
    ],
)
def test_measurements_of_a_finished_run_that_are_cut_damaged_or_another_runs_are_refused(change, said, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1]) / "metrics.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=said):
        write_report([path.parent], tmp_path / "report.html", command="make")
    assert not (tmp_path / "report.html").exists()


def test_a_finished_run_without_its_measurements_is_refused_and_an_unfinished_one_is_shown(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    (path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=ENDS):
        write_report([path], tmp_path / "report.html", command="make")
    (path / "summary.json").unlink()
    assert write_report([path], tmp_path / "report.html", command="make").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"step": 999}, "goes on to step 999, its settings to 20"),
        ({"step": 20, "a/loss": -1.0}, "negative"),
        ({"step": 20, "train/learning_rate": 0.5}, r"learning_rate is 0\.5, optimizer\.learning_rate 0\.0003; copy"),
        (
            {"step": 20, "val/mean_action_mse": 0.4},
            r"mean_action_mse is 0\.4, at first 0\.5, and the data are the same",
        ),
        (
            {"step": 20, "val/loss": 0.9, "val/loss_transition": 9.0, "val/loss_consistent": 9.0},
            r"step 20\.val/loss is 0\.9; those of its parts are 9 and 9, and it is their mean",
        ),
    ],
)
def test_measurements_of_an_unfinished_run_that_cannot_be_its_own_are_refused(tmp_path, row, said):
    path = make_run(tmp_path, "gap", 0, [1])
    (path / "summary.json").unlink()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "optimizer": {"learning_rate": 3e-4}}))
    lines = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(f'{{"step": 0, "val/mean_action_mse": 0.5}}\n{lines}')
    _ = Run.read(path).metrics
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=said):
        _ = Run.read(path).metrics


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {"demos": {"task": "threading"}},
            r"demos\.task is threading, .*config\.json says assembly; copy the run again",
        ),
        ({"demos": {"task": "assembly", "episodes": 9}}, r"demos\.episodes is 9, .*config\.json says 3"),
        ({"demos": {"cameras": ["wrist"]}}, r"demos\.cameras is \['wrist'\], .*config\.json says \['primary'\]"),
        ({"phases": {"method": "lstm"}}, r"phases\.method is lstm, .*config\.json says none"),
        ({"val_fraction": 0.5}, r"data\.val_fraction is 0\.5, .*config\.json says 0\.1"),
    ],
)
def test_a_run_of_data_of_other_settings_than_its_own_is_refused_finished_or_not(tmp_path, made, said):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    config = json.loads((path / "config.json").read_text())
    demos = {"episodes": 3, "cameras": ["primary"], "path": ""}
    config |= {"demos": demos, "phases": {"method": "none"}, "data": {"root": "data", "val_fraction": 0.1}}
    (path / "config.json").write_text(json.dumps(config))
    right = {"demos": {"task": "assembly", **demos, "path": "/a"}, "phases": {"method": "none", "labels_version": 7}}
    for _ in range(2):
        (path / "dataset.json").write_text(json.dumps({**right, "val_fraction": 0.1}))
        Run.read(path)
        (path / "dataset.json").write_text(json.dumps(made))
        with pytest.raises(ReportError, match=rf"dataset\.json: {said}"):
            Run.read(path)
        (path / "summary.json").unlink(missing_ok=True)


def test_what_a_kill_left_of_a_line_is_left_out_and_a_megabyte_is_no_line(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    (path / "summary.json").unlink()
    whole = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(whole + bytes(99))
    assert write_report([path], tmp_path / "r.html", command="make").exists()
    (path / "metrics.jsonl").write_bytes(whole + bytes(1 << 20))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 22: not valid JSON; copy the file again"):
        write_report([path], tmp_path / "s.html", command="make")


def test_a_pipe_in_the_place_of_measurements_is_named(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    (path / "metrics.jsonl").unlink()
    os.mkfifo(path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is a pipe or a device"):
        write_report([path], tmp_path / "report.html", command="make")


def test_a_run_that_came_without_its_checkpoint_is_reported_and_said_to_be_without(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model": {**config.get("model", {}), "encoder": "small"}}))
    page = write_report([path], tmp_path / "r.html", command="make").read_text()
    assert f"{path / 'checkpoint' / 'policy.json'} is not here: this policy cannot be rolled out again." in page
    (path / "config.json").write_text(json.dumps(config))  # an Octo
    (path / "checkpoint").mkdir()
    page = write_report([path], tmp_path / "r.html", command="make").read_text()
    assert f"{path / 'checkpoint' / 'config.json'} is not here: this policy cannot be rolled out again." in page
    (path / "checkpoint" / "config.json").write_text("{}")
    assert "is not here" not in write_report([path], tmp_path / "r.html", command="make").read_text()


def test_evaluations_in_a_run_that_its_summary_does_not_name_are_named(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    assert "not looked at" not in write_report([path], tmp_path / "r.html", command="make").read_text()
    for mark in ("rollouts/light/evaluation.json", "evaluation_stack/evaluation.json", "evaluation_all/variants.json"):
        (path / mark).parent.mkdir()
        (path / mark).write_text("{}")
    page = write_report([path], tmp_path / "r.html", command="make").read_text()
    assert f"{path}: not looked at: evaluation_all, evaluation_stack, rollouts/light (evaluations that its" in page


def test_rollouts_without_their_records_are_said_to_be_so(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    (path / "rollouts" / "default" / "episodes.jsonl").write_text("")
    page = write_report([path], tmp_path / "r.html", command="make").read_text()
    assert "records of its episodes are gone" not in page
    summary = json.loads((path / "summary.json").read_text())
    light = {**summary["rollouts"], "videos": []}
    more = {**summary, "variants": {"default": summary["rollouts"], "light": light}}
    (path / "summary.json").write_text(json.dumps(more))
    page = write_report([path], tmp_path / "r.html", command="make").read_text()
    assert f"{path}: the records of its episodes on light are gone" in page
    (path / "summary.json").write_text(json.dumps(summary))
    shutil.rmtree(path / "rollouts")
    page = write_report([path], tmp_path / "r.html", command="make").read_text()
    assert f"{path}: the records of its episodes are gone; how many succeeded is what its summary says." in page


def test_phases_stand_in_the_experts_order_however_a_file_was_sorted():
    own = task_spec("assembly").phases
    reached = dict.fromkeys(sorted(own), 0.5)
    assert [name for name, _ in in_order(reached, "assembly")] == list(own) != sorted(own)
    for other in ({**reached, "polish": 0.5}, {"b": 0.5, "a": 0.5}):
        assert in_order(other, "assembly") == list(other.items()), "of another expert nobody knows the order"
    assert in_order(reached, "a task of somebody") == list(reached.items())


def test_a_method_of_other_steps_is_said_to_be_left_out_of_the_drawing_of_rho(runs):
    images = {"image_primary": np.zeros((4, 8, 8, 3), np.uint8)}
    arrays = {"proprio": np.zeros((4, 9), np.float32), "action": np.zeros((4, 7), np.float32)}
    episode = Episode(images=images, **arrays)
    splits = {
        "concat": SimpleNamespace(steps=4, offsets=np.array([0, 4]), episode=lambda _: episode),
        "gap": SimpleNamespace(steps=9),
    }
    text = rho_section([Run.read(path) for path in runs], lambda run: (splits[run.method], np.zeros(4)), "make")
    assert "Mean ρ over all training steps of the first run of each method: concat 0.000." in text
    assert "gap was trained on 9 steps, not the 4 of those shown; its ρ is not here." in text
    found = [Run.read(path) for path in runs]
    of = [dataclasses.replace(run, summary={**run.summary, "origin": {"episodes": run.method}}) for run in found]
    for shown, others in ((of, 1), (found, 0)):
        text = rho_section(shown, lambda run: (splits["concat"], np.zeros(4)), "make")
        said = text.count("gap was trained on other demonstrations than those shown; its ρ is not here.")
        assert said == others and ("gap 0.000" in text) != bool(others)


@pytest.mark.parametrize("loss", ([3.0, 1.0, -1.0, -9.0], [1.0, 0.1, 0.0, 0.01], [0.0, 0.0], [-1.0, -2.0]))
def test_losses_that_no_logarithm_shows_are_drawn_and_warn_of_nothing(tmp_path, monkeypatch, recwarn, loss):
    run = dataclasses.replace(Run.read(make_run(tmp_path, "gap", 0, [1])))
    run.__dict__["metrics"] = [{"step": step, "train/loss": value} for step, value in enumerate(loss)]
    drawn = []
    monkeypatch.setattr("gap_vla.report.charts.svg", lambda figure: drawn.append(figure) or svg(figure))
    curve_chart([run], {"train/loss": "training loss"})
    ((axes,),) = [figure.axes for figure in drawn]
    low, high = axes.get_ylim()
    assert low <= min(loss) and max(loss) <= high and not recwarn.list
    assert axes.get_yscale() == ("linear" if min(loss) < 0 or not any(loss) else "symlog")


def test_the_ninth_method_has_a_line_of_its_own(tmp_path, monkeypatch):
    one = Run.read(make_run(tmp_path, "gap", 0, [1]))
    runs = [dataclasses.replace(one, config={**one.config, "method": f"m{number}"}) for number in range(9)]
    drawn = []
    monkeypatch.setattr("gap_vla.report.charts.svg", lambda figure: drawn.append(figure))
    curve_chart(runs, {"train/loss": "training loss"})
    branch_chart(runs)
    for figure in drawn:
        looks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if len(line.get_xdata())]
        assert len(looks) == len({*looks}) == 9 and {mark for _, mark in looks[:8]} == {"None"}


def test_no_control_character_of_a_folders_name_reaches_the_page(runs, tmp_path):
    odd = tmp_path / "a\x1b[31m\x01"
    shutil.copytree(runs[0], odd)
    page = write_report([odd], tmp_path / "r.html", command="make \x1b[31m").read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page) and "<pre>make \ufffd[31m</pre>" in page


def test_a_run_that_ends_while_it_is_read_is_shown_as_it_was_at_first(tmp_path, monkeypatch):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    seen = iter([False])
    monkeypatch.setattr("gap_vla.report.runs.RunDirectory.complete", property(lambda _: next(seen, True)))
    assert not Run.read(path).summary and Run.read(path).summary["seconds"]


def test_a_run_that_is_moved_while_it_is_read_is_said_to_be_so(tmp_path):
    run = Run.read(make_run(tmp_path, "gap", 0, [1]))
    run.path.rename(tmp_path / "elsewhere")
    with pytest.raises(ReportError, match=rf"^{run.path} was moved or removed while it was read; give its new place$"):
        run.metrics  # noqa: B018


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "<b>"}, "task '<b>' is unknown"),
        ({"method": "a"}, "method 'a' is unknown"),
        ({"model": {}}, "unknown configuration key"),
    ],
)
def test_settings_that_are_unknown_are_refused_with_their_file(tmp_path, change, named):
    config = {**SmallConfig("assembly").to_dict(), **change}
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").unlink()
    with pytest.raises(UserError, match=re.escape(f"{path / 'config.json'}: no settings of a run: ")) as caught:
        training_rho(Run.read(path))
    assert named in str(caught.value)


def test_the_rho_of_other_data_is_not_shown_and_said_so(tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    store.mkdir()
    (store / "store.json").write_text("{}")
    monkeypatch.setattr(EpisodeStore, "open", lambda directory: SimpleNamespace(source_hash="4567"))
    dataset = {"store": str(store), "hash": "0123"}
    run = Run(tmp_path / "run", SmallConfig("assembly", "gap").to_dict(), {"dataset": dataset}, {}, {})
    assert training_rho(run) is None
    said = f"{store} holds dataset 4567, {run.path} was trained on 0123; nothing of it is shown\n"
    assert capsys.readouterr().err == said


def test_a_small_run_that_is_not_finished_has_no_checkpoint_and_a_page(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    (path / "config.json").write_text(json.dumps(SmallConfig("assembly").to_dict()))
    (path / "summary.json").unlink()
    page = write_report([path], tmp_path / "report.html", command="make", rho_of=training_rho).read_text()
    assert "train-small" in page and f"{path} holds no digests (not finished): edits of its files are not" in page


def test_runs_of_two_tasks_and_folders_that_are_no_runs_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "other", "gap", 0, [0, 0, 0, 1], task="stack")
    with pytest.raises(ReportError, match="assembly, stack"):
        write_report([*runs, other], tmp_path / "report.html", command="make")
    for again in (runs[0], make_run(tmp_path / "again", runs[0].name.split("-")[0], 0, [0, 0, 0, 1])):
        with pytest.raises(ReportError, match="are both concat, seed 0; give one of them"):
            write_report([*runs, again], tmp_path / "report.html", command="make")
    with pytest.raises(ReportError, match=r"no config\.json"):
        Run.read(tmp_path)


def test_a_run_without_a_curve_that_others_have_is_named_and_warns_of_nothing(tmp_path, recwarn):
    runs = [make_run(tmp_path, method, 0, [1, 0, 0, 1]) for method in ("concat", "gap")]
    for run in runs:
        lines = (run / "metrics.jsonl").read_text().replace("train/loss", "train/other")
        (run / "metrics.jsonl").write_text('{"step": 0, "val/loss": 0.5}\n' * (run is runs[1]) + lines)
    metrics = runs[0] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("branch/vision", "branch/other"))  # it was frozen
    (tmp_path / "one").mkdir()
    write_report(runs[:1], tmp_path / "one" / "report.html", command="python make_page", videos=0)
    write_report(runs, tmp_path / "report.html", command="python make_page", videos=0)
    assert not [warning for warning in recwarn if "legend" in str(warning.message)]


@pytest.mark.parametrize("finished", [True, False])
def test_the_page_says_which_measurements_of_a_run_are_lost(tmp_path, finished):
    run = make_run(tmp_path, "gap", 0, [1, 1, 0, 1])
    config = json.loads((run / "config.json").read_text())
    train = {**config["train"], "log_every": 4, "validate_every": 10}
    if not finished:
        (run / "summary.json").unlink()
    rows = [{"step": step, "train/loss": 1.0} for step in range(4, 21, 4)]
    rows += [{"step": step, "val/action_mse": 0.5} for step in (0, 10, 20)]
    rows.sort(key=lambda row: row["step"])
    earlier = [{"until": "now", "train.log_every": 2}]
    for lost, known, said in (
        ([], {}, ""),
        ([8], {}, "step 8"),
        ([0, 12, 16], {}, "steps 0 to 16"),
        ([10], {"earlier": earlier}, "step 10"),
        ([8], {"earlier": earlier}, ""),  # nobody knows when another rhythm began
    ):
        (run / "config.json").write_text(json.dumps({**config, "train": train, **known}))
        left = [json.dumps(row) + "\n" for row in rows if row["step"] not in lost]
        (run / "metrics.jsonl").write_text("".join(left))
        page = write_report([run], tmp_path / "report.html", command="make").read_text()
        found = re.findall(r"lacks measurements of (.*?); its curves have a hole there", page)
        assert found == [said] * bool(said)
