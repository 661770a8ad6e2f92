"""Figures in prose are those of the files under results/: a page that says something else fails here.

Tables between markers are written by scripts/reproduce.py; what stands outside of them is listed in claims.py.
"""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from claims import CLAIMS, ROOT, text_of

PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(("page", "said"), CLAIMS)
def test_a_page_says_what_was_measured(page, said):
    assert said() in text_of(page), f"{page} should say: {said()}"


@pytest.mark.parametrize("cell", sorted((ROOT / "results/tasks/cpu").glob("*.json")), ids=lambda path: path.stem)
def test_the_first_lines_of_a_configuration_say_what_it_scores(cell):
    found = json.loads(cell.read_text())
    score, task = found["variants"]["default"], found["task"]
    said = text_of(f"finetune_configs/{task}.py")
    assert f"from {found['config']['demos']['episodes']} demonstrations, {found['steps']:,} steps" in said
    assert f"{score['successes']} of {score['episodes']} rollouts succeed (seed {found['seed']})" in said
    assert f"--table tasks --tasks {task}`" in said
    assert not found["whole"] or f"{found['seconds'] / 60:.0f} minutes on 2 CPU cores beside other work" in said


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_results_that_a_page_names_is_there(page):
    named = re.findall(r"results/[\w./-]*\w", text_of(page))
    missing = [name for name in named if not (ROOT / name).exists() and not name.startswith("results/TABLE")]
    assert [name for name in missing if "benchmarks/" + name not in text_of(page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_figure_rests_on_what_nobody_can_run(page):
    assert "not in the repository" not in text_of(page)


def test_recorded_measurements_are_shown_word_for_word(tmp_path):
    from benchmarks.record import render

    page = tmp_path / "PERFORMANCE.md"
    shutil.copy(ROOT / "docs" / "PERFORMANCE.md", page)
    render(page=page)
    assert page.read_text() == (ROOT / "docs" / "PERFORMANCE.md").read_text(), "run benchmarks/record.py"


def test_a_benchmark_that_fails_keeps_nothing_and_one_that_ends_is_kept(tmp_path, monkeypatch, capsys):
    from benchmarks import record

    monkeypatch.setattr(record, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(record, "render", lambda: None)
    assert record.main(["bad", "--", "-c", "raise SystemExit(3)"]) == 2
    assert "status 3" in capsys.readouterr().err and not (tmp_path / "kept").exists()
    assert record.main(["good", "--", "-c", "print('7.0 ms')"]) == 0
    kept = json.loads((tmp_path / "kept" / "good.json").read_text())
    assert kept["output"] == ["7.0 ms"] and kept["command"] == "python -c 'print('\"'\"'7.0 ms'\"'\"')'"
    record_page = tmp_path / "page.md"
    monkeypatch.undo()
    record.render(tmp_path / "kept", record_page)
    assert "7.0 ms\n```" in record_page.read_text()


@pytest.mark.usefixtures("blank_charts")
def test_recorded_tables_are_rendered(tmp_path, monkeypatch):
    """The pages hold what `scripts/reproduce.py --render` writes from what is recorded."""
    from experiments.tables.command import render_all

    page, front = tmp_path / "RESULTS.md", tmp_path / "README.md"
    shutil.copy(ROOT / "docs" / "RESULTS.md", page)
    shutil.copy(ROOT / "README.md", front)
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)  # what runs of this machine left in data/ is no part of what is recorded
    render_all(SimpleNamespace(results="results", profile="cpu", device="cpu", page=page, front_page=front))
    assert page.read_text() == (ROOT / "docs" / "RESULTS.md").read_text(), "run scripts/reproduce.py --render"
    assert front.read_text() == (ROOT / "README.md").read_text(), "run scripts/reproduce.py --render"
