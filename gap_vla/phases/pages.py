"""Pages about labels: what is shown of an episode, and the report of an annotated data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from gap_vla.core.columns import Arm, Columns
from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.drawing.episode import EpisodeView, Plot, episodes_page
from gap_vla.drawing.figures import COLORS, chart, figure_with
from gap_vla.drawing.markup import command_block, note, part, plain
from gap_vla.phases.measures import notes
from gap_vla.phases.motion import relative_rotation_vector


def report_page(
    title: str, report: Mapping[str, Any], identity: Mapping[str, Any], views: Sequence[EpisodeView]
) -> str:
    """The HTML page of an annotated data set, with `report` and `identity` of its `Annotation`, and some episodes."""
    estimator = report.get("estimator") or {}
    figures = {name.replace("rho", "ρ"): value for name, value in report.items()}
    figures |= {f"LSTM: {name}": value for name, value in estimator.items() if value is not None}
    single = {name.replace("_", " "): v for name, v in figures.items() if not isinstance(v, list | dict | None)}
    parts = [Markup('<p class="weak">{}.</p>').format(text) for text in notes(report)]
    parts += [part("facts", plain(single)), _heading("ρ by distance from a change point")]
    parts += [_profile(report["rho_by_distance"])]
    if calibration := estimator.get("held_out_calibration"):
        parts += [_heading("Calibration on held-out episodes"), _reliability(calibration)]
    details = Markup("<details><summary>What made these labels</summary>{}</details>")
    parts.append(details.format(command_block(json.dumps(identity, indent=1))))
    return episodes_page(title, views, *parts)


def _heading(text: str) -> Markup:
    return Markup("<h2>{}</h2>").format(text)


def _profile(means: Sequence[float | None]) -> Markup:
    """Bars: mean ρ at 0, 1, 2, … steps."""
    figure, ((axes,),) = figure_with(5.2, 2.6)
    bars = axes.bar(range(len(means)), [np.nan if mean is None else mean for mean in means], color=COLORS[0])
    axes.bar_label(bars, ["" if mean is None else f"{mean:.2f}" for mean in means], fontsize=7)
    axes.set_xticks(range(len(means)))
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("steps")
    axes.set_ylabel("mean ρ")
    return chart(figure, "mean ρ by distance from a change point")


def _reliability(calibration: Mapping[str, Any]) -> Markup:
    """Dots: share of change points over mean ρ, per bin of ρ; their area is the bin's weight."""
    rho, observed, weight = (
        np.array([row[key] for row in calibration["bins"]]) for key in ("rho", "observed", "weight")
    )
    figure, ((axes,),) = figure_with(3.6, 2.8)
    axes.plot([0, 1], [0, 1], "--", color="#8792a2", linewidth=1)
    axes.scatter(rho, observed, 12 + 300 * weight, color=COLORS[1], alpha=0.85, linewidths=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean ρ", ylabel="observed")
    error = f"Expected calibration error {calibration['error']:.3f}, weighted as the loss weighs steps."
    return chart(figure, "share of change points over mean ρ") + note(error)


def view_of(episode: Episode, *, camera: str | None = None, facts: tuple[str, ...] = ()) -> EpisodeView:
    """What is shown of an episode, with its motion in everyday units; of its cameras by default the first by name.

    Raises EpisodeError: the episode has no such camera.
    """
    if camera is not None and camera not in episode.images:
        raise EpisodeError(f"{episode.name}: no camera {camera!r} (cameras: {', '.join(episode.images) or 'none'})")
    told = episode.language_instruction
    instructions = tuple(dict.fromkeys((told,) if isinstance(told, str) else told))
    return EpisodeView.of(
        episode,
        frames={name: episode.images[name] for name in ([camera] if camera else sorted(episode.images)[:1])},
        signals=tuple(_signals(episode)),
        facts=tuple(filter(None, instructions)) + facts,
    )


def _signals(episode: Episode) -> list[Plot]:
    """Poses as displacement and speed, joints and grippers as they are; of an undescribed state every column."""
    columns = episode.columns
    if columns is None:
        return [Plot("state", {str(i): column for i, column in enumerate(episode.proprio.T)})]
    plots = _poses(episode.arms, bool(episode.poses or columns.of("rotation"))) if episode.has_pose else []
    for words, name, factor in (
        (("joints",), "joints (°)", 180 / np.pi),
        (("joints_deg",), "joints (°)", 1),
        (("joints_percent",), "joints (%)", 1),
        (("gripper",), "fingers (mm)", 1000),
        (("gripper_01",), "opening (no unit)", 1),
    ):
        if lines := _lines(columns, episode.proprio, words):
            plots.append(Plot(name, {label: factor * values for label, values in lines.items()}))
    return plots


def _lines(columns: Columns, rows: np.ndarray, words: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns described by one of these words, named by number and arm."""
    lines, start = {}, 0
    for number, arm in enumerate(columns.arms):
        suffix = f", arm {number}" if len(columns.arms) > 1 else ""
        for block in arm:
            for column in range(block.width if block.word in words else 0):
                lines[f"{column}{suffix}"] = rows[:, start + column]
            start += block.width
    return lines


def _poses(arms: Sequence[Arm], turns: bool) -> list[Plot]:
    place, speed, turn = {}, {}, {}
    for number, arm in enumerate(arms):
        suffix = f" {number}" if len(arms) > 1 else ""
        for axis, name in enumerate("xyz"):
            place[name + suffix] = 1000 * (arm.position[:, axis] - arm.position[0, axis])
        speed[f"translation{suffix}"] = _padded(1000 * np.linalg.norm(np.diff(arm.position, axis=0), axis=1))
        turned = relative_rotation_vector(arm.quaternion[:-1], arm.quaternion[1:])
        turn[f"rotation{suffix}"] = _padded(np.rad2deg(np.linalg.norm(turned, axis=1)))
    plots = [Plot("displacement (mm)", place), Plot("translation (mm / step)", speed)]
    return plots + ([Plot("rotation (° / step)", turn)] if turns else [])


def _padded(values: np.ndarray) -> np.ndarray:
    """The last sample has no step of its own."""
    return np.append(values, np.nan)
