"""What command lines share. Importing it loads the standard library only; `load_policy` loads what it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from gap_vla.core.errors import USER_ERROR, UserError


class Parser(argparse.ArgumentParser):
    """Takes `--image_size` for `--image-size`; an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"error: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._present_name(word) for word in words], namespace)

    def _present_name(self, word: str) -> str:
        name, equals, value = word.partition("=")
        dashed = name[:2] + name[2:].replace("_", "-")
        return f"{dashed}{equals}{value}" if dashed in self._option_string_actions else word


def command_parser(doc: str | None, answers: bool = False, **options: Any) -> Parser:
    """A parser that shows the command's docstring, and takes options by their whole names only.

    Args:
        answers: whether it knows `--json`, see `answering`.
        options: of `argparse.ArgumentParser`.
    """
    shown = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=doc, formatter_class=shown, allow_abbrev=False, **options)
    if answers:
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the text on stderr")
    return parser


@contextlib.contextmanager
def answering(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """With `--json`, what the block puts into this dictionary is printed in the end, as one JSON object, and everything
    else goes to stderr. Without `--json` nothing changes."""
    answer: dict[str, Any] = {}
    with to_stderr() if options.json else contextlib.nullcontext():
        yield answer
    if options.json:
        print(json.dumps(answer, default=str), flush=True)


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Standard output of this process, its children and compiled code is standard error meanwhile."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


# ---- `type=` and `action=` of options


def whole(least: int, most: float = float("inf")) -> Callable[[str], int]:
    """A whole number of at least `least`."""
    return _number(int, least, most)


def real(least: float, most: float = float("inf")) -> Callable[[str], float]:
    """A number of at least `least`."""
    return _number(float, least, most)


def _number(kind: type, least: float, most: float) -> Any:
    def number(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not {f'{least} to {most}' if most < 1e300 else f'>= {least}'}")
        return value

    number.__name__ = kind.__name__
    return number


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(part) for part in text.split(",")]


seed = whole(0, 2**31 - 1)
processes = whole(1)
pixels = whole(16)


class Cameras(argparse.Action):
    """`--cameras primary wrist` or `--cameras primary,wrist`; `none`, or no name, is an empty tuple."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs="*", metavar="CAMERA", **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        names = tuple(name for value in values for name in value.split(",") if name != "none")
        if not {*names} <= {"primary", "wrist"}:
            parser.error(f"argument {option_string}: {' '.join(names)}; give primary, wrist, both, or none")
        setattr(namespace, self.dest, names)


class Pairs(argparse.Action):
    """`--option KEY=VALUE`, once for each key, into a dictionary; a value is JSON if it parses as JSON, or text."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, default={}, metavar="KEY=VALUE", **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        key, equals, value = values.partition("=")
        if not (key and equals):
            parser.error(f"argument {option_string}: {values!r} is not KEY=VALUE")
        with contextlib.suppress(json.JSONDecodeError):  # it is text
            value = json.loads(value)
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), key: value})


# ---- the policy of a command that rolls one out


def add_policy(parser: Parser, others: str) -> None:
    """The policy of a command that rolls one out, and how its task is shown to it; see `load_policy`.

    Args:
        others: policies that are no checkpoint, for `--help`.
    """
    from gap_vla.sim.specs import TASK_NAMES

    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True).add_argument
    what("--checkpoint", help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    what("--policy", help=f"{others}, or ws://HOST:PORT (a server of openpi's protocol)")
    add("--task", choices=TASK_NAMES, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)} (default: as trained)")
    add("--step", type=whole(0), help="which step (default: where its run ended, else the latest)")
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the server's (only for ws://)")
    add("--patience", type=real(0), default=60.0, help="seconds to wait for a server that is away (default 60)")
    add("--image-size", type=pixels, help="pixels, square (default: the checkpoint's, or 64)")
    add("--cameras", action=Cameras, help="primary, wrist, both or none (default: the checkpoint's, or primary)")
    add("--workers", type=processes, default=2, help="simulator processes (default 2)")
    add("--quiet", action="store_true", help="no progress line")


def load_policy(options: argparse.Namespace, *, seed: int = 0, execute: int | None = None, **of_checkpoint: Any) -> Any:
    """The `LoadedPolicy` of `add_policy`'s options, with the task that is asked for, or that of its training if known.

    Args:
        seed: of a random policy.
        execute: actions of each predicted chunk; default: as trained, or as the key file of a server says.
        of_checkpoint: further arguments of `gap_vla.serving.loading.load_checkpoint`.
    """
    from gap_vla.serving import loading
    from gap_vla.sim.specs import task_spec

    if options.checkpoint:
        loaded = loading.load_checkpoint(
            options.checkpoint,
            task=options.task,
            step=options.step,
            dataset=options.dataset,
            execute=execute,
            **of_checkpoint,
        )
        return dataclasses.replace(loaded, task=options.task or loaded.task)
    if options.task is None:
        raise UserError(f"--policy {options.policy} needs --task")
    loaded = loading.load_policy(
        options.policy,
        action_dim=task_spec(options.task).action_dim,
        task=options.task,
        seed=seed,
        keys=options.keys,
        execute=execute,
        patience=options.patience,
        limit=getattr(options, "policy_limit", 600.0),
    )
    return dataclasses.replace(loaded, task=options.task)


def default_out(options: argparse.Namespace, inside: str, outside: str) -> Path:
    """Where results go without `--out`: `inside` the checkpoint's folder, or a folder named by `outside` and policy."""
    if options.checkpoint and Path(options.checkpoint).is_dir():
        return Path(options.checkpoint) / inside
    policy = options.checkpoint or options.policy
    if "://" in policy and not options.checkpoint:
        from gap_vla.serving.client import public

        policy = public(policy)
    policy = policy.replace("://", "_").replace("/", "_").replace(":", "_")
    return Path("runs") / outside.format(policy)
