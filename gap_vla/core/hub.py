"""Checkpoints by the name that they have on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.foreign import CheckpointError, one_line

PREFIX = "hf://"


def local_directory(path: str | Path) -> Path:
    """The directory of `path`; `"hf://<owner>/<repository>"` is downloaded first (or found in the cache)."""
    text = str(path)
    if not text.startswith(PREFIX):
        root = Path(text).expanduser()
        if not root.is_dir():
            raise CheckpointError(f"{root}: no such checkpoint directory")
        return root
    repository = _repository(text)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{text} needs the package huggingface_hub (pip install huggingface_hub), or give the directory of a copy"
        ) from error
    try:
        return Path(snapshot_download(repository))
    except Exception as error:
        why = one_line(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))
        raise CheckpointError(
            f"{text} could not be downloaded ({why}); without a network, copy "
            f"https://huggingface.co/{repository} by hand and give the directory"
        ) from error


def kept_directory(path: str | Path) -> Path | None:
    """The directory of `"hf://<owner>/<repository>"` in the cache; None: nothing of it is there."""
    repository = _repository(str(path))
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _repository(text: str) -> str:
    repository = text.removeprefix(PREFIX)
    if repository.count("/") != 1:
        raise CheckpointError(f"{text}: expected hf://<owner>/<repository>")
    return repository
