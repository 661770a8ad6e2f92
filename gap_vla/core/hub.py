"""Checkpoints by the name that they have on the Hugging Face hub."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from gap_vla.core.foreign import CheckpointError, one_line, shown
from gap_vla.core.whole import replacing

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
        import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"{text} needs the package huggingface_hub (pip install huggingface_hub), or give the directory of a copy"
        ) from error
    try:
        return _downloaded(repository)
    except Exception as error:
        why = one_line(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))
        raise CheckpointError(
            f"{text} could not be downloaded ({why}); without a network, copy "
            f"https://huggingface.co/{repository} by hand and give the directory"
        ) from error


def _downloaded(repository: str) -> Path:
    """The newest snapshot, in the cache; the one that is there already if the hub cannot be asked.

    The cache names folders and files after the commit, whatever a hub says that it is called.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(repository).sha
    except Exception:
        if (kept := kept_directory(f"{PREFIX}{repository}")) is None:
            raise
        return kept
    if not re.fullmatch("[0-9a-f]{40}", commit or ""):
        raise CheckpointError(f"the hub calls its commit {shown(commit)}, which is the name of none")
    found = Path(snapshot_download(repository, revision=commit))
    newest = found.parents[1] / "refs" / "main"  # what the cache has without asking the hub
    newest.parent.mkdir(parents=True, exist_ok=True)
    with replacing(newest) as temporary:
        temporary.write_text(str(commit))
    return found


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
