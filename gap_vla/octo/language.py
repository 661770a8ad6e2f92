"""Instructions to word pieces, with the files of the transformers library but without the library; and their embedding,
once instead of at every step.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.octo.module import OctoModule
from gap_vla.octo.t5 import T5Config, encode
from gap_vla.octo.tokenizers import LanguageTokenizer

DEFAULTS = {"max_length": 64, "padding": "max_length", "truncation": True, "return_tensors": "np"}
"""Upstream's options, as far as a config leaves them out."""


@dataclasses.dataclass(frozen=True)
class HFTokenizer:
    """A T5 tokenizer by name: a directory, or a repository of the Hugging Face hub such as `"t5-base"`.

    Its file is looked for at the first `encode`, so a model without a network loads as long as it is given no texts.

    Attributes:
        tokenizer_name: a directory that holds `tokenizer.json`, or a repository's name.
        tokenizer_kwargs: upstream's options; max_length counts word pieces including the end of the sentence.
        encode_with_model: not supported: embed with the model's own language tokenizer.
        directory: looked into first, so that a checkpoint can carry its tokenizer.
    """

    tokenizer_name: str
    tokenizer_kwargs: Mapping[str, Any] | None = None
    encode_with_model: bool = False
    directory: str | None = None

    def __post_init__(self) -> None:
        options: FrozenDict[str, Any] = FrozenDict({**DEFAULTS, **(self.tokenizer_kwargs or DEFAULTS)})
        object.__setattr__(self, "tokenizer_kwargs", options)
        if self.encode_with_model or options["padding"] != "max_length" or not options["truncation"]:
            raise ConfigError(f"HFTokenizer pads and truncates to max_length, and does not embed; found {self}")

    def encode(self, strings: Sequence[str]) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, int64[len(strings), max_length]; an empty string is its end alone."""
        assert self.tokenizer_kwargs is not None
        length = self.tokenizer_kwargs["max_length"]
        pieces = self.vocabulary()
        ids = np.zeros((len(strings), length), np.int64)
        mask = np.zeros((len(strings), length), np.int64)
        for row, string in enumerate(strings):
            found = pieces(string)
            if len(found) >= length:
                what = f"an instruction has {len(found)} word pieces, the model reads the first {length - 1}"
                warnings.warn(what, stacklevel=2)
            sentence = [*found[: length - 1], _END]
            ids[row, : len(sentence)] = sentence
            mask[row, : len(sentence)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def vocabulary(self) -> Callable[[str], list[int]]:
        """A function from a string to its word pieces, without the end; its file is downloaded if it is not here."""
        directory = None if self.directory is None else os.path.abspath(self.directory)  # of this present folder
        return _load(self.tokenizer_name, directory)

    def carried(self) -> dict[str, bytes]:
        """By name, the file that lies in `directory`, if one does."""
        path = Path(self.directory or "", FILE)
        return {FILE: path.read_bytes()} if self.directory is not None and path.is_file() else {}


_END = 1
FILE = "tokenizer.json"


@functools.lru_cache(maxsize=4)
def _load(name: str, directory: str | None) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_file(name, directory)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda string: tokenizer.encode(string, add_special_tokens=False).ids


def _file(name: str, directory: str | None) -> Path:
    """The `tokenizer.json` of `name`, downloaded if it is not here."""
    for folder in (directory, name):
        if folder is not None and (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILE))
    except Exception as error:
        raise UserError(
            f"tokenizer {name!r}: no file {(Path(name) / FILE).absolute()}, and no download "
            f"({type(error).__name__}); without a network, put its {FILE} beside the checkpoint's config.json"
        ) from error


REMEMBERED = 64
"""Batches of instructions whose embedding is kept."""

_REMEMBERED: collections.OrderedDict[Any, tuple[tuple[weakref.ref, ...], jax.Array]] = collections.OrderedDict()


def embed_language(module: OctoModule, params: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """`task` with its word pieces replaced by the frozen encoder's output, float32[B, L, d_model].

    The model takes either and gives the same: an instruction does not change during an episode, and a frozen
    encoder not during training, so this saves the encoder's time (and, with `split_frozen`, nothing else changes).
    A task without word pieces, or for a model that fine-tunes its encoder or has none, comes back as it is.
    """
    if (found := _frozen_encoder(module, params, task)) is None:
        return dict(task)
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
