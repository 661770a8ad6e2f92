"""A dataset decoded once into flat memory-mapped arrays: random access to every step without TensorFlow.

A store is a folder of `<split>.<field>.bin` (C order, no header), `dataset_statistics.json` and `store.json`, which
says shapes, dtypes and what it was made from. Opening it reads none of the arrays, however many there are. Delete the
folder to remove it.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.columns import Columns
from gap_vla.core.config import choose
from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import read_json, replacing, write_json
from gap_vla.core.identity import differences, digest, in_words
from gap_vla.core.progress import PATIENCE, watched
from gap_vla.demos.fields import Fields, explicit
from gap_vla.rlds.source import MISSING, RLDS, dataset_hash, dataset_metadata
from gap_vla.rlds.statistics import STATISTICS, dataset_statistics, load_statistics, save_statistics

STORE_VERSION = 3


class EpisodeStore:
    """Read access to a store; `EpisodeStore.build(version_dir)` makes it, or opens the one that is there.

    Attributes:
        directory: where the store is.
        splits: `train` and, if episodes were held out, `val`.
        statistics: of the split `train` (`gap_vla.rlds.statistics`).
        metadata: the dataset's own metadata (identity, annotator).
        columns, action_columns: what the columns are; None if nobody said.
        source: the dataset that it was built from, as it was called then.
        source_hash: identity of that dataset and of the settings.
    """

    def __init__(self, directory: Path, account: Mapping[str, Any]) -> None:
        self.directory = directory
        self.source: str = account["source"]
        self.source_hash: str = account["source_hash"]
        self.metadata: dict[str, Any] = account["metadata"]
        columns = {key: Columns.parse(text) for key, text in account["columns"].items()}
        self.columns, self.action_columns = columns.get("proprio"), columns.get("action")
        self.statistics = load_statistics(directory / STATISTICS)
        self.splits = {name: StoreSplit(self, name, entry) for name, entry in account["splits"].items()}

    @classmethod
    def open(cls, store_dir: str | Path) -> EpisodeStore:
        """Opens a finished store. Raises EpisodeError: another version of this program made it."""
        account = read_json(Path(store_dir) / "store.json")
        if account["store_version"] != STORE_VERSION:
            raise EpisodeError(f"{store_dir}: a store of another version; delete it, the dataset makes it anew")
        return cls(Path(store_dir), account)

    @classmethod
    def build(
        cls,
        version_dir: str | Path,
        store_dir: str | Path | None = None,
        *,
        fields: Fields | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> EpisodeStore:
        """Opens the store of an RLDS dataset, ours or any other, and decodes the dataset into it if it is not there.

        Args:
            version_dir: the dataset, e.g. `data/threading/1.0.0`.
            store_dir: default: `<version_dir>.store`, beside the dataset. A store there of another dataset, or of other
                settings, is made anew.
            fields: names of the dataset's fields, and the size of its pictures; a dataset of ours needs none.
            val_fraction: share of the episodes that are held out as `val`, if the dataset has no split `val`.
            seed: which ones.

        Raises:
            EpisodeError: the dataset cannot be read; no store appears then.
        """
        import filelock

        version_dir = Path(version_dir)
        directory = Path(store_dir) if store_dir else version_dir.with_name(version_dir.name + ".store")
        settings = {
            "store_version": STORE_VERSION,
            "dataset": dataset_hash(version_dir),
            "fields": explicit(fields) if fields else {},
            "resize": {},  # an option of 0.2; the hashes of stores stay
            **({} if _has_val(version_dir) else {"val_fraction": val_fraction, "seed": seed}),
        }
        source_hash = digest(settings, 16)
        if _is_made_of(directory, source_hash):
            return cls.open(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory.with_name(f".{directory.name}.lock")):  # a second builder waits
            if not _is_made_of(directory, source_hash):
                source = RLDS(version_dir, fields)
                if not source.action:
                    names = ", ".join(source.names)
                    raise EpisodeError(f"{version_dir}: which of {names} is the action? Name it with fields.action")
                splits = splits_of(source, val_fraction, seed)
                with replacing(directory) as new:
                    new.mkdir()
                    episodes = {
                        name: watched(map(source.read, own), f"decode {name}", len(own), "episode", PATIENCE)
                        for name, own in splits.items()
                    }
                    write_store(
                        new,
                        episodes,
                        source=str(version_dir),
                        source_hash=source_hash,
                        metadata=dataset_metadata(version_dir),
                    )
        return cls.open(directory)

    def split(self, name: str) -> StoreSplit:
        return self.splits[choose(name, list(self.splits), f"{self.directory}: split")]


class StoreSplit:
    """The arrays of one split; steps of all episodes one after another.

    Attributes:
        offsets: int64[N + 1], episode i is steps `offsets[i]:offsets[i + 1]`.
        fields: name to array with leading dimension S (all steps): image_* uint8[S, h, w, 3], proprio float32[S, P],
            action float32[S, A], and where the dataset has them rho float32[S], change_point bool[S], phase int32[S].
        language: int32[S], the instruction of each step as an index into `languages`.
        languages: distinct instructions.
        phases: names of the phase codes.
        missing: camera to bool[N], True for episodes whose pictures of that camera the dataset says are none.
    """

    def __init__(self, store: EpisodeStore, name: str, entry: Mapping[str, Any]) -> None:
        self.name, self._store = name, store
        self.languages: list[str] = entry["languages"]
        self.phases: list[str] = entry["phases"]
        self.offsets = self._array("offsets", np.int64, (entry["episodes"] + 1,))
        self.language = self._array("language", np.int32, (entry["steps"],))
        self.missing = {key: self._array(f"missing_{key}", np.bool_, (len(self),)) for key in entry["missing"]}
        self.fields = {
            key: self._array(key, dtype, (entry["steps"], *shape)) for key, (dtype, shape) in entry["fields"].items()
        }

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(np.memmap(self._store.directory / f"{self.name}.{name}.bin", dtype, "r", shape=shape))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def steps(self) -> int:
        return len(self.language)

    @functools.cached_property
    def episodes(self) -> list[dict[str, Any]]:
        """`success` and `metadata` of each episode."""
        return read_json(self._store.directory / f"{self.name}.episodes.json")  # type: ignore[no-any-return]

    def episode(self, index: int) -> Episode:
        """Episode `index` as it was written into the dataset."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        take = {key: np.asarray(value[part]) for key, value in self.fields.items()}
        codes, info = take.pop("phase", None), self.episodes[index]
        texts = tuple(self.languages[code] for code in self.language[part])
        return Episode(
            images={k: v for k, v in take.items() if k.startswith("image_")},
            proprio=take["proprio"],
            action=take["action"],
            language_instruction=texts[0] if len({*texts}) == 1 else texts,
            success=info["success"],
            phase=None if codes is None else np.array(self.phases)[codes],
            rho=take.get("rho"),
            change_point=take.get("change_point"),
            metadata=info["metadata"],
            columns=self._store.columns,
            action_columns=self._store.action_columns,
        )


def _is_made_of(directory: Path, source_hash: str) -> bool:
    """Whether the store of this dataset and these settings is there. Raises EpisodeError: something else is."""
    if (directory / "store.json").exists():
        return bool(read_json(directory / "store.json")["source_hash"] == source_hash)
    if directory.exists() and any(directory.iterdir()):
        raise EpisodeError(f"{directory}: not a store, and not empty; choose another folder")
    return False


def splits_of(source: RLDS, val_fraction: float, seed: int) -> dict[str, list[int]]:
    """Which episodes are `train` and which are `val`: as the dataset says, or a share drawn by the seed.

    Of a dataset with a split `val` other splits than `train` and `val` are left out; of others all splits are one.
    """
    splits = source.splits
    if "val" in splits:
        return {name: [i for i, split in enumerate(splits) if split == name] for name in ("train", "val")}
    train = [i for i, split in enumerate(splits) if split == "train"] or list(range(len(splits)))
    count = min(max(1, round(val_fraction * len(train))) if val_fraction > 0 else 0, len(train) - 1)
    held = {train[i] for i in np.random.default_rng(seed).permutation(len(train))[:count]}
    return {"train": [i for i in train if i not in held]} | ({"val": sorted(held)} if held else {})


def _has_val(version_dir: Path) -> bool:
    """Without opening the dataset, which takes TensorFlow."""
    splits = read_json(version_dir / "dataset_info.json").get("splits", [])
    return any(split["name"] == "val" for split in splits)


def write_store(
    folder: Path,
    splits: Mapping[str, Iterable[Episode]],
    *,
    source: str,
    source_hash: str,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the files of a store into an empty folder; memory holds one episode, and all states and actions.

    Args:
        splits: episodes of `train` and of others, all with the same fields and sizes.
        source, source_hash, metadata: what they are made from; another hash is another store.

    Raises:
        EpisodeError: an episode unlike the first one.
    """
    written, kept = {}, {}
    for split, episodes in splits.items():
        written[split], kept[split] = _write_split(folder, split, episodes)
    train = kept["train"]
    columns = {"proprio": train[0].columns, "action": train[0].action_columns}
    statistics = dataset_statistics([e.action for e in train], [e.proprio for e in train], columns["action"])
    save_statistics(statistics, folder / STATISTICS)
    account = {
        "store_version": STORE_VERSION,
        "source": source,
        "source_hash": source_hash,
        "metadata": dict(metadata or {}),
        "columns": {key: str(one) for key, one in columns.items() if one},
        "splits": written,
    }
    write_json(folder / "store.json", account)


def _write_split(folder: Path, split: str, episodes: Iterable[Episode]) -> tuple[dict[str, Any], list[Episode]]:
    """Appends episodes to the files of a split; returns what `store.json` says of it, and them without pictures."""
    kept: list[Episode] = []
    fields: dict[str, tuple[str, tuple[int, ...]]] = {}
    languages, phases = dict[str, int](), dict[str, int]()  # text to its number
    with contextlib.ExitStack() as files:
        streams: dict[str, Any] = {}
        for episode in episodes:
            arrays = episode.arrays
            if episode.phase is not None:
                arrays["phase"] = _numbered(map(str, episode.phase), phases)
            found = {key: (value.dtype.str, value.shape[1:]) for key, value in arrays.items()}
            fields = fields or found
            if changed := differences(fields, found):
                raise EpisodeError(f"{episode.name} is unlike the first episode ({in_words(changed)})")
            text = episode.language_instruction
            arrays["language"] = _numbered([text] * len(episode) if isinstance(text, str) else text, languages)
            for key, value in arrays.items():
                if key not in streams:
                    streams[key] = files.enter_context(open(folder / f"{split}.{key}.bin", "wb"))
                streams[key].write(np.ascontiguousarray(value).data)
            kept.append(episode.replace(images={}))
    offsets = np.cumsum([0, *map(len, kept)])
    offsets.astype(np.int64).tofile(folder / f"{split}.offsets.bin")
    missing = sorted({camera for episode in kept for camera in episode.metadata.get(MISSING, ())})
    for camera in missing:
        flags = [camera in episode.metadata.get(MISSING, ()) for episode in kept]
        np.array(flags).tofile(folder / f"{split}.missing_{camera}.bin")
    about = [{"success": bool(episode.success), "metadata": dict(episode.metadata)} for episode in kept]
    (folder / f"{split}.episodes.json").write_text(json.dumps(about))
    account = {
        "episodes": len(kept),
        "steps": int(offsets[-1]),
        "languages": list(languages),
        "phases": list(phases),
        "missing": missing,
        "fields": fields,
    }
    return account, kept


def _numbered(texts: Iterable[str], numbers: dict[str, int]) -> np.ndarray:
    """The number of each text; a new text gets the next number."""
    return np.asarray([numbers.setdefault(text, len(numbers)) for text in texts], np.int32)
