"""One drawing of an episode: what it shows, as a figure, on a page and below a video."""

import dataclasses
import os
import re
import sys

import numpy as np
import pytest

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.outputs import OutputError
from gap_vla.drawing.episode import (
    LABEL,
    SIDE,
    EpisodeView,
    Plot,
    episode_figure,
    episode_png,
    video_frames,
    write_episode_video,
)
from gap_vla.drawing.episode_page import episodes_page
from gap_vla.drawing.markup import chart_image, command_block, film, html_table, link, page
from gap_vla.drawing.video import packets, working_ffmpeg

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


def test_a_text_of_many_pages_is_cut(view):
    long = dataclasses.replace(view, title="x" * 5_000_000, phases=np.array(["y" * 100_000] * STEPS))
    figure = episode_figure(long)
    assert len(figure.get_suptitle()) == 150
    assert next(video_frames(long)).shape == next(video_frames(view)).shape


@pytest.mark.parametrize("sides", [(1, 1000), (1000, 1)])
def test_a_camera_of_a_single_line_is_a_line_in_a_video(view, sides):
    line = {"image_line": np.full((STEPS, *sides, 3), 255, np.uint8)}
    whole = next(video_frames(dataclasses.replace(view, frames=line)))[:SIDE]
    assert (whole == 255).all(2).sum() == SIDE


@pytest.mark.parametrize("field", ["title", "phases", "frames"])
def test_a_dollar_in_a_name_begins_no_formula(view, field):
    name = "a$_$b"
    named = {
        "title": name,
        "phases": np.array([name] * STEPS),
        "frames": {name: view.frames["image_wrist"], **view.frames},
    }
    assert episode_png(dataclasses.replace(view, **{field: named[field]}), dpi=30)[:4] == b"\x89PNG"


def titles(view):
    return [axes.get_title() for axes in episode_figure(view).axes if axes.images]


def test_an_episode_of_which_nothing_can_be_drawn_is_an_empty_figure(view):
    assert not episode_figure(dataclasses.replace(view, frames={}, rho=None)).axes


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


def test_the_line_over_a_video_is_black_at_its_step_and_change_points_are_red(view):
    frames = list(video_frames(view))
    assert len(frames) == STEPS
    x = [round(4 + (SIDE - 8) * step / (STEPS - 1)) for step in (10, 20)]
    below = frames[20][SIDE + LABEL + 8, :, :].astype(int)
    assert below[x[1]].max() == 0
    near = below[x[0] - 1 : x[0] + 2]
    assert (near[:, 0] - near[:, 1]).max() > 60


def test_an_episode_without_pictures_is_no_video(view, tmp_path):
    with pytest.raises(EpisodeError, match="demo <1>: no camera images"):
        write_episode_video(dataclasses.replace(view, frames={}), tmp_path / "e.mp4")


def test_the_page_places_its_cursor_over_the_plots_and_escapes_what_it_is_given(view):
    text = episodes_page(view.title, [view, dataclasses.replace(view, title="</script>", facts=("a & b",))])
    left, right = (float(re.search(rf'data-{side}="([\d.]+)"', text)[1]) for side in ("left", "right"))
    assert 0 < left < 0.2 and 0.9 < right < 1
    assert "<h1>demo &lt;1&gt;</h1>" in text and "<h2>&lt;/script&gt;</h2>" in text and "a &amp; b" in text
    assert "://" not in text and text.count("<section") == 2


def test_no_name_of_a_phase_ends_or_opens_a_script_of_the_page(view):
    names = np.array(["<!--<script>", *view.phases[1:]])
    text = episodes_page(view.title, [dataclasses.replace(view, phases=names)])
    assert "<!--" not in text.replace("<!-- ", "") and text.count("<script") == 2 == text.count("</script>")


def test_no_control_character_reaches_a_page_and_no_font_warns_of_a_name(view, recwarn):
    names = np.array(["a\x1b[31mred\x01\x9b"] * 20 + ["抓取"] * 20)
    odd = dataclasses.replace(view, title="demo \x1b[2J", phases=names)
    text = episodes_page("all", [odd], command_block("\x01"), chart_image("x", "\x02"), film("\x03", "a", "failure"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text + link("\x04", "\x05"))
    assert "<h2>demo \ufffd[2J</h2>" in text and ">a [31mred<" in text and "抓取" in text
    assert episode_png(odd)[:4] == b"\x89PNG" and not recwarn.list


def test_cells_are_escaped_unless_they_are_made_here():
    table = html_table([("a", "b"), ("<i>", link("x?a=1&b", "go"))], ["error"])
    assert '<tr class="error"><td>&lt;i&gt;</td><td><a href="x?a=1&amp;b">go</a></td></tr>' in table
    assert page("t & u", table).count("t &amp; u") == 2


def test_an_ffmpeg_without_the_encoder_reads_and_does_not_write(view, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\n[ "$1" = -version ] && echo ffmpeg version 6 || echo "Encoders:\n V..... mpeg4"\n')
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    assert working_ffmpeg(tmp_path / "x.mp4", EpisodeError) == str(program)
    with pytest.raises(OutputError, match=r"x\.mp4: .*ffmpeg is an ffmpeg without libx264; name another with IMAGEIO"):
        write_episode_video(view, tmp_path / "x.mp4")


def test_ctrl_c_for_the_command_does_not_end_the_program_that_a_video_is_read_with(tmp_path, monkeypatch):
    """A video would be called damaged where the command is still to hear of it."""
    program = tmp_path / "ffmpeg"
    told = f"print(os.getsid(0), file=open({str(tmp_path / 'sessions')!r}, 'a'))"
    program.write_text(f"#!{sys.executable}\nimport os\nprint('ffmpeg')\n{told}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    assert packets(tmp_path / "x.mp4") == ["ffmpeg"] and working_ffmpeg(tmp_path / "x.mp4", EpisodeError) == str(
        program
    )
    sessions = (tmp_path / "sessions").read_text().split()
    assert len({*sessions, f"{os.getsid(0)}"}) == 3
