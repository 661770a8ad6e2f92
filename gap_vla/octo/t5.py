"""The T5 encoder (Raffel et al. 2020, version 1.0) with the parameter names of the transformers library's Flax port."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Float, Int

from gap_vla.core.errors import ConfigError
from gap_vla.core.files import read_json
from gap_vla.octo.blocks import Compute


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of an encoder; names as in the `config.json` of the transformers library."""

    vocab_size: int = 32128
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def find(cls, name: str) -> T5Config:
        """The encoder called `name`: a published size, or a directory with a `config.json`."""
        if name in PUBLISHED:
            return PUBLISHED[name]
        path = Path(name) / "config.json"
        if not path.is_file():
            raise ConfigError(
                f"language encoder {name!r}: neither one of {sorted(PUBLISHED)} nor a directory with a config.json "
                f"(looked for {path.absolute()})"
            )
        found = read_json(path)
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls) if field.name in found})

    def parameters(self) -> FrozenDict:
        """The tree of parameters; every leaf is (shape, standard deviation at initialisation, None for ones)."""
        inner, width = self.num_heads * self.d_kv, self.d_model
        block: dict[str, Any] = {
            "layer": {
                "0": {
                    "SelfAttention": {
                        "q": {"kernel": ((width, inner), (width * self.d_kv) ** -0.5)},
                        "k": {"kernel": ((width, inner), width**-0.5)},
                        "v": {"kernel": ((width, inner), width**-0.5)},
                        "o": {"kernel": ((inner, width), inner**-0.5)},
                    },
                    "layer_norm": {"weight": ((width,), None)},
                },
                "1": {
                    "DenseReluDense": {
                        "wi": {"kernel": ((width, self.d_ff), width**-0.5)},
                        "wo": {"kernel": ((self.d_ff, width), self.d_ff**-0.5)},
                    },
                    "layer_norm": {"weight": ((width,), None)},
                },
            }
        }
        tree: dict[str, Any] = {
            "shared": {"embedding": ((self.vocab_size, width), 1.0)},
            "encoder": {
                "block": {str(layer): copy.deepcopy(block) for layer in range(self.num_layers)},
                "final_layer_norm": {"weight": ((width,), None)},
            },
        }
        bias = ((self.relative_attention_num_buckets, self.num_heads), width**-0.5)
        tree["encoder"]["block"]["0"]["layer"]["0"]["SelfAttention"]["relative_attention_bias"] = {"embedding": bias}
        return FrozenDict(tree)


PUBLISHED = {
    "t5-small": T5Config(d_model=512, d_ff=2048, num_layers=6, num_heads=8),
    "t5-base": T5Config(),
    "t5-large": T5Config(d_model=1024, d_ff=4096, num_layers=24, num_heads=16),
}


class ParameterTree(nn.Module):
    """Declares a nested dictionary of parameters and returns it, for networks written as functions."""

    leaves: Mapping[str, Any]

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        tree = {}
        for name, leaf in self.leaves.items():
            if isinstance(leaf, Mapping):
                tree[name] = ParameterTree(leaf, name=name)()
            else:
                shape, std = leaf
                init: Any = nn.initializers.ones_init() if std is None else nn.initializers.normal(std)
                tree[name] = self.param(name, init, shape)
        return tree


class T5Encoder(nn.Module):
    """Word pieces int[B, L] with their mask int[B, L] to float[B, L, d_model]; always deterministic."""

    config: T5Config
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, input_ids: Int[Array, "B L"], attention_mask: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        params = {name: ParameterTree(tree, name=name)() for name, tree in self.config.parameters().items()}
        return encode(self.config, params, jnp.asarray(input_ids), jnp.asarray(attention_mask), self.compute)


def encode(
    config: T5Config,
    params: Mapping[str, Any],
    input_ids: Int[Array, "B L"],
    attention_mask: Int[Array, "B L"],
    compute: Compute | None = None,
) -> Float[Array, "B L D"]:
    """`T5Encoder` as a function of its parameters."""
    compute = Compute() if compute is None else compute
    blocks = params["encoder"]["block"]
    layers = [blocks[str(index)]["layer"] for index in range(config.num_layers)]
    length = input_ids.shape[1]
    buckets = relative_buckets(length, config.relative_attention_num_buckets, config.relative_attention_max_distance)
    table = layers[0]["0"]["SelfAttention"]["relative_attention_bias"]["embedding"]
    bias = table[buckets].transpose(2, 0, 1)[None]
    bias = bias + jnp.where(attention_mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)

    x = params["shared"]["embedding"][input_ids].astype(compute.dtype)
    for layer in layers:
        x = _block(config, layer, x, bias, compute.dtype)
    return _rms_norm(params["encoder"]["final_layer_norm"], x, config.layer_norm_epsilon)


def relative_buckets(length: int, num_buckets: int = 32, max_distance: int = 128) -> Int[np.ndarray, "L L"]:
    """int[length, length]: the bucket of the distance from query (row) to key (column), half of them per direction.

    Distances below half of a direction's buckets have their own, longer ones share logarithmically wider ones.
    """
    relative = np.arange(length)[None, :] - np.arange(length)[:, None]
    per_direction = num_buckets // 2
    exact = per_direction // 2
    distance = np.abs(relative)
    scale = (per_direction - exact) / np.log(max_distance / exact)
    wide = exact + (np.log(np.maximum(distance, 1) / exact) * scale).astype(np.int64)
    bucket = np.where(distance < exact, distance, np.minimum(wide, per_direction - 1))
    return bucket + np.where(relative > 0, per_direction, 0)


def _block(config: T5Config, layer: Mapping[str, Any], x: jax.Array, bias: jax.Array, dtype: Any) -> jax.Array:
    attention, eps = layer["0"]["SelfAttention"], config.layer_norm_epsilon

    def project(x: jax.Array, name: str) -> jax.Array:
        y = x @ attention[name]["kernel"].astype(dtype)
        return y.reshape(*x.shape[:2], config.num_heads, config.d_kv)

    hidden = _rms_norm(layer["0"]["layer_norm"], x, eps)
    # T5 does not scale the logits by the width of a head.
    logits = jnp.einsum("bqhd,bkhd->bhqk", project(hidden, "q"), project(hidden, "k"))
    weights = jax.nn.softmax(logits.astype(jnp.float32) + bias).astype(dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, project(hidden, "v")).reshape(*x.shape[:2], -1)
    x = x + mixed @ attention["o"]["kernel"].astype(dtype)

    dense = layer["1"]["DenseReluDense"]
    hidden = _rms_norm(layer["1"]["layer_norm"], x, eps)
    hidden = jax.nn.relu(hidden @ dense["wi"]["kernel"].astype(dtype))
    return x + hidden @ dense["wo"]["kernel"].astype(dtype)


def _rms_norm(params: Mapping[str, Any], x: jax.Array, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (params["weight"] * (wide * scale)).astype(x.dtype)
