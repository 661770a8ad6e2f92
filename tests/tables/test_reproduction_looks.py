"""Looks are made once for each training of a cell, from its run, and are gone with that training."""

import json
import shutil
from types import SimpleNamespace

import fake_cells
import pytest
from fake_cells import cells_of, fake_kind, fake_table

from experiments.tables.cells import first_half_means
from experiments.tables.ledger import Ledger, LedgerError
from experiments.tables.looks import Looks, look, looks_text
from experiments.tables.queue import QueueOptions, run_queue
from experiments.tables.render import render
from gap_vla.core.typed_config import ConfigError


def two_cells(root, monkeypatch):
    """Concat and vision, whose settings name demonstrations below `root`."""
    demos = {"demos": {"image_size": 8, "cameras": ["primary"]}, "data": {"root": str(root)}}
    plain = fake_cells.FakeConfig.to_dict
    monkeypatch.setattr(fake_cells.FakeConfig, "to_dict", lambda config: {**plain(config), **demos})
    kind = fake_kind(root)
    cells = cells_of(fake_table("concat", "vision", seeds=(0,)), kind)
    return cells, Ledger(root / "results", "fake", "cpu"), kind


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which both have been trained."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        run_queue(*two_cells(root, patch), QueueOptions(60.0, logs=root / "logs"))
    return root


def run_of(path, small=True):
    """A run that ended as the cells were recorded."""
    rollouts = {"default": {layout: layout >= 4 for layout in range(10)}}
    return SimpleNamespace(path=path, small=small, rollouts=rollouts, summary={"validation": {"val/loss": 0.5}})


@pytest.fixture
def finished(trained, tmp_path, monkeypatch):
    """Two finished cells, and probes and takeovers that take no time."""
    made = []
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("gap_vla.report.runs.Run.read", run_of)
    opened = []

    def collect(run, episodes):
        assert not run.small or run in opened, "its policy may be missing"
        return tmp_path

    monkeypatch.setattr("experiments.looks.probing.policy_of", opened.append)
    monkeypatch.setattr("experiments.looks.probe_data.collect_probe_demos", collect)
    monkeypatch.setattr("experiments.looks.probe_data.read_probe_data", lambda path: None)
    monkeypatch.setattr(
        "experiments.looks.probing.probe_policy",
        lambda run, data: made.append(run.path.name) or {"probe": {"a": 1}},
    )
    monkeypatch.setattr("experiments.looks.probing.probe_untrained", lambda run, data: {"a": 0})
    monkeypatch.setattr("experiments.looks.probing.reliance", lambda run, demos, episodes: {"episodes": episodes})

    def take_over(main, other, *, episodes):
        made.append(f"{other.name} in {main.name}")
        windows = [{"window": "never", "outcomes": "01", "simulator_errors": 1}]
        return {"other": "vision", "seed": 7, "windows": windows}

    monkeypatch.setattr("experiments.looks.takeover.take_over_runs", take_over)
    monkeypatch.setattr("gap_vla.training.stages.stages_of", lambda config: None)
    monkeypatch.setattr("gap_vla.training.stages.open_store", lambda config, stages: None)
    monkeypatch.setattr(
        "experiments.looks.predictors.predictors", lambda config, store: made.append(config) or {"e": 1}
    )
    return *two_cells(tmp_path, monkeypatch), made


def test_a_look_is_made_once_and_kept_beside_the_ledger(finished):
    cells, ledger, kind, made = finished
    look(cells, ledger, kind, ["probe", "takeover"], "reproduce --look")
    looks, entry = Looks(ledger), ledger.matching(cells[0])
    assert looks.of(entry)["probe"] == {"a": 1} and looks.of(entry)["takeover"]["outcomes"] == {"never": "01"}
    assert looks.of(entry)["takeover"]["simulator_errors"] == {"never": 1}
    assert looks.of(entry)["reliance"] == {"episodes": 20} and looks.untrained("assembly", [entry])["probe"] == {"a": 0}
    before = list(made)
    look(cells, ledger, kind, ["probe", "takeover"], "")
    assert made == before == ["assembly-concat-0", "assembly-vision-0", "assembly-vision-0 in assembly-concat-0"]


def test_of_an_octo_only_what_it_relies_on_is_looked_at(finished, monkeypatch):
    cells, ledger, kind, made = finished
    monkeypatch.setattr("gap_vla.report.runs.Run.read", lambda path: run_of(path, small=False))
    costs = {"images_swapped": {"cost": 1.5, "cost_interval": [1.4, 1.6]}}
    monkeypatch.setattr("experiments.looks.probing.reliance", lambda run, demos, episodes: costs)
    look(cells, ledger, kind, ["probe"], "")
    entries = [ledger.matching(cell) for cell in cells]
    table, meaning = looks_text(cells[0].block, entries, Looks(ledger))
    assert made == [] and "| concat | 1.50 |" in table
    assert "with another episode's pictures, times" in table and "Position errors" not in meaning


def test_demonstrations_are_looked_at_once_for_all_arms_and_without_their_runs(finished, tmp_path):
    cells, ledger, kind, made = finished
    kind.run_directory(cells[1].config).rename(tmp_path / "elsewhere")
    for _ in range(2):
        look(cells, ledger, kind, ["predict"], "")
    found = [Looks(ledger).of(ledger.matching(cell)) for cell in cells]
    assert [one.get("predictors") for one in found] == [None, {"e": 1}] and len(made) == 1


def test_a_look_at_another_training_of_the_cell_is_none(finished):
    cells, ledger, kind, made = finished
    look(cells, ledger, kind, ["probe"], "")
    recorded = json.loads(ledger.path(cells[0]).read_text())
    recorded["account"]["time"] = later = "2099-01-01T00:00:00+00:00"
    ledger.path(cells[0]).write_text(json.dumps(recorded))
    assert Looks(ledger).of(ledger.read(cells[0])) == {}
    assert Looks(ledger).untrained("assembly", [ledger.read(cells[0])]) == {}, "it was asked beside that training"
    look(cells[:1], ledger, kind, ["probe"], "")
    assert made.count("assembly-concat-0") == 2
    assert Looks(ledger).untrained("assembly", [ledger.read(cells[0])])["of"] == later


def test_a_run_that_is_not_here_is_named(finished, tmp_path, capsys):
    cells, ledger, kind, made = finished
    kind.run_directory(cells[0].config).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="of 1 cells 1 are finished, and the run of none is here"):
        look(cells[:1], ledger, kind, ["probe"], "")
    assert not made and "assembly-concat-seed0: its run is not here" in capsys.readouterr().out
    look(cells, ledger, kind, ["probe"], "")
    assert made == ["assembly-vision-0"] and len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("measured", [{"summary": {"validation": {"val/loss": 0.25}}}, {"rollouts": {}}])
def test_a_run_of_another_training_is_not_looked_into(finished, monkeypatch, capsys, measured):
    cells, ledger, kind, made = finished
    others = {"assembly-concat-0": measured}
    monkeypatch.setattr(
        "gap_vla.report.runs.Run.read",
        lambda path: SimpleNamespace(**{**vars(run_of(path)), **others.get(path.name, {})}),
    )
    look(cells, ledger, kind, ["probe", "takeover"], "")
    assert made == ["assembly-vision-0"] and Looks(ledger).of(ledger.matching(cells[0])) == {}
    assert "assembly-concat-seed0: its run is another training (" in capsys.readouterr().out


def test_what_is_no_look_is_refused_and_a_broken_file_named(finished):
    cells, ledger, kind, _ = finished
    with pytest.raises(ConfigError, match="probe, takeover, predict"):
        look(cells, ledger, kind, ["prob"], "")
    for what, missing in (("takeover", "vision"), ("predict", "vision")):
        with pytest.raises(ConfigError, match=f"--look {what} is of .*, of these cells none is {missing}"):
            look(cells[:1], ledger, kind, ["probe", what], "")
    path = Looks(ledger).path(cells[0].name)
    path.parent.mkdir()
    for foreign in ("[", '{"somebody": "else"}'):
        path.write_text(foreign)
        with pytest.raises(
            LedgerError, match=r"assembly-concat-seed0\.json(: not valid JSON| is no look).*; move it away, and"
        ):
            look(cells, ledger, kind, ["probe"], "")
        assert path.read_text() == foreign


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"probe": {"positions": {"nut": {"before grasp": {"error": "far"}}}}}, "error is 'far'"),
        ({"probe": {"positions": {"nut": {"before grasp": {"error": -0.5}}}}}, "error is -0.5"),
        ({"reliance": {"images_swapped": {"cost": -7.0, "cost_interval": [-8.0, -6.0]}}}, "cost is -7"),
        (
            {"reliance": {"images_swapped": {"cost": 7.0, "cost_interval": [6.0]}}},
            "cost_interval is list; it must be of",
        ),
        ({"predictors": {"errors": {"state": {"between": -5.0}}}}, r"errors\.state\.between is -5"),
        ({"branch_losses": {"vision": {"all": -0.5}}}, r"branch_losses\.vision\.all is negative"),
        (
            {"branch_losses": {"vision": {"all": 5.0, "near change points": 0.1, "elsewhere": 0.5}}},
            "vision.all is 5, not between those of its parts",
        ),
        ({"branch_losses": {"vision": {"all": float("nan")}}}, "vision.all is nan"),
        ({"branch_losses": {"vision": {"all": "x"}}}, "could not convert string to float: 'x'"),
        ({"probe": {"transition": {}}}, "no 'positions'"),
        ({"takeover": {"other": "vision", "outcomes": {"always": "01"}}}, "no 'never'"),
        ({"takeover": {"other": "vision", "outcomes": {"never": "01", "always": "0"}}}, "as many of 0 and 1"),
        ({"takeover": {"other": "vision", "outcomes": {"never": "02"}}}, "as many of 0 and 1"),
    ],
)
def test_a_look_of_values_that_cannot_be_is_in_no_table(finished, change, named):
    cells, ledger, _, _ = finished
    entry, looks = ledger.matching(cells[0]), Looks(ledger)
    looks.add(entry, **change)
    with pytest.raises(LedgerError, match=f"{named}.*look again"):
        looks_text(cells[0].block, [entry], looks)


def test_a_damaged_look_leaves_page_and_pictures_as_they_are(finished, tmp_path):
    cells, ledger, _, _ = finished
    Looks(ledger).add(ledger.matching(cells[1]), branch_losses={"vision": {"all": "x"}})
    page = tmp_path / "docs" / "RESULTS.md"
    page.parent.mkdir()
    page.write_text("# Results\n")
    with pytest.raises(LedgerError, match="look again"):
        render(fake_table("concat", "vision", seeds=(0,)), "cpu", cells, ledger, page)
    assert [path.name for path in page.parent.rglob("*")] == ["RESULTS.md"] and page.read_text() == "# Results\n"


def test_gradients_are_the_means_of_the_logged_steps_of_the_first_half(tmp_path):
    rows = [{"step": step, "train/loss": 1.0, "branch/vision_gradient": float(step)} for step in (0, 4, 8, 12, 16)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert first_half_means(tmp_path, 16) == {"branch/vision_gradient": 6.0}
