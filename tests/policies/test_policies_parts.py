"""The parts of small policies: every combination runs, ResNet-18 takes published weights, a saved policy acts alike."""

import itertools
import os
import zipfile

import jaxtyping
import numpy as np
import pytest
import torch
from resnet18_names import PARAMETERS, TENSORS
from safetensors.torch import load_file, save_file
from toy_store import SIZE, toy_config, write_store

from gap_vla.core.foreign import CheckpointError
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies import METHODS, SmallModelConfig, build_policy, registry
from gap_vla.policies.config import RivalsConfig
from gap_vla.policies.encoders import SpatialSoftmax
from gap_vla.policies.methods import Forward
from gap_vla.policies.registry import FUSIONS, HEADS
from gap_vla.policies.resnet18 import Trunk, load_imagenet
from gap_vla.policies.rivals import Keyframe
from gap_vla.policies.saving import load_saved_policy, save_policy

TINY = dict(encoder_width=8, feature_dim=16, head_dim=16, action_horizon=3, proprio_history=4)
STEPWISE = dict(temporal="transformer", image_history=4, temporal_layers=1, temporal_heads=2, temporal_head_dim=8)


def a_batch(config, batch=2, cameras=("primary",)):
    images = {
        f"image_{camera}": torch.randint(0, 256, (batch, config.image_history, SIZE, SIZE, 3), dtype=torch.uint8)
        for camera in cameras
    }
    return {**images, "proprio": torch.randn(batch, config.proprio_history, 9)}


@pytest.mark.parametrize("fusion, head, temporal", list(itertools.product(FUSIONS, HEADS, ("none", "transformer"))))
def test_every_fusion_with_every_head_trains_and_predicts(fusion, head, temporal):
    config = SmallModelConfig(**TINY, fusion=fusion, head=head, **(STEPWISE if temporal == "transformer" else {}))
    policy, batch = build_policy(config, "concat", (SIZE, SIZE, 3), 9, 7), a_batch(config)
    generator = torch.Generator().manual_seed(0)
    loss = policy.head.loss(policy.embed(*policy.branch_features(batch)), torch.randn(2, 3, 7), generator)
    assert loss.shape == (2, 3)
    loss.mean().backward()
    silent = [name for name, p in policy.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not silent
    assert policy(batch, generator).shape == (2, 3, 7)


@pytest.mark.parametrize("method", METHODS)
def test_a_policy_has_the_branches_of_its_method_and_no_others(method):
    policy = build_policy(SmallModelConfig(**TINY), method, (SIZE, SIZE, 3), 9, 7)
    expected = {"vision": {"vision"}, "proprio": {"proprio"}}.get(method, {"vision", "proprio"})
    assert set(policy.branches) == expected


def test_features_of_every_camera_stand_side_by_side_and_are_of_tensors(monkeypatch):
    config = SmallModelConfig(**TINY, image_history=2)
    policy = build_policy(config, "concat", (SIZE, SIZE, 3), 9, 7, cameras=("primary", "wrist"))
    batch = a_batch(config, cameras=("primary", "wrist"))
    assert policy.features(batch).shape == (2, 2, 2 * 16)
    assert policy(batch).shape == (2, 3, 7)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    for wrong in (batch["image_primary"].numpy(), {key: value.numpy() for key, value in batch.items()}):
        with pytest.raises(ConfigError, match="image_primary is ndarray; give pictures as uint8 tensors"):
            policy.features(wrong)
    with pytest.raises(ConfigError, match="image_wrist is NoneType; give pictures"):
        policy.features({"image_primary": batch["image_primary"]})
    for wrong in (batch["image_primary"][:, 0], batch["image_primary"].movedim(-1, 2)):
        with pytest.raises(ConfigError, match=r"is torch\.uint8\[2, .*\]; give .* \[B, W, h, w, 3\]"):
            policy.features(wrong)


def test_many_large_pictures_are_encoded_one_part_after_the_other_where_nothing_is_trained(monkeypatch):
    config = SmallModelConfig(**TINY, image_history=2)
    policy, batch, seen = build_policy(config, "vision", (SIZE, SIZE, 3), 9, 7), a_batch(config, batch=4), []
    policy.encoders["primary"].register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    monkeypatch.setattr("gap_vla.policies.registry.PIXELS_AT_ONCE", 3 * SIZE**2)
    whole = policy.features(batch).detach()
    with torch.no_grad():
        policy.features(batch)
        assert torch.allclose(policy.eval().features(batch), whole, atol=1e-6) and seen == [8, 8, 3, 3, 2]


def test_inputs_that_would_be_broadcast_or_misread_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    config = SmallModelConfig(**TINY | STEPWISE, fusion="sum")
    policy, batch = build_policy(config, "concat", (SIZE, SIZE, 3), 9, 7), a_batch(config)
    proprio, images = batch["proprio"], batch["image_primary"]
    for odd in (proprio.mT, proprio.flatten(1), proprio[:, :1]):
        with pytest.raises(ConfigError, match=r"proprio is \[2, .*; give \[B, P, D\] = \[B, 4, 9\]"):
            policy({**batch, "proprio": odd})
        with pytest.raises(ConfigError, match="proprio is"):
            policy.predict(policy.features(batch), odd)
    for pair in ((policy.features(batch), None), (None, proprio), (None, None)):  # which would skip the fusion
        with pytest.raises(ConfigError, match=r"given is .*, the policy has vision and proprio"):
            policy.predict(*pair)
    with pytest.raises(ConfigError, match=r"of 32 × 32 pixels"):
        policy({**batch, "image_primary": images[:, :, ::2, ::2]})
    for odd in (images[:1], images[:, :1]):
        with pytest.raises(ConfigError, match=r"vision and proprio have .* and \[2, 4\] samples and steps"):
            policy({**batch, "image_primary": odd})
    eyes = build_policy(config, "vision", (SIZE, SIZE, 3), 9, 7)
    with pytest.raises(ConfigError, match="the history has 1 frames; give 4"):
        eyes({"image_primary": images[:, :1]})
    with pytest.raises(ConfigError, match="given is proprio and vision, the policy has vision"):
        eyes.predict(eyes.features(batch), proprio)


@pytest.mark.parametrize("name", HEADS)
def test_actions_of_another_shape_are_no_targets(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    head = registry.find(HEADS, name)(SmallModelConfig(**TINY, head=name), 5, 7)
    for odd in (torch.zeros(2, 1, 7), torch.zeros(3, 7), torch.zeros(1, 3, 7)):
        with pytest.raises(ConfigError, match=r"action is .*; give \[B, H, A\] = \[2, 3, 7\]"):
            head.loss(torch.ones(2, 5), odd, None)


@pytest.mark.parametrize(("distance", "wanted"), [([0, 9], 3.0), ([0, 0], 0.0)])
def test_a_batch_of_keyframes_alone_that_weigh_nothing_teaches_nothing(distance, wanted):
    loss = torch.tensor([[1.0], [3.0]], requires_grad=True)
    batch = {"change_distance": torch.tensor(distance), "action_pad_mask": torch.ones(2, 1)}
    vars(out := object.__new__(Forward)).update(batch=batch, loss=loss)
    found = Keyframe(RivalsConfig(keyframe_weight=0.0, keyframe_radius=5)).loss(out, torch.Generator())
    found.backward()
    assert found == wanted and torch.isfinite(loss.grad).all()


def test_spatial_softmax_finds_the_brightest_place():
    maps = torch.full((1, 2, 5, 9), -50.0)
    maps[0, 0, 0, 8] = maps[0, 1, 4, 4] = 50.0
    assert torch.allclose(SpatialSoftmax()(maps), torch.tensor([[1.0, -1.0, 0.0, 1.0]]))


def test_sampled_chunks_depend_on_the_sample_and_its_generator_alone():
    config = SmallModelConfig(**TINY, head="diffusion")
    policy, batch = build_policy(config, "concat", (SIZE, SIZE, 3), 9, 7).eval(), a_batch(config, 3)
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


class TestResNet18:
    def test_names_and_shapes_are_the_published_ones(self):
        found = {name: tuple(value.shape) for name, value in Trunk().state_dict().items()}
        published = {name: shape for name, shape in TENSORS.items() if not name.startswith("fc.")}
        assert found == published and list(found) == list(published)
        assert sum(p.numel() for p in Trunk().parameters()) + 512 * 1000 + 1000 == PARAMETERS

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_published_weights_load(self, suffix, tmp_path):
        torch.manual_seed(0)
        weights = {
            name: torch.rand(shape) if "num_batches" not in name else torch.tensor(3) for name, shape in TENSORS.items()
        }
        path = tmp_path / f"resnet18{suffix}"
        if suffix == ".pth":
            torch.save(weights, path)
        else:
            save_file(weights, path)
        trunk = Trunk()
        load_imagenet(trunk, path)
        assert all(torch.equal(value, weights[name]) for name, value in trunk.state_dict().items())

    def test_other_weights_are_refused_by_name(self, tmp_path):
        path = tmp_path / "weights.pth"
        torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3), "stem.weight": torch.zeros(1)}, path)
        with pytest.raises(ConfigError, match=r"missing bn1.weight \(64,\).* more"):
            load_imagenet(Trunk(), path)
        with pytest.raises(ConfigError, match="no file"):
            load_imagenet(Trunk(), tmp_path / "nothing.pth")

    def test_the_paper_recipe_builds_and_runs(self):
        config = SmallModelConfig(encoder="resnet18", feature_dim=512, temporal="transformer", image_history=5)
        policy = build_policy(config, "gap", (64, 64, 3), 9, 7)
        images = torch.randint(0, 256, (1, 5, 64, 64, 3), dtype=torch.uint8)
        assert policy.features(images).shape == (1, 5, 512)
        assert policy({"image_primary": images, "proprio": torch.randn(1, 5, 9)}).shape == (1, 9, 7)


class TestSaving:
    @pytest.mark.parametrize("method", ["gap", "vision", "aux", "gradnorm"])
    def test_a_saved_policy_predicts_the_same(self, method, tmp_path):
        config = SmallModelConfig(**TINY)
        policy = build_policy(config, method, (SIZE, SIZE, 3), 9, 7).eval()
        statistics = write_store(tmp_path / "store").statistics
        save_policy(policy, tmp_path / "checkpoint", statistics, "normal")
        loaded, normalization, found = load_saved_policy(tmp_path / "checkpoint")
        batch = a_batch(config)
        assert torch.equal(policy(batch), loaded(batch))
        assert (loaded.method, normalization) == (method, "normal")
        assert np.array_equal(found["action"]["mean"], statistics["action"]["mean"])

    def test_what_could_not_be_loaded_is_not_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
        policy = build_policy(SmallModelConfig(**TINY), "gap", (SIZE, SIZE, 3), 9, 7)
        statistics = write_store(tmp_path / "store").statistics
        narrow = {**statistics, "proprio": {name: value[:8] for name, value in statistics["proprio"].items()}}
        for given, words in (
            ((statistics, "bound"), "normalization 'bound' is unknown"),
            ((narrow, "normal"), "proprio.mean is 8 wide, the policy's proprio 9"),
            ((statistics, "normal", None), "camera is None"),
        ):
            with pytest.raises(ConfigError, match=words):
                save_policy(policy, tmp_path / "c", *given)
        for cast in (policy.half, policy.bfloat16, policy.double):
            cast()
            with pytest.raises(ConfigError, match=r"the policy's \S+ is torch\.\w+; save policy\.float\(\)"):
                save_policy(policy, tmp_path / "c", statistics, "normal")
        policy.float()
        next(policy.head.parameters()).data.fill_(float("nan"))
        with pytest.raises(ConfigError, match=r"the policy's head\.\S+ holds NaN or infinity"):
            save_policy(policy, tmp_path / "c", statistics, "normal")
        assert not (tmp_path / "c").exists()

    def test_sizes_may_be_numbers_of_numpy(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
        sizes = tuple(np.array([SIZE, SIZE, 3])), np.int64(9), np.int32(7)
        policy = build_policy(SmallModelConfig(**TINY), "gap", *sizes)
        save_policy(policy, tmp_path / "c", write_store(tmp_path / "store").statistics, "normal")
        assert load_saved_policy(tmp_path / "c")[0].proprio_dim == 9

    def test_a_folder_without_a_policy_and_damaged_weights_are_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no policy.json"):
            load_saved_policy(tmp_path)
        policy = build_policy(SmallModelConfig(**TINY), "gap", (SIZE, SIZE, 3), 9, 7)
        save_policy(policy, tmp_path / "c", write_store(tmp_path / "store").statistics, "normal")
        weights = tmp_path / "c" / "policy.safetensors"
        content = weights.read_bytes()
        save_file({name: tensor.int() for name, tensor in load_file(weights).items()}, weights)
        with pytest.raises(CheckpointError, match=r"is torch\.int32, the policy's torch\.float32"):
            load_saved_policy(tmp_path / "c")
        flipped = bytearray(content)
        flipped[-3] ^= 1
        weights.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"its digest is \w+, policy.json says \w+; copy both again"):
            load_saved_policy(tmp_path / "c")
        weights.write_bytes(content[:200])
        with pytest.raises(CheckpointError, match="weights"):
            load_saved_policy(tmp_path / "c")
        weights.unlink()
        os.mkfifo(weights)
        with pytest.raises(CheckpointError, match="is a pipe or a device"):
            load_saved_policy(tmp_path / "c")


class TestConfig:
    def test_unknown_names_are_refused_with_the_choices(self, tmp_path):
        with pytest.raises(ConfigError, match="did you mean 'concat'"):
            toy_config(tmp_path, "concatt")
        with pytest.raises(ConfigError, match="choose one of mlp"):
            toy_config(tmp_path, model=dict(head="flow"))
        with pytest.raises(ConfigError, match="proprio_history"):
            toy_config(tmp_path, model=dict(propio_history=1))

    def test_a_configuration_survives_json(self, tmp_path):
        import json

        from gap_vla.training.torch import SmallConfig

        config = toy_config(tmp_path, "gap")
        assert SmallConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize(
        "changes, message",
        [
            (dict(temporal="transformer"), "step by step"),
            (dict(encoder_weights="x.pth"), "no such weights"),
            (dict(encoder_width=12), "multiple of 8"),
            (dict(action_horizon=0), "action_horizon is 0; it must be a whole number from 1"),
        ],
    )
    def test_impossible_models_are_refused(self, changes, message):
        with pytest.raises(ConfigError, match=message):
            SmallModelConfig(**changes)

    def test_images_too_small_for_the_encoder_are_refused(self):
        with pytest.raises(ConfigError, match="at least 33"):
            build_policy(SmallModelConfig(encoder="resnet18"), "concat", (32, 32, 3), 9, 7)


def test_weights_that_are_no_weights_are_refused_by_their_file(tmp_path):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"\x80\x04N.")
        with pytest.raises(ConfigError, match=rf"{name}: not readable \(.*; download torchvision's"):
            load_imagenet(Trunk(), tmp_path / name)


def test_what_is_no_file_of_torch_is_said_to_be_none(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"junk\n")  # to torch, a key that is missing
    with pytest.raises(
        ConfigError, match=r"w\.pth: not readable \(.*was not written by torch\); download torchvision's"
    ):
        load_imagenet(Trunk(), tmp_path / "w.pth")


def test_of_weights_that_execute_something_torch_does_not_say_how(tmp_path, executes):
    torch.save({**Trunk().state_dict(), "note": executes}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"w\.pth: not readable \(it holds something else than tensors and plain val"):
        load_imagenet(Trunk(), tmp_path / "w.pth")


def test_weights_that_are_packed_are_refused_before_they_are_unpacked(tmp_path):
    torch.save(Trunk().state_dict(), tmp_path / "sound.pth")
    with zipfile.ZipFile(tmp_path / "sound.pth") as sound, zipfile.ZipFile(tmp_path / "w.pth", "w") as packed:
        for part in sound.namelist():
            packed.writestr(part, sound.read(part), zipfile.ZIP_DEFLATED if part.endswith("data/0") else None)
    with pytest.raises(ConfigError, match=r"w\.pth: not readable \(sound/data/0 is packed, as torch writes none\)"):
        load_imagenet(Trunk(), tmp_path / "w.pth")


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    weights = Trunk().state_dict()
    torch.save(weights, tmp_path / "w.pth")
    load_imagenet(Trunk(), tmp_path / "w.pth")
    name = next(name for name in weights if name.endswith("conv2.weight"))
    torch.save({"model": weights, "epoch": 89}, tmp_path / "training.pth")
    with pytest.raises(ConfigError, match=r"training\.pth holds 'model', which is no tensor; give the weights alone"):
        load_imagenet(Trunk(), tmp_path / "training.pth")
    wide = {key: value.double() for key, value in weights.items()}  # counters of batches too, which some do
    torch.save(wide, tmp_path / "w.pth")
    load_imagenet(Trunk(), tmp_path / "w.pth")
    variance = "layer1.0.bn1.running_var"
    for key, odd, said in (
        (name, weights[name] * float("nan"), "holds NaN or infinity"),
        (name, wide[name] * 1e300, "holds NaN or infinity"),
        (name, (100 * weights[name]).to(torch.int8), r"is torch\.int8, the policy's torch\.float32"),
        (name, weights[name].to_sparse(), "is no plain tensor"),
        (variance, -weights[variance], "holds a variance below 0"),
    ):
        torch.save({**weights, key: odd}, tmp_path / "w.pth")
        with pytest.raises(ConfigError, match=rf"w\.pth: {key} {said}; download them again"):
            load_imagenet(Trunk(), tmp_path / "w.pth")
