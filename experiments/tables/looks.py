"""What finished cells' policies see and need: kept in `results/TABLE/PROFILE/looks/CELL.json`, told as Markdown.

A look is made from the cell's run directory while that is still here, once for each training of the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.looks.kept import require_branches, require_sound
from experiments.looks.probing import UNTRAINED
from experiments.tables.cells import Cell, Kind
from experiments.tables.ledger import FINISHED, Entry, Ledger, LedgerError
from experiments.tables.tables import Block
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, refusing
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import write_json
from gap_vla.drawing.markup import markdown_table
from gap_vla.rollouts.statistics import mcnemar
from gap_vla.rollouts.summary import told_cut_short

PROBE_EPISODES = 40
SHOWN_EPISODES = 20
"""Of these, so many are shown with pictures or proprioception of another one."""
TAKEOVER_ROLLOUTS = 40
ACTS, TAKES_OVER = "concat", "vision"
LOOKS: dict[str, set[str]] = {"probe": set(), "takeover": {ACTS, TAKES_OVER}, "predict": {TAKES_OVER}}
"""What can be asked of finished cells, and the lines of a table which that needs."""

PARTS = ("before grasp", "before transport")
"""Steps at which an object that varies is asked for: later it is in the hand, which proprioception knows."""

MEANING = {
    "": "Means over training seeds (each seed in brackets).",
    ", mm": "Position errors are those of a ridge regression on frozen visual features, on episodes that neither it "
    "nor the policy saw; objects that stand still or are in the hand are left out.",
    "beyond proprioception": "Beyond proprioception: the share that the features explain of what a quadratic function "
    "of the hand's pose, gripper and motion leaves open (0: nothing).",
    "alone": "Alone: held-out loss when the other branch's features are replaced by their mean.",
    ", times": "With another episode's: error of the actions on the expert's episodes, as a multiple of the "
    "undisturbed one.",
    "gradient": "Gradient: norm at the vision branch's parameters, mean over the first half of training.",
}
"""Part of a heading to what it means."""

GRADIENT = "vision gradient"
Reader = Callable[[Entry, Mapping[str, Any]], float | None]


class Looks:
    """The looks that belong to a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.directory = ledger.directory / "looks"

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def of(self, entry: Entry) -> dict[str, Any]:
        """Everything found out about this training of the cell; empty if nobody looked."""
        found = self._read(entry.cell)
        if found.get("of") != entry.account.get("time"):
            return {}
        losses = Section(found, str(self.path(entry.cell)), LedgerError).section("branch_losses", {})
        require_branches(losses, entry.config, "move it away, and look again")
        return found

    def untrained(self, block: str, entries: Iterable[Entry]) -> dict[str, Any]:
        """What an untrained network of the block's architecture shows in the same probes, if it was asked beside one of
        these trainings; an earlier version did not keep beside which.
        """
        found = self._read(f"{block}-{UNTRAINED}")
        current = "of" not in found or found["of"] in [entry.account.get("time") for entry in entries]
        return found if current else {}

    def add(self, entry: Entry, **found: Any) -> None:
        """Keeps more of what was found out, beside what is there."""
        write_json(self.path(entry.cell), {"of": entry.account.get("time"), **self.of(entry), **found})

    def _read(self, name: str) -> dict[str, Any]:
        path, advice = self.path(name), "move it away, and look again"
        if not path.exists():
            return {}
        found = dict(Section.read(path, LedgerError, advice).values)
        if found and not {"of", "probe"} & {*found}:
            raise LedgerError(f"{path} is no look; {advice}")
        try:
            require_sound(found, str(path))
        except UserError as error:
            raise LedgerError(f"{error}; {advice}") from None
        return found


def look(cells: Sequence[Cell], ledger: Ledger, kind: Kind, what: Sequence[str], command: str) -> None:
    """Looks into every finished cell that has not been looked into, and whose run is still here. A run that measured
    other than was recorded is another training, and left out with a note.

    Args:
        what: of `LOOKS`: `probe` (of an Octo only what it relies on); `takeover` for `concat` where `vision` of the
            same seed is there too; `predict` for the demonstrations of `vision`, which the other arms share (they are
            collected again where they are gone, and no run is needed).

    Raises:
        ConfigError: a look that does not exist, or nothing that can be looked into.
    """
    for name in what:
        if name not in LOOKS:
            raise ConfigError(f"--look {name}: there is {', '.join(LOOKS)}")
        if missing := LOOKS[name] - {cell.arm.name for cell in cells}:
            raise ConfigError(
                f"--look {name} is of {' and '.join(sorted(LOOKS[name]))}, of these cells none is {min(missing)}"
            )
    found = [(cell, entry) for cell in cells if (entry := ledger.matching(cell)) and entry.status == FINISHED]
    here = [(cell, entry) for cell, entry in found if kind.run_directory(cell.config).exists()]
    for cell, _ in [one for one in found if one not in here and {*what} != {"predict"}]:
        print(
            f"{cell.name}: its run is not here ({kind.run_directory(cell.config)}), so nothing can be looked into",
            flush=True,
        )
    looks = Looks(ledger)
    if not (found if "predict" in what else here) and not any(looks.of(entry) for _, entry in found):
        raise ConfigError(
            f"--look {','.join(what)}: of {len(cells)} cells {len(found)} are finished, and the run of none is here; "
            "run the table on this machine first"
        )
    if "probe" in what:
        for cell, entry in here:
            if "probe_episodes" not in looks.of(entry) and _is_training_of(cell, entry, kind):
                of_block = [other for one, other in found if one.block.name == cell.block.name]
                _probe(cell, entry, of_block, looks, kind, command)
    if "predict" in what:
        for cell, entry in found:
            if cell.arm.name == TAKES_OVER and "predictors" not in looks.of(entry):
                from experiments.looks.predictors import predictors
                from gap_vla.training.stages import open_store, stages_of

                print(f"{cell.name}: what its demonstrations say beforehand", flush=True)
                found_out = predictors(cell.config, open_store(cell.config, stages_of(cell.config)))
                looks.add(entry, predictors=found_out, command=command)
    if "takeover" in what:
        from experiments.looks.takeover import take_over_runs

        seeing = {(c.block.name, c.seed): c for c, _ in here if c.arm.name == TAKES_OVER}
        for cell, entry in here:
            other = seeing.get((cell.block.name, cell.seed))
            if cell.arm.name != ACTS or other is None or "takeover" in looks.of(entry):
                continue
            if all(_is_training_of(one, recorded, kind) for one, recorded in here if one in (cell, other)):
                print(f"{cell.name}: {other.name} takes over in windows", flush=True)
                runs = (kind.run_directory(one.config) for one in (cell, other))
                played = take_over_runs(*runs, episodes=TAKEOVER_ROLLOUTS)
                of = {key: {w["window"]: w[key] for w in played["windows"]} for key in ("outcomes", "simulator_errors")}
                told = {"other": other.name, "first_layout": played["seed"], **of, "command": command}
                looks.add(entry, takeover=told)


def _is_training_of(cell: Cell, entry: Entry, kind: Kind) -> bool:
    """Whether the cell's run ended as was recorded; says so if not."""
    from gap_vla.report.runs import Run

    run = Run.read(kind.run_directory(cell.config))
    measured = run.summary.get("validation", {})
    unlike = [key for key, value in entry.validation.items() if abs(measured.get(key, value) - value) > 1e-6]
    if alike := run.rollouts == entry.variants and not unlike:
        return alike
    print(f"{cell.name}: its run is another training ({run.path}); nothing is looked into", flush=True)
    return alike


def _probe(cell: Cell, entry: Entry, of_block: Sequence[Entry], looks: Looks, kind: Kind, command: str) -> None:
    from experiments.looks.probe_data import collect_probe_demos, read_probe_data
    from experiments.looks.probing import policy_of, probe_policy, probe_untrained, reliance
    from gap_vla.report.runs import Run

    run = Run.read(kind.run_directory(cell.config))
    if not run.small:
        print(f"{cell.name}: how much it relies on its pictures and its proprioception", flush=True)
        demos = collect_probe_demos(run, SHOWN_EPISODES)
        relies = reliance(run, demos, SHOWN_EPISODES)
        looks.add(entry, reliance=relies, probe_episodes=SHOWN_EPISODES, command=command)
        return
    print(f"{cell.name}: probing its visual features", flush=True)
    policy_of(run)  # one that is missing or damaged is found before demonstrations are collected
    demos = collect_probe_demos(run, PROBE_EPISODES)
    relies, steps = reliance(run, demos, SHOWN_EPISODES), read_probe_data(demos)
    found = probe_policy(run, steps) | {"reliance": relies}
    looks.add(entry, **found, probe_episodes=PROBE_EPISODES, command=command)
    beside = looks.untrained(cell.block.name, of_block)
    if found.get("probe") and ("of" not in beside or found["probe"].keys() != beside.get("probe", {}).keys()):
        asked = {"of": entry.account.get("time"), "probe": probe_untrained(run, steps)}
        write_json(looks.path(f"{cell.block.name}-{UNTRAINED}"), asked)


def looks_text(block: Block, entries: Sequence[Entry], looks: Looks) -> list[str]:
    """Paragraphs and tables about these entries; empty where nobody looked."""
    found = [(entry, looks.of(entry)) for entry in entries]
    seen = [(entry, one) for entry, one in found if one or entry.gradients]
    if not seen:
        return []
    with refusing(looks.directory, f"move the look of {block.name} that is damaged away, and look again", LedgerError):
        return [*_what_is_seen(block, seen, looks.untrained(block.name, entries)), *_takeovers(seen)]


def _what_is_seen(
    block: Block, seen: Sequence[tuple[Entry, Mapping[str, Any]]], untrained: Mapping[str, Any]
) -> list[str]:
    readers = _readers([one for _, one in seen])
    rows = [["method", *readers]]
    for arm in block.arms:
        of_arm = [(entry, one) for entry, one in seen if entry.arm == arm.name]
        cells = [mean_and_each([read(*pair) for pair in of_arm], name) for name, read in readers.items()]
        if any(cells):
            rows.append([arm.name, *cells])
    if len(rows) == 1:
        return []
    if untrained and any(one.get("probe") for _, one in seen):
        nobody = seen[0][0]
        values = {name: [] if name == GRADIENT else [read(nobody, untrained)] for name, read in readers.items()}
        rows.append(["the same encoder, untrained", *(mean_and_each(one, name) for name, one in values.items())])
    kept = [place for place in range(len(rows[0])) if place == 0 or any(row[place] for row in rows[1:])]
    headings = [rows[0][place] for place in kept]
    meant = " ".join(text for part, text in MEANING.items() if any(part in heading for heading in headings))
    return [markdown_table([[row[place] for place in kept] for row in rows]), meant]


def _readers(found: Sequence[Mapping[str, Any]]) -> dict[str, Reader]:
    """Heading to how its figure is read, for everything that any of these looks has."""
    readers: dict[str, Reader] = {GRADIENT: lambda e, _: e.gradients.get("branch/vision_gradient")}
    probes = [one["probe"] for one in found if one.get("probe")]
    for name in dict.fromkeys(name for one in probes for name in one["positions"]):
        for part in PARTS:
            readers[f"{name} {part}: error, mm"] = within("probe", "positions", name, part, "error", scale=1000.0)
    for name in dict.fromkeys(name for one in probes for name in one.get("beyond_proprio", {})):
        for part in (*PARTS, "all steps"):
            heading = f"{name} {part}, beyond proprioception: R²"
            readers[heading] = within("probe", "beyond_proprio", name, part, "r2")
    for part in ("all steps", "transitions"):
        readers[f"expert's action, {part}, beyond proprioception: R²"] = within("probe", "actions", part, "r2")
    for branch, words in (("vision", "vision"), ("proprio", "proprioception")):
        readers[f"loss with {words} alone"] = within("branch_losses", branch, "all")
    for name, words in (("images_swapped", "pictures"), ("proprio_swapped", "proprioception")):
        readers[f"error with another episode's {words}, times"] = within("reliance", name, "cost")
    return readers


def within(*keys: str, scale: float = 1.0) -> Reader:
    def read(entry: Entry, look: Mapping[str, Any]) -> float | None:
        place: Any = look
        for key in keys:
            place = place.get(key) if isinstance(place, Mapping) else None
        return None if place is None else scale * float(place)

    return read


def mean_and_each(values: Sequence[float | None], heading: str) -> str:
    """
    >>> mean_and_each([10.04, 12.0], "error, mm"), mean_and_each([0.25], "R²"), mean_and_each([None], "R²")
    ('11.0 (10.0, 12.0)', '0.25', '')
    """
    there = [value for value in values if value is not None]
    digits = 1 if heading.endswith("mm") else 2
    if not there:
        return ""
    each = ", ".join(f"{value:.{digits}f}" for value in there)
    mean = f"{np.mean(there):.{digits}f}"
    return (f"{mean} ({each})" if len(there) > 1 else mean).replace("-", "−")


def _takeovers(seen: Sequence[tuple[Entry, Mapping[str, Any]]]) -> list[str]:
    parts = []
    for entry, one in seen:
        if not one.get("takeover"):
            continue
        texts = one["takeover"]["outcomes"].values()
        if {*"".join(texts)} - {"0", "1"} or len({*map(len, texts)}) != 1:
            raise ValueError(f"{entry.cell}: outcomes of takeovers must be as many of 0 and 1 in each window")
        outcomes = {
            name: np.array([digit == "1" for digit in text]) for name, text in one["takeover"]["outcomes"].items()
        }
        never = outcomes["never"]
        rows = [["the vision policy acts", f"success of {len(never)}", "gained / lost", "exact McNemar p"]]
        for name, won in outcomes.items():
            against = ["", ""]
            if name != "never":
                against = [f"{(won & ~never).sum()} / {(never & ~won).sum()}", f"{mcnemar(won, never):.2g}"]
            rows.append([name, str(won.sum()), *against])
        parts += [
            f"**{entry.arm}, seed {entry.seed}, with takeovers**: in each window {one['takeover']['other']} acts for "
            f"ten steps, on the same layouts; gained and lost against never. p is of {len(outcomes) - 1} comparisons "
            "and not corrected for their number.",
            told_cut_short(one["takeover"].get("simulator_errors", {})),
            markdown_table(rows),
        ]
    return parts
