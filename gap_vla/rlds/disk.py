"""A full disk, a quota or a file size limit as one error that says so, whichever library met it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gap_vla.core.errors import UserError, is_full_disk


class DatasetError(UserError, RuntimeError):
    """A dataset that cannot be written, or that is not the one that was asked for."""


@contextlib.contextmanager
def naming_a_full_disk(directory: Path, kept: str) -> Iterator[None]:
    """Errors of a full disk become a DatasetError; all others pass.

    Args:
        directory: where the writing goes.
        kept: what running the same command again finds.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise DatasetError(
            f"no space left on the disk of {directory} (or a quota or limit is reached); free some and run the same "
            f"command again: {kept}"
        ) from None
