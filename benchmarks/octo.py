"""How fast Octo trains, samples and compiles here: `python benchmarks/octo.py [--case tiny|small|small4] [--json out]`.

Upstream's own figures stand beside ours. They were taken on an idle machine with two cores, float32, with upstream's
pins (jax 0.4.20), which cannot be installed beside ours; compare only on an idle machine of that kind.
CPU seconds are given too: unlike wall time they hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_vla.octo import Compute, OctoModule, create_optimizer, presets
from gap_vla.octo.language import embed_language
from gap_vla.octo.model import parameter_shapes
from gap_vla.octo.partition import join_frozen, split_frozen


@dataclasses.dataclass(frozen=True)
class Case:
    """One benchmark: a config, a batch size, and what upstream takes (seconds; None where nobody measured)."""

    description: str
    batch_size: int
    upstream: dict[str, float | None]


CASES = {
    "tiny": Case(
        "64-wide, 2 layers, one 64-pixel camera with goal, proprioception, diffusion head, window 2 "
        "(upstream's figures are with a tiny T5 besides)",
        1,
        {"train_step_s": 0.0044, "compile_s": 26.0, "sample_s": None, "peak_gb": None},
    ),
    "small": Case(
        "octo-small-1.5 with T5, 690 tokens, window 2",
        1,
        {"train_step_s": 1.8, "compile_s": 275.0, "sample_s": 0.28, "peak_gb": 3.9},
    ),
    "small4": Case(
        "octo-small-1.5 with T5, 690 tokens, window 2",
        4,
        {"train_step_s": 10.4, "compile_s": None, "sample_s": 1.7, "peak_gb": None},
    ),
}


def build(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and a random batch of a case."""
    size = CASES[name].batch_size
    if name == "tiny":
        shape: dict[str, Any] = {"goal_images": True, "proprio_dim": 5, "window_size": 2}
        stem = {"stem_features": (32, 32, 32, 32), "mlp_dim": 128, "head": "diffusion"}
        options = {"diffusion_steps": 20, "n_diffusion_samples": 2, "hidden_dim": 64, "time_dim": 16, "num_blocks": 2}
        config = presets.small_config(**shape, **stem, head_options=options)
        return config, presets.example_batch(**shape, batch_size=size)
    batch = presets.example_batch(
        image_keys=("image_primary",), image_size=256, proprio_dim=None, batch_size=size, goal_images=True
    )
    wrist = presets.example_batch(
        image_keys=("image_wrist",), image_size=128, proprio_dim=None, batch_size=size, goal_images=True
    )
    for part in ("observation", "task"):
        batch[part]["image_wrist"] = wrist[part]["image_wrist"]
        batch[part]["pad_mask_dict"]["image_wrist"] = wrist[part]["pad_mask_dict"]["image_wrist"]
    words = np.random.default_rng(0).integers(2, 32000, (size, 16))
    batch["task"]["language_instruction"] = {"input_ids": words, "attention_mask": np.ones_like(words)}
    batch["task"]["pad_mask_dict"]["language_instruction"] = np.ones(size, bool)
    return presets.published_config("octo-small-1.5"), batch


def measure(name: str, repeats: int, compute: Compute, embedded: bool) -> dict[str, Any]:
    """All figures of one case; `embedded` runs the language encoder once, outside of steps and samples."""
    config, batch = build(name)
    module = OctoModule.create(**config["model"], compute=compute)
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(module, batch)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32)), shapes)
    if embedded:
        batch["task"] = embed_language(module, params, batch["task"])
    trainable, frozen = split_frozen(params, ["*hf_model*"] if name != "tiny" else None)
    del params
    schedule = {"name": "rsqrt", "init_value": 0.0, "peak_value": 3e-4, "warmup_steps": 2000}
    tx, _, _ = create_optimizer(trainable, schedule, weight_decay=0.1, clip_gradient=1.0)
    state, key = tx.init(trainable), jax.random.PRNGKey(0)

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> jax.Array:
        bound = module.bind({"params": join_frozen(trainable, frozen)}, rngs={"dropout": key})
        mask = batch["observation"]["timestep_pad_mask"]
        outputs = bound.octo_transformer(batch["observation"], batch["task"], mask, train=True)
        return bound.heads["action"].loss(outputs, batch["action"], mask, batch["action_pad_mask"])[0]

    def step(trainable: Any, state: Any, frozen: Any, batch: Any, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, grads = jax.value_and_grad(loss)(trainable, frozen, batch, key)
        updates, state = tx.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates), state, value

    def sample(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> jax.Array:
        def act(bound: OctoModule) -> jax.Array:
            mask = batch["observation"]["timestep_pad_mask"]
            outputs = bound.octo_transformer(batch["observation"], batch["task"], mask, train=False)
            return bound.heads["action"].predict_action(outputs, rng=key, train=False)

        return module.apply({"params": join_frozen(trainable, frozen)}, method=act)  # type: ignore[return-value]

    result: dict[str, Any] = {}
    run_sample, result["sample_compile_s"], result["sample_compile_cpu_s"] = _compile(
        jax.jit(sample), trainable, frozen, batch, key
    )
    result["sample_s"], result["sample_cpu_s"] = _time(
        lambda: jax.block_until_ready(run_sample(trainable, frozen, batch, key)), repeats
    )
    run_step, result["compile_s"], result["compile_cpu_s"] = _compile(
        jax.jit(step, donate_argnums=(0, 1)), trainable, state, frozen, batch, key
    )

    def one() -> None:
        nonlocal trainable, state
        trainable, state, value = run_step(trainable, state, frozen, batch, key)
        jax.block_until_ready(value)

    result["train_step_s"], result["train_step_cpu_s"] = _time(one, repeats)
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return result


def _compile(function: Any, *arguments: Any) -> tuple[Callable[..., Any], float, float]:
    """The compiled function, and the wall and CPU seconds of tracing and compiling it."""
    wall, cpu = time.perf_counter(), time.process_time()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - wall, time.process_time() - cpu


def _time(function: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median wall and CPU seconds after one call to warm up."""
    function()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return float(np.median(walls)), float(np.median(cpus))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="default: tiny")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--unrolled", action="store_true", help="do not loop over layers")
    parser.add_argument("--embedded", action="store_true", help="run the language encoder once, beforehand")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    compute = Compute(
        dtype=jnp.dtype(arguments.dtype).type,
        scan_layers=False if arguments.unrolled else None,
        remat=arguments.remat,
    )
    report = {}
    for name in arguments.case or ["tiny"]:
        case = CASES[name]
        found = measure(name, arguments.repeats, compute, arguments.embedded and name != "tiny")
        report[name] = found
        print(f"{name}: {case.description}; batch {case.batch_size}, {arguments.dtype}, {jax.default_backend()}")
        for key, value in found.items():
            upstream = case.upstream.get(key)
            beside = "" if upstream is None else f"   upstream {upstream:g}, ratio {value / upstream:.2f}"
            print(f"  {key:22s}{value:10.4f}{beside}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
