"""Instructions embedded once instead of at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from gap_vla.octo.module import OctoModule
from gap_vla.octo.t5 import T5Config, encode
from gap_vla.octo.tokenizers import LanguageTokenizer


def embed_language(module: OctoModule, params: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """`task` with its word pieces replaced by the frozen encoder's output, float32[B, L, d_model].

    The model takes either and gives the same: an instruction does not change during an episode, and a frozen
    encoder not during training, so this saves the encoder's time (and, with `split_frozen`, nothing else changes).

    Raises:
        ValueError: the model fine-tunes its encoder, or has none, or the task holds no word pieces.
    """
    tokenizers = module.octo_transformer.task_tokenizers.items()
    names = [name for name, tokenizer in tokenizers if isinstance(tokenizer, LanguageTokenizer)]
    instruction = task.get("language_instruction")
    if len(names) != 1 or not isinstance(instruction, Mapping):
        raise ValueError(
            f"expected one LanguageTokenizer and word pieces in task['language_instruction']; found {names} and "
            f"{type(instruction).__name__}"
        )
    tokenizer = module.octo_transformer.task_tokenizers[names[0]]
    if tokenizer.encoder is None or tokenizer.finetune_encoder:
        raise ValueError(
            f"{names[0]}: encoder={tokenizer.encoder!r}, finetune_encoder={tokenizer.finetune_encoder}: only a frozen "
            "encoder's output can be stored"
        )
    weights = params["octo_transformer"][f"task_tokenizers_{names[0]}"]["hf_model"]
    config = T5Config.find(tokenizer.encoder)

    @jax.jit
    def run(weights: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return encode(config, weights, ids, mask, tokenizer.compute)

    embedded = run(weights, instruction["input_ids"], instruction["attention_mask"])
    return {**task, "language_instruction": embedded}
