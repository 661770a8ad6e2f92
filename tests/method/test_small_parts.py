"""The parts of small policies: every combination runs, ResNet-18 takes published weights, a saved policy acts alike."""

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.policies import registry
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.encoders import SpatialSoftmax, Trunk, load_imagenet
from gap_vla.policies.methods import build_policy
from gap_vla.policies.registry import FUSIONS, HEADS, TEMPORALS
from gap_vla.policies.saving import load_saved_policy, parameter_digest, save_policy
from tests.helpers.toy_store import SIZE, write_store

TINY = dict(encoder_width=8, feature_dim=16, head_dim=16, action_horizon=3, proprio_history=4)
STEPWISE = dict(temporal="transformer", image_history=4, temporal_layers=1, temporal_heads=2, temporal_head_dim=8)
SHAPES = (SIZE, SIZE, 3), 9, 7


def _norm(name, width):
    shapes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
    return {f"{name}.{part}": shape for part, shape in {**shapes, "num_batches_tracked": ()}.items()}


def _block(name, into, width):
    convolutions = {f"{name}.conv1.weight": (width, into, 3, 3), **_norm(f"{name}.bn1", width)}
    convolutions |= {f"{name}.conv2.weight": (width, width, 3, 3), **_norm(f"{name}.bn2", width)}
    if into == width:
        return convolutions
    return convolutions | {f"{name}.downsample.0.weight": (width, into, 1, 1), **_norm(f"{name}.downsample.1", width)}


def resnet18_tensors():
    """Names and shapes of torchvision's published ResNet-18 weights, in their order, written from the architecture."""
    found = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    for number, (into, width) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
        found |= {**_block(f"layer{number}.0", into, width), **_block(f"layer{number}.1", width, width)}
    return {**found, "fc.weight": (1000, 512), "fc.bias": (1000,)}


def a_batch(config, batch=2, cameras=("primary",)):
    images = {
        f"image_{camera}": torch.randint(0, 256, (batch, config.image_history, SIZE, SIZE, 3), dtype=torch.uint8)
        for camera in cameras
    }
    return {**images, "proprio": torch.randn(batch, config.proprio_history, 9)}


COMBINED = [*itertools.product(FUSIONS, ("mlp",), TEMPORALS), *itertools.product(("concat",), HEADS, TEMPORALS)]


@pytest.mark.parametrize(("fusion", "head", "temporal"), dict.fromkeys(COMBINED))
def test_every_fusion_with_every_head_trains_and_predicts(fusion, head, temporal):
    config = SmallModelConfig(**TINY, fusion=fusion, head=head, **(STEPWISE if temporal == "transformer" else {}))
    policy, batch = build_policy(config, "vp", *SHAPES), a_batch(config)
    generator = torch.Generator().manual_seed(0)
    loss = policy.head.loss(policy.embed(*policy.branch_features(batch)), torch.randn(2, 3, 7), generator)
    assert loss.shape == (2, 3)
    loss.mean().backward()
    silent = [name for name, p in policy.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not silent
    assert policy(batch, generator).shape == (2, 3, 7)


def test_each_camera_has_an_encoder_and_features_of_all_stand_side_by_side():
    config = SmallModelConfig(**TINY, image_history=2)
    policy = build_policy(config, "vp", *SHAPES, cameras=("primary", "wrist"))
    batch = a_batch(config, cameras=("primary", "wrist"))
    found = policy.features(batch)
    assert found.shape == (2, 2, 2 * 16) and policy(batch).shape == (2, 3, 7)
    other = {**batch, "image_wrist": 255 - batch["image_wrist"]}
    changed = (policy.features(other) != found).flatten(0, 1).any(0)
    assert not changed[:16].any() and changed[16:].any()


def test_many_large_pictures_are_encoded_one_part_after_the_other_where_nothing_is_trained(monkeypatch):
    config = SmallModelConfig(**TINY, image_history=2)
    policy, batch, seen = build_policy(config, "v", *SHAPES), a_batch(config, batch=4), []
    policy.encoders["primary"].register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    monkeypatch.setattr("gap_vla.policies.registry.PIXELS_AT_ONCE", 3 * SIZE**2)
    whole = policy.features(batch).detach()
    with torch.no_grad():
        policy.features(batch)
        assert torch.allclose(policy.eval().features(batch), whole, atol=1e-6) and seen == [8, 8, 3, 3, 2]


def test_spatial_softmax_finds_the_brightest_place():
    maps = torch.full((1, 2, 5, 9), -50.0)
    maps[0, 0, 0, 8] = maps[0, 1, 4, 4] = 50.0
    assert torch.allclose(SpatialSoftmax()(maps), torch.tensor([[1.0, -1.0, 0.0, 1.0]]))


def test_sampled_chunks_depend_on_the_sample_and_its_generator_alone():
    config = SmallModelConfig(**TINY, head="diffusion")
    policy, batch = build_policy(config, "vp", *SHAPES).eval(), a_batch(config, 3)
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    together = policy(batch, seeds)
    alone = policy({key: value[1:2] for key, value in batch.items()}, [torch.Generator().manual_seed(6)])
    assert torch.allclose(together[1], alone[0], atol=1e-5)


def test_the_diffusion_head_learns_where_the_answer_depends_on_the_feature():
    torch.manual_seed(0)
    config = SmallModelConfig(**TINY | dict(action_horizon=2, head_dim=64), head="diffusion")
    head = registry.find(HEADS, "diffusion")(config, 1, 1)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        feature = torch.randint(0, 2, (64, 1), generator=generator) * 2.0 - 1
        head.loss(feature, 0.7 * feature[:, None].expand(-1, 2, -1), generator).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = head.predict(torch.tensor([[-1.0], [1.0]]), generator)
    assert torch.allclose(found, torch.tensor([-0.7, 0.7])[:, None, None].expand(-1, 2, -1), atol=0.15)


def test_the_mixture_keeps_two_answers_apart():
    torch.manual_seed(0)
    head = registry.find(HEADS, "gmm")(SmallModelConfig(**TINY | dict(action_horizon=1), head="gmm"), 1, 1)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(200):
        answer = torch.full((8, 1, 1), 1.0)
        answer[:3] = -1.0
        head.loss(torch.ones(8, 1), answer).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert head.predict(torch.ones(1, 1)).item() == pytest.approx(1.0, abs=0.1)  # not their mean, 0.25


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_load(suffix, tmp_path):
    weights = {
        name: torch.rand(shape) if "num_batches" not in name else torch.tensor(3)
        for name, shape in resnet18_tensors().items()
    }
    path, trunk = tmp_path / f"resnet18{suffix}", Trunk()
    (torch.save if suffix == ".pth" else save_file)(weights, path)
    load_imagenet(trunk, path)
    assert all(torch.equal(value, weights[name]) for name, value in trunk.state_dict().items())


def test_other_weights_are_refused_by_name(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3), "stem.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"weights\.pth.*(?s:.*)stem\.weight"):
        load_imagenet(Trunk(), tmp_path / "weights.pth")


def test_the_paper_recipe_builds_and_runs():
    config = SmallModelConfig(encoder="resnet18", feature_dim=512, temporal="transformer", image_history=5)
    policy = build_policy(config, "vp_gap", (64, 64, 3), 9, 7)
    images = torch.randint(0, 256, (1, 5, 64, 64, 3), dtype=torch.uint8)
    assert policy.features(images).shape == (1, 5, 512)
    assert policy({"image_primary": images, "proprio": torch.randn(1, 5, 9)}).shape == (1, 9, 7)


@pytest.mark.parametrize("method", ["v", "proprio", "gradnorm"])
def test_a_saved_policy_predicts_the_same(method, tmp_path):
    config = SmallModelConfig(**TINY)
    policy = build_policy(config, method, *SHAPES).eval()
    statistics = write_store(tmp_path / "store").statistics
    save_policy(policy, tmp_path / "checkpoint", statistics, "normal", "corner")
    loaded, normalization, found = load_saved_policy(tmp_path / "checkpoint")
    batch = a_batch(config)
    assert set(policy.branches) == {"v": {"vision"}, "proprio": {"proprio"}}.get(method, {"vision", "proprio"})
    assert torch.equal(policy(batch), loaded(batch)) and not loaded.training
    assert (loaded.method, normalization, loaded.view) == (policy.method, "normal", "corner")
    assert np.array_equal(found["action"]["mean"], statistics["action"]["mean"])
    assert parameter_digest(loaded) == parameter_digest(policy)


def test_a_policy_of_another_version_loads_and_weights_of_another_are_refused(tmp_path):
    folder = tmp_path / "checkpoint"
    policy = build_policy(SmallModelConfig(**TINY), "gap", *SHAPES)
    save_policy(policy, folder, write_store(tmp_path / "store").statistics, "normal")
    account = json.loads((folder / "policy.json").read_text())
    assert account["method"] == "gap"
    (folder / "policy.json").write_text(json.dumps({**account, "weights": "0123", "seal": "4567"}))  # as 0.2 wrote
    assert load_saved_policy(folder)[0].method == "gap"
    account["model"]["feature_dim"] = 8
    (folder / "policy.json").write_text(json.dumps(account))
    with pytest.raises(UserError, match=r"policy\.safetensors"):
        load_saved_policy(folder)


def test_a_checkpoint_executes_nothing(tmp_path):
    class Executes:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    torch.save({**Trunk().state_dict(), "note": Executes()}, tmp_path / "weights.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_imagenet(Trunk(), tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()


def test_impossible_models_are_refused_by_their_key():
    for key, changes in (("image_history", dict(temporal="transformer")), ("head", dict(head="flow"))):
        with pytest.raises(ValueError, match=key):
            SmallModelConfig(**changes)
    with pytest.raises(ConfigError, match="32 × 32"):
        build_policy(SmallModelConfig(encoder="resnet18"), "vp", *SHAPES)
