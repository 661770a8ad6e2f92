"""Command lines: a typo, a number that cannot be and an option without effect are errors before anything else happens.

Imports only the standard library and the bounds of configurations; `load_policy` loads what it is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from gap_vla.core.errors import USER_ERROR
from gap_vla.core.foreign import is_odd_number, one_line, parsed
from gap_vla.core.identity import public
from gap_vla.core.typed_config import CAMERAS, LAYOUT_SEED, SEED, Bounds, NumberField

MANY = 100_000
"""Episodes, each of which takes seconds."""
_ONE_STDOUT = threading.RLock()


class Number:
    """`type=` of an option: a number within bounds, which `--help` shows."""

    def __init__(self, kind: type, bounds: Bounds) -> None:
        self._kind, self.bounds, self.__name__ = kind, bounds, kind.__name__

    def __call__(self, text: str) -> Any:
        try:
            value = text if is_odd_number(text) else self._kind(text)
        except ValueError:
            value = text
        if problem := NumberField(self._kind, self.bounds).problem(value):
            raise argparse.ArgumentTypeError(f"{one_line(text, 40)} is refused; {problem}")
        return value


def whole(least: int, most: int, why: str = "both allowed") -> Number:
    """A whole number from `least` to `most`; `why`: what the bounds follow from."""
    return Number(int, Bounds(least, most, why))


def real(least: float, most: float, why: str = "both allowed") -> Number:
    """A finite number from `least` to `most`."""
    return Number(float, Bounds(least, most, why))


seed, layout_seed = Number(int, SEED), Number(int, LAYOUT_SEED)
processes = whole(1, 256, "processes of a machine")
pixels = whole(16, 1024, "pixels; smaller ones show nothing")
seconds = real(0.01, 86_400, "up to a day")
saved_step = whole(0, 2**31 - 1, "steps are counted in 32 bits")


class Cameras(argparse.Action):
    """`--cameras primary wrist` or `--cameras primary,wrist`; `none`, or no name, is an empty tuple."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs="*", metavar="CAMERA", **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        names = [name for value in values for name in value.split(",")]
        for name in names:
            if name not in CAMERAS and names != ["none"]:
                known = ", ".join(CAMERAS)
                parser.error(f"argument {option_string}: no camera {name!r}; give some of {known}, or none")
        if len(set(names)) < len(names):
            parser.error(f"argument {option_string}: {' '.join(names)}; name each once")
        setattr(namespace, self.dest, tuple(name for name in names if name != "none"))


class Pairs(argparse.Action):
    """`--option KEY=VALUE`, once for each key, into a dictionary; a value is JSON if it parses as JSON, or text."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, default={}, metavar="KEY=VALUE", **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        key, equals, value = values.partition("=")
        given = getattr(namespace, self.dest)
        if not (key and equals):
            parser.error(f"argument {option_string}: {values!r} is not KEY=VALUE")
        if key in given:
            parser.error(f"argument {option_string}: {key} is given twice; give it once")
        try:
            value = parsed(value)
        except json.JSONDecodeError:
            pass  # it is text
        except ValueError as error:
            parser.error(f"argument {option_string}: {one_line(values, 80)}: {error}")
        if isinstance(value, str) and not value.strip():
            parser.error(f"argument {option_string}: {key}: an empty text is no value; leave it out")
        setattr(namespace, self.dest, {**given, key: value})


class _Help(argparse.RawDescriptionHelpFormatter):
    """Adds the bounds of numbers to what is said about them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if not isinstance(action.type, Number):
            return action.help
        return f"{action.help} [{str(action.type.bounds).split(' (')[0]}]"


class Parser(argparse.ArgumentParser):
    """Takes `--image_size` for `--image-size`."""

    _given: list[argparse.Action]

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"error: {one_line(message, 1000)}; see {self.prog} --help\n")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file, flush=True)  # argparse itself keeps silent about a full disk

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if not all(map(str.strip, arg_strings)):
            raise argparse.ArgumentError(action, "an empty text is no value; give one, or leave the option out")
        if action in self._given and action.option_strings and not isinstance(action, Pairs):
            raise argparse.ArgumentError(action, "it is given twice; give it once")
        self._given.append(action)
        if len(set(arg_strings)) < len(arg_strings):
            raise argparse.ArgumentError(action, f"{one_line(' '.join(arg_strings))}; name each once")
        return super()._get_values(action, arg_strings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = []
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._present_name(word) for word in words], namespace)

    def _present_name(self, word: str) -> str:
        name, equals, value = word.partition("=")
        dashed = name[:2] + name[2:].replace("_", "-")
        return f"{dashed}{equals}{value}" if dashed in self._option_string_actions else word

    def refuse_idle(self, why: str, *names: str) -> None:
        """Ends the command if one of these options was given, be it as its default: it would have no effect.

        Args:
            why: the circumstance, e.g. "without --report".
            names: attributes of what was parsed.
        """
        for action in self._given:
            if action.dest in names:
                self.error(f"{action.option_strings[0]} has no effect {why}; leave it out")

    def add_source(self) -> None:
        """The demonstrations of a command, and what the columns of their state are."""
        add = self.add_argument
        layouts = "layout of the state: gap, robomimic, bridge, libero, ... or JSON"
        state = "RLDS: the state's feature below steps/, or several joined by +"
        add("source", type=Path, help="RLDS dataset version, robomimic HDF5, or folder of npz")
        add("--layout", type=json_or_name, help=layouts)
        add("--state", default="observation/proprio", help=state)

    def refuse_idle_for_source(self, options: argparse.Namespace, *of_rlds: str) -> None:
        """Refuses what has no effect on a source of this kind; `of_rlds`: further options for RLDS datasets."""
        if options.source.exists() and not (options.source / "features.json").is_file():
            self.refuse_idle("on files that are no RLDS dataset", *of_rlds, "state")

    def add_policy(self, others: str, cameras: str) -> None:
        """The policy of a command that rolls one out, and how its task is shown to it; see `load_policy`.

        Args:
            others: policies that are no checkpoint, for `--help`.
            cameras: what may be given as `--cameras`, for `--help`.
        """
        from gap_vla.sim import TASK_NAMES

        add = self.add_argument
        what = self.add_mutually_exclusive_group(required=True)
        saved = "run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME"
        what.add_argument("--checkpoint", help=saved)
        what.add_argument("--policy", help=f"{others}, or ws://HOST:PORT (a server of openpi's protocol)")
        add("--task", choices=TASK_NAMES, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)} (default: as trained)")
        add(
            "--step",
            type=saved_step,
            help="which step (default: where its run ended, else the latest)",
        )
        add("--dataset", help="whose statistics, if the checkpoint carries several")
        add("--keys", type=Path, help="JSON file: our observation keys to the server's (only for ws://)")
        away = "seconds to wait for a server that is away (default 60)"
        add("--patience", type=real(0, 86_400), default=60.0, help=away)
        add("--image-size", type=pixels, help="pixels, square (default: the checkpoint's, or 64)")
        add("--cameras", action=Cameras, help=f"{cameras} (default: the checkpoint's, or primary)")
        add("--workers", type=processes, default=2, help="simulator processes (default 2)")
        add("--quiet", action="store_true", help="no progress line")

    def refuse_idle_for_policy(self, options: argparse.Namespace, *of_checkpoint: str) -> None:
        """Refuses what has no effect on a policy of this kind; `of_checkpoint`: further options for checkpoints."""
        if not (name := str(options.policy)).startswith(("ws://", "wss://")):
            if "://" in name:
                self.error(f"--policy is {name!a}; the address of a server begins with ws:// or wss://")
            self.refuse_idle("without a server, ws://", "keys", "patience")
        if not options.checkpoint:
            self.refuse_idle("without --checkpoint", "step", *of_checkpoint, "dataset")


def command_parser(doc: str | None, answers: bool = False) -> Parser:
    """A parser that shows the command's docstring, and takes options by their whole names only.

    Args:
        answers: whether it knows `--json`, see `answering`.
    """
    parser = Parser(description=doc, formatter_class=_Help, allow_abbrev=False)
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
def to_stderr(wait: bool = True) -> Iterator[None]:
    """Standard output of this process, its children and compiled code is standard error; for one thread at a time. Of
    another the block waits for its end, or (not `wait`) is served by what that one has done."""
    with contextlib.ExitStack() as after:
        if not _ONE_STDOUT.acquire(blocking=wait):
            yield
            return
        after.callback(_ONE_STDOUT.release)
        sys.stdout.flush()
        after.callback(os.close, stdout := os.dup(1))
        after.callback(os.dup2, stdout, 1)
        os.dup2(2, 1)
        after.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def json_or_name(text: str) -> Any:
    """A map in JSON if it begins with a brace, otherwise a name.

    Raises:
        argparse.ArgumentTypeError: a brace, but no JSON.
    """
    if not text.startswith("{"):
        return text
    try:
        return parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no JSON ({error})") from None


def load_policy(options: argparse.Namespace, *, seed: int = 0, execute: int | None = None, **of_checkpoint: Any) -> Any:
    """The `LoadedPolicy` of `add_policy`'s options, with the task that is asked for, or that of its training if known.

    Args:
        seed: of a random policy.
        execute: actions of each predicted chunk; default: as trained, or as the key file of a server says.
        of_checkpoint: further arguments of `gap_vla.serving.load_checkpoint`.

    Raises:
        PolicyError: a policy that cannot be loaded, or a `--policy` without a task.
    """
    from gap_vla import serving
    from gap_vla.rollouts.policy import FIRST_ANSWER, PolicyError
    from gap_vla.sim import task_spec

    if options.checkpoint:
        loaded = serving.load_checkpoint(
            options.checkpoint,
            task=options.task,
            step=options.step,
            dataset=options.dataset,
            execute=execute,
            **of_checkpoint,
        )
        return dataclasses.replace(loaded, task=options.task or loaded.task)
    if options.task is None:
        raise PolicyError(f"--policy {options.policy} needs --task")
    loaded = serving.load_policy(
        options.policy,
        action_dim=task_spec(options.task).action_dim,
        task=options.task,
        seed=seed,
        keys=options.keys,
        execute=execute,
        patience=options.patience,
        limit=max(FIRST_ANSWER, getattr(options, "policy_limit", 0.0)),
    )
    return dataclasses.replace(loaded, task=options.task)


def default_out(options: argparse.Namespace, inside: str, outside: str) -> Path:
    """Where results go without `--out`: `inside` the checkpoint's folder, or a folder named by `outside` and policy."""
    if options.checkpoint and Path(options.checkpoint).is_dir():
        return Path(options.checkpoint) / inside
    policy = (options.checkpoint or public(options.policy)).replace("://", "_").replace("/", "_").replace(":", "_")
    return Path("runs") / outside.format(policy)
