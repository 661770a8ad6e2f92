"""Checkpoints by the name that they have on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError, Section, one_line, shown
from gap_vla.core.whole import HIDDEN, clear_leftovers, replacing

PREFIX = "hf://"
_LAYOUT = "config.json"
PATIENCE = 10.0
"""Seconds in which a hub has to begin to answer."""


class ForeignModel(CheckpointError):
    """A repository that holds no checkpoint of this package or of Octo."""


def local_directory(path: str | Path) -> Path:
    """The directory of `path`; `"hf://<owner>/<repository>"` is downloaded first (or found in the cache)."""
    text = str(path)
    if not text.startswith(PREFIX):
        root = Path(os.path.expanduser(text))  # which leaves a user whom nobody knows as it is
        if not root.is_dir():
            raise CheckpointError(f"{root}: no such checkpoint directory")
        return root
    repository = _repository(text)
    try:
        return fetched(repository)
    except (ModuleNotFoundError, ForeignModel):  # of the former a command names the extra
        raise
    except Exception as error:
        raise CheckpointError(
            f"{text} could not be downloaded ({_reason(error)}); without a network, copy "
            f"https://huggingface.co/{repository} by hand and give the directory"
        ) from error


def fetched(repository: str, names: Sequence[str] | None = None) -> Path:
    """The newest snapshot in the cache, with all files or those with these names; with a note the one that is there
    already, if the hub cannot be asked.

    Folders and files are written under names that are looked at here: the hub's package would name them after whatever
    a hub says, its ETags among it.
    """
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    try:
        newest = HfApi().model_info(repository, timeout=PATIENCE, files_metadata=True)
    except Exception as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
        kept = None if refused else kept_directory(f"{PREFIX}{repository}")
        if kept is None or not all((kept / name).exists() for name in names or ()):
            raise
        why = f"the hub could not be asked ({_reason(error)})"
        what = f"what the cache holds of {repository}, commit {kept.name}, is used, be it all or a part"
        print(f"note: {why}: {what}", file=sys.stderr, flush=True)
        return kept
    if not re.fullmatch("[0-9a-f]{40}", commit := newest.sha or ""):
        raise CheckpointError(f"the hub calls its commit {shown(newest.sha)}, which is the name of none")
    cache = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    folder = cache / "snapshots" / commit
    every = [file.rfilename for file in newest.siblings or ()]
    sizes = {file.rfilename: file.size for file in newest.siblings or ()}
    every = [name for name in every if not any(map(HIDDEN.fullmatch, name.split("/")))]  # uploaded with it
    whole, names = names is None, sorted(every, key=lambda name: name != _LAYOUT) if names is None else names
    for name in names:
        if {"", ".", ".."} & {*name.split("/")}:
            raise CheckpointError(f"the hub calls a file {shown(name)}, which is the name of none")
    if whole and not {_LAYOUT, "policy.json"} & {*names}:
        raise ForeignModel(f"{PREFIX}{repository} has neither {_LAYOUT} nor policy.json; nothing was downloaded")
    for place, *_ in os.walk(cache / "snapshots"):  # of earlier commits too
        with contextlib.suppress(UserError):  # somebody's file that is not in the way
            clear_leftovers(Path(place))
    for name in names:
        if not (folder / name).exists():
            with replacing(folder / name) as temporary, temporary.open("wb") as file:
                url = hf_hub_url(repository, name, revision=commit)
                http_get(url, file, headers=build_hf_headers(), displayed_filename=name)
                if file.tell() != (size := sizes.get(name) or file.tell()):  # a proxy need not say how much comes
                    raise CheckpointError(f"{file.tell():,} of the {size:,} bytes of {name} arrived; try again")
        if whole and name == _LAYOUT and "policy.json" not in names and "model" not in _keys(folder / name):
            what = (
                f"{PREFIX}{repository}: {_LAYOUT} has no model in it; that is no checkpoint of Octo or of this package"
            )
            raise ForeignModel(f"{what}, and nothing else was downloaded")
    with replacing(cache / "refs" / "main") as temporary:  # what the cache has without asking the hub
        temporary.write_text(commit)
    return folder


def _keys(path: Path) -> set[str]:
    return {*Section.read(path, ForeignModel).values}


def kept_directory(path: str | Path) -> Path | None:
    """The directory of `"hf://<owner>/<repository>"` in the cache; None: nothing of it is there."""
    repository = _repository(str(path))
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, local_files_only=True))
    except (ImportError, FileNotFoundError):  # the latter as the hub's LocalEntryNotFoundError
        return None


def _reason(error: Exception) -> str:
    return one_line(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))


def _repository(text: str) -> str:
    repository = text.removeprefix(PREFIX)
    if repository.count("/") != 1:
        raise CheckpointError(f"{text}: expected hf://<owner>/<repository>")
    with contextlib.suppress(ImportError):  # who downloads it says what is missing
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            what = (
                f"{text} is no name of a model ({one_line(error)}); give hf://<owner>/<repository>, the newest is taken"
            )
            raise CheckpointError(what) from None
    return repository
