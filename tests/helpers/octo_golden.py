"""Golden cases written by upstream's own code; see tests/data/octo/README.md."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gap_vla.octo.model import OctoModel

jax.config.update("jax_default_matmul_precision", "highest")  # as on a processor; a GPU would multiply in TF32

DATA = Path(__file__).parents[1] / "data" / "octo"
CASES = ("a", "b", "c", "d")


@dataclasses.dataclass(frozen=True)
class Golden:
    """One case: the model as loaded from upstream's checkpoint, its inputs and what upstream computed."""

    name: str
    model: OctoModel
    batch: dict[str, Any]
    outputs: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    tree: dict[str, dict[str, Any]]

    @property
    def directory(self) -> Path:
        return DATA / self.name


@functools.cache
def load(name: str) -> Golden:
    directory = DATA / name
    with contextlib.chdir(directory):
        model = OctoModel.load_pretrained("checkpoint", step=5)
    batch = {key: value for key, value in arrays(directory / "inputs.npz").items() if "strings" not in key}
    tree = {leaf["name"]: leaf for leaf in json.loads((directory / "tree.json").read_text())["params"]}
    return Golden(
        name=name,
        model=model,
        batch=unflatten_dict(batch, sep="/"),
        outputs=arrays(directory / "outputs.npz"),
        grads=arrays(directory / "grads.npz"),
        tree=tree,
    )


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {key: np.asarray(leaf) for key, leaf in flatten_dict(dict(tree), sep="/").items()}


def flat_shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {key: (leaf.shape, str(leaf.dtype)) for key, leaf in flatten_dict(dict(tree), sep="/").items()}


def quick(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Compiled for compilation time: the tests run everything once or twice."""
    return jax.jit(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})


@contextlib.contextmanager
def upstream_randomness(case: Golden) -> Iterator[None]:
    """Upstream's random bits, and its working directory, where the tiny T5 is."""
    with jax.threefry_partitionable(False), contextlib.chdir(case.directory):
        yield


def loss_and_outputs(case: Golden, params: Any, key: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
    observation, batch = case.batch["observation"], case.batch
    mask = observation["timestep_pad_mask"]
    bound = case.model.module.bind({"params": params}, rngs={"dropout": key})
    outputs = bound.octo_transformer(observation, batch["task"], mask, train=False)
    loss, metrics = bound.heads["action"].loss(outputs, batch["action"], mask, batch["action_pad_mask"], train=False)
    return loss, (metrics, outputs)


@functools.cache
def compiled_step(name: str) -> Callable[..., Any]:
    """(params, key) -> ((loss, (metrics, outputs)), gradients), compiled once for all tests of the case."""
    case = load(name)
    with upstream_randomness(case):
        function = jax.value_and_grad(functools.partial(loss_and_outputs, case), has_aux=True)
        return quick(function, case.model.params, case.outputs["loss/rng"])


@functools.cache
def evaluated(name: str) -> Any:
    """What `compiled_step` gives for the golden parameters and key."""
    case = load(name)
    return compiled_step(name)(case.model.params, case.outputs["loss/rng"])
