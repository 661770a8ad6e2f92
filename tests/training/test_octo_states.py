"""An Octo that sees several states, or tokens of whole states: in training, in the checkpoint, and in rollouts."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_vla.adjustment.jax import adjusted_gradients, match_group, path_of
from gap_vla.octo.model import OctoModel
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.store import EpisodeStore
from gap_vla.rollouts.octo_policy import OctoPolicy
from gap_vla.training.octo_trainer import OctoTrainer
from gap_vla.training.run_directory import RunDirectory
from tests.training.conftest import OCTO, configured

STATES = 3


@pytest.fixture(scope="module")
def checkpoint(store, tmp_path_factory):
    """Of a policy before its first step."""
    return exported(store, tmp_path_factory.mktemp("states"))


def exported(store, folder, **changes):
    config = configured("octo", model={"proprio_history": STATES, **changes})
    run = RunDirectory(folder / "run")
    with contextlib.closing(OctoTrainer.on(config, EpisodeStore.open(store))) as trainer:
        trainer.export(run)
    return run.checkpoint


def windows(store, states):
    asked = {"window_size": 2, "action_horizon": 3, "proprio_history": states}
    loader = WindowLoader(EpisodeStore.open(store), split="val", batch_size=1000, seed=0, train=False, **asked)
    return next(iter(loader))["observation"]


@pytest.fixture(scope="module")
def tokens_of_an_mlp(store, tmp_path_factory):
    return exported(store, tmp_path_factory.mktemp("mlp"), proprio_tokens=2)


def test_an_mlp_makes_tokens_of_the_whole_state_and_gap_adjusts_it_too(tokens_of_an_mlp, store):
    model = OctoModel.load_pretrained(tokens_of_an_mlp)
    width, hidden = (
        EpisodeStore.open(store).split("train").fields["proprio"].shape[1],
        OCTO["model"]["token_embedding_size"],
    )
    group, inside = match_group(model.params), "octo_transformer/observation_tokenizers_proprio/Dense"
    assert {path: shape for path, shape in group.items() if path.endswith("kernel")} == {
        f"{inside}_0/kernel": (STATES * width, hidden),
        f"{inside}_1/kernel": (hidden, hidden),
        f"{inside}_2/kernel": (hidden, 2 * hidden),
        "octo_transformer/obs_proprio_projection/kernel": (hidden, hidden),
    }
    assert len(group) == 9 and group["octo_transformer/obs_proprio_pos_embedding"][2] == 2
    plain, adjusted = gradients_of(model, store, (1.0, 0.25))
    for path, found in adjusted.items():
        np.testing.assert_allclose(found, plain[path] * (0.25 if path in group else 1), rtol=1e-4, atol=1e-7)
        assert path not in group or np.abs(plain[path]).max() > 0


def gradients_of(model, store, factors):
    """Leaves by path, of a loss on four windows, for every factor."""
    observation = {key: np.asarray(value)[:4] for key, value in windows(store, STATES).items() if "pad" not in key}
    mask = np.ones(observation["proprio"].shape[:2], bool)

    def loss(params, factor):
        with adjusted_gradients(factor):
            out = model.module.apply({"params": params}, observation, {}, mask, train=False, method="octo_transformer")
        return (out["readout_action"].tokens ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    for factor in factors:
        leaves = jax.tree_util.tree_flatten_with_path(gradient(model.params, jnp.full(mask.shape, factor)))[0]
        yield {path_of(path): np.asarray(leaf) for path, leaf in leaves}


def test_a_rollout_shows_the_network_what_training_showed_it(checkpoint, store, monkeypatch):
    policy = OctoPolicy.load(checkpoint, batch_size=1)
    seen, run = [], policy._run

    def recording(params, observation, *rest):
        seen.append(observation)
        return run(params, observation, *rest)

    monkeypatch.setattr(policy, "_run", recording)
    episode = EpisodeStore.open(store).split("val").episode(0)
    policy.reset([0])
    for step in range(len(episode)):
        shown = {"image_primary": episode.images["image_primary"][step][None], "proprio": episode.proprio[step][None]}
        policy.act(shown, [0])
    expected = windows(store, STATES)
    assert policy.proprio_dim == episode.proprio.shape[1]
    for key in ("proprio", "timestep", "timestep_pad_mask"):
        found = np.concatenate([observation[key] for observation in seen])
        np.testing.assert_allclose(found, expected[key][: len(episode)], atol=1e-5, err_msg=key)
