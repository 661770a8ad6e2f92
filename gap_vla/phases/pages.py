"""Pages about labels: what is shown of an episode, and the report of an annotated data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.drawing.episode import EpisodeView, Plot
from gap_vla.drawing.episode_page import episodes_page
from gap_vla.drawing.figures import COLORS, figure_with, svg
from gap_vla.drawing.markup import chart_image, command_block, fact_table, note
from gap_vla.phases.annotator import opening_unit
from gap_vla.phases.measures import beyond_reach, notes
from gap_vla.phases.motion import farthest, motion_of, steps_of


def report_page(
    title: str, report: Mapping[str, Any], identity: Mapping[str, Any], views: Sequence[EpisodeView]
) -> str:
    """The HTML page of an annotated data set, with `report` and `identity` of its `Annotation`, and some episodes."""
    estimator = report.get("estimator") or {}
    figures = {name.replace("rho", "ρ"): value for name, value in report.items()}
    figures |= {f"LSTM: {name}": value for name, value in estimator.items() if value is not None}
    shown = {
        name.replace("_", " "): "–" if value is None else f"{value:.3f}" if isinstance(value, float) else value
        for name, value in figures.items()
        if not isinstance(value, list | dict)
    }
    parts = [note(f"Note: {text}.") for text in notes(report)]
    parts += [fact_table(shown), "<h2>ρ by distance from a change point</h2>", _profile(report["rho_by_distance"])]
    if calibration := estimator.get("held_out_calibration"):
        parts += ["<h2>Calibration on held-out episodes</h2>", _reliability(calibration)]
    made_by = command_block(json.dumps(identity, indent=1))
    parts.append(f"<details><summary>What made these labels</summary>{made_by}</details>")
    return episodes_page(title, views, *parts)


def _profile(means: Sequence[float | None]) -> str:
    """Bars: mean ρ at 0, 1, 2, … steps."""
    figure, ((axes,),) = figure_with(5.2, 2.6)
    bars = axes.bar(range(len(means)), [np.nan if mean is None else mean for mean in means], color=COLORS[0])
    axes.bar_label(bars, ["" if mean is None else f"{mean:.2f}" for mean in means], fontsize=7)
    axes.set_xticks(range(len(means)))
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("steps")
    axes.set_ylabel("mean ρ")
    return chart_image(svg(figure), "mean ρ by distance from a change point")


def _reliability(calibration: Mapping[str, Any]) -> str:
    """Dots: share of change points over mean ρ, per bin of ρ; their area is the bin's weight."""
    rho, observed, weight = (
        np.array([row[key] for row in calibration["bins"]]) for key in ("rho", "observed", "weight")
    )
    figure, ((axes,),) = figure_with(3.6, 2.8)
    axes.plot([0, 1], [0, 1], "--", color="#8792a2", linewidth=1)
    axes.scatter(rho, observed, 12 + 300 * weight, color=COLORS[1], alpha=0.85, linewidths=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean ρ", ylabel="observed")
    error = f"Expected calibration error {calibration['error']:.3f}, weighted as the loss weighs steps."
    return chart_image(svg(figure), "share of change points over mean ρ") + note(error)


def view_of(episode: Episode, *, camera: str | None = None, facts: tuple[str, ...] = ()) -> EpisodeView:
    """What is shown of an episode, with its motion in everyday units, and a question where no arm reaches a position;
    of its cameras by default the first by name.

    Raises EpisodeError: the episode has no such camera. MotionError: its openings have a unit that is unknown.
    """
    if camera is not None and camera not in episode.images:
        raise EpisodeError(f"{episode.name}: no camera {camera!r} (cameras: {', '.join(episode.images) or 'none'})")
    asked = beyond_reach(farthest(motion_of(episode)))
    return EpisodeView.of(
        episode,
        frames={name: episode.images[name] for name in ([camera] if camera else sorted(episode.images)[:1])},
        signals=_signals(episode),
        facts=((episode.language_instruction,) if episode.language_instruction else ())
        + facts
        + ((f"Note: {asked}",) if asked else ()),
    )


def _signals(episode: Episode) -> tuple[Plot, ...]:
    motion = motion_of(episode)
    in_metres = opening_unit(episode) == "m"
    steps = steps_of(motion)
    assert steps.rotation is not None and motion.gripper is not None  # every episode has both
    place, speed, turn, opening = {}, {}, {}, {}
    for arm in range(motion.arms):
        suffix = f" {arm}" if motion.arms > 1 else ""
        block = motion.position[:, 3 * arm : 3 * arm + 3]
        for axis, name in enumerate("xyz"):
            place[name + suffix] = 1000 * (block[:, axis] - block[0, axis])
        speed[f"translation{suffix}"] = _padded(1000 * np.linalg.norm(steps.position[:, arm], axis=1))
        turn[f"rotation{suffix}"] = _padded(np.rad2deg(np.linalg.norm(steps.rotation[:, arm], axis=1)))
    for column in range(motion.gripper.shape[1]):
        arm, finger = divmod(column, motion.gripper.shape[1] // motion.arms)
        name = f"finger {finger}" + (f", arm {arm}" if motion.arms > 1 else "")
        opening[name] = motion.gripper[:, column] * (1000 if in_metres else 1)
    return (
        Plot("displacement (mm)", place),
        Plot("translation (mm / step)", speed),
        Plot("rotation (° / step)", turn),
        Plot("fingers (mm)" if in_metres else "opening (no unit)", opening),
    )


def _padded(values: np.ndarray) -> np.ndarray:
    """The last sample has no step of its own."""
    return np.append(values, np.nan)
