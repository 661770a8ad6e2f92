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
    kept, sys.argv = sys.argv, [f"gap-vla {name}", *words[1:]]
    try:
        return run(name, None if argv is None else words[1:])
    finally:
        sys.argv = kept


@command
def run(name: str, argv: Sequence[str] | None = None) -> int:
    """One command, on the arguments of this process if none are given, loaded where a Ctrl-C is heard, and not while
    Python ends."""
    if argv is not None:
        return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").main(list(argv))
    if name in ("finetune", "train-small", "compare"):
        restart_with_huge_pages()
    _say_another_checkout()
    status = 0
    atexit.register(lambda: status == INTERRUPTED and os._exit(status))  # what JAX has begun would crash later on
    status = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").main()
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return status


def _say_another_checkout() -> None:
    """A script of one checkout runs the code of another where that one is installed."""
    program = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")
    beside = os.path.join(os.path.dirname(os.path.dirname(program)), "gap_vla", "__init__.py")
    own = os.path.join(os.path.dirname(os.path.dirname(__file__)), "__init__.py")
    if os.path.isfile(beside) and not os.path.samefile(beside, own):
        print(f"note: {program} runs {os.path.dirname(own)}, not the code beside it; set PYTHONPATH", file=sys.stderr)


def restart_with_huge_pages() -> None:
    """Starts this command again with an allocator that asks for huge pages; does nothing the second time, nor in a
    notebook or any other program whose command line does not begin with what Python runs now.

    glibc reads the setting only when a process starts. What it is worth: docs/PERFORMANCE.md.
    """
    program = getattr(sys.modules["__main__"], "__file__", None)
    own = program in [os.path.abspath(word) for word in sys.orig_argv[1:]]
    if own and sys.platform.startswith("linux") and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        try:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        except OSError as error:
            what = f"{sys.executable}, which runs this, may not be started again ({error.strerror})"
            raise UserError(
                f"{what}, and simulators and other workers need that; use a Python that you may start"
            ) from None
