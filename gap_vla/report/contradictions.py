"""What a run's files say of each other, and measurements of each other, that cannot both be."""

from __future__ import annotations

from collections.abc import Sequence

from gap_vla.core.foreign import Section, one_line
from gap_vla.core.identity import flat
from gap_vla.core.run_directory import EARLIER

_LOSS, _PARTS = "val/loss", ("val/loss_transition", "val/loss_consistent")
_MEAN = "val/mean_action_mse"


def require_own_data(dataset: Section, config: Section, advice: str) -> None:
    """Raises the section's error for a `dataset.json` that was made with other settings than those of `config`.

    Named files and datasets (`demos.path`, `data.rlds`) say nothing of the settings.
    """
    made = dict(flat({key: dataset.section(key, {}).values for key in ("demos", "phases")}))
    made |= {"data.val_fraction": dataset.values["val_fraction"]} if "val_fraction" in dataset else {}
    said = dict(flat({key: config.section(key, {}).values for key in ("demos", "phases", "data")}))
    said["demos.task"] = config.text("task")
    sections = [one.section("phases", {}).values for one in (dataset, config)]
    if "phases" in dataset and "phases" in config:  # of options, those that one of them has not are others
        made["phases.options"], said["phases.options"] = (one.get("options") or {} for one in sections)
    names = made.keys() & said.keys() - {"demos.path", "demos.kind"}
    for name in sorted(names, key=lambda name: (name != "demos.task", name)):
        if made[name] != said[name]:
            both = f"{name} is {one_line(str(made[name]), 40)}, {config.where} says {one_line(str(said[name]), 40)}"
            raise dataset.error(f"{dataset.where}: {both}; {advice}")


def require_between(row: Section, advice: str) -> None:
    """Raises the section's error for a held-out loss that is not between those of its parts, of which it is a mean."""
    if _LOSS in row and all(part in row for part in _PARTS):
        loss, parts = row.values[_LOSS], [row.values[part] for part in _PARTS]
        slack = 1e-3 * max(map(abs, parts))
        if not min(parts) - slack <= loss <= max(parts) + slack:
            both = f"those of its parts are {parts[0]:g} and {parts[1]:g}, and it is their mean"
            raise row.error(f"{row.name(_LOSS)} is {loss:g}; {both}: {advice}")


def require_same_setting(rows: Sequence[Section], config: Section, advice: str) -> None:
    """Raises the section's error for a learning rate above the configuration's, or an error of the mean action that
    changes, although it is of the data alone."""
    most = config.section("optimizer", {}).finite("learning_rate", 0, 1e6, 1e6)
    earlier = config.list(EARLIER, Section.section) if EARLIER in config else ()
    most = 1e6 if any("optimizer.learning_rate" in one for one in earlier) else most
    known = next((row.values[_MEAN] for row in rows if _MEAN in row), 0.0)
    for row in rows:
        rate, error = row.values.get("train/learning_rate", 0.0), row.values.get(_MEAN, known)
        if rate > 1.001 * most:
            said = f"{row.name('train/learning_rate')} is {rate:g}, optimizer.learning_rate {most:g}"
            raise row.error(f"{said}; {advice}")
        if abs(error - known) > 1e-2 * abs(known):  # sums are rounded elsewhere on another machine
            raise row.error(f"{row.name(_MEAN)} is {error:g}, at first {known:g}, and the data are the same; {advice}")
