"""The command: a queue with predicted times, cells, a page; and errors in words before anything runs."""

import importlib.util
import json
from pathlib import Path

import pytest
from fake_cells import events, fake_kind, fake_table

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """scripts/reproduce.py with a table of fake cells under the name `evidence`; call it with arguments."""
    spec = importlib.util.spec_from_file_location("reproduce_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = fake_table("good", "poor", "diverging", seeds=(0,))
    monkeypatch.setattr("experiments.tables.command.find_table", lambda name: table)
    monkeypatch.setattr("experiments.tables.command.find_kind", lambda name: fake_kind(tmp_path))
    places = [f"--{name}={tmp_path / name}" for name in ("results", "logs")] + [f"--page={tmp_path / 'docs' / 'R.md'}"]

    def call(*arguments, table=("--table=evidence",)):
        monkeypatch.setattr("sys.argv", ["scripts/reproduce.py", *table, *places, *arguments])
        return module.main()

    return call


def test_a_dry_run_lists_the_queue_and_writes_nothing(script, tmp_path, capsys):
    assert script("--dry_run", "--jobs=2") == 0
    out = capsys.readouterr().out
    assert "3 cells, 0 finished, 0 failed, 3 to run" in out and "assembly-good-seed0" in out
    assert "stated by profile cpu" in out and list(tmp_path.iterdir()) == []


def test_the_command_runs_records_renders_and_goes_on(script, tmp_path, capsys):
    assert script("--methods=good,diverging", "--budget=60s") == 1, "a documented negative answer: a cell failed"
    assert "failed: assembly-diverging-seed0;" in capsys.readouterr().out
    page = (tmp_path / "docs" / "R.md").read_text()
    assert "| good | 90 |" in page and "Failed: assembly-diverging-seed0 (FloatingPointError" in page
    assert "Not run yet: poor (seed 0)." in page
    recorded = json.loads((tmp_path / "results" / "fake" / "cpu" / "assembly-good-seed0.json").read_text())
    assert recorded["account"]["command"].startswith("python scripts/reproduce.py --table=evidence")
    assert script("--budget=60s") == 1, "it has not been tried again"
    assert "1 finished, 1 failed (give --retry to try them again), 1 to run" in capsys.readouterr().out
    assert script("--methods=good,poor", "--budget=60s") == 0
    assert events(tmp_path, "begin") == ["assembly-good-0", "assembly-diverging-0", "assembly-poor-0"]
    assert "| poor | 60 |" in (tmp_path / "docs" / "R.md").read_text()


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--methods=godo", "did you mean 'good'"),
        ("--seeds=a", "whole numbers"),
        ("--budget=soon", "60m"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(script, tmp_path, capsys, argument, words):
    assert script(argument) == 2
    assert words in capsys.readouterr().err and not events(tmp_path, "begin")


def test_rendering_without_a_table_writes_all_that_is_recorded(script, tmp_path, monkeypatch, capsys):
    assert script("--methods=good", "--budget=60s") == 0
    page = tmp_path / "docs" / "R.md"
    written = page.read_text()
    page.unlink()
    monkeypatch.setattr(
        "experiments.tables.command.TABLES", {"fake": fake_table("good", "poor", "diverging", seeds=(0,))}
    )
    assert script("--render", table=()) == 0
    assert page.read_text() == written and "fake: 0 of 3 cells are stale" in capsys.readouterr().out
    assert script(table=()) == 2 and "--table is missing" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_ends_the_command_before_the_first_cell(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert script("--device=cuda") == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err and not events(tmp_path, "begin")
    assert script("--device=cuda", "--dry_run") == 0


def test_a_gpu_takes_several_cells_at_once(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "a GPU")
    assert script("--device=cuda", "--budget=60s", "--methods=good") == 0
    assert "with 4 at once" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "results" / "fake" / "cpu" / "assembly-good-seed0.json").read_text())
    machine = recorded["account"]["machine"]
    assert (machine["device"], machine["device_name"], machine["jobs"]) == ("cuda", "a GPU", 4)
