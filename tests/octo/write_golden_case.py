"""Writes golden case d with upstream's own code: four groups of low-dimensional observations and a stem under FiLM.

    UPSTREAM/bin/pip install tensorflow-cpu==2.15.0 tensorstore==0.1.45 numpy==1.24.3
    PYTHONPATH=. UPSTREAM/bin/python tests/octo/write_golden_case.py tests/data/octo/d

UPSTREAM is the environment that docs/OCTO.md builds. The groups are every combination of `discretize` and `bin_type`;
one of them joins two observation keys. Observations and actions lie far outside of the bins too. The head has normal
bins as well.
"""

import json
import sys
import types
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

dlimp = types.ModuleType("dlimp")
dlimp.DLataset = object
sys.modules["dlimp"] = dlimp  # only upstream's data pipeline needs it

from octo.model.octo_model import OctoModel  # noqa: E402
from octo.utils.train_utils import create_optimizer  # noqa: E402

SEED = 4
HORIZON, ACTIONS, BATCH, WINDOW = 2, 3, 3, 2
STEM = dict(features=[32, 32, 32, 32], num_features=32, use_film=True)
GROUPS = {
    "angles": dict(obs_keys=["angles"], discretize=True, bin_type="normal", n_bins=16, low=-2.0, high=2.0),
    "pose": dict(obs_keys=["pose"], discretize=True, bin_type="uniform", n_bins=8, low=-1.0, high=1.0),
    "touch": dict(obs_keys=["touch_.*", "force"], discretize=False, bin_type="normal"),
    "width": dict(obs_keys=["width"], discretize=False, bin_type="uniform", low=-1.0, high=1.0),
}


def spec(module, name, **kwargs):
    return {"module": f"octo.model.components.{module}", "name": name, "args": [], "kwargs": kwargs}


def configuration():
    tokenizers = {name: spec("tokenizers", "LowdimObsTokenizer", **options) for name, options in GROUPS.items()}
    stem = spec("vit_encoders", "SmallStem16", **STEM)
    tokenizers["primary"] = spec(
        "tokenizers", "ImageTokenizer", obs_stack_keys=["image_primary"], task_film_keys=["goal_vector"], encoder=stem
    )
    head = dict(action_horizon=HORIZON, action_dim=ACTIONS, vocab_size=16, normalization_type="normal")
    return {
        "model": {
            "token_embedding_size": 32,
            "transformer_kwargs": {
                "num_layers": 1,
                "mlp_dim": 64,
                "num_attention_heads": 2,
                "dropout_rate": 0.0,
                "attention_dropout_rate": 0.0,
                "add_position_embedding": False,
            },
            "use_correct_attention": True,
            "repeat_task_tokens": False,
            "task_tokenizers": {},
            "readouts": {"action": HORIZON * ACTIONS},
            "max_horizon": 3,
            "observation_tokenizers": tokenizers,
            "heads": {"action": spec("action_heads", "DiscreteActionHead", readout_key="readout_action", **head)},
        },
        "optimizer": {
            "learning_rate": {
                "name": "cosine",
                "init_value": 0.0,
                "peak_value": 0.001,
                "warmup_steps": 2,
                "decay_steps": 10,
                "end_value": 0.0,
            },
            "weight_decay": 0.01,
            "clip_gradient": 1.0,
            "frozen_keys": None,
            "grad_accumulation_steps": None,
        },
        "text_processor": None,
        "window_size": WINDOW,
        "seed": SEED,
        "num_steps": 10,
    }


def make_batch(rng):
    def numbers(*shape):
        values = rng.normal(size=shape).astype(np.float32)
        far = rng.random(shape) < 0.3
        return np.where(far, rng.choice([-50.0, -4.9, 4.9, 50.0], size=shape), values).astype(np.float32)

    def small(*shape):
        return rng.normal(size=shape).astype(np.float32)

    steps = (BATCH, WINDOW)
    observation = {
        "image_primary": rng.integers(0, 256, (*steps, 32, 32, 3), dtype=np.uint8),
        "angles": numbers(*steps, 4),
        "pose": numbers(*steps, 3),
        "touch_left": small(*steps, 2),
        "touch_right": small(*steps, 1),
        "force": small(*steps, 2),
        "width": small(*steps, 1),
        "timestep_pad_mask": np.array([[False, True], [True, True], [True, True]]),
    }
    action_pad_mask = np.ones((*steps, HORIZON, ACTIONS), bool)
    action_pad_mask[0, :, :, -1] = False
    return {
        "observation": observation,
        "task": {"goal_vector": small(BATCH, 5)},
        "action": numbers(*steps, HORIZON, ACTIONS),
        "action_pad_mask": action_pad_mask,
    }


def flat(tree):
    return {key: np.asarray(leaf) for key, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def main(out):
    rng = np.random.default_rng(SEED)
    batch, config = make_batch(rng), configuration()
    mean = rng.normal(size=ACTIONS).astype(np.float32)
    own = {"mean": mean, "std": np.array([0.5, 1.0, 2.0], np.float32), "mask": np.array([True, True, False])}
    model = OctoModel.from_config(config, batch, None, verbose=False, dataset_statistics={"action": own})
    initial = flat(model.params)
    noisy = {key: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32) for key, leaf in initial.items()}
    params = jax.tree_map(jnp.asarray, flax.traverse_util.unflatten_dict(noisy, sep="/"))
    model = model.replace(params=params)
    out.mkdir(parents=True)
    model.save_pretrained(step=5, checkpoint_path=str((out / "checkpoint").absolute()))

    observation, mask = batch["observation"], batch["observation"]["timestep_pad_mask"]
    outputs = {}
    for group, tokens in model.run_transformer(observation, batch["task"], mask, train=False).items():
        outputs[f"transformer/{group}/tokens"], outputs[f"transformer/{group}/mask"] = tokens.tokens, tokens.mask

    def loss(params, key):
        bound = model.module.bind({"params": params}, rngs={"dropout": key})
        groups = bound.octo_transformer(observation, batch["task"], mask, train=False)
        return bound.heads["action"].loss(groups, batch["action"], mask, batch["action_pad_mask"], train=False)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
    key = jax.random.PRNGKey(7)
    (value, metrics), grads = compiled(params, key)
    outputs |= {"loss/rng": key, "loss/value": value, **{f"loss/metrics/{k}": v for k, v in metrics.items()}}

    sample_key = jax.random.PRNGKey(8)
    sample = dict(observations=observation, tasks=batch["task"], rng=sample_key)
    outputs["sample/rng"] = sample_key
    outputs["sample/default"] = model.sample_actions(**sample)
    outputs["sample/argmax"] = model.sample_actions(**sample, argmax=True)
    outputs["sample/unnorm_normal"] = model.sample_actions(**sample, argmax=True, unnormalization_statistics=own)

    tx, schedule, param_norm = create_optimizer(params, **dict(config["optimizer"]))
    state, now, key = tx.init(params), params, jax.random.PRNGKey(99)
    for step in range(4):
        key, dropout_key = jax.random.split(key)
        (value, _), step_grads = compiled(now, dropout_key)
        updates, state = tx.update(step_grads, state, now)
        now = optax.apply_updates(now, updates)
        norms = dict(grad_norm=optax.global_norm(step_grads), update_norm=optax.global_norm(updates))
        found = dict(loss=value, learning_rate=schedule(step), param_norm=param_norm(now), **norms)
        outputs |= {f"train_false/step{step}/{k}": v for k, v in found.items()}
    np.savez_compressed(out / "inputs.npz", **flat(batch))
    np.savez_compressed(out / "outputs.npz", **{k: np.asarray(v) for k, v in outputs.items()})
    np.savez_compressed(out / "grads.npz", **flat(grads))
    moved = {k: float(np.linalg.norm(v - noisy[k])) for k, v in flat(now).items()}
    (out / "param_delta_l2.json").write_text(json.dumps(moved, indent=1) + "\n")
    tree = [{"name": k, "shape": list(v.shape), "dtype": str(v.dtype)} for k, v in initial.items()]
    (out / "tree.json").write_text(json.dumps({"params": tree}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
