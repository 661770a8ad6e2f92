"""The page about runs also shows what probes and takeovers found, each with the command that made it."""

import dataclasses
import html
import json
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from finished_runs import make_run

from experiments.looks.kept import kept_probe
from experiments.looks.page import sections
from gap_vla.core.errors import UserError
from gap_vla.report.page import write_report
from gap_vla.report.runs import ReportError, Run
from gap_vla.rollouts.record import EpisodeRecord

PROBE = {
    "command": "python make_probe",
    "episodes": 9,
    "steps": 90,
    "labels": ["concat, seed 0", "gap, seed 0", "untrained"],
    "branch_losses": {
        "gap, seed 0": {heard: {"all": 0.1234, "elsewhere": 0.2} for heard in ("both", "vision", "proprio")}
    },
    "probes": {
        label: {
            "positions": {
                "ring": {"before grasp": {"r2": 0.5, "r2_interval": [0.4, 0.6], "error": 0.01, "mean_error": 0.03}}
            },
            "beyond_proprio": {"peg": {"before transport": {"r2": 0.25}}} if "gap" in label else {},
            "actions": {"all steps": {"r2": 0.125}},
            "transition": {"auc": 0.7, "auc_interval": [0.6, 0.8], "balanced_accuracy": 0.65},
        }
        for label in ("concat, seed 0", "gap, seed 0", "untrained")
    },
}


def add_takeover(path):
    takeover = path / "takeover" / "phase-default-vision"
    takeover.mkdir(parents=True)
    window = {"successes": 3, "difference": 0.25, "difference_interval": [0.0, 0.5]}
    windows = [{**window, "window": name} for name in ("start of grasp", "always")]
    windows[1]["simulator_errors"] = 1  # of what an earlier version wrote, nobody counted
    windows.insert(0, {"window": "never", "successes": 2, "difference": 0.0, "difference_interval": [0.0, 0.0]})
    own = Run.read(path)
    found = {"main": own.label, "task": own.task, "other": "vision, seed 0", "episodes": 4, "windows": windows}
    (takeover / "takeover.json").write_text(json.dumps(found))
    (takeover / "settings.json").write_text(json.dumps({"variant": "default", "command": "python make_takeover"}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = [make_run(folder, method, seed, [1, 0, 0, 1]) for seed in (0, 1) for method in ("concat", "gap")]
    for path in found:
        add_takeover(path)
    return found


def test_probes_and_takeovers_stand_on_the_page_with_their_commands(runs, tmp_path):
    more = sections([Run.read(path) for path in runs], PROBE)
    page = write_report(runs, tmp_path / "report.html", command="python make_page", more=more, videos=1).read_text()
    cells = re.findall(r"<td>([^<]*)</td>", page)
    for command in ("python make_page", "python make_probe", "python make_takeover"):
        assert f"<pre>{command}</pre>" in page
    assert page.count("data:video/mp4;base64,") == 4 and page.count("data:image/svg+xml;base64,") >= 7
    assert cells[cells.index("0.1234") - 2 : cells.index("0.1234")] == ["gap, seed 0", "all"]
    asked = cells.index("position of peg, before transport, beyond proprioception")
    assert cells[asked + 1 : asked + 4] == ["", "R² 0.25", ""]
    assert "expert's action, all steps, beyond proprioception" in html.unescape("|".join(cells))
    assert "vision, seed 0 takes over from gap, seed 1" in page
    assert f"Untrained: a network of the architecture of {PROBE['labels'][0]}, with fresh weights." in page
    assert "cut short by the simulator, not by the policy, count as failed: always 1." in page
    for key in ("probe", "silenced", "takeover"):
        assert f'<a href="#{key}">' in page and f'id="{key}"' in page


def test_nothing_stands_there_before_anybody_looked(tmp_path):
    run = Run.read(make_run(tmp_path, "gap", 0, [1, 1, 0, 1]))
    assert not any(body for _, _, body in sections([run], None))


@pytest.mark.parametrize("text", ['{"main"', "{}", "[]"])
def test_a_takeover_that_cannot_be_read_is_named(text, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 0, 0, 1])
    add_takeover(path)
    (path / "takeover" / "phase-default-vision" / "takeover.json").write_text(text)
    with pytest.raises(UserError, match=r"phase-default-vision: a takeover that cannot be read: .*; move it away"):
        sections([Run.read(path)], None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"successes": 9}, "successes is 9; it must be a whole number from 0 to 4"),
        ({"difference": 0.5}, "difference is 0.5 .*; it must be 3 less 2 of 4"),
        ({"difference": float("nan")}, "difference is nan"),
        ({"difference_interval": [0.4, 0.5]}, "difference_interval is 0.4 to 0.5 around 0.25"),
        ({"outcomes": "1000"}, "outcomes is '1000' .*; it must be 3 successes of 4 episodes"),
    ],
)
def test_a_takeover_that_contradicts_itself_is_on_no_page(change, named, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 0, 0, 1])
    add_takeover(path)
    file = path / "takeover" / "phase-default-vision" / "takeover.json"
    found = json.loads(file.read_text())
    found["windows"][1] |= change
    file.write_text(json.dumps(found))
    with pytest.raises(UserError, match=f"phase-default-vision: window start of grasp.{named}"):
        sections([Run.read(path)], None)


@pytest.mark.parametrize("change", [{"main": "gap, seed 7"}, {"task": "stack"}])
def test_a_takeover_of_another_run_is_on_no_page(change, tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 0, 0, 1])
    add_takeover(path)
    file = path / "takeover" / "phase-default-vision" / "takeover.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    ((key, said),) = change.items()
    with pytest.raises(UserError, match=f"{file.parent}: a takeover of another run .its {key} is {said}, the run's"):
        sections([Run.read(path)], None)


def test_a_takeover_of_other_weights_is_on_no_page(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 0, 0, 1])
    summary = json.loads((path / "summary.json").read_text())
    summary["rollouts"]["policy"] = summary["variants"]["default"]["policy"] = {"name": "gap", "parameters": "own"}
    (path / "summary.json").write_text(json.dumps(summary))
    add_takeover(path)
    played = path / "takeover" / "phase-default-vision" / "00-never" / "evaluation.json"
    played.parent.mkdir()
    for parameters in ("own", "others"):
        played.write_text(json.dumps({"policy": {"main": {"parameters": parameters}}}))
        with pytest.raises(UserError, match="of other weights") if parameters == "others" else nullcontext():
            sections([Run.read(path)], None)


def test_a_takeover_by_a_run_that_was_trained_again_is_on_no_page(tmp_path):
    path, taking = (make_run(tmp_path, method, 0, [1, 0, 0, 1]) for method in ("gap", "vision"))
    evaluation = {"policy": {"name": "vision", "parameters": "own"}}
    other = dataclasses.replace(Run.read(taking), evaluations={"default": evaluation})
    add_takeover(path)
    folder = (path / "takeover" / "phase-default-vision").rename(path / "takeover" / "phase-default-vision-seed0")
    played = folder / "00-never" / "evaluation.json"
    played.parent.mkdir()
    for parameters in ("own", "others"):
        played.write_text(json.dumps({"policy": {"main": {}, "other": {"parameters": parameters}}}))
        with pytest.raises(UserError, match=r"those of .*vision-seed0") if parameters == "others" else nullcontext():
            sections([Run.read(path), other], None)
    folder.rename(folder.with_name("phase-default-wide-vision-seed0"))  # by another run, whose name ends alike
    sections([Run.read(path), other], None)


def test_a_takeover_whose_rollouts_ended_otherwise_is_on_no_page(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 0, 0, 1])
    add_takeover(path)
    log = path / "takeover" / "phase-default-vision" / "01-start_of_grasp" / "episodes.jsonl"
    log.parent.mkdir()
    for successes, odd in (([1, 1, 1, 0], False), ([0, 0, 0, 1], True)):
        records = [EpisodeRecord(number, number, bool(won), 9) for number, won in enumerate(successes)]
        log.write_text("".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records))
        with pytest.raises(UserError, match=r"outcomes is .* 0001, as .*01-start_of_grasp") if odd else nullcontext():
            sections([Run.read(path)], None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"auc": 1.5}, r"transition: auc is 1\.5|transition\.auc is 1\.5"),
        ({"auc_interval": [0.8, 0.6]}, r"auc_interval is 0\.8 to 0\.6 around 0\.7; look again with --probe"),
        ({"balanced_accuracy": -1}, r"balanced_accuracy is -1; .*; look again with --probe"),
    ],
)
def test_a_kept_probe_of_values_that_cannot_be_is_on_no_page(change, named, runs, tmp_path):
    found = json.loads(json.dumps(PROBE))
    found["probes"]["untrained"]["transition"] |= change
    (tmp_path / "probe.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=named):
        kept_probe(tmp_path / "probe.json", [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": [*PROBE["labels"]][::-1]}, "labels are not those of its probes, in their order"),
        ({"branch_losses": {"gap, seed 0": {"both": {"all": -5.0}}}}, "gap, seed 0.both.all is negative"),
    ],
)
def test_a_kept_probe_that_contradicts_itself_is_on_no_page(change, named, runs, tmp_path):
    file, shown = tmp_path / "probe.json", [Run.read(path) for path in runs[:2]]
    of = {"runs": {run.label: str(run.path) for run in shown}}
    file.write_text(json.dumps(PROBE | of | change))
    with pytest.raises(ReportError, match=rf"probe\.json: .*{named}.*; look again with --probe$"):
        kept_probe(file, shown)


def test_a_likelihood_may_make_a_loss_negative(runs, tmp_path):
    file, run = tmp_path / "probe.json", Run.read(runs[1])
    mixture = dataclasses.replace(run, config={**run.config, "model": {"head": "gmm"}})
    negative = {"branch_losses": {run.label: {"both": {"all": -5.0}}}, "runs": {run.label: str(run.path)}}
    file.write_text(json.dumps(PROBE | negative))
    assert kept_probe(file, [mixture])["branch_losses"] == negative["branch_losses"]


@pytest.mark.usefixtures("blank_charts")
def test_a_kept_probe_is_shown_with_its_own_runs_and_says_what_stands_still(runs, tmp_path):
    shown, file = [Run.read(path) for path in runs[:2]], tmp_path / "probe.json"
    file.write_text(json.dumps(PROBE | {"runs": {run.label: str(run.path) for run in shown}, "still": ["nut"]}))
    assert kept_probe(tmp_path / "none.json", shown) is None
    assert "since it stands still in these episodes: nut." in sections(shown, kept_probe(file, shown))[0][2]
    for others in ([], [Run.read(make_run(tmp_path, "concat", 1, [1, 0])), shown[1]]):
        with pytest.raises(UserError, match=r"probe\.json is a probe of other runs, such as .*; look again"):
            kept_probe(file, others)


def test_a_kept_probe_of_an_earlier_training_is_not_shown(runs, tmp_path):
    shown, file = [dataclasses.replace(Run.read(runs[0]), summary={"exported": {"model.pt": "a"}})], tmp_path / "p.json"
    for digest in ("a", "b"):
        of = {"runs": {shown[0].label: str(runs[0])}, "of": {shown[0].label: {"model.pt": digest}}}
        file.write_text(json.dumps(PROBE | {"branch_losses": {}} | of))
        with pytest.raises(UserError, match="of another training of concat") if digest == "b" else nullcontext():
            kept_probe(file, shown)


def test_what_a_probe_cannot_do_is_found_before_the_takeovers(runs, tmp_path, capsys, monkeypatch):
    from experiments.cli.look import main

    monkeypatch.setattr("experiments.looks.command.take_over_runs", lambda *_, **__: pytest.fail("work was begun"))
    words = [str(runs[0]), "--takeover", str(runs[1]), "--out", str(tmp_path / "page.html")]
    assert main([*words, "--probe"]) == 2
    assert "only small policies can be probed" in capsys.readouterr().err
    (tmp_path / "page.probe").mkdir()
    (tmp_path / "page.probe" / "probe.json").write_text("{}")
    assert main(words) == 2
    assert "probe.json exists without a mark of gap_vla" in capsys.readouterr().err
    read = next(runs[1].glob("*/"))
    assert main([*words[:-1], str(read / "page.html")]) == 2
    assert f"page.html lies in {read}, which is read" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(runs[0]), "--workers", "3"])
    assert "--workers has no effect where nothing is simulated" in capsys.readouterr().err


@pytest.mark.parametrize("asked", ["--probe", "--takeover"])
def test_runs_that_no_page_can_show_together_are_refused_before_any_work(runs, tmp_path, capsys, monkeypatch, asked):
    from experiments.cli.look import main

    for name in ("probe_runs", "collect_probe_demos", "take_over_runs"):
        monkeypatch.setattr(f"experiments.looks.command.{name}", lambda *_, **__: pytest.fail("work was begun"))
    again = make_run(tmp_path / "again", "concat", 0, [0, 0, 0, 1])
    options = ["--takeover", str(runs[1])] if asked == "--takeover" else ["--probe"]
    assert main([str(runs[0]), str(again), *options, "--out", str(tmp_path / "page.html")]) == 2
    assert "are both concat, seed 0; give one of them" in capsys.readouterr().err


def test_a_run_without_its_policy_is_found_before_demonstrations_to_probe_it_with(tmp_path, capsys, monkeypatch):
    from experiments.cli.look import main

    monkeypatch.setattr("experiments.looks.command.collect_probe_demos", lambda *_, **__: pytest.fail("work was begun"))
    run = make_run(tmp_path, "gap", 0, [1, 0])
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"model": {"encoder": "small_conv"}}))
    assert main([str(run), "--probe", "--out", str(tmp_path / "page.html")]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_runs_that_see_pictures_of_different_sizes_are_not_probed_together(tmp_path, capsys, monkeypatch):
    from experiments.cli.look import main

    def begun(*_, **__):
        raise ReportError("work was begun")

    monkeypatch.setattr("experiments.looks.command.collect_probe_demos", begun)
    monkeypatch.setattr("experiments.looks.command.policy_of", lambda run: SimpleNamespace(uses_vision=run.seed < 2))
    runs = [make_run(tmp_path, "gap", seed, [1, 0]) for seed in range(3)]
    for run, size in zip(runs, (64, 128, 128)):
        config = json.loads((run / "config.json").read_text())
        told = config | {"model": {"encoder": "small_conv"}, "demos": {"image_size": size}}
        (run / "config.json").write_text(json.dumps(told))
    for some, said in ((runs, f"({runs[0]} 64, {runs[1]} 128); probe them apart"), (runs[::2], "work was begun")):
        assert main([*map(str, some), "--probe", "--out", str(tmp_path / "page.html")]) == 2
        assert said in capsys.readouterr().err


def test_a_run_does_not_take_itself_over(runs, tmp_path, capsys):
    from experiments.cli.look import main

    assert main([str(runs[0]), "--takeover", str(runs[0]), "--out", str(tmp_path / "page.html")]) == 2
    assert "is the only run; name another one" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_run_of_another_task_takes_none_over(runs, tmp_path, capsys):
    from experiments.cli.look import main

    other = make_run(tmp_path, "concat", 0, [1, 0], task="threading")
    assert main([str(runs[0]), "--takeover", str(other), "--out", str(tmp_path / "page.html")]) == 2
    assert f"{other} of threading; name a run of the same task" in capsys.readouterr().err
