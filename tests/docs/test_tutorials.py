"""Every block of code in the tutorials runs, in the order in which it stands."""

import pytest
from pages import TUTORIALS, blocks, run_page


def test_a_reader_without_a_simulator_puts_gap_into_a_training(tmp_path, runner):
    said = run_page(TUTORIALS / "your-training.md", tmp_path, runner=runner)
    assert "change points: [15 30]" in said and "state_proj.0.weight (32, 9)" in said


@pytest.mark.slow
def test_a_reader_looks_at_demonstrations_labels_and_converts_them(tmp_path):
    said = run_page(TUTORIALS / "your-data.md", tmp_path)
    assert (tmp_path / "episode.html").stat().st_size > 10_000
    assert (tmp_path / "demos_rho.hdf5.report.html").exists() and "steps/rho" in said
    assert "0 errors" in said and "(32, 2, 32, 32, 3)" in said


@pytest.mark.slow
def test_a_reader_fine_tunes_octo(tmp_path):
    run_page(TUTORIALS / "finetune-octo.md", tmp_path)
    assert (tmp_path / "comparison.html").exists()
    assert (tmp_path / "runs/threading/first/report.html").exists()


@pytest.mark.slow
def test_a_reader_asks_a_policy_and_one_that_cannot_see_whether_they_look(tmp_path):
    said = run_page(TUTORIALS / "does-it-look.md", tmp_path, limit=3600)
    assert said.count("images_swapped: pictures of another episode") == 2 and "It hardly looks" in said


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_every_tutorial_is_run_by_a_test_and_says_what_is_not(page):
    assert len(blocks(page)) >= 3
    assert page.name in open(__file__).read()
