"""ρ of one demonstration under its frames, as the policy was trained with it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.drawing.charts import COLORS, _svg
from gap_vla.report.runs import Run

FRAMES = 14


def training_rho(run: Run) -> tuple[Any, Float[np.ndarray, " S"]] | None:
    """The store's training split and ρ of its steps as this run used it; None where the store is not here or the
    method uses no ρ.
    """
    from gap_vla.rlds import EpisodeStore

    directory = store_of(run)
    if directory is None:
        return None
    if run.small:
        from gap_vla.policies import SmallConfig, method_of
        from gap_vla.training.small.labels import rho_of

        config = SmallConfig.from_dict(run.config)
        if not method_of(config.method).schedule(config.adjustment).needs_rho:
            return None
        store = EpisodeStore.open(directory)
        return store.split("train"), rho_of(config, store)["train"]
    from gap_vla.training.config import FinetuneConfig

    if not FinetuneConfig.from_dict(run.config).schedule.needs_rho:
        return None
    split = EpisodeStore.open(directory).split("train")
    return (split, np.asarray(split.fields["rho"])) if "rho" in split.fields else None


def store_of(run: Run) -> Path | None:
    """The episode store that the run was trained on: as its summary says, seen from here or from beside its `runs`."""
    recorded = Path(run.summary.get("dataset", {}).get("path", ""))
    if not run.small:  # an RLDS dataset, root/rlds/NAME/TASK/VERSION; its store is root/store/NAME
        recorded = recorded.parents[3] / "store" / recorded.parents[1].name if len(recorded.parents) > 3 else recorded
    beside = run.path.absolute().parents[2] / recorded
    return next((place for place in (recorded, beside) if (place / "store.json").exists()), None)


def rho_strip(split: Any, rho: Mapping[str, np.ndarray], episode: int = 0) -> str:
    """Frames of one demonstration, and below them ρ of every step, change points and the expert's phases.

    Args:
        split: of an episode store.
        rho: name to ρ of all its steps; one line each.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    found = split.episode(episode)
    part = slice(int(split.offsets[episode]), int(split.offsets[episode + 1]))
    steps = len(found.proprio)
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    FigureCanvasSVG(figure)
    above, below = figure.subplots(2, 1, height_ratios=(1, 1.6))
    images = next(iter(found.images.values()), None)
    above.axis("off")
    if images is not None:
        chosen = np.linspace(0, steps - 1, FRAMES).round().astype(int)
        above.imshow(np.concatenate(list(images[chosen]), axis=1), aspect="equal")
    for number, (name, values) in enumerate(rho.items()):
        below.plot(values[part], color=COLORS[number % len(COLORS)], linewidth=1.6, label=name)
    if found.change_point is not None:
        for step in np.flatnonzero(found.change_point):
            below.axvline(step, color="#c22222", linewidth=0.8, alpha=0.6)
    if found.phase is not None:
        names = list(found.phase)
        edges = [0, *[s for s in range(1, steps) if names[s] != names[s - 1]], steps]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            below.axvspan(start, end, color="#f2f4f7" if number % 2 else "#ffffff", zorder=0)
            below.text((start + end) / 2, 1.08, names[start], ha="center", va="bottom", fontsize=8, color="#555555")
    below.set_xlim(0, steps - 1)
    below.set_ylim(-0.02, 1.05)
    below.set_ylabel("ρ")
    below.set_xlabel("step of the demonstration (red: change points)")
    below.legend(frameon=False, fontsize=8, loc="upper right")
    return _svg(figure)
