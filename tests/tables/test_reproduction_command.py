"""The command: a queue with predicted times, cells, a page; and errors in words before anything runs."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_cells import events, fake_kind, fake_table

from experiments.pages import FRONT, markers
from experiments.tables.cells import KINDS
from experiments.tables.command import _render_front
from experiments.tables.tables import TABLES

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """scripts/reproduce.py with a table of fake cells under the name `evidence`; call it with arguments."""
    spec = importlib.util.spec_from_file_location("reproduce_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # else the command starts this process anew
    table = fake_table("good", "poor", "diverging", seeds=(0,))
    monkeypatch.setitem(TABLES, "evidence", table)
    monkeypatch.setitem(KINDS, "small", fake_kind(tmp_path))
    places = [f"--results={tmp_path / 'results'}", f"--page={tmp_path / 'docs' / 'R.md'}"]

    def call(*arguments, table=("--table=evidence",)):
        runs = not any(word.startswith(("--look", "--render", "--logs", "--dry")) for word in arguments)
        logs = [f"--logs={tmp_path / 'logs'}"] if runs else []
        monkeypatch.setattr("sys.argv", ["scripts/reproduce.py", *table, *places, *logs, *arguments])
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


def test_a_page_does_not_lie_among_the_cells(script, tmp_path, capsys):
    (tmp_path / "docs").symlink_to(tmp_path / "results")
    assert script("--dry_run") == 2
    assert f"R.md lies in {tmp_path}/results, which is read; name another place" in capsys.readouterr().err


def test_a_page_that_is_a_link_to_nowhere_is_refused_and_nothing_is_made_there(script, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "R.md").symlink_to(tmp_path / "elsewhere" / "R.md")
    with pytest.raises(SystemExit, match="2"):
        script("--render")
    assert "R.md is a link that leads nowhere" in capsys.readouterr().err and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--methods=godo", "did you mean 'good'"),
        ("--seeds=a", "whole numbers"),
        ("--budget=soon", "60m"),
        ("--look=probe,probe", "each once"),
        ("--look=nope", "probe, takeover, predict"),
        ("--seeds=0,,1", "single commas"),
        ("--look=probe --jobs=2", "--jobs has no effect with --look"),
        ("--render --logs=logs", "--logs has no effect with --render"),
        ("--render --seeds=0", "--seeds has no effect with --render"),
        ("--render", "holds no cell (fake/cpu/*.json): there is nothing to show"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(script, tmp_path, monkeypatch, capsys, argument, words):
    monkeypatch.chdir(tmp_path)
    try:
        status = script(*argument.split())
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and not (tmp_path / "docs").exists()
    assert words in capsys.readouterr().err and not events(tmp_path, "begin")


@pytest.mark.parametrize("shape", ["map", "lines", "confirmation"])
def test_a_table_whose_sentences_are_about_its_own_seeds_shows_no_other(script, monkeypatch, capsys, shape):
    monkeypatch.setitem(TABLES, "evidence", dataclasses.replace(fake_table("good", seeds=(0,)), shape=shape))
    assert script("--render", "--seeds=0,1") == 2
    assert "--seeds has no effect with --render, which shows the table's own seeds" in capsys.readouterr().err


def test_results_of_somebody_else_are_written_into_no_page_of_the_project(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    written = []
    monkeypatch.setattr("experiments.tables.command.write_front_page", lambda rows, page: written.append(page))
    monkeypatch.setattr("experiments.tables.command.ON_FRONT_PAGE", {})
    (tmp_path / "README.md").write_text("\n".join(markers(FRONT)))
    own = {"results": "results", "page": "docs/RESULTS.md", "profile": "cpu"}
    for changed in ({"results": "mine"}, {"page": "docs/MINE.md"}, {"profile": "paper"}):
        assert _render_front(SimpleNamespace(**own | changed)) == written == []
    assert _render_front(SimpleNamespace(**own)) == written == [Path("README.md")]


def test_rendering_every_table_of_no_cells_is_refused(script, tmp_path, capsys):
    assert script("--render", table=()) == 2
    assert "holds no cell (*/cpu/*.json): there is nothing to show" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_rendering_without_a_table_writes_all_that_is_recorded(script, tmp_path, monkeypatch, capsys):
    assert script("--methods=good", "--budget=60s") == 0
    page = tmp_path / "docs" / "R.md"
    written = page.read_text()
    page.unlink()
    monkeypatch.setattr(
        "experiments.tables.command.TABLES", {"fake": fake_table("good", "poor", "diverging", seeds=(0,))}
    )
    cells = tmp_path / "results" / "fake" / "cpu"
    (cells / "assembly-good-seed7.json").write_bytes((cells / "assembly-good-seed0.json").read_bytes())
    (tmp_path / "results" / "fkae" / "cpu").mkdir(parents=True)
    assert script("--render", table=()) == 0
    said = capsys.readouterr().out
    assert page.read_text() == written and "fake: 0 of 3 cells are stale" in said
    assert f"note: not shown, of no cell of this table: assembly-good-seed7 in {cells}" in said
    assert f"note: not shown, of no table: {tmp_path / 'results' / 'fkae' / 'cpu'}" in said
    assert script(table=()) == 2 and "--table is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        script("--render", "--seeds=0", table=())
    assert "--seeds has no effect without --table" in capsys.readouterr().err


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
