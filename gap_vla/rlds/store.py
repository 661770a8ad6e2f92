"""A dataset decoded once into flat memory-mapped arrays: random access to every step without TensorFlow.

A store is a folder of `<split>.<field>.bin` (C order, no header) and `store.json`, which says shapes, dtypes, episode
offsets, statistics, what it was made from and a hash of every file. Delete the folder to remove it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import content, one_line, parsed, refusing, whole
from gap_vla.core.identity import digest
from gap_vla.core.locks import alone
from gap_vla.core.marks import others_in
from gap_vla.core.outputs import require_apart, require_no_volume
from gap_vla.core.resources import existing_parent, free_disk, shown
from gap_vla.core.whole import clear_leftovers, put, real_place, workplace
from gap_vla.demos.content import Unchanged
from gap_vla.rlds.account import content_hash, dataset_metadata, require_unchanged
from gap_vla.rlds.reader import read_rlds, require_keys, sizes_of
from gap_vla.rlds.statistics import STATISTICS, dataset_statistics, load_statistics, save_statistics
from gap_vla.rlds.version_files import naming_a_full_disk, open_version

STORE_VERSION = 2
Sizes = Mapping[str, tuple[int, int]]

_REBUILD = "this is no whole store; delete the folder and build it again"


class EpisodeStore:
    """Read access to a store; open with `EpisodeStore.open(store_dir)`, make with `EpisodeStore.build(version_dir)`.

    Attributes:
        directory: where the store is.
        splits: split names.
        statistics: of the split `train`, or of all where there is none of that name (`gap_vla.rlds.statistics`).
        metadata: the dataset's own metadata (identity, annotator).
        source: the dataset that it was built from, as it was called then.
        source_hash: hash of that.
    """

    def __init__(self, directory: Path, account: Mapping[str, Any]) -> None:
        self.directory = directory
        self.source = one_line(account.get("source", directory))
        self.source_hash: str = account["source_hash"]
        self.metadata: dict[str, Any] = account["metadata"]
        self.statistics = load_statistics(directory / STATISTICS)
        self.splits = {name: StoreSplit(directory, name, entry) for name, entry in account["splits"].items()}

    @classmethod
    def open(cls, store_dir: str | Path, *, verify: bool = False) -> EpisodeStore:
        """Opens a finished store.

        Args:
            store_dir: the folder.
            verify: compare the pictures too with the recorded hashes, as is done with all else (reads everything).

        Raises:
            EpisodeError: not a store, unfinished, or a file of another size (or content) than recorded.
        """
        directory = Path(store_dir)
        if not (directory / "store.json").exists():
            raise EpisodeError(f"{directory}: no store.json; build the store with EpisodeStore.build(version_dir)")
        with refusing(directory, _REBUILD, EpisodeError):
            account = parsed(content(directory / "store.json"))
            if account["store_version"] != STORE_VERSION:
                raise EpisodeError(
                    f"{directory}: store version {account['store_version']}, this program reads {STORE_VERSION}; "
                    "delete the folder; a run that needs it makes it again"
                )
            known = digest({"splits": json.dumps(account["splits"])})
            if account["splits_hash"] != known:
                raise EpisodeError(f"{directory / 'store.json'}: its splits were changed; {_REBUILD}")
            if account.get("about_hash", known := _about_hash(account)) != known:
                raise EpisodeError(f"{directory / 'store.json'}: its source or metadata were changed; {_REBUILD}")
            fields = {f"{name}.{key}.bin" for name, split in account["splits"].items() for key in split["fields"]}
            if lost := sorted({STATISTICS, *fields} - account["files"].keys()):
                raise EpisodeError(f"{directory / 'store.json'}: the checksum of {lost[0]} is missing; {_REBUILD}")
            for name, (size, content_hash) in account["files"].items():
                path = directory / name
                if Path(name).name != name:  # of somebody else's store
                    raise EpisodeError(f"{directory / 'store.json'}: {name!r:.60} is no file of a store; {_REBUILD}")
                found = path.stat().st_size if path.is_file() else None
                if found != size or ((verify or "image_" not in name) and _digest(path) != content_hash):
                    what = f"{found} bytes instead of {size}" if found != size else "other content than recorded"
                    what = "missing" if found is None else what
                    raise EpisodeError(f"{path}: {what}; delete {directory} and build the store again")
            return cls(directory, account)

    @classmethod
    def build(
        cls,
        version_dir: str | Path,
        store_dir: str | Path | None = None,
        *,
        resize: Sizes | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> EpisodeStore:
        """Decodes an RLDS dataset into a store, or opens the one that is there if it was made from the same data; in
        both cases all of it is compared with its hashes (about 1 GB/s).

        Args:
            version_dir: the dataset, e.g. `data/threading/1.0.0`.
            store_dir: default: `<version_dir>.store`, beside the dataset.
            resize: camera to (height, width); Lanczos3 with antialiasing, as upstream Octo resizes.
            keys: fields of a dataset of others, see `read_rlds`.

        Raises:
            EpisodeError: the dataset cannot be read; no store appears then. ResourceError: as `existing_parent`.
        """
        version_dir = Path(version_dir) if Path(version_dir).name else Path(version_dir).absolute()
        directory = Path(store_dir) if store_dir else version_dir.with_name(version_dir.name + ".store")
        directory = directory if directory.name else directory.absolute()
        existing_parent(directory)
        require_apart(directory, version_dir)
        require_keys(keys)
        resize = sizes_of(resize)
        lock = directory.with_name(f".{directory.name}.lock")
        held = alone(lock, f"{directory}", wait=True, there=directory / "store.json")
        with held, naming_a_full_disk(directory.parent, "nothing of the store is left"):  # a second builder waits
            unchanged = Unchanged(version_dir)
            source_hash = source_hash_of(version_dir, resize, keys)
            require_unchanged(version_dir, but=STATISTICS)
            real = real_place(directory)
            clear_leftovers(real.parent, real.name)  # as the store that this one took the place of
            if made_of(source_hash, directory):
                return cls.open(directory, verify=True)
            _require_replaceable(directory)
            described = open_version(version_dir).info.splits
            splits = {name: read_rlds(version_dir, name, resize=resize, keys=keys, compared=True) for name in described}
            _tell_room(directory, described, splits)
            with workplace(directory) as new:
                new.mkdir()
                write_store(
                    new,
                    splits,
                    source=str(version_dir),
                    source_hash=source_hash,
                    metadata=dataset_metadata(version_dir),
                )
                unchanged()  # decoding takes minutes
                _require_replaceable(directory)
                put(new, directory)
            return cls.open(directory, verify=True)

    def split(self, name: str) -> StoreSplit:
        if name not in self.splits:
            raise EpisodeError(f"{self.directory}: no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


def _require_replaceable(directory: Path) -> None:
    """Raises EpisodeError: there is something that is not of the store there, by its own list of files; OutputError: it
    is a volume."""
    require_no_volume(directory)
    if (directory / "store.json").exists():
        with refusing(directory, _REBUILD, EpisodeError):
            own = {"store.json", *dict(parsed(content(directory / "store.json"))["files"])}
        if strange := others_in(directory, "|".join(map(re.escape, own))):
            raise EpisodeError(f"{strange[0]} is no file of the store that is made anew there; move it away")
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise EpisodeError(f"{directory}: not a store, and not empty; choose another folder for the store")


def _tell_room(directory: Path, described: Mapping[str, Any], splits: dict[str, Iterator[Episode]]) -> None:
    """Says so where there is less room than for as many episodes like the first one as there are, and than for as many
    as their bytes would be: a guess, for the dataset's description does not say how many steps there are."""
    files = [(name, Path(str(file))) for name, split in described.items() for file in split.filepaths]
    filled = [(name, file) for name, file in files if file.stat().st_size]
    for first in itertools.islice(splits[filled[0][0]], 1) if filled else ():
        splits[filled[0][0]] = itertools.chain([first], splits[filled[0][0]])
        with open(filled[0][1], "rb") as stream:
            record = 16 + int.from_bytes(stream.read(8), "little")
        count = min(
            sum(split.num_examples for split in described.values()),
            sum(file.stat().st_size for _, file in filled) / record,
        )
        size = count * sum(array.nbytes for array in first.arrays.values())
        have = free_disk(real_place(directory).parent)
        if have is not None and size > have:
            print(f"note: the store may take {shown(size)}, and {shown(have)} are free", file=sys.stderr, flush=True)


class StoreSplit:
    """The arrays of one split; steps of all episodes one after another.

    Attributes:
        offsets: int64[N + 1], episode i is steps `offsets[i]:offsets[i + 1]`.
        fields: name to array with leading dimension S (all steps): image_* uint8[S, h, w, 3], proprio float32[S, P],
            action float32[S, A], and where the dataset has them rho float32[S], change_point bool[S], phase int32[S].
        language: int32[N], index into `languages`.
        languages: distinct instructions.
        phases: names of the phase codes.
    """

    def __init__(self, directory: Path, name: str, entry: Mapping[str, Any]) -> None:
        self.name = name
        self.offsets = np.asarray(entry["offsets"], np.int64)
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 1).any():
            raise EpisodeError(f"{directory / 'store.json'}: episodes of {name} do not follow one another; {_REBUILD}")
        self.languages: list[str] = entry["languages"]
        self.phases: list[str] = entry["phases"]
        self.language = np.asarray(entry["language"], np.int32)
        self.episodes: list[dict[str, Any]] = entry["episodes"]
        self.fields: dict[str, np.ndarray] = {}
        for key, (dtype, shape) in entry["fields"].items():
            path = directory / f"{name}.{key}.bin"
            if np.dtype(dtype).kind not in "biuf":  # objects would be addresses in memory that a file names
                raise EpisodeError(f"{directory / 'store.json'}: {name}.{key} is {dtype}, no numbers; {_REBUILD}")
            try:
                self.fields[key] = np.memmap(path, dtype, "r", shape=(self.steps, *shape))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    raise EpisodeError(f"{path}: its file system maps no files; copy the data to another") from None
                raise

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def steps(self) -> int:
        return int(self.offsets[-1])

    def episode(self, index: int) -> Episode:
        """Episode `index` as written into the dataset; raises EpisodeError if there is none of that number."""
        index = whole(f"episode of {self.name}", index, 0, len(self) - 1, EpisodeError)
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        take = {key: np.asarray(value[part]) for key, value in self.fields.items()}
        codes = take.pop("phase", None)
        info = self.episodes[index]
        return Episode(
            images={k: v for k, v in take.items() if k.startswith("image_")},
            proprio=take["proprio"],
            action=take["action"],
            language_instruction=self.languages[self.language[index]],
            success=info["success"],
            phase=None if codes is None else np.array(self.phases)[codes],
            rho=take.get("rho"),
            change_point=take.get("change_point"),
            metadata=info["metadata"],
        )


def source_hash_of(version_dir: Path, resize: Sizes | None = None, keys: Mapping[str, str] | None = None) -> str:
    """The `source_hash` of a store made of this dataset as it is now, by the options of `EpisodeStore.build`."""
    options = {"resize": {key: list(size) for key, size in (resize or {}).items()}, "keys": dict(keys or {})}
    return content_hash(version_dir, json.dumps([STORE_VERSION, options], sort_keys=True))


def made_of(source_hash: str, directory: Path) -> bool:
    """Whether a store of the present version that was made of this data (`source_hash_of`) is there.

    Raises:
        EpisodeError: something else is there.
    """
    if not (directory / "store.json").exists():
        return False
    with refusing(directory, _REBUILD, EpisodeError):
        recorded = parsed(content(directory / "store.json"))
        return bool((recorded["source_hash"], recorded["store_version"]) == (source_hash, STORE_VERSION))


def write_store(
    folder: Path,
    splits: Mapping[str, Iterable[Episode]],
    *,
    source: str,
    source_hash: str,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the files of a store into an empty folder; memory holds a few episodes at a time.

    Args:
        splits: episodes of each split, all with the same fields and sizes.
        source, source_hash, metadata: what they are made from; another hash is another store.

    Raises:
        EpisodeError: an episode unlike the first one, or none at all.
    """
    learnt: list[Episode] = []
    written = {
        split: _write_split(
            folder, split, of_split, learnt if split == "train" or "train" not in splits else [], source
        )
        for split, of_split in splits.items()
    }
    if not learnt:
        raise EpisodeError(f"{source}: the dataset holds no episodes to train on")
    found = dataset_statistics([e.action for e in learnt], [e.proprio for e in learnt])
    save_statistics(found, folder / STATISTICS)
    files = {p.name: (p.stat().st_size, _digest(p)) for p in sorted(folder.iterdir())}
    account = {
        "store_version": STORE_VERSION,
        "source": source,
        "source_hash": source_hash,
        "metadata": dict(metadata or {}),
        "splits": written,
        "splits_hash": digest({"splits": json.dumps(written)}),
        "files": files,
    }
    account["about_hash"] = _about_hash(account)
    (folder / "store.json").write_text(json.dumps(account))


def _about_hash(account: Mapping[str, Any]) -> str:
    """Of what a store says of the data that it was made from."""
    return digest({"about": json.dumps([account.get("source"), account["metadata"]])})


def _write_split(
    folder: Path, split: str, episodes: Iterable[Episode], low_dim: list[Episode], source: str
) -> dict[str, Any]:
    """Writes a file per field; returns what `store.json` says of the split, and appends episodes without images."""
    offsets, language = [0], []
    about: list[dict[str, Any]] = []
    languages: dict[str, int] = {}
    phases: dict[str, int] = {}
    fields: dict[str, tuple[str, tuple[int, ...]]] = {}
    with contextlib.ExitStack() as stack:
        for episode in episodes:
            arrays = episode.arrays
            name = episode.name if episode.metadata.get("episode_id") else f"{source}, {split}[{len(about)}]"
            if episode.phase is not None:
                codes = [phases.setdefault(str(name), len(phases)) for name in episode.phase]
                arrays["phase"] = np.asarray(codes, np.int32)
            if not fields:
                fields = {key: (value.dtype.str, value.shape[1:]) for key, value in arrays.items()}
                streams = {key: stack.enter_context(open(folder / f"{split}.{key}.bin", "wb")) for key in fields}
            if odd := sorted({*arrays} ^ {*fields}):
                here, there = ("no", "has") if odd[0] in fields else ("has", "has not")
                raise EpisodeError(f"{name}: {here} {odd[0]}, and the first episode {there}; make them alike")
            for key, (dtype, shape) in fields.items():
                wraps = np.dtype(dtype).kind in "iu" and not np.can_cast(arrays[key].dtype, dtype, "safe")
                if wraps or not np.can_cast(arrays[key].dtype, dtype, "same_kind"):
                    raise EpisodeError(f"{name}: {key} is {arrays[key].dtype}, in the first episode {dtype}")
                if (found := arrays[key].shape[1:]) != shape:
                    raise EpisodeError(
                        f"{name}: a step of {key} has shape {found}, in the first episode {shape}; resize it, "
                        "or drop one"
                    )
                streams[key].write(np.ascontiguousarray(arrays[key], np.dtype(dtype)).data)
            offsets.append(offsets[-1] + len(episode))
            language.append(languages.setdefault(episode.language_instruction, len(languages)))
            about.append({"success": episode.success, "metadata": dict(episode.metadata)})
            low_dim.append(episode.replace(images={}))
    return {
        "offsets": offsets,
        "language": language,
        "languages": list(languages),
        "phases": list(phases),
        "episodes": about,
        "fields": fields,
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
