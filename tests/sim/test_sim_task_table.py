"""The table of the tasks reads what was measured before, and refuses what it did not write."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.cli.task_table import main
from experiments.task_table import PAGE_PART, as_markdown, read_results
from gap_vla.core.errors import USER_ERROR
from gap_vla.core.locks import alone
from gap_vla.sim.variants import variant_spec

DOCS = Path(__file__).parents[2] / "docs"
CELL = {
    "successes": 1,
    "n": 2,
    "failed_seeds": [100_001],
    "steps": 9.0,
    "phases": {"reach": 9.0},
    "step_ms": 1.0,
    "reset_ms": 1.0,
}

LOST = {**CELL, "successes": 0, "n": 1, "failed_seeds": [100_000], "steps": None, "phases": {}}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1]", "is list"),
        ('{"assembly": {"defau', "not valid JSON"),
        ('{"assembly": null}', "assembly is null"),
        ('{"assembly": NaN}', "assembly is nan"),
        ('{"assembly": {"default": "x"}}', "assembly.default is 'x'"),
        (json.dumps({"assembly": {"default": {**CELL, "n": float("nan")}}}), "assembly.default.n is nan"),
        (json.dumps({"assembly": {"default": {**CELL, "successes": 3}}}), "default.successes is 3"),
        (json.dumps({"assembly": {"default": {**CELL, "steps": None}}}), "default.steps is None"),
        (json.dumps({"assembly": {"default": {**CELL, "phases": {"reach": "x"}}}}), "phases.reach is 'x'"),
        (
            json.dumps({"assembly": {"default": {**CELL, "failed_seeds": []}}}),
            "it must be one of 100000 to 100001 for each of the 1 failures",
        ),
        (json.dumps({"assembly": {"default": {**CELL, "phases": {"place": 3}}}}), "those of assembly, without place"),
        (
            json.dumps({"assembly": {"default": {**CELL, "failed_seeds": [7]}}}),
            "one of 100000 to 100001 for each of the 1 failures",
        ),
        (
            json.dumps({"assembly": {"default": {**CELL, "n": 3, "failed_seeds": [100_001] * 2}}}),
            "for each of the 2 failures",
        ),
        (
            json.dumps({"assembly": {"default": {**CELL, "steps": 201.0}}}),
            "steps is 201.0; it must be a number from 1 to",
        ),
        (json.dumps({"assembly": {"default": {**CELL, "phases": {"reach": 900}}}}), "phases.reach is 900; it must be"),
        (
            json.dumps({"assembly": {"default": {**CELL, "phases": {"reach": 50}}}}),
            "steps is 9.0 (float); it must be those",
        ),
        (json.dumps({"assembly": {"default": {**CELL, "step_ms": 0}}}), "step_ms is 0; it must be a number from 0.01"),
        (json.dumps({"assembly": {"default": {**CELL, "reset_ms": 0}}}), "reset_ms is 0; it must be a number from"),
        (json.dumps({"assembly": {"render_ms_64": 0}}), "render_ms_64 is 0; it must be a number from"),
        (json.dumps({"nosuch": {}}), "nosuch: no such task; there are: "),
        (json.dumps({"assembly": {"default": {**LOST, "steps": 50}}}), "steps is 50 (int); it must be null"),
        (json.dumps({"assembly": {"default": {**LOST, "phases": {"reach": 9.0}}}}), "and phases empty, as no episode"),
        (json.dumps({"assembly": {"nosuch": CELL}}), "assembly.nosuch: no such variant; there are: default, "),
        (json.dumps({"assembly": {"render_ms_64": float("nan")}}), "render_ms_64 is nan"),
    ],
)
def test_damaged_measurements_are_one_line(tmp_path, capsys, text, named):
    path, page = tmp_path / "task_table.json", tmp_path / "TASKS.md"
    path.write_text(text)
    shutil.copy(DOCS / "TASKS.md", page)
    words = ["--docs", str(tmp_path), "--tasks", "assembly", "--episodes", "1", "--look-episodes", "1"]
    assert main(words) == USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}") and named in line
    assert path.read_text() == text and page.read_text() == (DOCS / "TASKS.md").read_text()


def test_the_published_measurements_make_the_published_table():
    assert as_markdown(read_results(DOCS / "task_table.json")) in (DOCS / "TASKS.md").read_text()


def test_a_task_without_success_or_times_of_pictures_has_a_dash():
    table = as_markdown({"assembly": {"default": {**CELL, "successes": 0, "steps": None}}})
    assert "| – | 1.0 | 1.0 | – | – |" in table


@pytest.mark.parametrize(
    ("words", "mine", "named"),
    [
        (["--variants", "default,lihgt"], None, "lihgt"),
        ([], "task_table.json", "task_table.json exists without a mark of gap_vla"),
        (["--pictures"], "pictures/assembly.png", "assembly.png exists without a mark of gap_vla"),
    ],
)
def test_what_cannot_be_written_or_measured_is_refused_before_the_first_episode(
    tmp_path, capsys, monkeypatch, words, mine, named
):
    monkeypatch.setattr("experiments.task_table.measure_expert", lambda *_: pytest.fail("measuring was begun"))
    shutil.copy(DOCS / "TASKS.md", tmp_path)
    if mine:
        (tmp_path / mine).parent.mkdir(exist_ok=True)
        (tmp_path / mine).write_text("{}")
    assert main(["--docs", str(tmp_path), "--tasks", "assembly", *words]) == USER_ERROR
    assert named in capsys.readouterr().err


def test_what_the_page_shows_and_the_file_has_not_is_not_replaced(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "experiments.task_table.measure_expert",
        lambda task, variant, n: {**CELL, "failed_seeds": [variant_spec(variant).first_seed]},
    )
    monkeypatch.setattr("experiments.task_table.measure_rendering", lambda *_: 1.0)
    words = ["--docs", str(tmp_path), "--tasks", "assembly", "--variants"]
    shutil.copy(DOCS / "TASKS.md", tmp_path)
    assert main([*words, "positions_wide"]) == USER_ERROR
    assert "TASKS.md has measurements of assembly on camera" in capsys.readouterr().err
    held = json.loads((DOCS / "task_table.json").read_text())
    lost = held["assembly"].pop("light")
    (tmp_path / "task_table.json").write_text(json.dumps(held))
    assert main([*words, "default", "--episodes", "1"]) == USER_ERROR
    assert "TASKS.md has measurements of assembly on light, " in capsys.readouterr().err
    assert (tmp_path / "TASKS.md").read_text() == (DOCS / "TASKS.md").read_text()
    held["assembly"]["light"] = lost
    (tmp_path / "task_table.json").write_text(json.dumps(held))
    assert main([*words, "default", "--episodes", "1"]) == 0
    assert main([*words, "default", "--episodes", "1", "--again"]) == USER_ERROR
    assert "task_table.json holds 100 episodes of assembly on default; 1 do not replace them" in capsys.readouterr().err
    (tmp_path / "task_table.json").unlink()
    part = f"<!-- begin: {PAGE_PART} -->\n<!-- end: {PAGE_PART} -->\n"
    (tmp_path / "TASKS.md").write_text(part)
    assert main([*words, "positions_wide", "--episodes", "2"]) == 0
    page = (tmp_path / "TASKS.md").read_text()
    assert "| `assembly` | 80 | 200 | – | – |" in page and "| `assembly` | 1/2 (9–91) |" in page


def test_two_at_once_would_lose_what_one_of_them_measured(tmp_path, capsys):
    shutil.copy(DOCS / "TASKS.md", tmp_path)
    with alone(tmp_path / ".task_table.json.lock", "it"):
        assert main(["--docs", str(tmp_path), "--tasks", "assembly"]) == USER_ERROR
    assert "task_table.json is in use by process" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["TASKS.md"]
