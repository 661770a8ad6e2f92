"""What goes wrong between a model, its checkpoint and a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gap_vla.core.errors import UserError


class CheckpointError(UserError, ValueError):
    """A checkpoint directory that cannot be used; the message names the file or the parameters, and what to do."""


class BatchError(UserError, ValueError):
    """Observations or tasks that do not fit the model; the message names the key and both shapes."""


@contextlib.contextmanager
def blaming(where: Path | str, what: str) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of a file that somebody else wrote: a CheckpointError that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        line = " ".join(str(said).split())[:400]
        raise CheckpointError(f"{where}: {what} ({kind}{line})") from error
