"""The page about runs: it begins with the result, and is one file that needs nothing else."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gap_vla.cli.training import report as command
from gap_vla.core.episode import Episode
from gap_vla.report.charts import branch_chart, curve_chart, mean_curve
from gap_vla.report.page import rho_section, write_report
from gap_vla.report.runs import Run, read_runs
from tests.helpers.finished_runs import make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    wins = {"concat": [1, 0, 0, 1], "gap": [1, 1, 0, 1]}
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, method, seed, wins[method]) for seed in (0, 1) for method in ("concat", "gap")]


@pytest.fixture(scope="module")
def page(runs):
    return write_report(runs, runs[0].parent / "report.html", command="python make_page", videos=1).read_text()


def test_the_page_is_one_file_that_fetches_nothing(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page and "@import" not in page and "://" not in re.sub(r"base64,[^\"]+", "", page)
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert f'id="{anchor}"' in page


def test_the_page_of_a_run_begins_with_its_result_a_film_and_what_the_method_is(runs):
    (runs[1] / "rollouts" / "default" / "index.html").write_text("all rollouts")
    text = write_report([runs[1]], runs[1] / "report.html").read_text()
    assert 'href="rollouts/default/index.html"' in text
    order = ["3 of 4 rollouts succeeded", "trained with GAP", "<video", 'id="curves"', 'id="runs"', 'id="next"']
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert 'id="success"' not in text  # with one run there is nothing to compare
    assert text.count("gap-vla diagnose") == 1


def test_the_page_of_several_runs_compares_them(page):
    cells = re.findall(r"<td>([^<]*)</td>", page)
    assert ["concat", "in distribution", "50", "22 to 78", "8", "0: 50, 1: 50"] == cells[:6]
    assert "gap − concat" in cells and cells[cells.index("gap − concat") + 2] == "+25"
    assert "concat: 4 of 8 rollouts succeeded" in page and page.count("<pre>python make_page</pre>") == 1
    reached = cells.index("insert")
    assert cells[reached - 2 : reached + 3] == ["concat, seed 0", "in distribution", "insert", "100", "2"]
    assert page.count("data:video/mp4;base64,") == 4 and "abc123" in page


def test_the_step_where_gap_stops_is_marked_on_the_curves(runs):
    plain, gap = Run.read(runs[0]), Run.read(runs[1])
    assert (plain.gap_stops, gap.gap_stops) == (None, 10)
    for figure in (curve_chart([plain, gap]), branch_chart([gap])[0]):
        assert [text.get_text() for text in figure.axes[0].texts] == ["adjusted until here"]
    assert not curve_chart([plain]).axes[0].texts


def test_a_run_that_is_not_finished_has_a_page(tmp_path):
    path = make_run(tmp_path, "gap", 0, [1, 1])
    (path / "summary.json").unlink()
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "train/lo')  # killed while it wrote
    text = write_report([path], tmp_path / "report.html").read_text()
    assert "the training is not finished" in text and 'id="curves"' in text


def test_a_run_of_version_0_1_is_reported(tmp_path):
    path = next((Path(__file__).parents[1] / "data" / "runs_made_by_0.1.0").glob("*/*"))
    assert " rollouts succeeded" in write_report([path], tmp_path / "report.html").read_text()


def test_a_curve_is_the_mean_over_seeds_however_often_and_how_long_each_measured():
    steps = np.arange(0, 20), np.arange(0, 40, 2)
    both = [SimpleNamespace(curve=lambda name, s=s: (s, s.astype(float))) for s in steps]
    found, values = mean_curve(both, "x", bins=5)
    assert len(found) and np.allclose(found, values) and found.max() < 20


def test_a_method_of_other_demonstrations_is_left_out_of_the_drawing_of_rho(runs):
    def of(run):
        steps = 30 if run.method == "gap" else 40
        episode = Episode({}, np.zeros((10, 9), np.float32), np.zeros((10, 7), np.float32))
        return SimpleNamespace(steps=steps, episode=lambda _: episode, offsets=[0, 10]), np.full(steps, 0.25)

    text = rho_section(read_runs(runs), of)
    assert "concat 0.250" in text and "gap was trained on other demonstrations" in text
    assert not rho_section(read_runs(runs), lambda run: None)


def test_the_command_writes_the_page_and_replaces_it_only_if_told(runs, tmp_path, capsys):
    out = tmp_path / "report.html"
    words = [str(runs[0]), "--out", str(out)]
    assert command(words) == 0 and out.exists()
    assert command(words) == 2 and "report.html exists" in capsys.readouterr().err
    assert command([*words, "--overwrite"]) == 0
