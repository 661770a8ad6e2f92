"""What the commands with a `--config FILE[:PROFILE]` share: flags in, a typed configuration, errors in plain words."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from gap_vla.config import ConfigError, FinetuneConfig
from gap_vla.sim import TASK_NAMES


def load_config(path_and_profile: str) -> ConfigDict:
    """The ConfigDict of `finetune_configs/NAME.py[:PROFILE]`, unlocked for overrides.

    Raises:
        ConfigError: no such file, no `get_config` in it, or no such profile.
    """
    path, _, profile = path_and_profile.partition(":")
    if not Path(path).is_file():
        near = ", ".join(str(p) for p in sorted(Path(path).parent.glob("*.py"))) or "none there"
        raise ConfigError(f"configuration file {path!r} does not exist (files: {near})")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} defines no get_config(profile) that returns a ConfigDict")
    return module.get_config(profile or "default")


def _config_argument(argv: list[str]) -> str | None:
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            return value if equals else "".join(argv[index + 1 : index + 2])
    return None


def _keys(values: Mapping[str, Any], prefix: str = "--config") -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += _keys(value, f"{prefix}.{key}")
        else:
            lines.append(f"  {prefix}.{key}={value!r}")
    return lines


def help_text(doc: str, script: str) -> str:
    """The command's docstring, its flags, and every configuration key with the library's default."""
    defaults = dataclasses.asdict(FinetuneConfig(task=TASK_NAMES[0]))
    return (
        f"{doc.strip()}\n\nflags:\n{flags.FLAGS.module_help(script)}\n\n"
        "configuration keys with the library's defaults (a configuration file sets some of them; what each means\n"
        "is documented in gap_vla/config.py):\n" + "\n".join(_keys(defaults))
    )


def run_command(main: Callable[[FinetuneConfig], Any], doc: str, argv: list[str] | None = None) -> int:
    """Parses the flags, calls `main(config)`, and turns foreseeable errors into one line on stderr.

    Returns:
        Exit status: 0, 1 after an error of the run, 2 after a wrong command line or configuration, 130 after Ctrl-C.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes about instructions drown the progress lines
    argv = list(sys.argv if argv is None else argv)
    if "config" not in flags.FLAGS:
        config_flags.DEFINE_config_file(
            "config", None, "Configuration file, with a profile after a colon: FILE.py:PROFILE."
        )
    if any(argument in ("--help", "-h", "-help") for argument in argv[1:]):
        flags.FLAGS.mark_as_parsed()
        print(help_text(doc, argv[0]))
        return 0
    try:
        named = _config_argument(argv)
        if named is None:
            raise ConfigError("--config FILE[:PROFILE] is missing, e.g. --config finetune_configs/threading.py")
        load_config(named)
        positional = flags.FLAGS(argv)[1:]
        if positional:
            raise ConfigError(f"unexpected argument {positional[0]!r}; flags start with --")
        config = FinetuneConfig.from_dict(flags.FLAGS.config.to_dict())
    except KeyError as error:
        return _fail(" ".join(str(error.args[0]).split()), 2)
    except (ValueError, TypeError, AttributeError, OSError, flags.Error) as error:
        return _fail(str(error), 2)
    if argv == sys.argv:
        restart_with_huge_pages()
    try:
        main(config)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(str(error), 1)
    return 0


def restart_with_huge_pages() -> None:
    """Starts this command again with an allocator that asks for huge pages; does nothing the second time.

    XLA allocates its working memory anew at every step. With ordinary pages, an eighth to a third of a small model's
    training step on a CPU goes into page faults (docs/PERFORMANCE.md). glibc reads the setting only when a process
    starts.
    """
    if sys.platform.startswith("linux") and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
