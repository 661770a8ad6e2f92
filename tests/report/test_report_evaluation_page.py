"""The page of an evaluation, and the table of all variants of a scene."""

from gap_vla.report.comparison import compare, tables
from gap_vla.report.evaluations import write_page
from gap_vla.rollouts.records import EpisodeRecord, summarize


def summary(error=None):
    records = [
        EpisodeRecord(0, 100, True, 40, "grip"),
        EpisodeRecord(1, 101, False, 60, "move", error),
    ]
    what = {"task": {"task": "stack", "variant": "default"}, "seed": 100, "policy": {"name": "a <b>"}}
    return {**what, **summarize(records, ("move", "grip")), "videos": ["videos/episode_0001_failure.mp4"]}


def test_the_page_begins_with_the_result_and_shows_videos_phases_and_errors(tmp_path):
    page = write_page(tmp_path, summary("<script>")).read_text()
    assert page.index("1 of 2 rollouts succeeded") < page.index("<video") < page.index("failures in it")
    assert "a &lt;b&gt; on stack" in page and "<script>" not in page and "&lt;script&gt;" in page
    assert "videos/episode_0001_failure.mp4" in page and "episode 1: <b>failure</b> in move, 60 steps" in page


def test_a_rate_says_0_or_100_only_where_it_is(tmp_path):
    ends = [EpisodeRecord(number, number, number > 0, 9) for number in range(200)]
    found = {**summary(), **summarize(ends)}
    assert "99.5 % (95 %" in write_page(tmp_path, {**found, "videos": []}).read_text()
    compared = compare({"v": {0: {"default": dict(enumerate(found["outcomes"]))}}})
    assert ["v", "in distribution", "99.5"] == tables(compared)[0][1][:3]
