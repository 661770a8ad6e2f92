"""Drawings of an episode, as a figure and on a page; videos, tables and the first batch."""

import dataclasses
import re

import av
import numpy as np
import pytest

from gap_vla.core.episode import Episode
from gap_vla.drawing.batch import batch_picture
from gap_vla.drawing.episode import EpisodeView, Plot, episode_figure, episode_png, episodes_page
from gap_vla.drawing.video import write_video

STEPS = 40


@pytest.fixture
def view():
    points = np.zeros(STEPS, bool)
    points[[10, 30]] = True
    episode = Episode(
        images={
            "image_wrist": np.zeros((STEPS, 8, 8, 3), np.uint8),
            "image_primary": np.ones((STEPS, 8, 8, 3), np.uint8),
        },
        proprio=np.zeros((STEPS, 9), np.float32),
        action=np.zeros((STEPS, 7), np.float32),
        rho=np.full(STEPS, 0.5, np.float32),
        change_point=points,
        phase=np.array(["reach"] * 12 + ["grasp"] * 16 + ["lift"] * 12),
    )
    return EpisodeView.of(episode, title="demo <1>")


def test_switches_are_where_the_phase_is_a_new_one(view):
    assert view.switches.tolist() == [12, 28] and view.change_points.tolist() == [10, 30]
    assert dataclasses.replace(view, phases=None).switches.tolist() == []


def test_a_dollar_in_a_name_begins_no_formula(view):
    name = "a$_$b"
    named = {"phases": np.array([name] * STEPS), "frames": {name: view.frames["image_wrist"], **view.frames}}
    assert episode_png(dataclasses.replace(view, title=name, **named), dpi=30)[:4] == b"\x89PNG"


def titles(view):
    return [axes.get_title() for axes in episode_figure(view).axes if axes.images]


def test_frames_of_every_camera_are_those_at_the_start_and_at_change_points(view):
    assert titles(view) == ["image_primary", "step 10", "step 30", "image_wrist", "step 10", "step 30"]


def test_without_change_points_frames_are_at_equal_distances(view):
    plain = dataclasses.replace(view, change_points=np.zeros(0, np.int64), frames={"a": view.frames["image_wrist"]})
    assert titles(plain) == [f"step {step}" for step in (0, 5, 10, 15, 20, 24, 29, 34, 39)]


def test_rho_and_signals_carry_the_same_marks(view):
    figure = episode_figure(dataclasses.replace(view, signals=(Plot("speed", {"x": np.arange(STEPS)}),)))
    plots = [axes for axes in figure.axes if not axes.images]
    assert [axes.get_ylabel() for axes in plots] == ["ρ", "speed"]
    for axes in plots:
        assert [line.get_xdata()[0] for line in axes.lines[1:]] == [12, 28, 10, 30]
    assert [text.get_text() for text in plots[0].texts] == ["reach", "grasp", "lift"]


def test_the_page_places_its_cursor_over_the_plots_and_escapes_what_it_is_given(view):
    names = np.array(["<!--<script>", *view.phases[1:]])
    other = dataclasses.replace(view, title="</script>", facts=("a & b",), phases=names)
    text = episodes_page(view.title, [view, other])
    left, right = (float(re.search(rf'data-{side}="([\d.]+)"', text)[1]) for side in ("left", "right"))
    assert 0 < left < 0.2 and 0.9 < right < 1
    assert "<h1>demo &lt;1&gt;</h1>" in text and "<h2>&lt;/script&gt;</h2>" in text and "a &amp; b" in text
    assert "://" not in text and text.count("<section") == 2
    assert "<!--" not in text.replace("<!-- ", "") and text.count("<script") == 3 == text.count("</script>")


def test_a_video_holds_every_picture_at_its_rate_and_size(tmp_path):
    frames = [np.full((16, 15, 3), value, np.uint8) for value in (0, 100, 200, 250, 50)]
    with av.open(str(write_video(tmp_path / "x.mp4", iter(frames), fps=12.5))) as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert float(file.streams.video[0].average_rate) == 12.5
    assert [frame.shape for frame in decoded] == [(16, 14, 3)] * 5
    assert np.allclose([frame.mean() for frame in decoded], [0, 100, 200, 250, 50], atol=4)


def test_a_first_batch_without_rho_is_drawn_without_its_strip():
    observation = {"image_primary": np.full((3, 2, 8, 8, 3), 200, np.uint8), "timestep_pad_mask": np.ones((3, 2), bool)}
    bare = batch_picture({"observation": observation})
    with_rho = batch_picture({"observation": observation, "rho": np.ones((3, 2), np.float32)})
    assert bare.shape[0] < with_rho.shape[0] and bare.shape[1] == with_rho.shape[1]
    assert set(np.unique(bare)) == {200, 255}
