"""One way to fail for all commands: a line that says what, where and what to do, and an exit status with a meaning.

| status | meaning |
|---|---|
| 0 | done |
| 1 | a documented negative answer, e.g. `check_dataset.py` found errors |
| 2 | the user can put it right: a wrong argument, a damaged file, a full disk |
| 70 | a bug of this package (sysexits' EX_SOFTWARE); the traceback is shown |
| 130 | interrupted with Ctrl-C; the message says what is kept |

Every command starts quietly (`gap_vla.core.lazy`). Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from gap_vla.core.lazy import own_settings, start_quietly
from gap_vla.core.streams import lead_nowhere, prepare_streams

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    errno.EACCES: "ask for the right, or give another path",
    errno.EAGAIN: "use fewer at a time, or raise the limit (ulimit -u)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.ENAMETOOLONG: "give a shorter name",
}
_FAILURES = {
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN),
        "its disk, or the network, failed; try again",
    ),
    errno.EMFILE: f"too many files are open; {_ADVICE[errno.EMFILE]}",
    errno.ENFILE: "the machine has too many files open; close other programs, or raise its limit (fs.file-max)",
}
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEGATIVE, USER_ERROR, BUG, INTERRUPTED = 1, 2, 70, 130

_EXTRAS = {
    "phases": "numba torch ruptures sklearn scipy safetensors h5py matplotlib PIL imageio imageio_ffmpeg",
    "rlds": "tensorflow tensorflow_datasets grain pyarrow",
    "octo": "jax flax optax orbax msgpack tokenizers tensorboardX",
    "sim": "mujoco robosuite metaworld gymnasium fast_simplification",
    "serve": "websockets",
    "hub": "huggingface_hub",
    "beam": "apache_beam",
}
"""Extra of this package to the modules that it brings (pyproject.toml)."""
_ALWAYS = ("numpy", "jaxtyping", "ml_collections", "absl")


class UserError(Exception):
    """What the user can put right; the message is one line with file, episode, step or key, and what to do."""


@contextlib.contextmanager
def keeping(what: str) -> Iterator[None]:
    """A Ctrl-C inside says what is kept, unless something further inside has said it."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if (behind := _interrupt_behind(error)) is None:
            raise
        raise KeyboardInterrupt(*(behind.args or (what,))) from None


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wraps the `main` of a command: what goes wrong becomes a line on stderr and an exit status (table above).

    The argument of a `KeyboardInterrupt` says what is kept: `raise KeyboardInterrupt("12 episodes lie in …")`, or
    `keeping`.
    """

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> int:
        unraisable = sys.unraisablehook
        hears = threading.current_thread() is _MAIN  # no other thread does
        if outermost := hears and unraisable is not _interrupt_again:
            sys.unraisablehook = _interrupt_again
            _interrupted.clear()
        within = any(isinstance(argument, list | tuple) for argument in (*args, *kwargs.values()))
        heard = None
        try:
            if hears and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                heard = signal.signal(signal.SIGINT, _interrupt)
            prepare_streams()
            with own_settings():
                start_quietly()
                _require_surroundings()
                status = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return status
        except (KeyboardInterrupt, Exception) as error:
            return _answer(error)
        finally:
            if outermost:
                sys.unraisablehook = unraisable
            if within and heard is not None:  # a program that goes on has its own again
                signal.signal(signal.SIGINT, heard)
            if within and outermost:  # whose later errors come of no Ctrl-C
                _interrupted.clear()
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError:  # else a command around this one would try again, and Python when it ends
                    lead_nowhere(stream)

    return guarded


def _require_surroundings() -> None:
    """Raises what is wrong with folder and arguments before a library says it in its own way."""
    os.getcwd()  # a folder that was deleted, which MKL would call an installation of torch that is broken
    if odd := [word for word in sys.argv if any("\udc80" <= letter <= "\udcff" for letter in word)]:
        meant = os.fsencode(odd[0]).decode(errors="replace")  # by who wrote UTF-8 in a locale that is none
        reason = "no text of UTF-8; rename it" if "\ufffd" in meant else "read as ASCII; set PYTHONUTF8=1"
        raise UserError(f"{odd[0]!a} is {reason}")


def _answer(error: BaseException) -> int:
    """Says on stderr what went wrong, and returns the exit status for it."""
    known = isinstance(error, UserError | OSError)
    if not known and (interrupt := _interrupt_behind(error)) is not None:
        return _say(f"interrupted{f'; {interrupt.args[0]}' if interrupt.args else ''}", INTERRUPTED)
    said = message_of(error)
    if known or is_full_disk(error) or _lack(error, said):
        return _say(f"error: {said}", USER_ERROR)
    if fault := _fault_of_others(error, said):
        return _say(f"error: {fault}", USER_ERROR)
    traceback.print_exception(error)
    names = ", ".join(name for name in os.environ if re.match("(JAX|NUMBA|TORCH|XLA)_", name))
    hint = f" (or of a setting in {names}: try without)" if names else ""
    return _say(f"this is a bug of gap_vla, not a mistake of yours{hint}: {type(error).__name__}", BUG)


def message_of(error: BaseException) -> str:
    """What an error says, on one line.

    >>> message_of(FileNotFoundError(2, "No such file or directory", "demos.hdf5"))
    'demos.hdf5: No such file or directory; check the path, or give another'
    """
    text = ""
    with contextlib.suppress(Exception):  # somebody's `__str__` may fail itself
        text = str(error)
    if lack := _lack(error, text):
        text = lack
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        known = re.sub(r"/\.([^/]+)\.gap_vla-\w{8}\.partial.*", r"/\1", os.fsdecode(error.filename))  # core/whole.py
        text = f"{known}: {error.strerror}; {_ADVICE.get(error.errno or 0, 'check the path, or give another')}"
    elif isinstance(error, FileNotFoundError) and error.strerror == os.strerror(errno.ENOENT):  # as of `os.getcwd`
        text = "the folder in which this command runs was deleted; change to another"
    elif isinstance(error, OSError) and error.errno in _FULL:
        text = f"{error.strerror}, for what is printed or for a file that is written; {_ADVICE[error.errno]}"
    elif is_full_disk(error) and not isinstance(error, UserError):
        text += f"; {_ADVICE[errno.EFBIG if 'file too large' in text.lower() else errno.ENOSPC]}"
    line = " ".join(text.split()) or type(error).__name__
    line = line if len(line) <= 2000 else f"{line[:1000]} … {line[-1000:]}"  # it quotes a whole file or option
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def missing_extra(error: BaseException) -> str:
    """What to install for a module that one of the extras brings; empty for any other.

    >>> missing_extra(ModuleNotFoundError("No module named 'orbax.checkpoint'", name="orbax.checkpoint"))
    "this needs the module orbax, which is not installed: pip install -e '.[octo]' in the clone, or '.[all]' for all"
    """
    module = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if module in _ALWAYS:
        return f"{sys.executable} lacks the module {module}: call the Python in which gap_vla is installed"
    for extra, modules in _EXTRAS.items():
        if module in modules.split():
            install = f"pip install -e '.[{extra}]' in the clone, or '.[all]' for all"
            return f"this needs the module {module}, which is not installed: {install}"
    return ""


def _fault_of_others(error: BaseException, said: str) -> str:
    """What is wrong with a setting, a package or kept files of others, and what to do; empty: nothing that is known."""
    if told := [name for name in re.findall(r"\b(?:JAX|NUMBA|TORCH)_[A-Z_\d]+", said) if name in os.environ]:
        return f"{said}; correct {told[0]}, or unset it"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        if frame.f_code.co_filename.endswith("numba/core/caching.py") and frame.f_code.co_name == "load_overload":
            kept = frame.f_locals["self"].cache_path  # as after a power cut
            return f"{kept}, which Numba compiled earlier, is damaged; remove that folder"
    while any(frame.f_code.co_filename.startswith(_OWN) for frame in frames):
        del frames[0]
    for frame in frames:
        if frame.f_code.co_name == "<module>" and (module := frame.f_globals.get("__spec__")):
            package = module.name.partition(".")[0]
            advice = "install it again, or unset its environment variables"
            return f"{package} cannot be imported: {said}; {advice}"
    return ""


def _lack(error: BaseException, text: str) -> str:
    """What this machine or Python has too little of, and what to do; empty: it is something else.

    Memory, also where a library is loaded under `ulimit -v`; processes and threads; a module.
    """
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map segment" in text):
        return f"not enough memory{': ' + text if text else ''}; use fewer or smaller pieces at a time, or allow more"
    started = isinstance(error, RuntimeError) and "can't start new thread" in text
    if started or (isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN):
        few = "this account, or this container, may have no more processes and threads"
        return f"{text}: {few}; {_ADVICE[errno.EAGAIN]}"
    return missing_extra(error)


def is_full_disk(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit of file sizes is reached, whichever library met it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    # TensorFlow, HDF5, safetensors and Tensorstore put the system's message into errors of their own.
    foreign = type(error).__module__.startswith(("tensorflow", "h5py", "safetensors")) or isinstance(error, OSError)
    foreign = foreign or (type(error) is ValueError and "os_error_code" in str(error))
    return foreign and any(
        text in str(error).lower() for text in ("no space left", "disk quota exceeded", "file too large")
    )


def failure_of_system(error: BaseException) -> str:
    """Why the system could not read, whatever is there, and what to do; empty: it could. HDF5 puts it into a text,
    zipfile says another thing in its place."""
    for one in (error, error.__cause__ or (None if error.__suppress_context__ else error.__context__)):
        text = str(one).lower()
        number = re.search(r"errno (?:= )?(\d+)\b", text) if isinstance(one, OSError) or "errno = " in text else None
        if number and (failure := _FAILURES.get(int(number[1]))):
            return failure
    return ""


_MAIN = threading.main_thread()
_interrupted: list[float] = []
"""When a Ctrl-C was heard last, by `time.monotonic`."""


def _interrupt(*_: Any) -> None:
    """Raises for a Ctrl-C, unless one came in the last 10 s: while it is handled, files are closed and workers end."""
    if not _interrupted or time.monotonic() - _interrupted[-1] > 10:
        _interrupted.append(time.monotonic())
        raise KeyboardInterrupt


def _interrupt_again(what: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that fell into a destructor or a callback of the collector, where Python drops it, comes 20 ms later."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        _interrupted.clear()
        threading.Timer(0.02, signal.pthread_kill, (_MAIN.ident or 0, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(what)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C that an error came from: compiled code and libraries turn it into errors of their own, and some of
    these, as numpy's while it is loaded and Matplotlib's while it draws, do not say what they came of."""
    other = threading.current_thread() is not _MAIN or isinstance(error, UserError | OSError)
    just_heard = not other and _interrupted and time.monotonic() - _interrupted[-1] < 10
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error or (KeyboardInterrupt() if just_heard else None)


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    return status


@contextlib.contextmanager
def naming_the_line(path: str, wanted: type[UserError]) -> Iterator[None]:
    """Errors of somebody's code in `path`, and its end, become a `wanted` one with the line."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        frames, path = traceback.extract_tb(error.__traceback__), os.path.abspath(path)
        lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        what = error.msg if isinstance(error, SyntaxError) else message_of(error)
        raise wanted(f"{path}{f', line {line}' if line else ''}: {type(error).__name__}: {what}") from None
