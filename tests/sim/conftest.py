"""Environments are costly to make: one per kind, for all tests of this folder."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: threads make a step slower

import pytest

import gap_vla.sim as sim


@pytest.fixture(scope="session")
def assembly():
    env = sim.make("assembly", image_size=64, cameras=("primary", "wrist"))
    yield env
    env.close()


@pytest.fixture(scope="session")
def threading_env():
    env = sim.make("threading", image_size=64)
    yield env
    env.close()
