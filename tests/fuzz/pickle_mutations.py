"""Pickles that numpy writes, and mutations of their tokens: swapped, dropped, repeated, and hostile ones put in."""

from __future__ import annotations

import itertools
import pickle
import pickletools
import random
from pathlib import Path
from typing import Any

import numpy as np

MARK = Path("/tmp/gap_vla_a_pickle_was_run")

HOSTILE = (
    b"cos\nsystem\n(X%b%btR" % (len(f"touch {MARK}").to_bytes(4, "little"), f"touch {MARK}".encode()),
    b"cbuiltins\neval\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.multiarray\n_reconstruct\n",
    b"cnumpy._core.numeric\n_frombuffer\n",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"X\x02\x00\x00\x00O8\x89\x88\x87R",
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb",  # an object type's state
    b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",  # the same with its flag cleared
    b"C\x08AAAAAAAA", b"h\x00", b"j\xff\xff\xff\xff", b"r\xff\xff\xff\xff", b"2" * 30, b"(" * 30, b"]" * 30,
    b"0", b"1", b"R", b"b", b"o", b"\x81", b"\x92", b"i" + b"os\nsystem\n", b"Pid\n", b"Q", b"\x82\x01", b"\x97",
    b"\x98", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"I99999999999999999999\n", b"S'\\x'\n",
    b"e", b"a", b"s", b"u", b"d", b"l", b"t", b"\x85", b"\x86", b"\x87", b"N", b"}", b")",
)  # fmt: skip


def healthy() -> list[bytes]:
    """One recording in every protocol, of every kind of array and scalar that is read."""
    rng = np.random.default_rng(0)
    recording: dict[str, Any] = {
        "state": rng.normal(size=(6, 9)),
        "action": np.asfortranarray(rng.uniform(-1, 1, (6, 4)).astype(np.float32)),
        "image": rng.integers(0, 255, (6, 2, 2, 3), dtype=np.uint8),
        "flipped": np.arange(24, dtype=">i4").reshape(2, 3, 4).transpose(1, 0, 2),
        "phase": np.array(["reach", "grasp"] * 3),
        "names": np.array([b"a", b"bc"]),
        "rate": np.float64(20.0),
        "done": np.bool_(True),
        "none": np.zeros((0, 3)),
        "text": "put the peg in",
        "steps": [np.float32(1.5), 2, 3.25, None, (True, b"x")],
    }
    return [pickle.dumps([recording, recording["state"]], protocol) for protocol in range(6)]


def mutated(draw: random.Random, content: bytes, tokens: list[bytes]) -> bytes:
    """One to three changes of the tokens; in every third case of bytes instead."""
    if draw.random() < 0.33:
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 8))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed[: draw.choice((None, None, None, None, draw.randrange(len(changed))))])
    tokens = list(tokens)
    for _ in range(draw.choice((1, 1, 2, 3))):
        a, b = draw.randrange(len(tokens)), draw.randrange(len(tokens))
        kind = draw.randrange(5)
        if kind == 0:
            tokens[a], tokens[b] = tokens[b], tokens[a]
        elif kind == 1:
            del tokens[a : a + draw.randint(1, 3)]
        elif kind == 2:
            tokens[a:a] = tokens[b : b + draw.randint(1, 6)]
        elif kind == 3:
            tokens[a] = draw.choice(HOSTILE)
        else:
            tokens[a:a] = [draw.choice(HOSTILE) for _ in range(draw.randint(1, 3))]
        if not tokens:
            return b""
    return b"".join(tokens)


def tokens_of(content: bytes) -> list[bytes]:
    places = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    return [content[a:b] for a, b in itertools.pairwise(places)]
