"""An Octo checkpoint as a policy: history window, normalised proprioception, actions in the robot's units."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.identity import digest, plain
from gap_vla.octo.model import OctoModel
from gap_vla.octo.normalization import stated_normalization
from gap_vla.octo.tokenizers import matching_keys
from gap_vla.rollouts.chunk_policy import ChunkPolicy, EpisodeHistory

REMEMBERED_TASKS = 16
"""Batches of instructions whose task input is kept: with goal images, one may take megabytes."""

_SAMPLING_HEADS = ("DiffusionActionHead", "UNetDDPMActionHead", "DiscreteActionHead", "TokenPerDimActionHead")


class OctoPolicy(ChunkPolicy):
    """Runs an `OctoModel` for many episodes at once.

    Args:
        model: with `dataset_statistics` of the data it was trained on (`action`, and `proprio` if it takes it).
        dataset: which statistics, if the checkpoint carries those of several datasets.
        normalization: of training; needed only where the model's config does not say it.
        **options: of `ChunkPolicy`.

    Raises:
        UserError: no statistics, or those of several datasets.
    """

    def __init__(
        self,
        model: OctoModel,
        *,
        dataset: str | None = None,
        name: str = "octo",
        normalization: str | None = None,
        **options: Any,
    ) -> None:
        where = options.get("source") or name
        stated = stated_normalization(model.config, where) or normalization
        if stated is None:
            print(f"note: {where} does not say how its actions were normalised; taken as normal", file=sys.stderr)
        example = model.example_batch["observation"]
        self._states = model.config.get("proprio_history", 1)
        inputs = {key: example[key].shape[2:] for key in _seen(model)}
        if "proprio" in inputs:
            inputs["proprio"] = (inputs["proprio"][0] // self._states,)
        head = model.module.heads["action"]
        window = example["timestep_pad_mask"].shape[1]
        built = {key: model.config.get(key) for key in ("model", "text_processor", "proprio_history")}
        arithmetic = np.dtype(model.module.octo_transformer.compute.dtype).name
        details = {
            "parameters": parameter_digest(model.params),
            "architecture": digest(json.loads(json.dumps(plain({**built, "window_size": window}))), 16),
            **({} if arithmetic == "float32" else {"arithmetic": arithmetic}),
        }
        super().__init__(
            inputs,
            _statistics_of(model.dataset_statistics or {}, dataset, where),
            window=window + self._states - 1,
            horizon=head.action_horizon,
            action_dim=head.action_dim,
            samples=model.config["model"]["heads"]["action"]["name"] in _SAMPLING_HEADS,
            normalization=stated or "normal",
            name=name,
            details=details,
            **options,
        )
        self._model = model
        self._dims = self.action_dim if self.action_dim < head.action_dim else None
        self.reads_instructions = model.text_processor is not None
        self.camera = model.config.get("camera")
        self._has_pad_mask_dict = "pad_mask_dict" in example
        self._run = self._compile()
        self._task = functools.lru_cache(REMEMBERED_TASKS)(self._new_task)

    @classmethod
    def load(cls, checkpoint: str | Path, *, step: int | None = None, **options: Any) -> OctoPolicy:
        """From a directory in upstream's layout (ours are too), or `hf://owner/repository`."""
        return cls(OctoModel.load_pretrained(checkpoint, step=step), source=str(checkpoint), **options)

    def _normalized_chunks(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        inputs = [episode.inputs() for episode in episodes]
        seen = {key: np.stack([one[key] for one in inputs]) for key in inputs[0]}
        observation: dict[str, Any] = {key: value[:, self._states - 1 :] for key, value in seen.items()}
        there = np.ones_like(observation["timestep_pad_mask"])
        if self.proprio_dim:
            states = [seen["proprio"][:, first : first + there.shape[1]] for first in range(self._states)]
            observation["proprio"] = np.concatenate(states, axis=-1)
        if self._has_pad_mask_dict:
            observation["pad_mask_dict"] = {key: there for key in [*self._inputs, "timestep"]}
        task = self._task(tuple(episode.instruction for episode in episodes))
        keys = np.stack([self._key(episode) for episode in episodes])
        return np.asarray(self._run(self._model.params, observation, task, keys))[..., : self.action_dim]

    def _key(self, episode: EpisodeHistory) -> np.ndarray:
        root = jax.random.PRNGKey(self._seed)
        if not self._samples:
            return np.asarray(root)
        number = episode.number % 2**32  # those of `warm_up` are negative
        return np.asarray(jax.random.fold_in(jax.random.fold_in(root, number), episode.steps))

    def _new_task(self, texts: tuple[str, ...]) -> Any:
        """The model's task input: instructions if it reads them, everything else absent."""
        if self._model.text_processor is not None:
            task = self._model.create_tasks(texts=list(texts))
            if not all(texts):  # as in training, an empty instruction is none
                task["pad_mask_dict"]["language_instruction"] = np.array([len(text) > 0 for text in texts])
            return task
        example = self._model.example_batch["task"]
        return jax.tree.map(lambda leaf: np.zeros((len(texts), *leaf.shape[1:]), leaf.dtype), example)

    def _compile(self) -> Callable[..., Any]:
        def run(params: Any, observation: Any, task: Any, keys: Any) -> Any:
            model = self._model.replace(params=params)  # type: ignore[attr-defined]  # flax adds it
            sample = functools.partial(model.sample_actions, embodiment_action_dim=self._dims)

            def row(key: Any, *inputs: Any) -> Any:
                return sample(*jax.tree.map(lambda leaf: leaf[None], inputs), rng=key)[0]

            if self._samples:  # each row with its own key
                return jax.vmap(row)(keys, observation, task)
            return sample(observation, task, rng=keys[0])

        return jax.jit(run)


def _seen(model: OctoModel) -> list[str]:
    """Which pictures and states of the example batch the tokenizers read."""
    transformer = model.module.octo_transformer
    tokenizers = [*transformer.observation_tokenizers.values(), *transformer.task_tokenizers.values()]
    attributes = ("obs_stack_keys", "obs_keys", "task_stack_keys")
    patterns = [one for tokenizer in tokenizers for name in attributes for one in getattr(tokenizer, name, ())]
    found = matching_keys(model.example_batch["observation"], patterns)
    return [key for key in found if key == "proprio" or key.startswith("image_")]


def parameter_digest(params: Any) -> str:
    """Hexadecimal hash of all parameters."""
    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        content.update(jax.tree_util.keystr(path).encode())
        content.update(np.ascontiguousarray(leaf).tobytes())
    return content.hexdigest()[:16]


def _statistics_of(found: Mapping[str, Any], dataset: str | None, where: str) -> Mapping[str, Any]:
    """Those of one dataset: the checkpoint's only ones, or those of the dataset that is named."""
    several = {name: one for name, one in found.items() if isinstance(one, Mapping) and "action" in one}
    if dataset is None and ("action" in found or not several):
        return found
    if dataset is None and len(several) == 1:
        return next(iter(several.values()))
    if dataset not in several:
        names = ", ".join(sorted(several)) or "no dataset by name"
        raise UserError(f"{where} has statistics of {names}; choose one of them with --dataset (now {dataset})")
    return several[dataset]
