"""Instructions embedded once instead of at every step, and remembered while a policy acts on them."""

from __future__ import annotations

import collections
import glob
import weakref
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gap_vla.core.errors import ConfigError
from gap_vla.octo.module import OctoModule
from gap_vla.octo.t5 import T5Config, encode
from gap_vla.octo.tokenizers import LanguageTokenizer

REMEMBERED = 64
"""Batches of instructions whose embedding is kept."""

_REMEMBERED: collections.OrderedDict[Any, tuple[tuple[weakref.ref, ...], jax.Array]] = collections.OrderedDict()


def embed_language(module: OctoModule, params: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """`task` with its word pieces replaced by the frozen encoder's output, float32[B, L, d_model].

    The model takes either and gives the same: an instruction does not change during an episode, and a frozen
    encoder not during training, so this saves the encoder's time (and, with `split_frozen`, nothing else changes).

    Raises:
        ConfigError: the model fine-tunes its encoder, or has none, or the task holds no word pieces.
    """
    if (found := _frozen_encoder(module, params, task)) is None:
        raise ConfigError("only a frozen encoder's output of word pieces can be stored; this model or task has none")
    tokenizer, weights, words = found
    embedded = _encode(T5Config.find(tokenizer.encoder), weights, *words, tokenizer.compute)
    return {**task, "language_instruction": embedded}


def recall_language(module: OctoModule, params: Mapping[str, Any], task: Mapping[str, Any]) -> Mapping[str, Any]:
    """`embed_language` for a policy in action: the last instructions are remembered as long as their weights live.

    What cannot be stored (an encoder that is fine-tuned, no word pieces, values that are being traced) comes back as
    it is, for the model to encode.
    """
    if (found := _frozen_encoder(module, params, task)) is None:
        return task
    tokenizer, tree, words = found
    weights = jax.tree.leaves(tree)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in (*weights, *words)):
        return task
    if not all(isinstance(leaf, jax.Array) for leaf in weights):  # numpy's may change where they lie
        return task
    arrays = [np.asarray(array) for array in words]
    key = (tokenizer, tuple(map(id, weights)), *((array.shape, array.dtype.str, array.tobytes()) for array in arrays))
    living, embedded = _REMEMBERED.pop(key, ((), None))
    if embedded is None or any(reference() is not leaf for reference, leaf in zip(living, weights, strict=True)):
        living = tuple(map(weakref.ref, weights))
        embedded = embed_language(module, params, task)["language_instruction"]
    _REMEMBERED[key] = (living, embedded)  # as the newest
    while len(_REMEMBERED) > REMEMBERED:
        _REMEMBERED.popitem(last=False)
    return {**task, "language_instruction": embedded}


def frozen_encoders(module: OctoModule, params: Mapping[str, Any]) -> list[str]:
    """Patterns, as of `split_frozen`, of the encoders that no gradient is let into; a shape may stand for a leaf."""
    return [
        f"octo_transformer.task_tokenizers_{glob.escape(name)}.hf_model.*"
        for name, tokenizer in module.octo_transformer.task_tokenizers.items()
        if isinstance(tokenizer, LanguageTokenizer)
        and not tokenizer.finetune_encoder
        and "hf_model" in params["octo_transformer"].get(f"task_tokenizers_{name}", {})
    ]


def _frozen_encoder(
    module: OctoModule, params: Mapping[str, Any], task: Mapping[str, Any]
) -> tuple[Any, Any, tuple[Any, Any]] | None:
    """The tokenizer with a frozen encoder that reads the task's word pieces, the encoder's weights, and these words."""
    tokenizers = module.octo_transformer.task_tokenizers
    names = [name for name, tokenizer in tokenizers.items() if isinstance(tokenizer, LanguageTokenizer)]
    instruction = task.get("language_instruction")
    if len(names) != 1 or not isinstance(instruction, Mapping):
        return None
    tokenizer = tokenizers[names[0]]
    if tokenizer.encoder is None or tokenizer.finetune_encoder:
        return None
    weights = params["octo_transformer"][f"task_tokenizers_{names[0]}"]["hf_model"]
    return tokenizer, weights, (instruction["input_ids"], instruction["attention_mask"])


_encode = jax.jit(encode, static_argnums=(0, 4))
