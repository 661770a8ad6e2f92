"""What a reader offers: episodes by index, images optional, and a fingerprint of the files they come from."""

from __future__ import annotations

import abc
import copy
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import is_text, one_line, refusing
from gap_vla.core.identity import plain
from gap_vla.core.typed_config import choose
from gap_vla.demos import fields
from gap_vla.demos.content import Unchanged, content_digest, listed
from gap_vla.demos.layout import StateLayout

READERS: dict[str, str] = {
    "robomimic_hdf5": "gap_vla.demos.robomimic_hdf5:RobomimicHDF5",
    "lerobot": "gap_vla.demos.lerobot:LeRobot",
    "npz": "gap_vla.demos.npz_folder:NpzFolder",
    "pickle": "gap_vla.demos.array_pickles:ArrayPickles",
    "rlds": "gap_vla.rlds.source:RLDS",
}
"""Format name to `module:class`; a new format is one new file and one line here."""


class Source(Sequence[Episode], abc.ABC):
    """Demonstrations on disk, addressed by index.

    It can be sent to another process: files are opened per read.
    """

    kind: str
    path: Path
    options: dict[str, Any]
    places: Sequence[Any]
    unchanged: Callable[[], None] | None = None  # of `open_source`
    ACTION_LIMIT: ClassVar[float | None] = fields.ACTION_LIMIT

    @property
    def action_limit(self) -> float | None:
        """The largest action that these demonstrations may hold; None: any."""
        return self.options.get("action_limit", self.ACTION_LIMIT)

    def stated_limit(self, limit: float | None) -> dict[str, float | None]:
        """The option `action_limit` where it is another than this reader's; datasets made without it stay the same."""
        return {} if fields.checked_limit(limit) == self.ACTION_LIMIT else {"action_limit": limit}

    def __len__(self) -> int:
        return len(self.places)

    @property
    def files(self) -> Collection[Path]:
        """Of a folder in which each file is read for itself."""
        return ()

    @abc.abstractmethod
    def read(self, index: int, *, images: bool = True) -> Episode:
        """Episode `index`, validated; without its images if `images` is False (fast, for annotation)."""

    def look(self) -> None:
        """Looks at all episodes and reads none, so that what shows at once is refused before long work."""

    def mapping(self) -> dict[str, str]:
        """Where an episode's fields come from: `image_primary`, `proprio`, `action`, `phase`, `success` and
        `language_instruction` to names in the files."""
        return {}

    def dropped(self) -> list[str]:
        """What the files hold and the conversion leaves out."""
        return []

    def account(self) -> str:
        """What of the files was taken for what, and what for nothing (also where it is compared), on two lines."""
        return account(self.path, UNSAID | self.mapping(), self.dropped())

    def _refuse_idle(self, instruction: str | None, own: Iterable[Any]) -> None:
        """Raises EpisodeError for the option `language_instruction` if every episode has its own, not a blank one."""
        if instruction and all(fields.as_instruction(one, "", f"{self.path}").strip() for one in own):
            raise EpisodeError(f"{self.path}: no episode is without an instruction; leave language_instruction out")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.read(index % len(self))

    def __iter__(self) -> Iterator[Episode]:
        return map(self.read, range(len(self)))  # that of `Sequence` ends where reading raises IndexError

    def without_images(self) -> list[Episode]:
        """All episodes, proprioception and actions only."""
        return [self.read(i, images=False) for i in range(len(self))]

    def identity(self) -> dict[str, Any]:
        """What the episodes are made from: kind, options and a hash of every file's content."""
        return {
            "kind": self.kind,
            "options": json.loads(json.dumps(plain(self.options, "options", EpisodeError))),
            "content": content_digest(self.path),
        }


BESIDE = ("phase", "language_instruction", "success")
"""Names of what a recording of arrays may say beside its state, actions and pictures."""


class NamedArrays(Source):
    """Recordings of arrays by name; options say which of them are the state, the actions and the cameras.

    Args:
        path: file or folder.
        state_key, action_key: names of the arrays.
        image_keys: array name to camera name, e.g. `{"image": "image_primary"}`; default: `image_primary` and
            `image_wrist`, where there are arrays of that name.
        layout: columns of the state, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes.
        language_instruction: used where a recording has none.
        action_limit: the largest action; null: whatever is there.
    """

    STATE_KEY: ClassVar[str]
    _image_keys: Mapping[str, str]
    _names: Sequence[str]  # of the arrays of all recordings together
    _times: Mapping[str, int] = types.MappingProxyType({})  # recordings that state each of `OTHERS`

    def __init__(
        self,
        path: Path,
        *,
        state_key: str | None = None,
        action_key: str = "action",
        image_keys: Mapping[str, str] | None = None,
        layout: str | Mapping[str, Any] = "gap",
        language_instruction: str = "",
        action_limit: float | None = fields.ACTION_LIMIT,
    ) -> None:
        self.path = Path(path)
        self.options = {
            "state_key": self.STATE_KEY if state_key is None else state_key,
            "action_key": action_key,
            "image_keys": None if image_keys is None else dict(image_keys),
            "layout": layout if isinstance(layout, str) else copy.deepcopy(dict(layout)),
            "language_instruction": language_instruction,
            **self.stated_limit(action_limit),
        }
        self._image_keys = self.options["image_keys"] or {}
        self._layout = StateLayout.of(layout)
        self._find()

    def _find(self) -> None:
        """Looks at what files there are."""

    def mapping(self) -> dict[str, str]:
        cameras = {camera: key for key, camera in self._image_keys.items()}
        state = f"{self.options['state_key']} ({self._layout})"
        beside = {key: key for key in BESIDE if key in self._names}
        beside |= {key: stated(key, key, self._times.get(key, len(self)), len(self)) for key in OTHERS if key in beside}
        if self.options.get("language_instruction"):
            beside["language_instruction"] = "--reader, where a recording has none"
        return cameras | {"proprio": state, "action": self.options["action_key"]} | beside

    def dropped(self) -> list[str]:
        return self._unused(*BESIDE)

    def _take_images(self) -> None:
        """The arrays that are named as the cameras, where `image_keys` does not say which are.

        Raises EpisodeError: no recording has an array that `image_keys` names, or one is nearly named so.
        """
        if self.options["image_keys"] is None:
            self._image_keys = {name: name for name in fields.IMAGE_NAMES if name in self._names}
            fields.require_spelling({*self._names} - {*fields.IMAGE_NAMES}, fields.IMAGE_NAMES, f"{self.path}")
        if lost := sorted(set(self._image_keys).difference(self._names)):
            there = one_line(", ".join(self._names), 300)
            raise EpisodeError(
                f"{self.path}: no array {one_line(lost[0], 60)!r}, which image_keys names; there are {there}"
            )

    def _unused(self, *others: str) -> list[str]:
        """The names of arrays that are neither named by the options nor among the `others`."""
        used = {self.options["state_key"], self.options["action_key"], *self._image_keys, *others}
        return [name for name in self._names if name not in used]

    def _episode(self, arrays: Mapping[str, Any], where: str, images: bool, *, file: Path, name: str) -> Episode:
        """Picks what is used out of one recording's arrays, found in `file` under a `name`."""
        state, action = self.options["state_key"], self.options["action_key"]
        cameras = self._image_keys if images else {}
        with refusing(where, "write it again", EpisodeError):
            for key in (state, action, *cameras):
                if key not in arrays:
                    raise EpisodeError(
                        f"{where}: no {key!r} (found: {one_line(', '.join(map(str, arrays))) or 'nothing'}); "
                        "name it with --reader"
                    )
            known = {state, action, *cameras, *BESIDE}
            fields.require_spelling(map(str, arrays), known, where)
            rows = fields.as_rows(arrays[state], f"{where}: {state!r}")
            self._layout.require_positions([state] * rows.shape[1], where)
            phase = arrays.get("phase")
            text = arrays.get("language_instruction")
            return Episode(
                action=fields.as_actions(arrays[action], self.action_limit, f"{where}: {action!r}"),
                images={camera: fields.as_frames(arrays[key]) for key, camera in cameras.items()},
                proprio=self._layout.to_proprio(rows, where),
                phase=None if phase is None else fields.as_names(phase, f"{where}: 'phase'"),
                language_instruction=fields.as_instruction(text, self.options.get("language_instruction", ""), where),
                success=fields.as_truth(arrays.get("success", True), f"{where}: 'success'"),
                metadata={"file_path": str(file), "episode_id": name, **self._layout.facts},
            ).validate()


OTHERS = {"success": "count as true", "language_instruction": "have none"}
"""Fields that some of the recordings may state, and what becomes of the others."""


def stated(field: str, name: str, times: int, recordings: int) -> str:
    """What a mapping says of a field of `OTHERS`, which a name states in so many of all recordings."""
    return name if times == recordings else f"{name} (stated in {times} of {recordings}, the others {OTHERS[field]})"


UNSAID = {"language_instruction": "none", "success": "none, so true"}
"""What an account says of fields that no file has."""


def account(path: Path, taken: Mapping[str, str], unread: Iterable[str]) -> str:
    """As `Source.account`."""
    read = ", ".join(f"{field} <- {name}" for field, name in taken.items())
    others = ", ".join(sorted(unread)) or "nothing"
    return f"{path}: {one_line(read, 2000)}\n  not taken: {one_line(others, 4000)}"


def open_source(path: str | Path, kind: str = "robomimic_hdf5", **options: Any) -> Source:
    """Opens demonstrations of a known format.

    Args:
        path: file or folder; a relative one leads from the folder that is the present one at each read.
        kind: a name in `READERS`.
        **options: the reader's own options.

    Raises:
        EpisodeError: as `check_options`; missing path, a pipe or a device; or a file that is not of this kind.
    """
    check_options(kind, options)
    path = Path(path)
    if not path.exists():
        raise EpisodeError(f"{path}: no such file or folder")
    if kind == "robomimic_hdf5" and path.is_dir():
        known = "lerobot" if (path / "meta" / "info.json").exists() else " or ".join(k for k in READERS if k != kind)
        raise EpisodeError(f"{path} is a folder, not an HDF5 file; say its kind, {known} (--kind or demos.kind)")
    for file in (path, *listed(path)):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise EpisodeError(f"{file}: neither a file nor a folder; put what it gives into a file, to be read twice")
        if not is_text(str(file)):
            raise EpisodeError(f"{str(file)!a}: its name is not UTF-8; rename it")
    unchanged = Unchanged(path, coming="*")  # what comes later is in `identity`, and in no list of recordings
    source: Source = reader_class(kind)(path, **options)
    source.unchanged = unchanged
    return source


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Compares options with the parameters of a reader and their annotated types.

    Raises EpisodeError: unknown kind or option, a value of another type, or what is no camera's name.
    """
    create = reader_class(kind).__init__
    known = {name: hint for name, hint in typing.get_type_hints(create).items() if name not in ("path", "return")}
    for name, value in options.items():
        if name not in known:
            raise EpisodeError(f"{kind} has no option {one_line(name, 60)!r}; it has {', '.join(known)}")
        if not _is_of(known[name], value):
            wanted = create.__annotations__[name].replace("None", "null")
            raise EpisodeError(f"{kind}: {name} is {one_line(repr(value), 60)}; give a value of the type {wanted}")
    fields.require_cameras([*(options.get("image_keys") or {}).values()], f"{kind}: image_keys")


def _is_of(hint: Any, value: Any) -> bool:
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is types.UnionType:
        return any(_is_of(part, value) for part in parts)
    if kind is None:
        plain = hint is Any or isinstance(value, (int, float) if hint is float else hint)
        return plain and (hint in (Any, bool) or not isinstance(value, bool)) and (hint is not str or is_text(value))
    if not isinstance(value, Mapping):
        return isinstance(value, kind) and all(_is_of(parts[0], item) for item in value)
    return isinstance(value, kind) and all(_is_of(parts[0], k) and _is_of(parts[1], v) for k, v in value.items())


def reader_class(kind: str) -> type[Any]:
    """The reader of a format. Raises EpisodeError: it is unknown."""
    return pkgutil.resolve_name(READERS[choose(kind, list(READERS), "kind", EpisodeError)])


def read(path: str | Path, kind: str = "robomimic_hdf5", **options: Any) -> Iterator[Episode]:
    """Yields every demonstration in `path`; see `open_source`."""
    yield from open_source(path, kind, **options)
