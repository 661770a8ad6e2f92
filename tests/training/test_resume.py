"""A training that was stopped at any moment goes on to the same parameters, bit for bit."""

import os
import signal

import numpy as np
import pytest

from gap_vla.training.run_directory import read_metrics
from tests.training.conftest import configured, trained

SETTINGS = {
    "octo": ("octo", {"model": {"head": "diffusion"}}),
    "torch": ("torch", {}),
    "torch, diffusion": ("torch", {"model": {"head": "diffusion"}, "method": "gap"}),
    "torch, a method with a memory": ("torch", {"method": "gap_watched"}),
}


class KilledError(Exception):
    pass


def killed_after(steps):
    def observe(trainer, done, batch):
        if done == steps and batch is not None:
            raise KilledError

    return observe


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_training_ends_with_the_parameters_of_one_that_was_not(name, store, whole, tmp_path):
    backend, sections = SETTINGS[name]
    config = configured(backend, **sections)
    with pytest.raises(KilledError):  # the state of step 4 is saved
        trained(config, store, tmp_path / "run", killed_after(7))
    assert not (tmp_path / "run" / "checkpoint").exists()
    found = trained(config, store, tmp_path / "run")
    folder, expected = whole(backend, **sections)
    assert_equal(found, expected)
    rows, before = (read_metrics(place / "metrics.jsonl") for place in (tmp_path / "run", folder))
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 13))
    assert [row.get("val/loss") for row in rows] == [row.get("val/loss") for row in before]


@pytest.mark.parametrize("name", ["octo", "torch"])
def test_ctrl_c_saves_the_last_whole_step(name, store, whole, tmp_path):
    backend, sections = SETTINGS[name]

    def pressed(trainer, done, batch):
        if done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    config = configured(backend, **sections)
    with pytest.raises(KeyboardInterrupt, match="step 5"):
        trained(config, store, tmp_path / "run", pressed)
    begun = []
    found = trained(config, store, tmp_path / "run", lambda trainer, done, batch: begun.append(done))
    assert begun[0] == 5
    assert_equal(found, whole(backend, **sections)[1])
