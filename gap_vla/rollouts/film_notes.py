"""What a film tells of itself: of which episode and whose it is, whether it was changed, and how its pictures look."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from gap_vla.core.marks import content_mark, stamp
from gap_vla.core.whole import replacing

_FILM = r"episode_([0-9]{4}|[1-9][0-9]{4,})_(failure|success)\.mp4"
"""Names of films in the folder `videos`."""

SHOWN_SIZE = 256
"""Small pictures are enlarged by a whole factor to about this height, so that their pixels stay what they are."""

_NOTE = re.compile(rb"....freegap_vla:film ([^;\0]+); ([^\0]+)....freegap_vla:rollout\Z", re.DOTALL)
_LONGEST = 400
"""Bytes of the note and the mark behind it at most."""


def film_of(name: str) -> int | None:
    """The number of the episode that a film shows; None for other names."""
    return int(found[1]) if (found := re.fullmatch(_FILM, name)) else None


def film_contradicts(name: str, outcomes: Mapping[int, bool]) -> bool:
    """Whether a film, by its name, shows one of these episodes that ended otherwise."""
    number, won = film_of(name), name.endswith("success.mp4")
    return number is not None and outcomes.get(number, won) != won


def put_note(film: Path, whose: str) -> None:
    """Writes into a finished film whose it is, with a checksum, in a box that players skip; its mark stays the last."""
    content = film.read_bytes()
    told = f"gap_vla:film {whose}; {content_mark(content)}".encode()
    with replacing(film) as temporary:
        temporary.write_bytes(content + struct.pack(">I", 8 + len(told)) + b"free" + told)
        stamp(temporary, "rollout")


def unlike_note(film: Path, whose: str) -> str:
    """How a film is other than its note says, in words; "" if it is as it was made, or has none, as those of before.

    Args:
        whose: see `put_note`; one that ends in a blank is the beginning of it.
    """
    content = film.read_bytes()
    if not (found := _NOTE.search(content, max(0, len(content) - _LONGEST))):
        return ""
    told = found[1].decode(errors="replace")
    if told != whose and not (whose.endswith(" ") and told.startswith(whose)):
        return f"is of {told}, not of {whose.removesuffix(', layout ')}"
    return "" if content_mark(content[: found.start()]).encode() == found[2] else "was changed since it was made"


def scale_of(height: int) -> int:
    """By which factor pictures of this height are enlarged."""
    return max(1, SHOWN_SIZE // height)


def shown_otherwise(packets: Sequence[str], size: int | None, fps: float) -> str:
    """How a film is shown other than square pictures that were drawn of this size (None: nobody knows it) at this rate,
    in words; "" if it is not.

    Args:
        packets: see `gap_vla.drawing.video.packets`.
    """
    told = "\n".join(packets)
    sides = re.search(r"^#dimensions 0: (\d+x\d+)$", told, re.MULTILINE)
    side = None if size is None else size * scale_of(size) // 2 * 2  # as H.264 wants them
    if side and sides and sides[1] != f"{side}x{side}":
        return f"has pictures of {sides[1]}, not of {side}x{side}"
    unit = re.search(r"^#tb 0: (\d+)/(\d+)$", told, re.MULTILINE)
    lasts = re.search(r"^0, *-?\d+, *-?\d+, *([1-9]\d*),", told, re.MULTILINE)
    if unit and lasts and abs((rate := int(unit[2]) / (int(unit[1]) * int(lasts[1]))) - fps) > 0.01 * fps:
        return f"shows {rate:g} pictures a second, not {fps:g}"
    return ""
