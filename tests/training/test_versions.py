"""A change of code that changes what a training gives must raise the version that recorded cells are judged by."""

import numpy as np
import pytest

from gap_vla.training.data import TRAINING_VERSION
from gap_vla.training.run_directory import read_metrics

GIVEN = {
    ("octo", "vp"): (2, [0.93152, 28.30801]),
    ("octo", "vp_gap"): (2, [0.96681, 28.30800]),
    ("torch", "gap"): (2, [0.66275, 17.88318]),
    ("torch", "concat"): (2, [0.66291, 17.90607]),
}
"""Backend and method to version, held-out action error and norm of the parameters after twelve steps."""


@pytest.mark.parametrize(("backend", "method"), GIVEN)
def test_training_gives_what_its_version_gave(backend, method, whole):
    folder, parameters = whole(backend, method=method)
    error = [row["val/action_mse"] for row in read_metrics(folder / "metrics.jsonl") if "val/action_mse" in row][-1]
    size = float(np.sqrt(sum((value.astype(float) ** 2).sum() for value in parameters.values())))
    version, given = GIVEN[backend, method]
    assert TRAINING_VERSION[backend if backend == "octo" else "small"] == version
    assert [error, size] == pytest.approx(given, rel=1e-3), (
        f"not what version {version} gave: raise TRAINING_VERSION in gap_vla/training/data.py, and write here what "
        f"{method} gives now, {error:.5f}, {size:.5f}"
    )


def test_the_exported_checkpoint_holds_the_final_parameters_and_the_statistics(whole, store):
    import jax

    from gap_vla.octo.model import OctoModel
    from gap_vla.rlds.store import EpisodeStore

    folder, parameters = whole("octo", method="vp_gap")
    model = OctoModel.load_pretrained(folder / "checkpoint")
    for path, leaf in jax.tree_util.tree_flatten_with_path(model.params)[0]:
        np.testing.assert_array_equal(leaf, parameters[jax.tree_util.keystr(path)])
    wanted = EpisodeStore.open(store).statistics["action"]["mean"]
    np.testing.assert_allclose(model.dataset_statistics["action"]["mean"], wanted)
