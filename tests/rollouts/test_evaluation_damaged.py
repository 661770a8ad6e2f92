"""Claims about damaged and made-up checkpoints: refused in one line that names the file and the key, and never run."""

import copy
import json
import os
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from flax import serialization
from safetensors.torch import load_file, save_file
from test_evaluation_octo_policy import STATISTICS, observations

from gap_vla.core.foreign import CheckpointError
from gap_vla.core.locks import alone
from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy
from gap_vla.policies.saving import save_policy
from gap_vla.rollouts import PolicyError
from gap_vla.rollouts.small_policy import SmallTorchPolicy
from gap_vla.serving.loading import load_checkpoint
from gap_vla.sim import task_spec

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A run directory of each kind."""
    root = tmp_path_factory.mktemp("whole")
    statistics = {key: {name: np.array(value) for name, value in field.items()} for key, field in STATISTICS.items()}
    model.save_pretrained(step=7, checkpoint_path=root / "octo" / "checkpoint")
    sizes = {"encoder_width": 8, "feature_dim": 16, "head_dim": 16, "head_layers": 1, "action_horizon": 3}
    policy = build_policy(SmallModelConfig(**sizes, proprio_history=2), "gap", (32, 32, 3), 9, 7)
    save_policy(policy, root / "small" / "checkpoint", statistics, "normal")
    for kind in ("octo", "small"):
        (root / kind / "config.json").write_text('{"task": "stack", "method": "gap", "eval": {"execute": 2}}')
    return root


@pytest.fixture
def run(whole, tmp_path):
    """Called with a kind: a copy of its run directory."""
    return lambda kind: shutil.copytree(whole / kind, tmp_path / kind)


def change(path, keys, value):
    """Sets the value under a path of keys of a JSON file; an empty path replaces everything."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if keys and value is ...:
        del inner[keys[-1]]
    elif keys:
        inner[keys[-1]] = value
    path.write_text(json.dumps(content if keys else value))
    path.with_name("checksums.json").unlink(missing_ok=True)  # upstream's have none


def refused(folder, *parts):
    """Loading is refused in one line that holds these parts."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_the_whole_ones_act(run):
    for kind in ("octo", "small"):
        policy = load_checkpoint(run(kind)).policy
        policy.reset([0])
        assert np.isfinite(policy.act(observations(1), [0])).all() and policy.identity["execute"] == 2


def test_a_policy_of_other_statistics_is_another_one(run):
    folder = run("octo")
    before = load_checkpoint(folder).policy.identity
    assert load_checkpoint(folder).policy.identity == before
    [path] = folder.glob("checkpoint/dataset_statistics.json")
    found = json.loads(path.read_text())
    change(path, ("action", "std"), [2 * value for value in found["action"]["std"]])
    after = load_checkpoint(folder).policy.identity
    assert {key for key in before if before[key] != after[key]} == {"statistics"}


def test_a_small_policy_beside_other_statistics_is_refused(run):
    folder = run("small")
    [path] = folder.glob("checkpoint/dataset_statistics.json")
    found = json.loads(path.read_text())
    change(path, ("action", "std"), [1.5 * value for value in found["action"]["std"]])
    with pytest.raises(CheckpointError, match=r"dataset_statistics.json: .* its digest is .*, policy.json says"):
        load_checkpoint(folder)


def test_a_small_policy_with_another_normalization_than_it_was_saved_with_is_refused(run, tmp_path):
    alone = shutil.move(run("small") / "checkpoint", tmp_path / "alone")
    change(alone / "policy.json", ("normalization",), "none")
    refused(alone, "with normalization none its digest is")
    for key in ("statistics", "seal"):
        change(alone / "policy.json", (key,), ...)
    assert load_checkpoint(alone).policy.identity["normalization"] == "none"  # as gap_vla 0.1 saved it


OS_SYSTEM = {"module": "os", "name": "system", "args": ["touch hacked"], "kwargs": {}}
PRIMARY = ("model", "observation_tokenizers", "primary")
STEM = (*PRIMARY, "kwargs", "encoder", "kwargs")


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        ((), 5, "config.json is 5 (int)"),
        ((), [], "config.json is list"),
        (("model",), ..., "model is missing"),
        (("model",), 5, "model is 5"),
        (("model", "observation_tokenizers"), ..., "describes no Octo model (no model.observation_tokenizers); give"),
        (("text_processor",), ..., "text_processor"),
        (("text_processor",), OS_SYSTEM, "text_processor"),
        (PRIMARY, OS_SYSTEM, "model.observation_tokenizers.primary"),
        ((*PRIMARY, "kwargs", "encoder"), OS_SYSTEM, "primary.kwargs.encoder"),
        ((*PRIMARY, "kwargs", "unheard_of"), 1, "unheard_of"),
        (("model", "heads"), [], "model.heads is list"),
        (("model", "heads", "action"), None, "model.heads.action is null"),
        (("model", "heads", "action", "kwargs"), ..., "kwargs is missing"),
        (("model", "heads", "action", "kwargs", "max_action"), NAN, "max_action is nan"),
        (("model", "token_embedding_size"), -64, "model.token_embedding_size is -64"),
        (("model", "token_embedding_size"), 10**12, "model.token_embedding_size is 1000000000000"),
        (("model", "token_embedding_size"), "64", "model.token_embedding_size"),
        (("model", "transformer_kwargs", "num_layers"), 10**9, "num_layers is 1000000000"),
        (("model", "transformer_kwargs", "num_attention_heads"), 0, "num_attention_heads is 0"),
        (("model", "transformer_kwargs", "num_attention_heads"), 3, "config.json"),
        (("model", "readouts", "action"), 0, "readouts.action is 0"),
        (("model", "max_horizon"), 0, "max_horizon is 0"),
        (("window_size",), 99, "window_size is 99, and model.max_horizon"),
        ((*STEM, "features"), [0], "features[0] is 0"),
        ((*STEM, "features"), [], "features is empty"),
    ],
)
def test_a_config_that_is_none_is_refused_by_its_key_and_nothing_that_it_names_is_run(
    run, monkeypatch, keys, value, named
):
    folder = run("octo")
    monkeypatch.chdir(folder)
    change(folder / "checkpoint" / "config.json", keys, value)
    refused(folder, "config.json", named)
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'{"model": ' * 900 + b"1"])
def test_a_config_that_is_no_json_is_refused(run, content):
    for kind, file in (("octo", "checkpoint/config.json"), ("small", "checkpoint/policy.json")):
        folder = run(kind)
        (folder / file).write_bytes(content)
        refused(folder, file)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("observation", None, "observation is null"),
        ("task", {"image_primary": np.zeros((3, 4))}, "must start with (1,)"),
        ("observation/timestep_pad_mask", np.ones(2, bool), "timestep_pad_mask is (2,)"),
        ("observation/proprio", np.zeros((1, 3, 9), np.float32), "proprio"),
        ("observation/proprio", "nine", "proprio"),
        ("observation/image_primary", np.zeros((1, 2, 0, 32, 3), np.uint8), "image_primary"),
        ("observation/proprio", np.full((1, 2, 9), 1e300), "observation['proprio'] is NaN or infinite"),
        ("action_pad_mask", np.ones((1, 2, 3, 7), bool), "action_pad_mask is (1, 2, 3, 7), action (1, 2, 4"),
    ],
)
def test_an_example_batch_that_is_none_is_refused_by_its_key(run, key, value, named):
    folder = run("octo")
    path = folder / "checkpoint" / "example_batch.msgpack"
    batch = serialization.msgpack_restore(path.read_bytes())
    *above, last = key.split("/")
    (batch[above[0]] if above else batch)[last] = value
    path.write_bytes(serialization.msgpack_serialize(batch))
    refused(folder, "example_batch.msgpack", named)


@pytest.mark.parametrize("kind", ["octo", "small"])
@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        ((), 5, "dataset_statistics.json"),
        (("action",), 5, "action"),
        (("action", "std"), ..., "action.std is missing"),
        (("action", "std", 2), NAN, "action.std is NaN or infinite at index 2"),
        (("action", "mean", 0), INF, "action.mean is NaN or infinite at index 0"),
        (("action", "std", 3), 0.0, "action.std is 0 at index 3"),
        (("action", "std", 3), -1.0, "action.std is -1 at index 3"),
        (("action", "std", 3), 1e308, "action.std is NaN or infinite at index 3"),
        (("action", "mean"), [0.0] * 8, "action.mean has shape (8,)"),
        (("action", "mean"), [[0.0] * 7], "action.mean has shape (1, 7)"),
        (("action", "mean"), "seven", "dataset_statistics.json"),
        (("action", "mean"), [True] * 7, "action.mean is no list of numbers; copy"),
        (("action", "mask"), [2] * 7, "action.mask is no list of truth values; copy"),
        (("action", "min"), [5.0] * 7, "action.mean lies beyond min at index 0"),
        (("action", "max"), [-5.0] + [5.0] * 6, "action.mean lies beyond max at index 0"),
        (("action", "max"), [5.0] * 6, "action.max is ndarray; it must be a list of 7 numbers"),
        (("action", "min"), ["low"] * 7, "action.min "),
        (("proprio", "mean"), [0.0, [1.0]], "dataset_statistics.json"),
        (("proprio", "std"), [2.0] * 8, "proprio.std has shape (8,)"),
        (("proprio", "std", 8), 0.0, "proprio.std is 0 at index 8: what does not vary"),
        (("proprio", "std", 8), -0.1, "proprio.std is -0.1 at index 8, and a deviation is none below 0"),
    ],
)
def test_statistics_that_cannot_be_are_refused_by_their_key(run, kind, keys, value, named):
    folder = run(kind)
    if kind == "octo":
        change(
            folder / "checkpoint" / "config.json", ("normalization",), "normal"
        )  # of ours; upstream takes a std of 0
    change(folder / "checkpoint" / "dataset_statistics.json", keys, value)
    refused(folder, "dataset_statistics.json", named)


def test_statistics_of_what_never_varied_are_taken_where_the_mask_leaves_it_out(run):
    folder = run("octo")
    path = folder / "checkpoint" / "dataset_statistics.json"
    change(path, ("proprio", "std", 8), 0.0)
    change(path, ("proprio", "mask", 8), False)
    assert load_checkpoint(folder).policy.uses_proprio


def damaged_params(params, how):
    params = copy.deepcopy(params)
    transformer = params["octo_transformer"]
    name = "obs_proprio_projection"
    if how in ("nan", "inf"):
        transformer[name]["kernel"] = np.full_like(transformer[name]["kernel"], float(how))
    elif how == "missing":
        del transformer[name]
    elif how == "cut":
        transformer[name]["kernel"] = transformer[name]["kernel"][:, :5]
    elif how == "whole numbers":
        transformer[name]["kernel"] = transformer[name]["kernel"].astype(np.int32)
    else:
        transformer[name]["kernel"] = "text"
    return params


@pytest.mark.parametrize("how", ["nan", "inf", "missing", "cut", "whole numbers", "text"])
def test_parameters_that_are_no_numbers_or_not_whole_are_refused_by_name(run, how):
    folder = run("octo")
    path = folder / "checkpoint" / "7" / "default" / "checkpoint"
    params = damaged_params(serialization.msgpack_restore(path.read_bytes()), how)
    path.write_bytes(serialization.msgpack_serialize(params))
    refused(folder, "7/default/checkpoint has ", "checkpoint/checksums.json says '", "copy both again")
    (folder / "checkpoint" / "checksums.json").unlink()  # upstream's have none
    refused(folder, "7/default/checkpoint", "octo_transformer/obs_proprio_projection")


@pytest.mark.parametrize("kind", ["small", "octo"])
@pytest.mark.parametrize("field", ["action", "proprio"])
def test_statistics_that_are_no_field_are_refused_by_name(run, kind, field):
    folder = run(kind)
    change(folder / "checkpoint" / "dataset_statistics.json", (field,), 5)
    refused(folder, f"{field}")


def test_a_turned_bit_in_an_octos_parameters_is_refused(run):
    folder = run("octo")
    path = folder / "checkpoint" / "7" / "default" / "checkpoint"
    turned = bytearray(path.read_bytes())
    turned[-40] ^= 1
    path.write_bytes(turned)
    refused(folder, "7/default/checkpoint has ", "copy both again")


@pytest.mark.parametrize("how", ["nan", "huge", "missing", "cut", "additional", "truncated"])
def test_weights_of_a_small_policy_that_are_not_its_own_are_refused_by_name(run, how):
    folder = run("small")
    path = folder / "checkpoint" / "policy.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.startswith("proprio_encoder") and key.endswith("weight"))
    if how == "nan":
        tensors[name][0, 0] = torch.nan
    elif how == "huge":  # infinite once it is float32
        tensors[name] = torch.full(tensors[name].shape, 1e300, dtype=torch.float64)
    elif how == "missing":
        del tensors[name]
    elif how == "cut":
        tensors[name] = tensors[name][:, :1].contiguous()
    elif how == "additional":
        name = "extra"
        tensors[name] = torch.zeros(3)
    save_file(tensors, path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    refused(folder, "policy.safetensors", *([name] if how != "truncated" else []))


def test_a_pipe_in_the_place_of_the_parameters_is_called_one(run):
    folder = run("octo")
    file = next(folder.glob("checkpoint/*/default/checkpoint"))
    file.unlink()
    os.mkfifo(file)
    refused(folder, f"{file} is a pipe or a device, no regular file; give one")


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        ((), [], "policy.json is list"),
        (("format",), 2, "format is 2"),
        (("format",), ..., "format is missing"),
        (("model",), None, "model is null"),
        (("model", "feature_dim"), 0, "model.feature_dim is 0"),
        (("model", "feature_dim"), 8192, "policy.safetensors"),
        (("model", "feature_dim"), 10**9, "model.feature_dim is 1000000000"),
        (("model", "head_layers"), 10**6, "model.head_layers is 1000000"),
        (("model", "encoder"), "os.system", "policy.json"),
        (("model", "unheard_of"), 1, "unheard_of"),
        (("method",), "os:system", "policy.json"),
        (("method",), {"a": 1}, "method is dict"),
        (("image_shape",), "large", "image_shape is 'large'"),
        (("image_shape", 0), 0, "image_shape[0] is 0"),
        (("image_shape",), [4, 4, 3], "policy.json"),
        (("image_shape",), [32, 32], "policy.json"),
        (("image_shape",), [32, 48, 3], "image_shape is 32 × 48"),
        (("image_shape",), [48, 48, 3], "policy.json was changed since it was saved; copy it again"),
        (("camera",), "frontview", "policy.json was changed since it was saved; copy it again"),
        (("notes",), float("nan"), "policy.json: no account of a policy"),
        (("proprio_dim",), -9, "proprio_dim is -9"),
        (("proprio_dim",), 8, "policy.safetensors"),
        (("cameras",), [5], "cameras[0] is 5"),
        (("cameras",), ["../up"], "policy"),
        (("normalization",), "other", "policy.json: normalization is 'other'"),
        (("normalization",), 5, "normalization is 5"),
    ],
)
def test_an_account_of_a_small_policy_that_is_none_is_refused_by_its_key(run, keys, value, named):
    folder = run("small")
    change(folder / "config.json", ("demos",), {"image_size": 32})
    change(folder / "config.json", ("eval",), {"episodes": 5})
    change(folder / "checkpoint" / "policy.json", keys, value)
    refused(folder, named)


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("method",), "aux", "its run's config.json aux; copy the run again"),
        (("data",), {"normalization": "bounds"}, "says normalization normal, its run's config.json bounds"),
        (("demos",), {"cameras": ["wrist"]}, "says cameras primary, its run's config.json wrist"),
    ],
)
def test_a_checkpoint_of_another_run_than_its_settings_is_refused(run, keys, value, named):
    folder = run("small")
    change(folder / "config.json", keys, value)
    refused(folder, named)


def test_a_policy_of_another_version_of_the_pictures_is_said_to_be_one(run):
    folder, now = run("small"), task_spec("stack").pictures_version
    for version in (now, now + 1):
        (folder / "dataset.json").write_text(json.dumps({"demos": {"task": "stack", "pictures_version": version}}))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            load_checkpoint(folder)
        found = [str(one.message) for one in said if "of the pictures of stack" in str(one.message)]
        assert len(found) == (version != now), found


def test_a_view_that_no_task_has_is_refused(run):
    folder = run("small")
    change(folder / "checkpoint" / "policy.json", ("seal",), ...)  # as gap_vla 0.1 saved it
    change(folder / "checkpoint" / "policy.json", ("camera",), "nope")
    (folder / "config.json").unlink()
    refused(
        shutil.move(folder / "checkpoint", folder / "alone"),
        "alone: camera 'nope' is unknown",
        "choose one of agentview, behindGripper",
    )
    change(folder / "alone" / "policy.json", ("camera",), "birdview")
    assert load_checkpoint(folder / "alone").view() == "birdview"


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        ((), 5, "config.json is 5"),
        ((), "method task", "config.json is 'method task'"),
        (("task",), ["stack"], "task is list"),
        (("method",), 5, "method is 5"),
        (("eval",), None, "eval is null"),
        (("eval", "execute"), 0, "eval.execute is 0"),
        (("eval", "execute"), "two", "eval.execute is 'two'"),
        (("eval", "ensemble"), 1, "eval.ensemble is 1"),
        (("train",), {"threads": 10**8}, "train.threads is 100000000"),
        (("data",), {"normalization": 5}, "data.normalization is 5"),
        (("data",), {"normalization": "other"}, "data.normalization is 'other'"),
    ],
)
def test_a_runs_configuration_that_is_none_is_refused_by_its_key(run, keys, value, named):
    folder = run("octo")
    change(folder / "config.json", keys, value)
    refused(folder, "config.json", named)


@pytest.mark.parametrize("kind", ["octo", "small"])
def test_a_state_that_is_finite_only_as_float64_is_refused(run, kind):
    policy = load_checkpoint(run(kind)).policy
    policy.reset([0])
    state = np.zeros((1, 9))
    for value in (1e308, NAN, -INF):
        state[0, 4] = value
        with pytest.raises(PolicyError, match=re.escape(f"proprio is {value} at index 4")):
            policy.act({**observations(1), "proprio": state}, [0])


@pytest.mark.parametrize(
    "options",
    [{"execute": 0}, {"execute": -1}, {"execute": 2, "ensemble": True}, {"batch_size": 0}, {"batch_size": 10**6}],
)
def test_impossible_arguments_are_refused(run, options):
    with pytest.raises(PolicyError, match=f"{next(iter(options))} is"):
        load_checkpoint(run("small"), **options)
    assert load_checkpoint(run("octo"), execute=1, ensemble=True).policy.identity["execute"] == "ensemble"


@pytest.mark.parametrize("threads", [0, 1.5, True])
def test_a_small_policy_takes_whole_threads(run, threads):
    with pytest.raises(PolicyError, match=r"threads is .*; it must be a whole number from 1 to 1024"):
        SmallTorchPolicy.load(run("small"), threads=threads)


def test_a_device_that_torch_does_not_know_is_refused(run):
    with pytest.raises(PolicyError, match=r"device gpu: .*; give cpu, or one that torch finds here"):
        load_checkpoint(run("small"), device="gpu")


@pytest.mark.parametrize("left", ["dataset.json", "metrics.jsonl", "summary.json"])
def test_a_run_that_lost_its_settings_does_not_act_otherwise_than_they_said(run, left):
    folder = run("small")
    (folder / "config.json").unlink()
    assert load_checkpoint(folder).task is None
    (folder / left).write_text("{}")
    for given in (folder, folder / "checkpoint"):
        with pytest.raises(PolicyError, match=r"small has lost its config\.json: copy the run again$"):
            load_checkpoint(given)


def test_settings_of_a_run_that_did_not_end_are_said_to_be_unsealed_but_not_to_its_training(run, capsys):
    folder, said = run("small"), "summary.json is missing: edits of its run are not noticed"
    load_checkpoint(folder)
    assert f"note: {folder}/{said}" in capsys.readouterr().err
    with alone(folder / ".lock", "it"):
        load_checkpoint(folder)
    assert said not in capsys.readouterr().err
    (folder / ".lock").write_text("process 1 on here\n")  # of a killed one
    load_checkpoint(folder)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["octo", "small"])
def test_what_is_kept_in_a_run_and_is_not_its_checkpoint_acts_as_it_says_itself(run, kind):
    folder = run(kind)
    own = load_checkpoint(shutil.copytree(folder / "checkpoint", folder / "mine"))
    assert (own.task, own.policy.identity["execute"]) == (None, 1)
    (folder / "best").symlink_to("checkpoint")
    for at in ("checkpoint", "best"):
        loaded = load_checkpoint(folder / at)
        assert (loaded.task, loaded.policy.identity["execute"]) == ("stack", 2)


def test_two_policies_in_one_folder_are_refused_and_both_named(run):
    small, octo = run("small"), run("octo")
    shutil.copytree(octo / "checkpoint", small / "both")
    shutil.copytree(small / "checkpoint", small / "both", dirs_exist_ok=True)
    refused(small / "both", "both is a small policy (policy.json) and an Octo (config.json, example_batch.msgpack); m")
    for whole, inner, what in (
        (octo, small, "an Octo (config.json, ex"),
        (small, octo, "a small policy (policy.json)"),
    ):
        mixed = shutil.copytree(whole / "checkpoint", whole / "mixed")
        shutil.copytree(inner / "checkpoint", mixed / "checkpoint")
        said = f"mixed is {what}.* and holds another checkpoint/; give .*mixed/checkpoint, or move one away"
        with pytest.raises(PolicyError, match=said.replace("(", r"\(").replace(")", r"\)")):
            load_checkpoint(mixed)
        assert load_checkpoint(mixed / "checkpoint").task is None


@pytest.mark.parametrize("kind", ["octo", "small"])
def test_a_run_without_its_checkpoint_is_not_taken_for_one(run, kind):
    folder = run(kind)
    (folder / "dataset.json").write_text("{}")
    assert load_checkpoint(folder).task == "stack"
    shutil.rmtree(folder / "checkpoint")
    with pytest.raises(PolicyError, match=r"a run without its checkpoint/; finish it with --resume, or copy it whole"):
        load_checkpoint(folder)
