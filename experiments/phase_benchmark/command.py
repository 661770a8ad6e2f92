"""What scripts/phase_benchmark.py does once its command line is read: the stages, then tables and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.pages import around, replace_between
from experiments.phase_benchmark.finders import FINDERS
from experiments.phase_benchmark.kept import read_stage, require_same_recordings
from experiments.phase_benchmark.motions import load_motions
from experiments.phase_benchmark.sensitivity import by_demonstrations, draw_widths, sensitivity, widths
from experiments.phase_benchmark.study import COMPARED, TITLES, asked_of, compare, rho_scores, untouched
from experiments.phase_benchmark.tables import PAGE_PART, draw, markdown
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import refusing
from gap_vla.core.locks import alone
from gap_vla.core.outputs import claim, write_output
from gap_vla.demos.source import content_digest
from gap_vla.sim.specs import task_spec

LSTM_VARIANTS: dict[str, dict[str, Any]] = {
    "M5, lookahead 2 (default for labels)": {"lookahead": 2},
    "spread 4, lookahead 2": {"lookahead": 2, "spread": 4.0},
    "spread 2, lookahead 2": {"lookahead": 2, "spread": 2.0},
    "M5, causal": {"lookahead": 0},
    "spread 4, causal": {"lookahead": 0, "spread": 4.0},
    "M5, lookahead 2, 100 epochs": {"lookahead": 2, "epochs": 100},
}
DRAWN = (
    "M5, lookahead 2 (default for labels)",
    "M5, lookahead 2, 100 epochs",
    "spread 2, lookahead 2",
    "spread 4, lookahead 2",
)
"""Variants whose ρ is drawn over a recording."""

PICTURES = ("phases_width.png", "phases_finders.png", "phases_sensitivity.png")


def measure(arguments: argparse.Namespace, every_stage: tuple[str, ...]) -> None:
    """Runs the stages that are asked for, and writes tables, pictures and page once every stage has run. Raises
    UserError: an unknown set, a stage's file in the output that is damaged or of other recordings, or another
    process at work.
    """
    if unknown := sorted(set(arguments.sets) - set(TITLES)):
        raise UserError(f"no set {unknown[0]!r}; there are: {', '.join(TITLES)}")
    for task in arguments.tasks:
        task_spec(task)
    if arguments.out.resolve() == arguments.demos.resolve():
        raise UserError(f"--out {arguments.out} is the folder of the demonstrations; name one below it, or another")
    outputs = [*(f"{stage}.json" for stage in arguments.stages), "tables.md"]
    for output in outputs:
        claim(arguments.out / output, "phase_benchmark", suffixes=(".json", ".md"), named=False)
    for picture in PICTURES:
        claim(arguments.figures / picture, "phase_benchmark", suffixes=(".png",), named=False)
    if arguments.page:
        around(arguments.page, PAGE_PART, if_missing="refuse")
    with alone(arguments.out / ".lock", f"{arguments.out}"):
        _run_stages(arguments, every_stage)


def _run_stages(arguments: argparse.Namespace, every_stage: tuple[str, ...]) -> None:
    earlier = {stage: read_stage(arguments.out, stage) for stage in every_stage}
    if arguments.page and (missing := [one for one in unfinished(earlier) if one not in arguments.stages]):
        raise UserError(
            f"--page has no effect before the stages {', '.join(missing)} have run; leave it out, or name them"
        )
    tasks, content = {}, {}
    for task in arguments.tasks if arguments.stages else ():
        path = arguments.demos / f"{task}.hdf5"
        if not path.exists():
            from gap_vla.sim import collect_demos

            collect_demos(task, arguments.episodes, path, seed=7, cameras=())
        tasks[task], content[task] = load_motions(path, task, arguments.episodes), content_digest(path)
    run: dict[str, Any] = {
        "finders": lambda keep: compare(tasks, keep=keep),
        "rho": lambda keep: rho_scores(tasks, LSTM_VARIANTS, keep=keep),
        "sensitivity": lambda keep: keep(sensitivity(tasks)),
        "demonstrations": lambda keep: keep(by_demonstrations(tasks)),
        "width": lambda keep: keep(widths(tasks, {name: LSTM_VARIANTS[name] for name in DRAWN})),
        "untouched": lambda keep: untouched(arguments.demos, arguments.tasks, arguments.episodes, keep, arguments.sets),
    }
    counts = {task: len(recordings) for task, recordings in tasks.items()}
    _require_same(arguments, earlier, {"recordings": counts, "content": content})
    for stage in arguments.stages:
        path = arguments.out / f"{stage}.json"
        old: dict[str, Any] = earlier[stage].get("results", {})
        new: dict[str, Any] = {}

        def write(results: dict[str, Any], path: Path = path) -> None:
            content_of = {"recordings": counts, "content": content, "results": results}
            write_output(path, "phase_benchmark", json.dumps(content_of))

        def keep(results: dict[str, Any], old: dict[str, Any] = old, new: dict[str, Any] = new) -> None:
            new |= results
            write(old | new)

        run[stage](keep)
        write(old | new if stage == "untouched" and arguments.sets else new)
    results = {stage: read_stage(arguments.out, stage) for stage in every_stage}
    held = [(stage, found) for stage, found in results.items() if found and stage != "untouched"]
    for stage, found in held[1:]:  # they stand under one heading
        advice = f"remove it, and run the stage again on those of the stage {held[0][0]}"
        require_same_recordings(arguments.out / f"{stage}.json", found, held[0][1], advice)
    with refusing(arguments.out, "remove the stage's file that is damaged, and run the stage again"):
        if drawn := results["width"].get("results"):
            print(draw_widths(drawn, arguments.figures / PICTURES[0]))
        if missing := unfinished(results):
            print(f"{arguments.out}: no tables before the stages {', '.join(missing)} have run to their end")
            return
        tables, pictures = markdown(results), draw(results, arguments.figures)
    write_output(arguments.out / "tables.md", "phase_benchmark", tables)
    print(arguments.out / "tables.md", *pictures, sep="\n")
    if arguments.page:
        print(replace_between(arguments.page, PAGE_PART, tables.rstrip(), if_missing="refuse"))


def unfinished(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The stages that have not run, or of which a line is missing. Raises UserError: one that no version measured."""
    of_stage: dict[str, Mapping[str, Any]] = {"finders": FINDERS, "rho": LSTM_VARIANTS, "untouched": COMPARED}
    found = []
    for stage, held in results.items():
        known, lines = {*of_stage.get(stage, ())}, held.get("results", {})
        parts = [one["results"] for one in lines.values()] if stage == "untouched" else [lines]
        if known and (more := set[str]().union(*parts) - known):
            raise UserError(f"{stage}.json holds {min(more)!r}, no line of these tables; take it out")
        if not held or any(known - {*part} for part in parts):
            found.append(stage)
    return found


def _require_same(arguments: argparse.Namespace, earlier: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises UserError where --out holds measurements of other recordings than those `asked` for, which stay; the sets
    of the stage `untouched` have recordings of their own.
    """
    advice = "give the same --tasks, --episodes and --demos, or another --out"
    for stage, before in earlier.items() if {*arguments.stages} - {"untouched"} else ():
        if stage != "untouched" and before.get("results"):
            require_same_recordings(arguments.out / f"{stage}.json", before, asked, advice)
    held = earlier["untouched"].get("results", {}) if "untouched" in arguments.stages else {}
    for name in arguments.sets or held:
        if name in held:
            counts = {"recordings": asked_of(name, arguments.tasks, arguments.episodes)}
            require_same_recordings(arguments.out / "untouched.json", held[name], counts, f"{name}: {advice}")
