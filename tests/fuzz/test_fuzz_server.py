"""Whatever a client sends, the server answers with actions or with a short text; it never raises."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import msgpack
import numpy as np
import pytest
from harness import damaged, damaged_json

from gap_vla.serving.server import MAX_COMPLAINT, PolicyServer
from gap_vla.serving.wire import WireError, pack, unpack

STATE = np.arange(9, dtype=np.float32)
HEALTHY: tuple[dict[str, Any], ...] = (
    {"observation/state": STATE, "prompt": "go"},
    {"proprio": STATE.astype(np.float64), "image_primary": np.zeros((4, 4, 3), np.uint8), "language_instruction": ""},
    {"observation/state": STATE.tolist(), "observation/image": np.ones((2, 3, 3), np.uint8), "extra": [{"a": None}]},
)
STRANGE_ARRAYS = (
    {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "|O", b"shape": [1]},
    {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [2**31 - 1, 0]},
    {b"__ndarray__": True, b"data": b"\xff" * 36, b"dtype": "<f4", b"shape": [9]},
    {b"__ndarray__": True, b"data": b"\0" * 36, b"dtype": ">i4", b"shape": [9]},
    {b"__npgeneric__": True, b"data": 2**63, b"dtype": "<f8"},
    np.full(9, 1e308),
    np.zeros((0,), np.float32),
    np.zeros(9, "U3"),
    np.zeros((1, 1, 3), np.uint8),
)


class Summing:
    """Acts on what it is shown, and notices what the server must never show it."""

    name = "summing"

    def reset(self, episode_ids: Any) -> None:
        pass

    def act(self, observations: dict[str, Any], episode_ids: Any) -> np.ndarray:
        for key, value in observations.items():
            assert len(value) == 1
            if key.startswith("image_"):
                assert value.dtype == np.uint8 and value.ndim == 4 and value.size > 0
            elif key == "proprio":
                assert value.dtype == np.float32 and value.ndim == 2 and np.isfinite(value).all()
            else:
                assert value.dtype.kind == "U" and len(value[0]) <= 2000
        return np.full((1, 7), observations["proprio"].mean(dtype=np.float64) if "proprio" in observations else 0.0)


def message(draw: random.Random) -> bytes:
    """A message with damaged bytes, with a place of its tree changed, or with something strange for one entry."""
    content = dict(draw.choice(HEALTHY))
    kind = draw.randrange(4)
    if kind == 0:
        return damaged(draw, pack(content))
    if kind == 1:
        with contextlib.suppress(WireError):  # whole numbers of more than 64 bits cannot be sent
            return pack(damaged_json(draw, msgpack.unpackb(pack(content))))
    if kind == 2:
        content[draw.choice(list(content))] = draw.choice(STRANGE_ARRAYS)
        return pack(content)
    return draw.randbytes(draw.randrange(200))


def rounds(seeds: range) -> dict[str, int]:
    server = PolicyServer(Summing(), whole_chunks=False)
    outcomes = {"answered": 0, "refused": 0}
    for seed in seeds:
        answer = server._answer(message(random.Random(seed)), 0)
        if isinstance(answer, str):
            assert answer and len(answer) <= MAX_COMPLAINT, f"seed {seed}"
            assert not answer.startswith("AssertionError"), f"seed {seed}: the policy was shown what it must not be"
            assert answer.startswith("bad observation"), f"seed {seed}: {answer}"
            outcomes["refused"] += 1
        else:
            actions = unpack(answer)["actions"]
            assert actions.shape == (1, 7) and np.isfinite(actions).all(), f"seed {seed}"
            outcomes["answered"] += 1
    return outcomes


def test_mutated_messages_are_answered_or_refused() -> None:
    outcomes = rounds(range(2000))
    assert min(outcomes.values()) > 150, outcomes  # both happen often, or the mutations say little


@pytest.mark.slow
def test_very_many_mutated_messages_are_answered_or_refused() -> None:
    rounds(range(1_000_000, 1_300_000))
