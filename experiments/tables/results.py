"""`results/cells.csv`: a row for each cell that was trained and rolled out, with the outcome on every layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.tables.cells import Cell
from experiments.tables.tables import Block
from gap_vla.core.files import file_lock, replacing
from gap_vla.report.comparison import Comparison, compare

CELLS = Path("results/cells.csv")

COLUMNS = {
    "table": "table of experiments/tables/tables.py",
    "profile": "size of model, data and training",
    "cell": "name of the cell: task, regime, arm and seed",
    "task": "",
    "view": "camera of image_primary",
    "arm": "line of the table",
    "method": "method that is trained",
    "seed": "of the training",
    "successes_default": "on layouts like those of the demonstrations",
    "first_layout_default": "seed of the first layout; the others count on from it",
    "outcomes_default": "0 or 1 for each layout",
    "successes_positions_wide": "on wide initial positions, likewise",
    "first_layout_positions_wide": "",
    "outcomes_positions_wide": "",
    "steps": "of training",
    "hours": "on the wall",
    "whole": "whether it ran in one go, so that its time says something",
    "action_mse": "held-out error of the action; the held-out loss, in transitions and between:",
    "loss": "",
    "loss_transition": "",
    "loss_consistent": "",
    "vision_gradient": "norm at the vision branch, mean over the first half of training",
    "vision_loss_transition": "loss with vision alone in transitions, likewise",
    "branch_moved": "distance of the proprioceptive branch's parameters from their start, at the end of that half",
    "peg_error_mm": "of a linear probe of the visual features, before transport",
    "ring_error_mm": "likewise",
    "images_swapped": "error with another episode's pictures, times the undisturbed one",
    "proprio_swapped": "likewise with its proprioception",
    "predictors": "what the demonstrations say beforehand (JSON), see `experiments.looks.predictors`",
    "commit": "",
    "time": "",
    "machine": "",
    "training_version": "of the code; so are the next two",
    "pictures_version": "",
    "labels_version": "",
    "episodes": "digest of the demonstrations",
    "labels": "digest of the labels",
    "settings": "JSON: what the configuration has other than the defaults",
}
"""Name of each column to its meaning."""

_TEXT: dict[str, Any] = {name: str for name in COLUMNS if name.startswith("outcomes_")}
_WHOLE: dict[str, Any] = {name: "Int64" for name in COLUMNS if name.startswith(("successes_", "first_layout_"))}


def read(path: Path = CELLS) -> pd.DataFrame:
    """Every recorded cell; an empty table if there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=[*COLUMNS])
    return pd.read_csv(path, dtype={**_TEXT, **_WHOLE})


def add(row: Mapping[str, Any], path: Path = CELLS) -> None:
    """Records a cell, in the place of an earlier row of its name."""
    with file_lock(path.with_suffix(".lock"), str(path)):
        frame = read(path)
        same = (frame[["table", "profile", "cell"]] == [row["table"], row["profile"], row["cell"]]).all(axis=1)
        new = pd.DataFrame([row], columns=[*COLUMNS]).astype(_WHOLE)
        with replacing(path) as temporary:
            pd.concat([frame[~same], new] if len(frame) else [new]).to_csv(temporary, index=False)


def rows_of(cells: Sequence[Cell], frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Name of each cell that is recorded with the settings that it has now, to its row."""
    found: dict[str, dict[str, Any]] = {}
    of_table = frame[(frame["table"] == cells[0].table) & (frame["profile"] == cells[0].profile)]
    recorded: dict[str, Any] = {row["cell"]: row for row in of_table.to_dict("records")}
    for cell in cells:
        row = recorded.get(cell.name)
        if row and row["settings"] == cell.settings:
            found[cell.name] = {**row}
    return found


def of_other_versions(cells: Sequence[Cell], recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Recorded cells that another version of training, pictures or labels made; new ones do not compare with them."""
    names = (cell.name for cell in cells if cell.name in recorded)
    versions = {cell.name: cell.versions for cell in cells}
    return [name for name in names if any(recorded[name][k] != v for k, v in versions[name].items())]


def rollouts_of(row: Mapping[str, Any]) -> dict[str, dict[int, bool]]:
    """Variant to layout to success."""
    return {
        variant: dict(enumerate(map(bool, map(int, row[f"outcomes_{variant}"])), int(row[f"first_layout_{variant}"])))
        for variant in ("default", "positions_wide")
        if isinstance(row[f"outcomes_{variant}"], str)
    }


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """A block: success of its arms and their differences, the rows behind them, and the cells that are missing."""

    block: Block
    found: Comparison
    rows: tuple[Mapping[str, Any], ...]
    missing: tuple[Cell, ...]


def analyse(block: Block, cells: Sequence[Cell], frame: pd.DataFrame) -> BlockResult:
    """Compares the arms of one block."""
    own = [cell for cell in cells if cell.block.name == block.name]
    recorded = rows_of(own, frame)
    by_arm: dict[str, dict[int, Any]] = {arm.name: {} for arm in block.arms}
    for row in recorded.values():
        by_arm[row["arm"]][row["seed"]] = rollouts_of(row)
    missing = tuple(cell for cell in own if cell.name not in recorded)
    return BlockResult(block, compare(by_arm, pairs_of(block)), tuple(recorded.values()), missing)


def pairs_of(block: Block) -> list[tuple[str, str]]:
    """Every arm against the reference, then the block's own pairs."""
    against_reference = [(arm.name, block.reference) for arm in block.arms if arm.name != block.reference]
    return list(dict.fromkeys([*against_reference, *block.against]))
