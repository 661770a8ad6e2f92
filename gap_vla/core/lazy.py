"""What is loaded late and quietly: a room's names when they are asked for, TensorFlow without its start-up lines.

Importing a room loads no JAX, torch or TensorFlow:

__all__, __getattr__, __dir__ = exports(__name__, {"motion": "DeadBand Motion", "segmentation": "segment"})
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

_START_UP = re.compile(rb"(WARNING: All log messages before absl|I\d{4} ).*\n?")


def exports(package: str, table: Mapping[str, str]) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        table: module of the package to the names that it defines, with blanks between them.

    >>> names, get, _ = exports("gap_vla.core", {"errors": "UserError keeping"})
    >>> names, get("UserError").__name__
    (['UserError', 'keeping'], 'UserError')
    """
    homes = {name: module for module, names in table.items() for name in names.split()}
    names = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return names, get, lambda: names


def start_quietly() -> None:
    """For the beginning of a process: compiled code of TensorFlow and XLA reports errors only, and nothing on starting.

    Who has set `TF_CPP_MIN_LOG_LEVEL` gets that level; 0 shows everything. Pictures are written to files, so that no
    backend of matplotlib opens windows, whatever `MPLBACKEND` was.
    """
    os.environ["MPLBACKEND"] = "agg"
    if not os.environ.get("SOURCE_DATE_EPOCH", "0").isdecimal():  # numpy, which reads it when it is loaded, would end
        del os.environ["SOURCE_DATE_EPOCH"]
    if any(option.startswith("e") for option in sys.warnoptions):  # errors are no errors of the libraries that warn
        sys.warnoptions[:] = ["default"]
        warnings.simplefilter("default")
    warnings.formatwarning = _warning_line  # type: ignore[assignment]
    backends = logging.getLogger("jax._src.xla_bridge")  # one for GPUs that finds none says so, without its traceback
    backends.exception = backends.error  # type: ignore[method-assign]
    _Imports.quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") != "0"


def _warning_line(
    message: Warning | str,
    category: type[Warning],
    path: str,
    number: int,
    line: str | None = None,
    usual: Callable[..., str] = warnings.formatwarning,
) -> str:
    """What a user is told is one line, without the place in our code."""
    return (
        f"warning: {' '.join(str(message).split())}\n"
        if category is UserWarning
        else usual(message, category, path, number, line)
    )


class _Imports:
    """Finds TensorFlow, which says that oneDNN is on before it looks at its log level, and matplotlib.

    Triton, which torch for GPUs brings and loads late, comes first: it would end the process (tensorflow#124205).
    """

    quiet = False

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """Only prepares: who looks whether TensorFlow is installed, as torch's event files do, does not load it."""
        if name not in ("tensorflow", "jax", "torch", "matplotlib"):
            return None
        if (spec := importlib.machinery.PathFinder.find_spec(name, path)) and spec.loader:
            spec.loader.exec_module = cls.loading(name)(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    @classmethod
    @contextlib.contextmanager
    def loading(cls, name: str) -> Iterator[None]:
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        least = {"tensorflow": 4, "jax": 2, "torch": 1}.get(name, 0)
        if 0 <= most < least * 2**30:
            raise MemoryError(f"{name} needs {least} GiB of addresses, and ulimit -v allows {most / 2**30:.1f} GiB")
        if name == "tensorflow":
            with contextlib.suppress(ImportError):
                import_module("triton")
            if os.path.expanduser("~") == "~":  # TensorFlow's own Keras makes a folder ~ here, where Keras takes this
                os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), ".keras"))
        quiet = cls.quiet and {"tensorflow": _without_start_up_lines, "matplotlib": _with_own_settings}.get(name)
        with _interrupted_after(), quiet() if quiet else contextlib.nullcontext():
            yield


sys.meta_path.insert(0, _Imports)


@contextlib.contextmanager
def _interrupted_after() -> Iterator[None]:
    """A Ctrl-C is heard behind the block: what it raises in a callback of compiled code that is loaded ends the
    process, as in torch.distributed's."""
    came: list[tuple[int, Any]] = []
    if threading.current_thread() is not threading.main_thread() or not callable(
        heard := signal.getsignal(signal.SIGINT)
    ):
        yield
        return
    signal.signal(signal.SIGINT, lambda *what: came.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)
        if came:  # also where it cannot be loaded
            heard(*came[0])


@contextlib.contextmanager
def _with_own_settings() -> Iterator[None]:
    """Our pictures are the same whatever a `matplotlibrc` says, which may ask for a LaTeX that is not there, and show
    texts of others as they are: an instruction of "$5" is no formula."""
    yield
    sys.modules["matplotlib"].rcdefaults()
    sys.modules["matplotlib"].rcParams["text.parse_math"] = False


USUAL_JAX = {
    "JAX_ENABLE_X64": ("0", "false", "off", "no"),
    "JAX_RANDOM_SEED_OFFSET": ("0",),
    "JAX_DEFAULT_PRNG_IMPL": ("threefry2x32",),
    "JAX_THREEFRY_PARTITIONABLE": ("1", "true", "on", "yes"),
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": ("0", "false", "off", "no"),
    "JAX_DISABLE_JIT": ("0", "false", "off", "no"),
    "JAX_DEFAULT_MATMUL_PRECISION": (),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard",),
    "JAX_NUMPY_RANK_PROMOTION": ("allow", "warn"),
    "JAX_LEGACY_PRNG_KEY": ("allow", "warn"),
    "JAX_TRANSFER_GUARD": ("allow", "log"),
}
"""Variables that make JAX draw or compute other numbers, and their values with which it does not."""


def unusual_jax() -> dict[str, tuple[Any, Any]]:
    """By name, what JAX, where it is loaded, has been told to do otherwise, and what it does by itself."""
    found = {}
    if jax := sys.modules.get("jax"):
        for name, usual in USUAL_JAX.items():
            value = getattr(jax.config, name.lower(), None)
            value = getattr(value, "value", value)
            if value is not None and str(value).lower() not in usual:
                own = next(iter(usual), None)
                found[name.lower()] = value, type(value)(int(own)) if own in ("0", "1") else own
    return found


def products(torch: Any) -> list[Any]:
    """Where torch says how precisely a processor multiplies in float32; none before 2.9."""
    return [part for name in ("matmul", "conv", "rnn") if (part := getattr(torch.backends.mkldnn, name, None))]


@contextlib.contextmanager
def every_digit(torch: Any) -> Iterator[None]:
    """Products in float32, also where a program allows bfloat16 in them (`torch.set_float32_matmul_precision`)."""
    if parts := products(torch):
        before = [part.fp32_precision for part in parts]
        for part in parts:
            part.fp32_precision = "ieee"
        try:
            yield
        finally:
            for part, precision in zip(parts, before):
                part.fp32_precision = "none"  # as torch.backends says
                if part.fp32_precision != precision:
                    part.fp32_precision = precision
    else:
        allowed = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """A command computes, reads and draws as by itself also where the program that calls it has given torch another
    default type or device, switched its gradients off or automatic casts on, allowed it bfloat16 in products, told JAX
    to compute otherwise or Pillow to read pictures that are cut off, or given Matplotlib a style; the program has all
    that again after."""
    with contextlib.ExitStack() as after:
        after.callback(setattr, _Imports, "quiet", _Imports.quiet)
        after.callback(setattr, warnings, "formatwarning", warnings.formatwarning)
        after.callback(_give_back_matplotlib, os.environ.get("MPLBACKEND"), "matplotlib" in sys.modules)
        for name, (value, usual) in unusual_jax().items():
            after.callback(sys.modules["jax"].config.update, name, value)
            sys.modules["jax"].config.update(name, usual)
        if pillow := sys.modules.get("PIL.ImageFile"):
            after.callback(setattr, pillow, "LOAD_TRUNCATED_IMAGES", pillow.LOAD_TRUNCATED_IMAGES)
            vars(pillow)["LOAD_TRUNCATED_IMAGES"] = False
        if matplotlib := sys.modules.get("matplotlib"):
            after.enter_context(matplotlib.rc_context())
            with _with_own_settings():
                pass
        if torch := sys.modules.get("torch"):
            after.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
            after.enter_context(torch.enable_grad())
            after.enter_context(every_digit(torch))
            after.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)  # in a program's autocast it would keep weights over training steps
            for kind in ("cpu", "cuda"):
                after.callback(torch.set_autocast_enabled, kind, torch.is_autocast_enabled(kind))
                torch.set_autocast_enabled(kind, False)
            after.enter_context(torch.random.fork_rng(devices=[]))
            after.callback(torch.set_num_threads, torch.get_num_threads())
            after.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
            with contextlib.suppress(AssertionError, RuntimeError):  # of a device that is not there
                if torch.get_default_device().type != "cpu":
                    after.callback(torch.set_default_device, torch.get_default_device())
                    torch.set_default_device("cpu")
        yield


def _give_back_matplotlib(backend: str | None, was_loaded: bool) -> None:
    """A program that plots after a command, as notebooks do, has its backend and its `matplotlibrc`."""
    os.environ.pop("MPLBACKEND", None)
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
    if not was_loaded and (matplotlib := sys.modules.get("matplotlib")):
        matplotlib.rc_file_defaults()
        dict.__setitem__(matplotlib.rcParams, "backend", backend or matplotlib.rcParamsOrig["backend"])


@contextlib.contextmanager
def _without_start_up_lines() -> Iterator[None]:
    """What compiled code and others write to stderr inside comes afterwards, without information of log libraries."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        screen = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            held.seek(0)
            text = _START_UP.sub(b"", held.read()).decode(errors="backslashreplace")
            known = sys.stderr.encoding or "utf-8"
            sys.stderr.write(text.encode(known, "backslashreplace").decode(known))
            sys.stderr.flush()
