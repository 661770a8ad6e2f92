"""What attributes say of an HDF5 file's demonstrations and arrays, and arrays that are not as they say."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import h5py
import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import is_text, one_line, refusing
from gap_vla.demos import fields
from gap_vla.demos.beside import COUNTS_OF_ALL
from gap_vla.demos.layout import METRES, UNIT, UNITS

NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
"""Classes of types whose values are numbers or truth values."""

FACTS = ("success", "language_instruction")
"""Attributes of a demonstration, or of `data` for all that have none."""

OF_DEMO = ("num_samples", "ep_meta", *FACTS)
"""Attributes that are read of a demonstration."""

OF_DATA = ("env_args", "total", "num_samples", *COUNTS_OF_ALL, *FACTS)
"""Attributes that are read of `data`."""

OF_ALL = ("task", "variant", "layout_version", "pictures_version", "control_hz", "action_noise")
"""Attributes of `data` that say of all demonstrations of a file of ours how they were made."""

PACKED = {"scale_factor": 1, "add_offset": 0, "_Unsigned": "false"}
"""Attributes with which netCDF packs an array's numbers, and what says that nothing is."""

BOUNDS = ("_FillValue", "missing_value", "valid_min", "valid_max", "valid_range")
"""Attributes with which netCDF says which of an array's numbers were measured."""

SCALES = (
    "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_ARRAY_DIMENSIONS", "TITLE", "VERSION",
    "FLAVOR", "MATLAB_class", "MATLAB_int_decode",
)  # fmt: skip
"""Attributes with which HDF5 and netCDF keep what the axes are called."""

_READ_AS = {"eef_pos": "m", "eef_quat": "xyzw", "gripper_qpos": "m"}
"""What the parts of a robot's proprioception are read in."""

_COLOURS = re.compile(r"(?:(?:colou?r|channel)s?_?(?:order|space)|channels|pixel_?format)", re.IGNORECASE)
_BGR = re.compile(r"\W*b\w*\W+g\w*\W+r\w*\W*|bgr\w*")

_WXYZ = re.compile(r"\W*(?:(?:q|quat|quaternion)\W+)?w\W*x\W*y\W*z\W*")

_ORDERS = ("order", "quaternion_order", "format", "convention", "names", "columns", "labels", "column_names")
"""Attributes in which people say in which order a position's or quaternion's numbers stand."""


def names_in(holder: Iterable[Any], where: str) -> list[str]:
    """Names of a group's members, or of attributes. Raises EpisodeError: one is no text."""
    if odd := [name for name in holder if not is_text(name)]:
        raise EpisodeError(f"{where}: holds {odd[0]!a}, whose name is not UTF-8; rename it")
    return list(holder)


def attributes_of(item: h5py.Group, needed: Collection[str]) -> dict[str, Any]:
    """The attributes that are needed, and others that are a number, a truth value or text; the rest is left out.

    Raises EpisodeError: as `attribute_of`, of what is needed.
    """
    axes = {name: _axes(item, name) for name in names_in(item.attrs, f"{item.file.filename}, {item.name}")}
    single = [name for name, number in axes.items() if number == 0 or (number and name in OF_ALL)]
    found = {}
    for name in [name for name in axes if name in needed or name in single]:
        with contextlib.suppress(*(() if name in needed else (EpisodeError,))):  # text of another encoding
            found[name] = attribute_of(item, name)
    return found


def attribute_of(item: h5py.Group, name: str) -> Any:
    """A number, a truth value or text, be it in an array of one; None if there is no such attribute. Raises
    EpisodeError: the attribute is something else."""
    if name not in item.attrs:
        return None
    where = f"{item.file.filename}, {item.name}: the attribute {name!r}"
    if _axes(item, name) is None:
        raise EpisodeError(f"{where} is not one number, truth value or text; write one, or remove it")
    with refusing(f"{where} cannot be read", "write it again", EpisodeError):
        value = item.attrs[name]
        value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
        if name in FACTS and (names := h5py.check_enum_dtype(item.attrs.get_id(name).dtype)):
            value = next((word for word, number in names.items() if number == value), value)
        return fields.decoded(value) if isinstance(value, (str, bytes)) else value


def is_single(item: h5py.Group, name: str) -> bool:
    """Whether there is such an attribute, of one number, truth value or text."""
    return name in item.attrs and _axes(item, name) is not None


def holds_text(item: h5py.Group, name: str) -> bool:
    """Whether an attribute that is there is text, or a list of it."""
    return bool(item.attrs.get_id(name).get_type().get_class() == h5py.h5t.STRING)


def _axes(item: h5py.Group, name: str) -> int | None:
    """Axes of an attribute that is one number, truth value or text; None if it is something else."""
    stored = item.attrs.get_id(name)
    single = stored.get_space().get_simple_extent_npoints() == 1
    return len(stored.shape) if single and stored.get_type().get_class() in (*NUMBERS, h5py.h5t.STRING) else None


def require_as_declared(found: h5py.Dataset, values: np.ndarray, where: str) -> None:
    """Raises EpisodeError: by attributes of the array, as netCDF and xarray write them, its numbers are others, or some
    of them none."""
    packed = {name: attribute_of(found, name) for name in PACKED}
    told = [f"{name} {value}" for name, value in packed.items() if value not in (None, PACKED[name])]
    if told:
        raise EpisodeError(f"{where} is packed ({', '.join(told)}); write the numbers themselves")
    for name in [name for name in BOUNDS if name in found.attrs and found.ndim < 4]:  # pictures may be black
        no_number = refusing(f"{where}: the attribute {name!r} is no number", "write one, or remove it", EpisodeError)
        with no_number, np.errstate(all="ignore"):  # one that the array's type does not hold is none of its numbers
            said = (
                np.asarray(found.attrs[name])
                .reshape(-1)
                .astype(values.dtype if "alue" in name or values.dtype.kind == "f" else np.float64)
            )
            low, high = said[0], said[-1]
        beyond = {
            "valid_min": values < low,
            "valid_max": values > high,
            "valid_range": (values < low) | (values > high),
        }
        if (odd := beyond.get(name, np.isin(values, said))).any():
            place = np.argwhere(odd)[0].tolist()
            advice = "it was not measured: repair or drop the episode, or correct the attribute"
            raise EpisodeError(f"{where} is {values[tuple(place)]} at {place}, by its {name} none; {advice}")


def require_written(found: h5py.Dataset, values: np.ndarray, where: str) -> None:
    """Raises EpisodeError: rows hold what HDF5 gives for what was never written, where the file says what that is."""
    plan = found.id.get_create_plist()
    named = plan.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED and found.fillvalue != 0
    if named and values.ndim > 1 and values[:1].size > 1:
        lost = np.flatnonzero((values == found.fillvalue).reshape(len(values), -1).all(axis=1))
        if len(lost):
            advice = "the recording was cut off, get it again"
            raise EpisodeError(f"{where}: step {lost[0]} was never written (fill value {found.fillvalue}); {advice}")


def require_unit(rows: h5py.Dataset, part: str, metres: bool, where: str) -> None:
    """Raises EpisodeError: an attribute says that the columns are in another unit, or a quaternion in another
    order."""
    for holder in _holders(rows):
        for name in [name for name in holder.attrs if name.lower() in UNITS]:
            texts = texts_of(holder, name)
            words = [word for text in texts for word in re.split(r"[\s,;\[\]()]+", text.lower()) if word]
            odd = [word for word in words if _is_odd(word, part, metres, own=holder == rows)]
            if odd:
                of, unit = where if holder == rows else f"{where}: {holder.name}", _READ_AS[part]
                what = f"{of} says that it is in {odd[0]!r}, it is read as {unit}"
                raise EpisodeError(f"{what}; convert it, and the attribute")
    order = {"eef_pos": "xyz", "eef_quat": "xyzw"}.get(part, "")
    for name in rows.attrs if order else ():
        said = str(texts_of(rows, name))
        apart = any(_WXYZ.fullmatch(text.lower()) for text in texts_of(rows, name))
        if name.lower() not in _ORDERS and not (apart and part == "eef_quat"):
            continue
        words = re.findall(rf"(?<![a-z])(?:q|quat|quaternion|pos|eef)?[_. -]?([{order}]+)(?![a-z])", said.lower())
        letters = "".join(words)
        if sorted(letters) == sorted(order) and letters != order:
            shown = one_line(", ".join(texts_of(rows, name)), 60)
            what = f"{where}: the attribute {name!r} says {shown}, it is read as {order}"
            raise EpisodeError(f"{what}; write the columns so, and the attribute")
    first = attribute_of(rows, "scalar_first") if part == "eef_quat" else None
    if first is not None and fields.as_truth(first, f"{where}: the attribute 'scalar_first'"):
        raise EpisodeError(f"{where}: the attribute 'scalar_first' is true, it is read as xyzw; write it so")


def _is_odd(word: str, part: str, metres: bool, *, own: bool) -> bool:
    """Whether a unit that an array has of its `own`, or what holds it, is not what the part is read in."""
    if part == "eef_quat":
        return own and re.search(r"deg|rad|euler|wxyz", word) is not None
    if not own:
        return part == "eef_pos" and UNIT.search(word) is not None and not word.startswith("deg")
    return word not in METRES and (part == "eef_pos" or metres)


def require_rgb(film: h5py.Dataset, where: str) -> None:
    """Raises EpisodeError: an attribute of pictures, or one about channels of what holds them, says BGR."""
    for holder in _holders(film):
        for name in names_in(holder.attrs, where):
            if (holder == film or _COLOURS.fullmatch(name)) and holds_text(holder, name):
                said = ", ".join(texts_of(holder, name))
                if _BGR.fullmatch(said.lower()):
                    of = where if holder == film else f"{where}: {holder.name}"
                    what = f"{of}: the attribute {name!r} says {one_line(said, 60)}, it is read as RGB"
                    raise EpisodeError(f"{what}; exchange the channels, and correct the attribute")


def _holders(array: h5py.Dataset) -> Iterator[h5py.Group | h5py.Dataset]:
    """An array, and the groups that it lies in: `obs`, the demonstration, `data`."""
    yield from (array, array.parent, array.parent.parent, array.parent.parent.parent)


def texts_of(item: h5py.Group | h5py.Dataset, name: str) -> list[str]:
    """What an attribute that is there holds, be it text, bytes or numbers, one by one."""
    try:
        value = item.attrs[name]
    except (OSError, TypeError, ValueError):  # of a kind that h5py does not know, as times
        return []
    values = [] if isinstance(value, h5py.Empty) else np.asarray(value).reshape(-1).tolist()
    return [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in values]
