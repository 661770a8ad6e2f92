"""An Octo checkpoint as a policy: history window, normalised proprioception, actions in the robot's units."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.foreign import CheckpointError, Section, shown
from gap_vla.core.hub import local_directory
from gap_vla.core.identity import digest, plain
from gap_vla.core.resources import require_jax_device
from gap_vla.rlds.statistics import NORMALIZATIONS
from gap_vla.rollouts.chunk_policy import ChunkPolicy, EpisodeHistory
from gap_vla.rollouts.policy import PolicyError

if TYPE_CHECKING:
    from gap_vla.octo.model import OctoModel

REMEMBERED_TASKS = 16
"""Batches of instructions whose task input is kept: with goal images, one may take megabytes."""

_SAMPLING_HEADS = ("DiffusionActionHead", "UNetDDPMActionHead", "DiscreteActionHead", "TokenPerDimActionHead")


class OctoPolicy(ChunkPolicy):
    """Runs an `OctoModel` for many episodes at once.

    Args:
        model: with `dataset_statistics` of the data it was trained on (`action`, and `proprio` if it takes it).
        dataset: which statistics, if the checkpoint carries those of several datasets.
        **options: of `ChunkPolicy`.

    Raises:
        PolicyError: no statistics, statistics of several datasets, no action head, or an impossible `execute`.
        CheckpointError: statistics that cannot be used.
    """

    def __init__(self, model: OctoModel, *, dataset: str | None = None, name: str = "octo", **options: Any) -> None:
        from gap_vla.octo.normalization import stated_normalization

        own, source = model.config.get("normalization"), options.get("source") or name
        if "normalization" not in options and (stated := stated_normalization(model.config, "config.json")) is not None:
            options["normalization"] = stated
        if own is not None and options["normalization"] != own:
            raise CheckpointError(f"the model was trained with normalization {own}, not {options['normalization']}")
        example = model.example_batch["observation"]
        seen, told = _read(model)
        inputs = {key: example[key].shape[2:] for key in seen if key == "proprio" or key.startswith("image_")}
        if told and model.text_processor is None:
            what = f"{source} reads {', '.join(told)} of its task, and has no text processor"
            warnings.warn(f"{what}: it acts without a task, as rollouts have none", stacklevel=2)
        self._states = Section(model.config, "config.json", CheckpointError).whole("proprio_history", 1, 64, 1)
        if "proprio" in inputs:
            inputs["proprio"] = (inputs["proprio"][0] // self._states,)
        heads = model.config["model"]["heads"]
        if "action" not in heads:
            raise PolicyError(f"the checkpoint has no head 'action' to act with; it has {', '.join(heads) or 'none'}")
        head = heads["action"]
        built = model.module.heads["action"]
        window = example["timestep_pad_mask"].shape[1]
        of = {key: model.config.get(key) for key in ("model", "text_processor", "proprio_history")}
        arithmetic = np.dtype(model.module.octo_transformer.compute.dtype).name
        details = {
            "parameters": parameter_digest(model.params),
            "architecture": digest(json.loads(json.dumps(plain({**of, "window_size": window}, "the config"))), 16),
            **({} if arithmetic == "float32" else {"arithmetic": arithmetic}),
            **options.pop("details", {}),
        }
        statistics = _statistics(model.dataset_statistics, "proprio" in inputs, dataset, source)
        super().__init__(
            inputs,
            statistics,
            window=window + self._states - 1,
            horizon=built.action_horizon,
            action_dim=built.action_dim,
            samples=head["name"] in _SAMPLING_HEADS,
            name=name,
            details=details,
            upstreams=own is None,
            **options,
        )
        if dataset is None and "action" in model.dataset_statistics and self.action_dim < built.action_dim:
            self._require_taught(head["name"], _taught(model.example_batch, built.action_dim))
        self._model = model
        self._dims = self.action_dim if self.action_dim < built.action_dim else None
        self.reads_instructions = model.text_processor is not None
        camera = model.config.get("camera")
        if not isinstance(camera, str | None):
            where = self.source or self.name
            raise CheckpointError(f"{where}: camera is {shown(camera)}, no name of a view; copy it again")
        self.camera = camera
        self._has_pad_mask_dict = "pad_mask_dict" in example
        self._run = self._compile()
        self._task = functools.lru_cache(REMEMBERED_TASKS)(self._new_task)

    @classmethod
    def load(cls, checkpoint: str | Path, *, step: int | None = None, **options: Any) -> OctoPolicy:
        """From a directory in upstream's layout (ours are too), or `hf://owner/repository`.

        Raises:
            CheckpointError: the directory is missing, incomplete or damaged.
            PolicyError: see the class.
        """
        from gap_vla.octo.model import OctoModel

        require_jax_device()
        root = local_directory(checkpoint)
        model = OctoModel.load_pretrained(root, step=step)
        window = model.example_batch["observation"]["timestep_pad_mask"].shape[1]
        asked, own = options.pop("normalization", None), None
        if "normalization" in model.config:  # ours have it since 0.2
            stated = Section(model.config, f"{checkpoint}/config.json", CheckpointError)
            own = stated.choice("normalization", NORMALIZATIONS)
            if (said := model.config.get("window_size", window)) != window:
                what = f"its config.json says window_size {said}, its example batch has {window}"
                raise CheckpointError(f"{checkpoint}: {what}; copy both again")
        elif asked is None:
            asked = _upstreams_normalization(root, model.config)
        if None not in (asked, own) and asked != own:
            raise CheckpointError(
                f"{checkpoint} says normalization {own}, its run's config.json {asked}; copy the run again"
            )
        if (kind := own or asked) is not None:
            options["normalization"] = kind
        return cls(model, source=str(checkpoint), **options)

    def _require_taught(self, head: str, width: int) -> None:
        """Raises CheckpointError for statistics of fewer actions than in training; a diffusion head may predict more
        than a robot has, and warns."""
        if width <= self.action_dim:
            return
        where = f"{self.source or self.name}/dataset_statistics.json: action.mean is {self.action_dim} wide"
        what = f"{where}, the example batch's actions are {width}"
        if head not in ("DiffusionActionHead", "UNetDDPMActionHead"):
            raise CheckpointError(f"{what}; copy the checkpoint again")
        warnings.warn(f"{what}: the others are dropped; copy it again if its robot has them", stacklevel=3)

    def _normalized_chunks(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        inputs = [episode.inputs() for episode in episodes]
        seen = {key: np.stack([one[key] for one in inputs]) for key in inputs[0]}
        observation: dict[str, Any] = {key: value[:, self._states - 1 :] for key, value in seen.items()}
        there = np.ones_like(observation["timestep_pad_mask"])
        if self.uses_proprio:
            states = [seen["proprio"][:, first : first + there.shape[1]] for first in range(self._states)]
            observation["proprio"] = np.concatenate(states, axis=-1)
        if self._has_pad_mask_dict:
            observation["pad_mask_dict"] = {key: there for key in [*self._inputs, "timestep"]}
        task = self._task(tuple(episode.instruction for episode in episodes))
        keys = np.stack([self._key(episode) for episode in episodes])
        return np.asarray(self._run(self._model.params, observation, task, keys))[..., : self.action_dim]

    def _key(self, episode: EpisodeHistory) -> np.ndarray:
        import jax

        root = jax.random.PRNGKey(self._seed)
        if not self._samples:
            return np.asarray(root)
        number = episode.number % 2**32  # those of `warm_up` are negative
        return np.asarray(jax.random.fold_in(jax.random.fold_in(root, number), episode.steps))

    def _new_task(self, texts: tuple[str, ...]) -> Any:
        """The model's task input: instructions if it reads them, everything else absent."""
        import jax

        if self._model.text_processor is not None:
            task = self._model.create_tasks(texts=list(texts))
            if not all(texts):  # as in training, an empty instruction is none
                task["pad_mask_dict"]["language_instruction"] = np.array([len(text) > 0 for text in texts])
            return task
        example = self._model.example_batch["task"]
        return jax.tree.map(lambda leaf: np.zeros((len(texts), *leaf.shape[1:]), leaf.dtype), example)

    def _compile(self) -> Callable[..., Any]:
        import jax

        def run(params: Any, observation: Any, task: Any, keys: Any) -> Any:
            model = self._model.replace(params=params)
            sample = functools.partial(model.sample_actions, embodiment_action_dim=self._dims)

            def row(key: Any, *inputs: Any) -> Any:
                return sample(*jax.tree.map(lambda leaf: leaf[None], inputs), rng=key)[0]

            if self._samples:  # each row with its own key
                return jax.vmap(row)(keys, observation, task)
            return sample(observation, task, rng=keys[0])

        return jax.jit(run)


def _read(model: OctoModel) -> tuple[list[str], list[str]]:
    """Which observations of the example batch, and what of its task, the tokenizers read."""
    from gap_vla.octo.tokenizers import LanguageTokenizer, matching_keys

    transformer = model.module.octo_transformer
    tokenizers = [*transformer.observation_tokenizers.values(), *transformer.task_tokenizers.values()]
    of_observations, of_tasks = ("obs_stack_keys", "obs_keys", "task_stack_keys"), ("task_stack_keys", "task_film_keys")
    patterns = [
        [pattern for one in tokenizers for key in keys for pattern in getattr(one, key, ())]
        for keys in (of_observations, of_tasks)
    ]
    if any(isinstance(one, LanguageTokenizer) for one in tokenizers):
        patterns[1].append("language_instruction$")
    for one in transformer.observation_tokenizers.values():
        if not any(hasattr(one, key) for key in of_observations):  # somebody's own class, which reads what it likes
            patterns[0].append("")
    example = model.example_batch
    return matching_keys(example["observation"], patterns[0]), matching_keys(example["task"], patterns[1])


def _upstreams_normalization(root: Path, config: Mapping[str, Any]) -> str:
    """As its fine-tuning or its training wrote it down; else `normal`, with a note."""
    from gap_vla.octo.normalization import stated_normalization

    if said := stated_normalization(config, str(root)):
        return said
    print(f"note: {root} does not say how its actions were normalised; taken as normal", file=sys.stderr, flush=True)
    return "normal"


def parameter_digest(params: Any) -> str:
    """Hexadecimal hash of all parameters."""
    import jax

    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        content.update(jax.tree_util.keystr(path).encode())
        content.update(np.ascontiguousarray(leaf).tobytes())
    return content.hexdigest()[:16]


def _taught(example: Mapping[str, Any], width: int) -> int:
    """Dimensions of the actions in an example batch, but for those that only fill up to a wider robot's; 0: unknown."""
    actions, mask = (np.asarray(example.get(key, 0)) for key in ("action", "action_pad_mask"))
    if actions.ndim == 0 or actions.shape[-1] != width:
        return 0
    return int(mask.reshape(-1, width).any(0).sum()) if mask.shape == actions.shape else width


def _statistics(found: Any, needs_proprio: bool, dataset: str | None, source: str) -> Mapping[str, Any]:
    if not found:
        what = "the checkpoint's dataset_statistics.json is missing, or holds none"
        raise PolicyError(f"{what}; its actions cannot be put into robot units")
    parts = {name: one for name, one in found.items() if isinstance(one, Mapping)}
    of_datasets = {name: one for name, one in parts.items() if any(isinstance(of, Mapping) for of in one.values())}
    known = {name: one for name, one in of_datasets.items() if isinstance(one.get("action"), Mapping)}
    names = ", ".join(sorted(known))
    if dataset is not None:
        if dataset not in known:
            has = f"it has {names}" if names else "it names no datasets, leave --dataset out"
            raise PolicyError(f"no statistics of a dataset {dataset!r} in the checkpoint; {has}")
        found = known[dataset]
    elif "action" in found and of_datasets:
        what = f"not taken: the statistics of {', '.join(sorted(of_datasets))}, beside those of no name"
        print(f"note: {source}/dataset_statistics.json: {what}", file=sys.stderr, flush=True)
    elif "action" not in found and len(of_datasets) == 1 and known:
        (found,) = known.values()
    if "action" not in found:
        if not names:
            raise PolicyError("the checkpoint's statistics have no entry 'action', so it cannot act; copy it again")
        mute = ", ".join(sorted(of_datasets.keys() - known.keys()))
        what = f"several datasets{f' ({mute}: no action)' if mute else ''}; choose one with --dataset: {names}"
        raise PolicyError(f"the checkpoint has statistics of {what}")
    if needs_proprio and "proprio" not in found:
        raise PolicyError(
            "the checkpoint takes proprioception, but dataset_statistics.json has no entry 'proprio'; copy it again"
        )
    return found
