"""Claims about the page and the words of an evaluation."""

import json

import numpy as np
import pytest

from gap_vla.core.marks import stamp
from gap_vla.core.outputs import OutputError
from gap_vla.report.comparison import compare
from gap_vla.report.comparison_render import tables
from gap_vla.report.evaluation_page import variants_table, write_page, write_variants
from gap_vla.rollouts.record import EpisodeRecord, EvaluationError, VideoShelf
from gap_vla.rollouts.summary import describe, summarize


def summary(error=None):
    records = [
        EpisodeRecord(0, 100, True, 40, "grip", None, 1.0, 2.0, 0.5),
        EpisodeRecord(1, 101, False, 60, "move", error, 1.0, 2.0, 0.5),
    ]
    what = {"task": {"task": "stack", "variant": "default"}, "seed": 100, "policy": {"name": "a <b>"}}
    return {**what, **summarize(records, ("move", "grip")), "videos": ["videos/episode_0001_failure.mp4"]}


def test_phases_count_who_got_there_and_where_failures_ended():
    found = summary()["phases"]
    assert found == {"reached": {"move": 1.0, "grip": 0.5}, "failed_in": {"move": 1}}


def test_the_words_name_rate_interval_time_and_what_was_cut_short():
    text = describe(summary("step 9: the policy returned NaN"))
    for part in (
        "1 of 2 succeeded, 50 %",
        "interval 9 to 91 %",
        "rendering 40.0",
        "episode 1: step 9: the policy returned NaN",
    ):
        assert part in text


def test_a_rate_says_0_or_100_only_where_it_is(tmp_path):
    ends = [EpisodeRecord(number, number, number > 0, 9) for number in range(200)]
    found = {**summary(), **summarize(ends)}
    assert "199 of 200 succeeded, 99.5 % (95 %" in describe(found) and "199/200   99.5 %" in variants_table({"": found})
    assert "<strong>99.5 %</strong> of 200" in write_page(tmp_path, {**found, "videos": []}).read_text()
    compared = compare({"v": {0: {"default": dict(enumerate(found["outcomes"]))}}})
    assert ["v", "in distribution", "99.5"] == tables(compared)[0][1][:3]


def test_the_page_shows_videos_and_errors_and_escapes_what_it_is_given(tmp_path):
    page = write_page(tmp_path, summary("<script>")).read_text()
    assert "a &lt;b&gt; on stack" in page and "<script>" not in page and "&lt;script&gt;" in page
    assert "videos/episode_0001_failure.mp4" in page and "episode 1: <b>failure</b> in move, 60 steps" in page


def test_a_page_that_somebody_put_there_is_not_replaced_and_one_of_ours_is(tmp_path):
    page = write_page(tmp_path, summary())
    unmarked = page.read_text().replace("<!-- gap_vla:evaluation -->", "")
    assert unmarked != page.read_text() == write_page(tmp_path, summary()).read_text()
    for foreign in ("mine", "<!doctype html><p>mine</p>", unmarked):
        page.write_text(foreign)
        with pytest.raises(OutputError, match=r"index\.html exists without a mark of gap_vla"):
            write_page(tmp_path, summary())
        assert page.read_text() == foreign


def test_all_variants_make_one_table_and_one_page_that_leads_to_theirs(tmp_path):
    found = {"default": summary(), "light": summary()}
    table = variants_table(found)
    assert len(table.splitlines()) == 3 and "light    1/2        50 %    9 to 91 %" in table
    page = write_variants(tmp_path, found).read_text()
    assert 'href="light/index.html"' in page and "9 to 91 %" in page and "<b>" not in page
    assert json.loads((tmp_path / "variants.json").read_text())["light"]["successes"] == 1
    found["light"] = summary("step 3: the simulator failed: ValueError: no contact")
    told = "light: 1 of 2 episodes were cut short by the simulator, not by the policy, and count as failed"
    assert told in variants_table(found) and told in write_variants(tmp_path, found).read_text() and told not in page
    assert json.loads((tmp_path / "variants.json").read_text())["light"]["simulator_errors"] == 1
    assert "Layouts differ" not in page  # both are of seeds 100 and 101, as where --seed names them
    wide = {"default": summary(), "positions_wide": summary()}  # of the same seeds, in other places
    assert "Layouts differ between variants" in write_variants(tmp_path, wide).read_text()
    found["light"]["layout_seeds"] = [600, 601]
    assert "Layouts differ between variants" in write_variants(tmp_path, found).read_text()


def test_another_variant_than_the_default_is_named():
    other = summary()
    other["task"] = {"task": "stack", "variant": "light"}
    assert "on stack, light: 1 of 2" in describe(other) and "on stack: 1 of 2" in describe(summary())


def film(path, *_, **__):
    path.write_bytes(b"film")
    stamp(path, "rollout")


def test_a_file_in_the_place_of_a_film_is_named_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.rollouts.record.write_video", film)
    picture = [np.zeros((8, 8, 3), np.uint8)]
    shelf, mine = VideoShelf(tmp_path, 1), tmp_path / "episode_0000_success.mp4"
    shelf.add(0, True, picture)
    mine.write_text("the only copy")
    for again in (lambda: VideoShelf(tmp_path, 1), lambda: shelf.add(1, False, picture)):
        with pytest.raises(
            EvaluationError, match=r"episode_0000_success\.mp4 was not made by an evaluation \(or not as"
        ):
            again()
    assert mine.read_text() == "the only copy"


def test_pictures_of_two_sizes_make_no_film(tmp_path):
    pictures = [np.zeros((size, 8, 3), np.uint8) for size in (8, 8, 12)]
    with pytest.raises(EvaluationError, match=r"pictures are uint8\[12, 8, 3\], and a film needs .* of one size"):
        VideoShelf(tmp_path, 4).add(0, False, pictures)


def test_a_film_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.rollouts.record.write_video", film)
    theirs = tmp_path / "theirs.mp4"
    film(theirs)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "episode_0000_failure.mp4").symlink_to(theirs)
    with pytest.raises(EvaluationError, match=r"episode_0000_failure\.mp4 was not made by an evaluation \(a link\)"):
        VideoShelf(tmp_path / "mine", 4).add(0, False, [np.zeros((8, 8, 3), np.uint8)])


def test_videos_show_failures_first_and_one_success(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.rollouts.record.write_video", film)
    for outcomes in ("WWLLLLWL", "LLLLLWWW", "LWLWLLLL"):
        folder = tmp_path / outcomes
        folder.mkdir()
        for number, outcome in enumerate(outcomes):
            VideoShelf(folder, 3).add(number, outcome == "W", [np.zeros((8, 8, 3), np.uint8)])  # resumed after each
        kept = [path.stem.rsplit("_")[-1] for path in VideoShelf(folder, 3).paths]
        assert kept == ["failure", "failure", "success"]
    there = VideoShelf(folder, 3).paths
    for fewer in (1, 0):  # resumed with fewer, which take none away
        VideoShelf(folder, fewer).add(9, False, [np.zeros((8, 8, 3), np.uint8)])
        assert VideoShelf(folder, fewer).paths == there
    (tmp_path / "again").mkdir()
    single, again = VideoShelf(tmp_path, 1), VideoShelf(tmp_path / "again", 2)
    for won in (False, True):  # an episode that was played anew has one film
        again.add(0, won, [np.zeros((8, 8, 3), np.uint8)])
    assert [path.name for path in again.paths] == ["episode_0000_success.mp4"]
    for foreign in ("episode_best.mp4", "episode_0001_failure_copy.mp4", "talk.mp4"):
        (tmp_path / foreign).touch()
    for number, success in enumerate((True, False, True)):
        single.add(number, success, [np.zeros((8, 8, 3), np.uint8)])
    assert [path.stem for path in single.paths] == ["episode_0001_failure"]
