"""`gap-vla COMMAND …`: every command is a module here, whose `main` reads the rest of the line and does it."""

from __future__ import annotations

import sys

try:
    import atexit
    import importlib
    import os
    import signal
    from collections.abc import Sequence

    from gap_vla.core.errors import INTERRUPTED, UserError, command
    from gap_vla.core.typed_config import choose
except KeyboardInterrupt:  # `command` answers it from here on
    sys.exit(130)

COMMANDS = {
    "collect-demos": "demonstrations of a scripted expert in simulation",
    "annotate": "add ρ and change points to a copy of demonstrations or of a dataset",
    "show-episode": "one episode with its pictures, ρ and motion signals, as a page, video or picture",
    "build-dataset": "demonstrations become an RLDS dataset with ρ",
    "check-dataset": "is an RLDS dataset usable? a page with pictures, and what is wrong",
    "finetune": "fine-tune Octo with GAP: data, training, rollouts, report",
    "train-small": "the same for a small torch policy, with any of the methods",
    "compare": "V, VP and VP+GAP over seeds, with one table",
    "evaluate": "how often a policy succeeds, with an interval",
    "diagnose": "does a policy look? tamper with what it sees and feels",
    "serve-policy": "serve a checkpoint to clients of openpi's protocol",
    "report": "one page about some runs",
}
"""Name and what it is for, in the order in which a newcomer meets them; `_` is taken for `-`."""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The console entry point."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {name:<15} {what}" for name, what in COMMANDS.items()]
        print("usage: gap-vla COMMAND …\n", *lines, "\n`gap-vla COMMAND --help` says all about one of them.", sep="\n")
        return 0 if words else 2
    name = choose(words[0].replace("_", "-"), list(COMMANDS), "the command", UserError)
    sys.argv = [f"gap-vla {name}", *words[1:]]
    return run(name)


@command
def run(name: str) -> int:
    """One command on the arguments of this process, loaded where a Ctrl-C is heard, and not while Python ends."""
    status = 0
    atexit.register(lambda: status == INTERRUPTED and os._exit(status))  # what JAX has begun would crash later on
    status = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").main()
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return status
