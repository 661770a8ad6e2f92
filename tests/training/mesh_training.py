"""Trains the linear policy on every mesh of the devices here: `python mesh_training.py OUT.npz`.

With JAX_COORDINATOR_ADDRESS and its companions set, the devices are those of all processes; the first one writes.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from gap_vla.core.errors import ConfigError
from gap_vla.training.config import TrainConfig
from gap_vla.training.hosts import first_host_first, is_first_host, join_hosts, require_same_command
from gap_vla.training.loop import Measured, Trainer, train
from gap_vla.training.packing import gather, make_mesh, place_batch, place_state, state_shardings
from gap_vla.training.run_directory import RunDirectory
from tests.helpers.linear_policy import linear_training, trained


class Interrupted(Trainer):
    """Learns nothing; the second host is asked to stop during the second step of ten."""

    steps = 10
    describe = picture = export = on = dry_run = None

    def restore(self, folder):
        return 0

    def batch(self, step):
        return {}

    def step(self, batch, step, measure):
        if step == 1 and not is_first_host():
            os.kill(os.getpid(), signal.SIGTERM)
        return Measured(0.0, 0.0, lambda: {"train/loss": 0.0})

    def validate(self):
        return {}

    def save(self, done):
        self.saved = done


def hosts_stop_together(folder):
    trainer = Interrupted()
    try:
        train(trainer, TrainConfig(steps=10, log_every=3, validate_every=100, save_every=100), RunDirectory(folder))
    except KeyboardInterrupt:
        assert trainer.saved == 3, trainer.saved
    else:
        raise AssertionError("not stopped")


def hosts_are_given_one_command():
    require_same_command("run", {"train": {"log_every": 2}})
    for name, every in (("run", 2 + is_first_host()), (f"run{is_first_host()}", 2)):
        try:
            require_same_command(name, {"train": {"log_every": every}})
        except ConfigError:
            continue
        raise AssertionError("not refused")


def hosts_are_refused_together():
    for refusing in (True, False):
        try:
            with first_host_first():
                if is_first_host() == refusing:
                    raise ConfigError("refused")
        except ConfigError as error:
            assert str(error).startswith("refused" if is_first_host() == refusing else "another host"), error
            continue
        raise AssertionError("not refused")


def main(out):
    several = join_hosts()
    found = {}
    meshes = {"one": (None, 1), "data": (1, 1), "fsdp": (4, 1), "both": (2, 2)}  # fsdp axis, parts of a batch
    if several:
        hosts_are_given_one_command()
        hosts_are_refused_together()
        with tempfile.TemporaryDirectory() as folder:
            hosts_stop_together(Path(folder))
        meshes = {"data": (1, 1), "fsdp": (2, 1)}
    for name, (fsdp, accumulate) in meshes.items():
        if fsdp is None:
            state, step, packing = linear_training(accumulate=accumulate)
            params, measured = trained(state, step)
        else:
            mesh = make_mesh(fsdp, batch_size=8)
            state, _, _ = linear_training(multiple=fsdp)
            shardings = state_shardings(mesh, state, smallest=1)
            _, step, packing = linear_training(multiple=fsdp, accumulate=accumulate, shardings=shardings)
            params, measured = trained(
                place_state(state, shardings), step, place=lambda batch, mesh=mesh: place_batch(mesh, batch)
            )
            if fsdp > 1:
                assert {part.data.size for part in params["proprio/kernel"].addressable_shards} == {
                    params["proprio/kernel"].size // fsdp
                }, "the parameters are not cut"
            params = gather(mesh, params)
        tree = packing.unpack(params)
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        found |= {f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}
        found[f"{name}/transition"] = np.asarray(measured["grad_norm/proprio/transition"])
    if is_first_host():
        np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1])
