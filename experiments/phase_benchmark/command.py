"""What scripts/phase_benchmark.py does once its command line is read: the stages, then tables and pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.pages import around, replace_between
from experiments.phase_benchmark.finders import FINDERS
from experiments.phase_benchmark.motions import load_motions
from experiments.phase_benchmark.sensitivity import by_demonstrations, draw_widths, sensitivity, widths
from experiments.phase_benchmark.study import TITLES, compare, rho_scores, untouched
from experiments.phase_benchmark.tables import PAGE_PART, draw, markdown
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, refusing
from gap_vla.core.identity import flat
from gap_vla.core.locks import alone
from gap_vla.core.outputs import claim, write_output
from gap_vla.demos.content import content_digest
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
    """Runs the stages that are asked for, and writes tables, pictures and page once every stage has run.

    Raises:
        UserError: an unknown finder or set, a stage's file in the output that is damaged, or another process at work.
    """
    if unknown := sorted(set(arguments.finders or ()) - set(FINDERS)):
        raise UserError(f"no finder {unknown[0]!r}; there are: {'; '.join(FINDERS)}")
    if unknown := sorted(set(arguments.sets) - set(TITLES)):
        raise UserError(f"no set {unknown[0]!r}; there are: {', '.join(TITLES)}")
    for task in arguments.tasks:
        task_spec(task)
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
    earlier = {stage: _stage(arguments.out, stage) for stage in every_stage}
    if arguments.page and (
        missing := [one for one, found in earlier.items() if not found and one not in arguments.stages]
    ):
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
    finders = {name: finder for name, finder in FINDERS.items() if name in (arguments.finders or FINDERS)}
    run: dict[str, Any] = {
        "finders": lambda keep: compare(tasks, finders, keep=keep),
        "rho": lambda keep: rho_scores(tasks, LSTM_VARIANTS, keep=keep),
        "sensitivity": lambda keep: keep(sensitivity(tasks)),
        "demonstrations": lambda keep: keep(by_demonstrations(tasks)),
        "width": lambda keep: keep(widths(tasks, {name: LSTM_VARIANTS[name] for name in DRAWN})),
        "untouched": lambda keep: untouched(arguments.demos, arguments.tasks, arguments.episodes, keep, arguments.sets),
    }
    counts = {task: len(recordings) for task, recordings in tasks.items()}
    for stage in arguments.stages:
        path = arguments.out / f"{stage}.json"
        before = earlier[stage]
        same = before.get("recordings") == counts and before.get("content", content) == content
        part = bool(arguments.finders if stage == "finders" else stage == "untouched" and arguments.sets)
        if arguments.finders and stage == "finders" and before and not same:
            others, these = before["recordings"], f"{counts}" if before["recordings"] != counts else "these of them"
            raise UserError(
                f"{path}: the other finders were measured on {others}, not on {these}; give the same --tasks, "
                "--episodes and --demos, or another --out"
            )
        old: dict[str, Any] = before.get("results", {}) if same or part else {}
        new: dict[str, Any] = {}

        def write(path: Path, results: dict[str, Any]) -> None:
            write_output(
                path,
                "phase_benchmark",
                json.dumps({"recordings": counts, "content": content, "results": results}, indent=2),
            )

        def keep(
            results: dict[str, Any], path: Path = path, old: dict[str, Any] = old, new: dict[str, Any] = new
        ) -> None:
            new |= results
            if old or not path.exists():  # of other recordings the old file stays until the new one is complete
                write(path, old | new)

        run[stage](keep)
        write(path, old | new if part else new)
    results = {stage: _stage(arguments.out, stage) for stage in every_stage}
    if found := results["width"].get("results"):
        print(draw_widths(found, arguments.figures / PICTURES[0]))
    missing = [stage for stage, found in results.items() if not found]
    if missing:
        print(f"{arguments.out}: no tables before the stages {', '.join(missing)} have run")
        return
    with refusing(arguments.out, "remove the stage's file that is damaged, and run the stage again"):
        tables = markdown(results)
    write_output(arguments.out / "tables.md", "phase_benchmark", tables)
    print(arguments.out / "tables.md", *draw(results, arguments.figures), sep="\n")
    if arguments.page:
        print(replace_between(arguments.page, PAGE_PART, tables.rstrip(), if_missing="refuse"))


def _stage(out: Path, stage: str) -> dict[str, Any]:
    """What a stage has measured: `recordings` and `results`; empty before it has run."""
    path = out / f"{stage}.json"
    if not path.exists():
        return {}
    found = Section.read(path)
    results = found.section("results")
    for key, value in flat(results.values):
        share = isinstance(value, float) and key.rpartition(".")[2].startswith(("f1@", "precision@", "recall@"))
        if share and not 0 <= value <= 1:
            raise UserError(
                f"{path}: {key} is {value:g}, which no measurement gives; remove it, and run the stage again"
            )
    return {
        "recordings": dict(found.section("recordings").values),
        **({"content": dict(found.section("content").values)} if "content" in found.values else {}),
        "results": {name: dict(results.section(name).values) for name in results.values},
    }
