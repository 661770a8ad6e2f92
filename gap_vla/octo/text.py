"""Instructions to word pieces, with the files of the transformers library but without the library."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.core import FrozenDict

from gap_vla.core.errors import ConfigError, UserError

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
        if self.encode_with_model:
            raise ConfigError("HFTokenizer(encode_with_model=True) is not implemented: embed with the model itself")
        if options["padding"] != "max_length" or not options["truncation"]:
            raise ConfigError(f"HFTokenizer pads and truncates to max_length; found {dict(options)}")

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
