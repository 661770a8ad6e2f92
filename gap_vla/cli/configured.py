"""What the commands with a `--config FILE[:PROFILE]` share: one option for each key of the configuration."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import Parser
from gap_vla.core.config import Key, build, keys, merge, nearest
from gap_vla.core.errors import ConfigError
from gap_vla.phases.methods import METHODS
from gap_vla.sim.specs import TASK_NAMES
from gap_vla.training.config import Experiment, experiment
from gap_vla.training.octo import FinetuneConfig


def load_config(path_and_profile: str, kind: type[Experiment] = FinetuneConfig) -> Experiment:
    """The configuration that `get_config(PROFILE)` of a file `FILE.py[:PROFILE]` returns.

    Args:
        kind: the backend of which a plain dictionary is the configuration.

    Raises:
        ConfigError: no such file, no `get_config` in it, no such profile, or an impossible value.
    """
    path, profile = path_and_profile, ""
    if not Path(path).is_file():
        path, _, profile = path_and_profile.rpartition(":")
    if not Path(path).is_file():
        known = ", ".join(map(str, sorted(Path(path_and_profile).parent.glob("*.py")))) or "none"
        raise ConfigError(f"configuration file {path or path_and_profile!r} does not exist (files there: {known})")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise ConfigError(f"{path} defines no get_config(profile)")
    config = get_config(profile) if profile else get_config()
    return experiment(kind, config.get("task", ""), config) if isinstance(config, Mapping) else config


def parse_configured(
    parser: Parser, kind: type[Experiment], argv: Sequence[str] | None
) -> tuple[Experiment, argparse.Namespace]:
    """Reads the line of a command with a configuration.

    `--help` shows every key with its type, its meaning, and the value that the given file (else the library) sets.

    Args:
        kind: the backend whose keys are shown without a file.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    file_option = {"metavar": "FILE[:PROFILE]", "help": "Python file whose get_config(PROFILE) is trained"}
    parser.add_argument("--config", required=True, **file_option)
    parser.usage = "%(prog)s --config FILE[:PROFILE] [options] [--config.KEY=VALUE ...]"
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    file = first.parse_known_args(words)[0].config
    if not file and (files := [word for word in words if word.partition(":")[0].endswith(".py")]):
        parser.error(f"to use {files[0]}, type: {parser.prog} --config {files[0]}")
    config = load_config(file, kind) if file else kind(task=TASK_NAMES[0])
    known = {key.name: key for key in keys(config)}
    _add_keys(parser, config, known)
    options, rest = parser.parse_known_args(words)
    values = dataclasses.asdict(config)
    for name, key in known.items():
        if (text := getattr(options, f"config.{name}", None)) is not None:
            values = merge(values, _nested(name, value_of(text, key.kind)))
    for word in rest:
        values = merge(values, _entry(parser, word, known))
    return build(type(config), values), options


def _add_keys(parser: Parser, config: Experiment, known: Mapping[str, Key]) -> None:
    choices = {"task": TASK_NAMES, "method": config.methods, "phases.method": (*METHODS, "none")}
    groups: dict[str, Any] = {"": parser.add_argument_group("configuration")}
    for name, key in known.items():
        section = name.partition(".")[0] if "." in name else ""
        if section not in groups:
            meaning = (type(getattr(config, section)).__doc__ or "").partition("\n")[0]
            groups[section] = parser.add_argument_group(f"configuration: {section}", meaning)
        groups[section].add_argument(
            f"--config.{name}",
            metavar=" | ".join(choices.get(name, [key.kind])),
            default=argparse.SUPPRESS,
            help=f"{key.help} (default: {key.value})".replace("%", "%%"),
            **({"nargs": "?", "const": "True"} if key.kind == "bool" else {}),
        )


def value_of(text: str, kind: str) -> Any:
    """What a word of the command line says for a key; numbers are left to `build`.

    >>> value_of("primary,wrist", "tuple of str"), value_of("(0.8, 1.0)", "tuple of float"), value_of("7", "int")
    (('primary', 'wrist'), (0.8, 1.0), '7')
    """
    if not kind.startswith(("tuple", "dict")):
        return text
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        found = text
    if kind.startswith("tuple") and found is not None and not isinstance(found, tuple | list):
        return tuple(text.split(","))
    return found


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _entry(parser: Parser, word: str, known: Mapping[str, Key]) -> dict[str, Any]:
    """One entry of a key that holds a dictionary: `--config.phases.options.NAME=VALUE`."""
    option, _, text = word.partition("=")
    name = option.removeprefix("--config.")
    if name == option:
        parser.error(f"unrecognized argument {word}")
    section = known.get(name.rpartition(".")[0])
    if section is None or not section.kind.startswith("dict"):
        hint = nearest(name, known, "; did you mean {}?")
        raise ConfigError(f"unknown configuration key {name}{hint or '; --help lists all'}")
    return _nested(name, value_of(text, "dict"))
