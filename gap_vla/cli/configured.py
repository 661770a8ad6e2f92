"""What the commands with a `--config FILE[:PROFILE]` share: flags in, a typed configuration, errors in plain words."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import decode_source
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from gap_vla.cli.arguments import command_parser, to_stderr
from gap_vla.core.errors import keeping, message_of, naming_the_line
from gap_vla.core.foreign import content, is_odd_number, regular
from gap_vla.core.resources import unusual_settings
from gap_vla.core.typed_config import ConfigError, NumberField, all_number_fields, nearest
from gap_vla.sim import TASK_NAMES
from gap_vla.training import backend_of
from gap_vla.training.config import Experiment
from gap_vla.training.idle_keys import without_effect
from gap_vla.training.octo import FinetuneConfig

OPTIONS = "config.phases.options."


def load_config(path_and_profile: str) -> ConfigDict:
    """The ConfigDict of `finetune_configs/NAME.py[:PROFILE]`, unlocked for overrides.

    Raises:
        ConfigError: no such file, code that fails (with its line), no `get_config` in it, or no such profile.
    """
    whole = ":" not in path_and_profile or os.path.exists(path_and_profile)  # folders may have a colon in their name
    path, colon, profile = (path_and_profile, "", "") if whole else path_and_profile.rpartition(":")
    if colon and not profile:
        raise ConfigError(f"--config {path_and_profile} names no profile after the colon")
    if not regular(Path(path), ConfigError).exists():
        near = ", ".join(str(p) for p in sorted(Path(path).parent.glob("*.py"))) or "none there"
        raise ConfigError(f"configuration file {path!r} does not exist (files: {near})")
    if Path(path).suffix != ".py":
        raise ConfigError(f"{path}: a configuration file is Python and ends with .py")
    before, folder = unusual_settings(), os.getcwd()
    module = types.ModuleType(f"gap_vla configuration {Path(path).stem}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # where dataclasses look for what its annotations name
    # its filters of warnings are not those of all that follows
    with (
        warnings.catch_warnings(),
        naming_the_line(path, ConfigError),
    ):  # not imported: that would leave bytecode beside somebody's file
        exec(compile(decode_source(content(Path(path), ConfigError)), path, "exec", dont_inherit=True), vars(module))
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError(f"{path} defines no get_config(profile) that returns a ConfigDict")
        needs = inspect.signature(module.get_config).parameters.values()
        if not profile and any(one.default is one.empty and one.kind < one.VAR_POSITIONAL for one in needs):
            raise ConfigError(f"{path} is for several profiles; name one: --config {path}:PROFILE")
        config = module.get_config(profile) if profile else module.get_config()
    if changed := [one for one in unusual_settings() if one not in before]:
        raise ConfigError(f"{path} changes {changed[0]} for all that follows; leave it as it is")
    if os.getcwd() != folder:
        raise ConfigError(f"{path} changes the folder in which all that follows is looked for and made; change it back")
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config returned {type(config).__name__}; it must return a ConfigDict")
    try:
        json.dumps(config.to_dict(), default=lambda value: None, skipkeys=True)
    except (RecursionError, ValueError):
        raise ConfigError(f"{path}: the configuration holds itself, or is nested too deeply") from None
    return ConfigDict(config) if isinstance(config, FrozenConfigDict) else config  # which takes no overrides


def take_options(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Parts the options of the phase method from the other arguments, for a method's options are not known by name.

    >>> take_options(["--config.phases.options.sigma=3", "--config.method=v"])
    (['--config.method=v'], {'sigma': 3})

    Raises:
        ConfigError: an option without `=value`.
    """
    rest, options = [], {}
    for argument in argv:
        name, _, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith(OPTIONS):
            rest.append(argument)
            continue
        if not value:
            raise ConfigError(f"--{name} needs a value: --{name}=VALUE")
        try:
            options[name.removeprefix(OPTIONS)] = value if is_odd_number(value) else ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # a list as a key; too deep
            options[name.removeprefix(OPTIONS)] = value  # a plain word
    return rest, options


def require_known_keys(config: ConfigDict, argv: Sequence[str]) -> None:
    """Checks that every option is `--config.a.b=value` and names a key of the configuration.

    Raises:
        ConfigError: it does not; the message names the whole key and the nearest one. A number is none to others.
    """
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith("config."):
            if argument.startswith("-") and name[:1].isalpha():  # absl itself knows --flagfile, --undefok and others
                raise ConfigError(f"unknown option {argument.partition('=')[0]}; see --help")
            continue
        section, path = config, name.split(".")[1:]
        for depth, key in enumerate(path):
            where = ".".join(path[: depth + 1])
            if not isinstance(section, (ConfigDict, dict)):
                raise ConfigError(f"unknown configuration key {where}: {'.'.join(path[:depth])} is no section")
            if key not in section:
                hint = nearest(key, section, f"; did you mean {'.'.join([*path[:depth], '{}'])}?")
                raise ConfigError(f"unknown configuration key {where}{hint} (known here: {', '.join(section)})")
            if depth + 1 == len(path) and is_odd_number(value) and not isinstance(section[key], str):
                raise ConfigError(f"{where} is {value!a}; write numbers with the digits 0 to 9 alone")
            if depth + 1 == len(path) and isinstance(section[key], (ConfigDict, dict)):
                keys = ", ".join(section[key]) or f"--config.{where}.NAME=VALUE"
                raise ConfigError(f"{where} is a section; set its keys one by one: {keys}")
            section = section[key] if depth + 1 < len(path) else None
        if not value:  # what stands behind a blank would not be looked at here
            said = "is given an empty value; leave it out" if equals else f"needs a value: {argument}=VALUE"
            raise ConfigError(f"--{name} {said}")


def _keys(values: Mapping[str, Any], fields: Mapping[str, NumberField], prefix: str = "--config") -> list[str]:
    lines = []
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict) and value:
            lines += _keys(value, fields, name)
        elif isinstance(value, dict):
            lines.append(f"  {name}.NAME=VALUE")
        else:
            bounds = fields[name].bounds if name in fields else None
            lines.append(f"  {name}={value!r}" + (f"  {bounds}" if bounds else ""))
    return lines


def config_parser(doc: str | None, config_type: type[Experiment] = FinetuneConfig) -> argparse.ArgumentParser:
    """A parser for a command with a configuration; `--help` lists every key with the library's default.

    Args:
        config_type: the backend whose keys are listed; a configuration of another one is taken as well.
    """
    config = config_type(task=TASK_NAMES[0])
    defaults, parts = dataclasses.asdict(config), [config]
    for part in parts:  # which grows
        parts += filter(dataclasses.is_dataclass, vars(part).values())
    homes = {kind.__module__ for part in parts for kind in type(part).__mro__ if dataclasses.is_dataclass(kind)}
    bounds = {f"--config.{key}": field for key, field in all_number_fields(config_type).items()}
    parser = command_parser(doc, answers=True)
    parser.add_argument("--config", metavar="FILE[:PROFILE]", help="configuration file, with a profile after a colon")
    parser.set_defaults(config_type=config_type)
    parser.epilog = (
        "configuration keys with the library's defaults (a configuration file sets some of them; what each means is\n"
        f"documented in {', '.join(sorted(home.replace('.', '/') + '.py' for home in homes))}):\n"
        + "\n".join(_keys(defaults, bounds))
    )
    return parser


def run_configured(
    run: Callable[[Any, argparse.Namespace], Any], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> Any:
    """Reads the command line of a `config_parser` and calls `run(config, options)`."""
    options, arguments = parser.parse_known_args(argv)
    if options.config is None:
        raise ConfigError("--config FILE[:PROFILE] is missing, e.g. --config finetune_configs/threading.py")
    names = [word.lstrip("-").partition("=")[0] for word in arguments if word.startswith(("-config.", "--config."))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--{twice[0]} is given twice; give it once")
    arguments, phase_options = take_options(arguments)
    with to_stderr(wait=False):  # what a configuration prints, or a program that it starts, is no part of an answer
        config = load_config(options.config)
        _fill_up(config, dataclasses.asdict(backend_of(config.to_dict(), options.config_type)(task=TASK_NAMES[0])))
        require_known_keys(config, arguments)
        values = _overridden(options.config, config, arguments)
    if phase_options:
        values["phases"]["options"] = {**values["phases"]["options"], **phase_options}
    experiment = backend_of(values, options.config_type).from_dict(values)
    methods = getattr(options, "methods", experiment.method).split(",")
    for name in names:
        key, tried = name.removeprefix("config."), [dataclasses.replace(experiment, method=m) for m in methods]
        if all(reasons := [without_effect(config, key) for config in tried]):
            raise ConfigError(f"--{name} has no effect {reasons[0]}; leave it out")
    begun = not getattr(options, "resume", True) and not (options.dry_run or options.collect_only)
    with keeping(f"finished stages are kept; the same command{' with --resume' * begun} goes on"):
        return run(experiment, options)


def _fill_up(config: ConfigDict, defaults: Mapping[str, Any]) -> None:
    """Gives a configuration the library's defaults of the keys that its file does not set, but for the task."""
    with config.unlocked():
        for key, value in defaults.items():
            if isinstance(value, Mapping) and isinstance(config.get(key), ConfigDict):
                _fill_up(config[key], value)
            elif key not in config and key != "task":
                config[key] = value


def _overridden(where: str, config: ConfigDict, arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration with its overrides, `--config.KEY=VALUE`; whatever else is left over is refused."""
    words = ["", *arguments]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
        positional = values(words)[1:]
    except Exception as error:  # absl and ml_collections refuse values each in its own class, some on several lines
        said = message_of(error).replace("invalid literal for int() with base 10:", "must be a whole number, not")
        said = said.replace("could not convert string to float:", "must be a number, not")
        said = re.sub(r"\('Non-boolean argument to boolean flag', (.*)\)", r"must be True or False, not \1", said)
        raise ConfigError(f"{where}: {said}") from None
    if positional:
        raise ConfigError(f"unexpected argument {positional[0]!r}; options start with --")
    return values.config.to_dict()
