"""Checks of pictures over all episodes: each stream occurs once, and every episode shows the scene as the others do."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from gap_vla.rlds.checking.report import Finding, Recording

Glance = Float[np.ndarray, "8 8 3"]
CELLS = 8
DIFFERENT = 8.0
"""Grey levels, root mean square, from which on two glances show different things."""
UNUSUAL = 1.5
"""Times the usual distance, up to which the objects that each episode places elsewhere are what differs."""
MUCH_CLOSER = 0.55
"""A change of the picture that leaves less than this share of the distance to the other episodes undoes a mistake."""
SAME = 0.5
"""Share of an episode's pictures from which on it is another's film, be it cut or held at its end."""
FEW = 0.2
"""Pictures of a film, as a share of its steps, up to which it says what rests, and not which episode it is of."""
AT_MOST = 200
"""Episodes among which the usual one is chosen."""

MISTAKES: dict[str, Callable[[Glance], Glance]] = {
    "upside down": lambda g: g[::-1],
    "mirrored": lambda g: g[:, ::-1],
    "turned by 180°": lambda g: g[::-1, ::-1],
    "turned by 90°": lambda g: np.rot90(g),
    "turned by -90°": lambda g: np.rot90(g, -1),
    "with red and blue exchanged": lambda g: g[..., ::-1],
    "inverted": lambda g: 255 - g,
}
OF_COLOURS = ("with red and blue exchanged", "inverted")
LIKE_OTHERS = 1.25
"""Times the usual distance, up to which a change of colours undoes a mistake, whatever it leaves, of an episode that is
`_alone_in_its_colours`: that objects lie elsewhere does not look like other colours."""
NEARER = 0.8
"""Share of the distance to the nearest other episode that such a change leaves; scenes may be of several colours."""

RIVALS = 0.8
"""Share of what a shift by half leaves, below which a change undoes a mistake; in simulated scenes it is below a half.
Where a shift does as well, an object lies on the other side."""

GREYS = ((1 / 3, 1 / 3, 1 / 3), (0.299, 0.587, 0.114))
"""Weights of red, green and blue by which colours become grey: their mean, and luma (ITU-R BT.601)."""
FAR, FAR_TIMES = 25.0, 4.0
"""Grey levels, and times the usual distance, beyond which an episode does not show what the others show."""


def cells(frames: UInt8[np.ndarray, "T h w 3"]) -> Float[np.ndarray, "T 8 8 3"]:
    """Pictures in 8 × 8 cells, their means."""
    found = frames.astype(np.float32)
    for axis in (1, 2):
        edges = np.linspace(0, found.shape[axis], CELLS + 1)[:-1].astype(int)
        counts = np.maximum(np.diff([*edges, found.shape[axis]]), 1)
        found = np.add.reduceat(found, edges, axis) / np.expand_dims(counts, (0, 2, 3) if axis == 1 else (0, 1, 3))
    return found


def glance(frames: UInt8[np.ndarray, "T h w 3"]) -> Glance:
    """The mean of an episode's pictures, in 8 × 8 cells: what a camera sees on the whole."""
    return cells(frames.mean(0, dtype=np.float64)[None])[0].astype(np.float64)


def of_one_colour(frame: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether it shows nothing, black or in any other colour."""
    corner = frame[0, 0]
    return bool((frame[0] == corner).all() and (frame == corner).all())


def prints(frames: UInt8[np.ndarray, "T h w 3"]) -> frozenset[bytes]:
    """A hash of each picture that is not of one colour."""
    shown = (frame for frame in frames if not of_one_colour(frame))
    return frozenset(hashlib.blake2b(frame.tobytes(), digest_size=8).digest() for frame in shown)


def check_streams(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """No two cameras show the same, and no camera shows the same in two episodes that act differently."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    seen: dict[tuple[str, bytes], Recording] = {}
    for episode in episodes:
        shown = {camera: g for camera, g in sorted(episode.glances.items()) if np.ptp(g, axis=(0, 1)).any()}
        for a, b in itertools.combinations(shown, 2):
            if np.array_equal(shown[a], shown[b]):
                alike[a, b].append(episode.name)
        for camera, own in sorted(episode.prints.items()):
            shared = Counter(seen.setdefault((camera, one), episode).name for one in own)
            del shared[episode.name]
            for name, count in shared.most_common(1):
                first = next(other for other in episodes if other.name == name)
                least = min(len(own), len(first.prints[camera]))
                film = len(own) > FEW * len(episode)  # else what rests, as a hand whose arm is not used
                if film and count > SAME * least and not _part_of(first.action, episode.action):
                    text = f"{camera} shows the same pictures as in {name}, where other actions are taken; drop one"
                    yield Finding("warning", "pictures", text, episode.name)
    for (a, b), names in alike.items():
        text = f"{a} and {b} show the same pictures in {len(names)} of {len(episodes)} episodes; leave one camera out"
        yield Finding("warning", "pictures", text, names[0])


def _part_of(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the shorter of two recordings' actions are steps in a row of the longer one's."""
    short, long = sorted((one, other), key=len)
    return any(np.array_equal(short, long[i : i + len(short)]) for i in range(len(long) - len(short) + 1))


def check_views(episodes: Sequence[Recording]) -> Iterator[Finding]:
    """Each camera is the same way up, in the same colours and the same camera in every episode."""
    cameras = sorted(set.intersection(*(set(e.glances) for e in episodes)))
    if len(episodes) < 3:
        return
    usual = {camera: _usual([e.glances[camera] for e in episodes]) for camera in cameras}
    spread = {c: float(np.median([_distance(e.glances[c], usual[c]) for e in episodes])) for c in cameras}
    for episode in episodes:
        exchanged = {
            (a, b)
            for a, b in itertools.combinations(cameras, 2)
            if _closer(episode.glances[a], usual[b], usual[a]) and _closer(episode.glances[b], usual[a], usual[b])
        }
        for a, b in exchanged:
            text = f"{a} and {b} are exchanged, compared with most other episodes"
            yield Finding("warning", "pictures", text, episode.name)
        for camera in sorted(set(cameras) - {name for pair in exchanged for name in pair}):
            seen = episode.glances[camera]
            undone = {how: _distance(undo(seen), usual[camera]) for how, undo in MISTAKES.items()}
            how = min(undone, key=lambda name: undone[name])
            far = _distance(seen, usual[camera])
            text = ""
            elsewhere = min(_distance(np.roll(seen, CELLS // 2, axis), usual[camera]) for axis in (0, 1))
            unusual = far > max(DIFFERENT, UNUSUAL * spread[camera])
            closer = undone[how] < MUCH_CLOSER * far
            if unusual and not closer and how in OF_COLOURS and undone[how] < LIKE_OTHERS * spread[camera]:
                others = [e.glances[camera] for e in episodes if e is not episode]
                closer = _alone_in_its_colours(seen, MISTAKES[how](seen), others, usual[camera])
            if unusual and closer and undone[how] < RIVALS * elsewhere:
                text = f"{camera} is {how}, compared with most other episodes"
            elif far > max(FAR, FAR_TIMES * spread[camera]) and not _is_grey_of(seen, usual[camera]):
                text = f"{camera} shows something else than in most other episodes ({far:.0f} grey levels away)"
            elif _coloured(usual[camera]).all() and not _coloured(seen).all():
                text = f"{camera} has lost its colours, which most other episodes have"
            if text:
                yield Finding("warning", "pictures", text, episode.name)


def _alone_in_its_colours(seen: Glance, undone: Glance, others: Sequence[Glance], usual: Glance) -> bool:
    """Whether no other episode is as far from the usual one, and the change makes it much nearer to one of them."""
    far = _distance(seen, usual)
    if any(_distance(other, usual) >= far for other in others):
        return False
    near, before = (min(_distance(one, other) for other in others) for one in (undone, seen))
    return near < NEARER * before


def spread(count: int) -> Int[np.ndarray, " N"]:
    """Places among so many episodes, all of them or `AT_MOST`, evenly."""
    return np.linspace(0, count - 1, min(count, AT_MOST)).astype(int)


def _usual(glances: Sequence[Glance]) -> Glance:
    """The one that is nearest to the others."""
    some = np.stack(glances)[spread(len(glances))]
    return some[np.argmin([np.median([_distance(a, b) for b in some]) for a in some])]


def _distance(a: Glance, b: Glance) -> float:
    return float(np.sqrt(((a - b) ** 2).mean()))


def _coloured(seen: Glance) -> Bool[np.ndarray, " 3"]:
    """Whether red differs from green, green from blue, and blue from red by a grey level or more on the mean."""
    return abs(seen - np.roll(seen, -1, -1)).mean((0, 1)) > 1


def _is_grey_of(seen: Glance, usual: Glance) -> bool:
    """Whether it is without colours, and much nearer to the usual one in grey than to that in its colours."""
    if _coloured(seen).any():
        return False
    nearest = min(_distance(seen, (usual @ np.array(weights))[..., None]) for weights in GREYS)
    return nearest < MUCH_CLOSER * _distance(seen, usual)


def _closer(seen: Glance, other: Glance, own: Glance) -> bool:
    far = _distance(seen, own)
    return far > DIFFERENT and _distance(seen, other) < MUCH_CLOSER * far


PICTURE_CHECKS: tuple[Callable[[Sequence[Recording]], Iterator[Finding]], ...] = (check_streams, check_views)
