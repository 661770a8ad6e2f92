"""Upstream's checkpoint directory, read and written without orbax.

    <root>/config.json                 the config
    <root>/dataset_statistics.json     statistics for un-normalisation, nested lists
    <root>/example_batch.msgpack       one example: observation, task, action, action_pad_mask
    <root>/<step>/default/checkpoint   the parameters, flax msgpack
    <root>/checksums.json              ours alone: by step, or name, size and checksum of each of these files, and of a
                                       tokenizer.json that was saved with them

Directories whose names are not numbers belong to others (`state/`, ...) and are ignored.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgpack
import numpy as np
from flax import serialization

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError, Section, blaming, content, finite, one_line, real_path, shown, whole
from gap_vla.core.identity import flat
from gap_vla.core.marks import content_mark, file_mark
from gap_vla.core.outputs import alone_in
from gap_vla.core.whole import clear_leftovers, put, replacing, workplace
from gap_vla.octo.batches import native
from gap_vla.octo.example_batch import checked_example, require_alike
from gap_vla.octo.normalization import as_finetuned
from gap_vla.octo.spec import ModuleSpec
from gap_vla.octo.text import FILE as TOKENIZER

CONFIG = "config.json"
STATISTICS = "dataset_statistics.json"
EXAMPLE_BATCH = "example_batch.msgpack"
CHECKSUMS = "checksums.json"
_DESCRIBING = (CONFIG, STATISTICS, EXAMPLE_BATCH)

GREATEST = 1_000_000
"""Greatest number in a model's config, unless `_GREATEST` has another."""

_GREATEST = {"num_layers": 256, "num_blocks": 256, "readouts": 4096, "num_tokens": 4096, "max_horizon": 100_000}
_COUNTS = {
    "token_embedding_size", "max_horizon", "num_layers", "mlp_dim", "num_attention_heads", "readouts",  # transformer
    "features", "kernel_sizes", "strides", "patch_size", "num_features", "num_tokens",  # tokenizers and encoders
    "action_horizon", "action_dim", "n_bins", "vocab_size",  # heads
    "diffusion_steps", "n_diffusion_samples", "time_dim", "hidden_dim",  # of diffusion
    "max_length",  # text
}  # fmt: skip
"""Names of whole numbers, or lists of them, that cannot be 0."""
_FLAGS = {
    "add_position_embedding", "enforce_causal", "use_correct_attention", "repeat_task_tokens",  # transformer
    "discretize", "use_film", "use_token_learner", "proper_pad_mask", "finetune_encoder",  # tokenizers and encoders
    "use_map", "use_layer_norm",  # heads
    "encode_with_model",  # text
}  # fmt: skip
"""Names of what is true or false."""


def available_steps(root: Path) -> list[int]:
    """Steps in `root` that hold parameters, ascending."""
    return [step for step in _numbered(root) if params_path(root, step).exists()]


def _numbered(root: Path) -> list[int]:
    """Folders in `root` that are named as steps are, ascending."""
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such directory")
    names = [entry.name for entry in root.iterdir() if entry.name.isascii() and entry.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def _unfinished(root: Path, step: int) -> list[str]:
    """Folders in which orbax was saving a later step."""
    found = {entry.name: re.match(r"([0-9]{1,18})\.orbax-checkpoint-tmp", entry.name) for entry in root.iterdir()}
    return sorted(name for name, of in found.items() if of and int(of[1]) > step)


def params_path(root: Path, step: int) -> Path:
    """The file with the parameters of `step`."""
    return root / str(step) / "default" / "checkpoint"


def read_params(root: Path, step: int | None = None) -> tuple[dict[str, Any], int]:
    """The parameters, a tree of numpy arrays, and their step; the latest unless `step` is given.

    Raises CheckpointError: no such step, one that is damaged or lies elsewhere, the latest lacks its parameters, or a
    file that the checksums name is missing.
    """
    steps, said = available_steps(root), _checksums(root)
    if step is None:
        latest = max(_numbered(root), default=0)
        if not steps:
            where = params_path(root, latest)
            raise CheckpointError(f"{root}: no step with parameters (such as {where}); copy it again")
        step = steps[-1]
        if step < latest:
            whole_ones = f"name a step that is whole ({', '.join(map(str, steps))})"
            advice = f"copy it again, remove folder {latest} if its saving was stopped, or {whole_ones}"
            raise CheckpointError(f"{params_path(root, latest)}: the latest step lacks its parameters; {advice}")
        if (last := max((int(name) for name in said if re.fullmatch(r"[0-9]{1,18}", name)), default=0)) > step:
            what = f"{root / CHECKSUMS} names step {last}, which is not there: {step} is taken as the latest"
            warnings.warn(f"{what}; copy it again, unless its saving goes on, or was stopped", stacklevel=3)
        for name in _unfinished(root, step):
            what = f"{root / name} was not finished: {step} is taken as the latest"
            warnings.warn(f"{what}; remove it, unless its saving goes on", stacklevel=3)
    path = params_path(root, step)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; steps in {root}: {steps or 'none'}")
    tree = read_msgpack(path)
    if (root / CHECKSUMS).exists() and str(step) not in said:
        warnings.warn(f"{root / CHECKSUMS} says nothing of step {step}: damage to {path} is not noticed", stacklevel=3)
    beside = {name: root / name for name in (*_DESCRIBING, TOKENIZER) if (root / name).is_file()}
    if lost := [name for name in (*_DESCRIBING, TOKENIZER) if name in said and name not in beside]:
        raise CheckpointError(f"{root / lost[0]} is missing, and {CHECKSUMS} names it; copy it again")
    for name, file in {str(step): path, **beside}.items():
        if name in said and (found := file_mark(real_path(file))) != said[name]:
            advice = f"copy both again, or remove {CHECKSUMS} if you changed it"
            raise CheckpointError(f"{file} has {found}, {root / CHECKSUMS} says {shown(said[name])}; {advice}")
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path}: expected a tree of parameters, found {type(tree).__name__}")
    for name, leaf in flat(tree, separator="/"):
        if isinstance(leaf, str):
            raise CheckpointError(
                f"{path}: {name} is the text {shown(leaf)}, not an array; save the parameters in one file, as upstream "
                "does (save_args_from_target of flax.training.orbax_utils)"
            )
    return tree, step


def _checksums(root: Path) -> dict[str, Any]:
    path = root / CHECKSUMS
    return dict(Section.read(path, CheckpointError).values) if path.exists() else {}


def read_config(root: Path) -> dict[str, Any]:
    """The config, with names of older releases replaced by today's; see `as_finetuned`.

    Raises:
        CheckpointError: no such file, a key of another kind than a model has, a size that no model has, or a class
            that is not registered; nothing that the file names is imported.
    """
    config = Section.read(root / CONFIG, CheckpointError)
    model = config.section("model")
    if "observation_tokenizers" not in model:
        advice = "give a checkpoint in Octo's layout, of a run its checkpoint/"
        raise CheckpointError(f"{config.where} describes no Octo model (no model.observation_tokenizers); {advice}")
    for part in ("observation_tokenizers", "heads"):
        for name in model.section(part).values:
            model.section(part).section(name).section("kwargs")
    heads = model.section("heads")
    for name in heads.values:
        kwargs = dict(heads.section(name).section("kwargs").values)
        if "pred_horizon" in kwargs:
            kwargs["action_horizon"] = kwargs.pop("pred_horizon")
        heads.values[name]["kwargs"] = kwargs
    texts = config.values.get("text_processor", {})
    if texts is not None and "module" not in Section(texts, config.name("text_processor"), CheckpointError):
        raise config.refuse("text_processor", "a module spec, or null")
    with blaming(root / CONFIG, "its model cannot be read"):
        _check_config(model.values, model.where, "model")
        _check_config(config.values["text_processor"], config.name("text_processor"), "text_processor")
    longest = model.whole("max_horizon", 1, _GREATEST["max_horizon"]) if "max_horizon" in model else GREATEST
    if "window_size" in config and (window := config.whole("window_size", 1, GREATEST)) > longest:
        raise CheckpointError(
            f"{config.where}: window_size is {window}, and model.max_horizon {longest}; copy it again"
        )
    return as_finetuned(root, config.values)


def _check_config(value: Any, where: str, name: str) -> None:
    """Module specs name classes that there are, and numbers are ones that a model can have; at any depth.

    Args:
        name: the nearest key.
    """
    if isinstance(value, dict):
        if "module" in value:
            with blaming(where, "no module spec"):
                ModuleSpec.instantiate(value)
        for key, inner in value.items():
            _check_config(inner, f"{where}.{key}", name if name == "readouts" else key)
    elif isinstance(value, list):
        if not value and name in _COUNTS:
            raise CheckpointError(f"{where} is empty; it must have a number for each stage")
        for place, inner in enumerate(value):
            _check_config(inner, f"{where}[{place}]", name)
    elif name in _FLAGS:
        if not isinstance(value, bool):
            raise CheckpointError(f"{where} is {shown(value)}; it must be true or false")
    elif name.endswith("dropout_rate"):
        finite(where, value, 0, 1, CheckpointError)
    elif name == "normalization_type":  # of the bins of a head
        if value not in ("uniform", "normal"):
            raise CheckpointError(f"{where} is {shown(value)}; it must be uniform or normal")
    elif name == "max_action":
        finite(where, value, 1e-6, GREATEST, CheckpointError)
    elif name in _COUNTS and value is not None:
        whole(where, value, 1, _GREATEST.get(name, GREATEST), CheckpointError)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        finite(where, value, -GREATEST, GREATEST, CheckpointError)


def read_example_batch(root: Path) -> dict[str, Any]:
    """The example batch; see `checked_example`."""
    path = root / EXAMPLE_BATCH
    return checked_example(path, Section(read_msgpack(path), str(path), CheckpointError).values)


def read_statistics(root: Path) -> dict[str, Any]:
    """The statistics, every leaf a numpy array of numbers; whether they can be used, who uses them checks."""
    path = root / STATISTICS
    with blaming(path, "no statistics"):
        return _arrays(Section.read(path, CheckpointError))


def _arrays(section: Section) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.values.items():
        if isinstance(value, dict):
            found[key] = _arrays(section.section(key))
            continue
        try:
            found[key] = np.array(value)
        except ValueError:
            raise section.refuse(key, "numbers, all rows equally long") from None
        if found[key].dtype.kind not in "biuf":
            for one in np.array(value, object).flat if isinstance(value, list) else ():
                if not isinstance(one, int | float):
                    raise CheckpointError(
                        f"{section.name(key)} holds {shown(one)}; all must be numbers, or truth values"
                    )
            raise section.refuse(key, "numbers")
    return found


def read_msgpack(path: Path) -> Any:
    """A tree of numpy arrays from a flax msgpack file."""
    with blaming(path, "not a readable msgpack file"):
        packed = content(path, CheckpointError)
        msgpack.unpackb(packed, object_pairs_hook=_once, ext_hook=lambda *_: None, strict_map_key=False)
        return serialization.msgpack_restore(packed)


def _once(pairs: list[tuple[Any, Any]]) -> None:
    """Of keys that are there twice, readers take the one or the other."""
    for key, count in collections.Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{one_line(key, 60)!r} is there {count} times")


def write_checkpoint(
    root: Path,
    step: int,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    example_batch: Mapping[str, Any],
    statistics: Mapping[str, Any] | None,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write the parameters of `step`, and the other files (`beside`: more, by name) where they do not exist yet.

    Every file appears whole or not at all. An existing step is an error: checkpoints are never overwritten. So are a
    config, statistics and an example batch of another model, which its steps would be read with.
    """
    target = params_path(root, whole("the step", step, 0, 2**53, CheckpointError))
    for place in (root, target.parent):
        with contextlib.suppress(UserError):  # somebody's file that is not in the way
            clear_leftovers(place)
    with alone_in(root / CHECKSUMS, wait=True):  # of two that write steps at once, each sees what the other wrote
        if target.exists():
            raise CheckpointError(f"{target} exists already; choose another step or another directory")
        beside = beside or {}
        _write_beside(root, config, example_batch, statistics, beside)
        content = serialization.msgpack_serialize(_to_numpy(params))
        marks = {name: file_mark(root / name) for name in (*_DESCRIBING, *beside)}
        said = {**marks, **_checksums(root), str(step): content_mark(content)}
        _write(root / CHECKSUMS, json.dumps(said).encode())  # before the step, which is never there without its own
        _write_step(root / str(step), content)


def _same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configs are of one model, whatever they say of its data, which a fine-tuning changes."""
    return {**one, "dataset_kwargs": None} == {**other, "dataset_kwargs": None}


def _write_beside(
    root: Path,
    config: Mapping[str, Any],
    example_batch: Mapping[str, Any],
    statistics: Mapping[str, Any] | None,
    beside: Mapping[str, bytes],
) -> None:
    lists = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), statistics or {})
    described = {CONFIG: json.dumps(config, default=_plain).encode(), STATISTICS: json.dumps(lists).encode()}
    for name, said in described.items():
        if not (root / name).exists() or Section.read(root / name, CheckpointError).values == json.loads(said):
            continue
        if name != CONFIG or not _same_model(read_config(root), json.loads(said)):
            raise CheckpointError(f"{root / name} is of another model; choose another directory")
    if (root / EXAMPLE_BATCH).exists():
        require_alike(root / EXAMPLE_BATCH, read_example_batch(root), native(example_batch))
    for name, said in beside.items():
        if (root / name).exists() and (root / name).read_bytes() != said:
            warnings.warn(f"{root / name} is not the one of this model, and is kept", stacklevel=4)
    described |= beside
    described[EXAMPLE_BATCH] = serialization.msgpack_serialize(_to_numpy(example_batch))
    for name, said in described.items():
        if not (root / name).exists():
            _write(root / name, said)


def _plain(value: Any) -> Any:
    """What JSON does not know as it does: numbers and arrays of numpy, and mappings that are no dict."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "items"):
        return dict(value.items())
    raise CheckpointError(f"the config holds {value!r:.60}, which is no JSON; give texts, numbers, lists, dictionaries")


def _to_numpy(tree: Any) -> Any:
    return native(jax.tree.map(np.asarray, serialization.to_state_dict(tree)))


def _write_step(folder: Path, content: bytes) -> None:
    """The folder appears with its parameters: one without them is a step that was damaged."""
    if folder.exists():
        _write(folder / "default" / "checkpoint", content)
        return
    with workplace(folder) as new:
        _write(new / "default" / "checkpoint", content)
        put(new, folder)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
