"""`gap-vla COMMAND …`: every command is a function here, which reads the rest of the line and does it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from gap_vla import __version__
from gap_vla.core.errors import USER_ERROR, command

GROUPS = {
    "data": {
        "collect-demos": "demonstrations of a scripted expert in simulation",
        "show-episode": "one episode with its pictures, ρ and motion signals, as a page or picture",
        "annotate": "add ρ and change points to a copy of demonstrations or of a dataset",
        "build-dataset": "demonstrations become an RLDS dataset with ρ",
        "convert": "demonstrations or a dataset become a LeRobot dataset or robomimic's HDF5",
        "check-dataset": "are demonstrations or a dataset usable? a page with pictures, and what is wrong",
    },
    "training": {
        "finetune": "fine-tune Octo: data, training, rollouts, report",
        "train-small": "the same for a small torch policy, with any of the methods",
        "compare": "V, VP, VP with a slower branch and VP+GAP over seeds, with one table",
        "report": "one page about some runs",
    },
    "evaluation": {
        "evaluate": "how often a policy succeeds, with an interval",
        "diagnose": "does a policy look? tamper with what it sees and feels",
        "serve-policy": "serve a checkpoint to clients of openpi's protocol",
    },
}
"""Module of this package to its commands and what they are for; `_` is taken for `-`."""

COMMANDS = {name: what for group in GROUPS.values() for name, what in group.items()}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The console entry point."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        print(f"gap_vla {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: gap-vla COMMAND …", "       gap-vla COMMAND --help", sep="\n")
        for group, commands in GROUPS.items():
            print(f"\n{group}", *(f"  {name:<15} {what}" for name, what in commands.items()), sep="\n")
        return 0 if words else USER_ERROR
    from gap_vla.core.config import choose

    return run(choose(words[0].replace("_", "-"), list(COMMANDS), "the command"), words[1:])


def run(name: str, argv: Sequence[str] | None = None) -> int:
    """One command, on the arguments of this process if none are given."""
    words, before = list(sys.argv[1:] if argv is None else argv), sys.argv
    sys.argv = [f"gap-vla {name}", *words]  # which `--help` shows
    module = next(module for module, commands in GROUPS.items() if name in commands)
    try:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name.replace("-", "_"))(words)
    finally:
        sys.argv = before
