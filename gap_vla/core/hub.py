"""Checkpoints and datasets by the names that they have on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.errors import UserError

PREFIX = "hf://"


def local_directory(path: str | Path) -> Path:
    """The directory of `path`; `"hf://OWNER/NAME"` is downloaded first, or found in the hub's cache."""
    text = str(path)
    if not text.startswith(PREFIX):
        root = Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"{root}: no such checkpoint directory")
        return root
    return _downloaded(text.removeprefix(PREFIX), "model", text)


def dataset_directory(name: str) -> Path:
    """The folder of the dataset `OWNER/NAME`, downloaded or found in the hub's cache.

    Raises UserError: it is not on the hub, or cannot be downloaded.
    """
    return _downloaded(name, "dataset", f"{name}: no such file or folder; as a dataset of the hub it")


def _downloaded(name: str, kind: str, what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type=kind))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{what} could not be downloaded ({reason}); copy it by hand and give its directory") from error
