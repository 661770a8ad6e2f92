"""Pretrained eyes: a head is trained on maps that are computed once; rollouts see what training saw."""

import numpy as np
import pytest
import torch

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy
from gap_vla.policies.pretrained import lite0_maps, stored_maps
from gap_vla.policies.saving import load_saved_policy, save_policy
from gap_vla.policies.windows import SmallWindows
from gap_vla.rollouts.small_policy import SmallTorchPolicy
from gap_vla.training.torch_trainer import SmallTrainer
from tests.helpers.toy_store import SIZE, toy_config, write_store

EYES = dict(encoder="efficientnet_lite0", image_history=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("toy") / "store", train=2, val=1)


def windows_of(store, method="vp", **changes):
    config = toy_config(store.directory, method, model=EYES, **changes)
    return SmallWindows(config, store, "train", store.split("train").fields["rho"], proprio=method != "v")


def as_shown(pictures):
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float()


def test_maps_of_the_live_picture_are_those_that_were_kept(store):
    kept, pictures = stored_maps(store, "train", "image_primary"), store.split("train").fields["image_primary"]
    assert kept.dtype == np.float16 and kept.shape == (48, 112, 10, 10)
    live = lite0_maps(as_shown(pictures[40:41])).numpy()[0]
    np.testing.assert_allclose(live.astype(float), kept[40].astype(float), rtol=2e-3, atol=2e-3)
    assert np.ptp(kept.std(0)) > 0.1, "maps that tell pictures apart"


def test_features_in_rollouts_are_those_of_training(store):
    policy = build_policy(SmallModelConfig(feature_dim=16, **EYES), "v", (SIZE, SIZE, 3), 9, 7).eval()
    batch = windows_of(store).batch(0)
    with torch.no_grad():
        kept = policy.features(batch)
        live = policy.features({"image_primary": batch["image_primary"]})
    assert kept.std(0).max() > 1e-3 and torch.allclose(kept, live, atol=1e-3)


def test_the_head_alone_is_trained_and_saved(store, tmp_path):
    config = toy_config(tmp_path, "vp_gap", model=EYES, train=dict(steps=2))
    trainer = SmallTrainer.on(config, store)
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    for step in range(2):
        trainer.step(trainer.batch(step), step, measure=True)
    changed = {name for name, value in trainer.policy.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("encoders")} == {
        f"encoders.primary.{part}" for part in ("maps.weight", "maps.bias", "project.weight", "project.bias")
    }
    assert trainer.picture()["observation"]["image_primary"].shape[1] == 3
    save_policy(trainer.policy, tmp_path, store.statistics, "normal")
    loaded, batch = load_saved_policy(tmp_path)[0], trainer.batch(0)
    with torch.no_grad():
        trainer.policy.autocast_dtype = None
        assert torch.equal(loaded(batch), trainer.policy.eval()(batch))
    acting = SmallTorchPolicy(loaded, store.statistics)
    acting.reset([0])
    observation = {"image_primary": batch["image_primary"][:1, 0].numpy(), "proprio": np.zeros((1, 9), np.float32)}
    assert acting.act(observation, [0]).shape == (1, 7)


def test_vision_sees_as_many_frames_with_and_without_proprioception_and_changed_pictures_are_looked_at_anew(store):
    for method in ("v", "vp"):
        batch = windows_of(store, method).batch(0)
        assert batch["maps_primary"].shape[1] == batch["image_primary"].shape[1] == 3
        assert ("proprio" in batch) == (method == "vp")
    augment = {"cameras": ["primary"], "primary": {"brightness": 0.3}}
    assert "maps_primary" not in windows_of(store, data={"augment": augment}).batch(0)
