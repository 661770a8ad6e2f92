"""Tokenizers: observations and tasks to groups of tokens, before projection to the transformer's width.

A tokenizer is called with the observations, leading axes (B, W), and the task, leading axis (B,); it returns None
when the batch holds none of its keys, and its group then does not exist in the sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError
from gap_vla.octo.blocks import Compute, MAPHead
from gap_vla.octo.spec import ModuleSpec
from gap_vla.octo.token_groups import TokenGroup


def matching_keys(data: Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    """The sorted keys of `data` that any of the regular expressions `patterns` matches at its start."""
    return [key for key in sorted(data) if any(re.match(pattern, key) for pattern in patterns)]


def without_input(tokenizers: Mapping[str, nn.Module], batch: Mapping[str, Any]) -> dict[str, str]:
    """Names of tokenizers of which a model for such a batch has nothing, and what they look for in words."""
    found = {}
    for name, tokenizer in tokenizers.items():
        language = isinstance(tokenizer, LanguageTokenizer)
        patterns = ["language_instruction"] if language else getattr(tokenizer, "obs_stack_keys", None)
        patterns = getattr(tokenizer, "obs_keys", None) if patterns is None else patterns
        part = "task" if language else "observation"
        if patterns is not None and not matching_keys(batch[part], patterns):
            there = sorted(key for key in batch[part] if not key.startswith(("timestep", "pad_mask")))
            found[name] = f"looks for {', '.join(patterns)} and finds {part} {', '.join(there) or 'empty'}"
    return found


def pad_mask(data: Mapping[str, Any], keys: Sequence[str], shape: tuple[int, ...]) -> jax.Array:
    """bool[shape], False where all of `keys` are padding by `data["pad_mask_dict"]`; all True if it lacks any."""
    masks = data.get("pad_mask_dict", {})
    if not all(key in masks for key in keys):
        return jnp.ones(shape, bool)
    present = jnp.stack([jnp.asarray(masks[key], bool) for key in keys], axis=-1).any(axis=-1)
    return jnp.broadcast_to(present[..., None], shape)


class ImageTokenizer(nn.Module):
    """Cameras and goal images, stacked on channels, to one token per patch.

    Attributes:
        encoder: module spec of an image encoder, such as `SmallStem16`.
        use_token_learner: pool the patches into `num_tokens` learned tokens.
        obs_stack_keys: patterns of observation keys that are stacked on channels.
        task_stack_keys: patterns of goal images that are stacked behind them. A goal that the task lacks is uint8
            zeros, that is -1 after normalisation, and is not masked.
        task_film_keys: task entries float[B, E] that condition the encoder by FiLM.
        proper_pad_mask: mask tokens of cameras that are padding.
    """

    encoder: Mapping[str, Any]
    use_token_learner: bool = False
    num_tokens: int = 8
    conditioning_type: str = "none"
    obs_stack_keys: Sequence[str] = ("image_.*", "depth_.*")
    task_stack_keys: Sequence[str] = ()
    task_film_keys: Sequence[str] = ()
    proper_pad_mask: bool = True
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, observations: Mapping[str, Any], tasks: Mapping[str, Any], train: bool = True
    ) -> TokenGroup | None:
        keys = matching_keys(observations, self.obs_stack_keys)
        if not keys:
            return None
        images = jnp.concatenate([jnp.asarray(observations[key]) for key in keys], axis=-1)
        batch, window = images.shape[:2]
        if self.task_stack_keys:
            goals = jnp.concatenate(self._goals(observations, tasks), axis=-1)
            goals = jnp.broadcast_to(goals[:, None], (batch, window, *goals.shape[1:]))
            images = jnp.concatenate([images, goals], axis=-1)

        film = None
        if self.task_film_keys:
            film_keys = matching_keys(tasks, self.task_film_keys)
            film = jnp.concatenate([jnp.asarray(tasks[key]) for key in film_keys], axis=-1)
            film = jnp.repeat(film, window, axis=0)

        options = {} if self.compute.dtype == jnp.float32 else {"dtype": self.compute.dtype}
        encode = ModuleSpec.instantiate(self.encoder)(**options)
        features = encode(images.reshape(-1, *images.shape[2:]), train=train, cond_var=film)
        tokens = features.reshape(batch, window, -1, features.shape[-1])
        if self.use_token_learner:
            tokens = TokenLearner(self.num_tokens)(tokens, train=train)
        mask = pad_mask(observations, keys, tokens.shape[:-1]) if self.proper_pad_mask else None
        return TokenGroup.create(tokens, mask)

    def _goals(self, observations: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[jax.Array]:
        """Goal images uint8[B, h, w, c] by sorted key, zeros for cameras without one."""
        cameras = matching_keys(observations, self.task_stack_keys)
        goals = {key: jnp.zeros_like(observations[key][:, 0]) for key in cameras}
        goals |= {key: jnp.asarray(tasks[key]) for key in matching_keys(tasks, self.task_stack_keys)}
        return [goals[key] for key in sorted(goals)]


class TokenLearner(nn.Module):
    """float[..., n, d] to float[..., num_tokens, d] by attention pooling."""

    num_tokens: int

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = True) -> jax.Array:
        position = self.param("pos_embed", nn.initializers.normal(0.02), tokens.shape[-2:])
        return MAPHead(num_readouts=self.num_tokens)(nn.LayerNorm()(tokens + position), train=train)


class LowdimObsTokenizer(nn.Module):
    """Proprioception to one token per dimension, of width 1 (or one-hot of `n_bins` when `discretize`).

    The projection that follows is therefore one vector shared by all dimensions; which dimension a token is, only the
    positional embedding tells. There are no parameters here: GAP acts on the projected tokens.

    Attributes:
        obs_keys: patterns, in order; each adds every observation key that it matches, float[B, W, P].
        bin_type, low, high, n_bins: see `BinTokenizer`; without effect unless `discretize`.
    """

    obs_keys: Sequence[str] = ()
    discretize: bool = False
    proper_pad_mask: bool = True
    n_bins: int = 256
    bin_type: str = "uniform"
    low: float = 0.0
    high: float = 1.0
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, observations: Mapping[str, Any], tasks: Mapping[str, Any] | None = None, train: bool = True
    ) -> TokenGroup | None:
        values = _lowdim(observations, self.obs_keys)
        if values is None:
            return None
        if not self.discretize:
            return TokenGroup.create(values[..., None])
        bins = BinTokenizer(n_bins=self.n_bins, bin_type=self.bin_type, low=self.low, high=self.high)
        return TokenGroup.create(jax.nn.one_hot(bins(values), self.n_bins))


class MLPObsTokenizer(nn.Module):
    """Proprioception to `num_tokens` tokens of the whole state, by an MLP; an extension, upstream has none.

    Its parameters belong to the proprioceptive branch, so GAP adjusts them with the projection that follows.

    Attributes:
        obs_keys: as those of `LowdimObsTokenizer`.
        num_tokens: one for each arm, say.
        features: units of the two hidden layers, and numbers of a token.
    """

    obs_keys: Sequence[str] = ()
    num_tokens: int = 1
    features: int = 256
    proper_pad_mask: bool = True
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, observations: Mapping[str, Any], tasks: Mapping[str, Any] | None = None, train: bool = True
    ) -> TokenGroup | None:
        values = _lowdim(observations, self.obs_keys)
        if values is None:
            return None
        for _ in range(2):
            values = nn.gelu(nn.Dense(self.features, dtype=self.compute.dtype)(values))
        tokens = nn.Dense(self.num_tokens * self.features, dtype=self.compute.dtype)(values)
        return TokenGroup.create(tokens.reshape(*tokens.shape[:2], self.num_tokens, self.features))


def _lowdim(observations: Mapping[str, Any], patterns: Sequence[str]) -> Float[Array, "b w p"] | None:
    """Every observation that matches a pattern, side by side; None where there is none."""
    keys = [key for pattern in patterns for key in matching_keys(observations, [pattern])]
    return jnp.concatenate([jnp.asarray(observations[key]) for key in keys], axis=-1) if keys else None


class LanguageTokenizer(nn.Module):
    """The instruction to tokens: precomputed embeddings as they are, or word pieces through a T5 encoder.

    `tasks["language_instruction"]` is float[B, E] (one token), float[B, L, E], or a dictionary with `input_ids` and
    `attention_mask`, int[B, L]. The whole group is masked where `pad_mask_dict["language_instruction"]` is False.

    Attributes:
        encoder: a published name (`"t5-base"`) or a directory with a T5 `config.json`; None takes embeddings only.
        finetune_encoder: let gradients into the encoder.
    """

    encoder: str | None = None
    finetune_encoder: bool = False
    proper_pad_mask: bool = True
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self, observations: Mapping[str, Any], tasks: Mapping[str, Any] | None = None, train: bool = True
    ) -> TokenGroup | None:
        if tasks is None or "language_instruction" not in tasks:
            return None
        instruction = tasks["language_instruction"]
        if isinstance(instruction, Mapping):
            if self.encoder is None:
                raise ConfigError(
                    "the instruction is word pieces, but LanguageTokenizer has encoder=None: name one, or embed it"
                )
            from gap_vla.octo.t5 import T5Config, T5Encoder

            config = T5Config.find(self.encoder)
            tokens = T5Encoder(config, compute=self.compute, name="hf_model")(
                instruction["input_ids"], instruction["attention_mask"]
            )
        else:
            tokens = jnp.asarray(instruction)
            tokens = tokens[:, None, :] if tokens.ndim == 2 else tokens
        if not self.finetune_encoder:
            tokens = jax.lax.stop_gradient(tokens)
        mask = pad_mask(tasks, ["language_instruction"], tokens.shape[:-1]) if self.proper_pad_mask else None
        return TokenGroup.create(tokens, mask)


_EPS = 1e-6


class BinTokenizer(nn.Module):
    """Values to bin numbers and back.

    Attributes:
        n_bins: number of bins.
        bin_type: `"uniform"` cuts [low, high] into equal bins and clips values into it (from a `high` of
            about 64 on, float32 has no room below it: values at or above it get bin 0); `"normal"` takes the
            quantiles of the standard normal distribution and ignores `low` and `high`.

    A value that no bin holds (NaN, or far outside the normal quantiles) gets bin 0, also when it is large: upstream's
    behaviour, which published heads were trained with.
    """

    n_bins: int = 256
    bin_type: str = "uniform"
    low: float = 0.0
    high: float = 1.0

    def thresholds(self) -> Float[np.ndarray, "n_bins+1"]:
        """float32[n_bins + 1], the ends of the bins."""
        if choose(self.bin_type, ("uniform", "normal"), "bin_type") == "uniform":
            return np.linspace(self.low, self.high, self.n_bins + 1, dtype=np.float32)
        with jax.ensure_compile_time_eval():  # also inside of jit, where every array would be a tracer
            quantiles = jnp.linspace(_EPS, 1 - _EPS, self.n_bins + 1)
            return np.asarray(jax.scipy.stats.norm.ppf(quantiles), np.float32)

    def __call__(self, values: Float[Array, "..."]) -> Int[Array, "..."]:
        """int32 of the shape of `values`: the bin of each."""
        thresholds = self.thresholds()
        if self.bin_type == "uniform":
            values = jnp.clip(values, self.low + _EPS, self.high - _EPS)
        values = values[..., None]
        inside = (values >= thresholds[:-1]) & (values < thresholds[1:])
        return jnp.argmax(inside, axis=-1).astype(jnp.int32)

    def decode(self, bins: Int[Array, "..."]) -> Float[Array, "..."]:
        """float32 of the shape of `bins`: the middle of each bin."""
        thresholds = self.thresholds()
        middles = (thresholds[1:] + thresholds[:-1]) / 2
        return jnp.asarray(middles)[bins]
