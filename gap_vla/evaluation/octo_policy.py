"""An Octo checkpoint as a policy: history window, normalised proprioception, actions in the robot's units."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gap_vla.evaluation.chunks import ChunkExecutor, RecedingHorizon, TemporalEnsemble
from gap_vla.evaluation.history import EpisodeHistory
from gap_vla.evaluation.policy import PolicyError
from gap_vla.rlds.statistics import normalize, unnormalize

if TYPE_CHECKING:
    from gap_vla.octo import OctoModel

_SAMPLING_HEADS = ("DiffusionActionHead", "UNetDDPMActionHead", "DiscreteActionHead", "TokenPerDimActionHead")


class OctoPolicy:
    """Runs an `OctoModel` for many episodes at once.

    The model is called with two batch shapes only (`batch_size` and a quarter of it, filled up with copies), so it
    is compiled twice at most. Heads that sample draw from (seed, episode, step), so an episode does not depend on
    which others run beside it.

    Args:
        model: with `dataset_statistics` of the data it was trained on (`action`, and `proprio` if it takes it).
        execute: actions executed of each predicted chunk, at most the model's action horizon.
        ensemble: predict at every step and average the chunks instead; `ensemble_decay` as in `TemporalEnsemble`.
        normalization: of actions and proprioception in training: `normal` or `bounds`.
        dataset: which statistics, if the checkpoint carries those of several datasets.
        details: entries for `identity`.

    Raises:
        PolicyError: no statistics, statistics of several datasets, or an impossible `execute`.
    """

    def __init__(
        self,
        model: OctoModel,
        *,
        execute: int = 1,
        ensemble: bool = False,
        ensemble_decay: float = 0.0,
        normalization: str = "normal",
        dataset: str | None = None,
        batch_size: int = 8,
        seed: int = 0,
        name: str = "octo",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.source: str | None = None
        self._model = model
        example = model.example_batch["observation"]
        self._inputs = {key: value.shape[2:] for key, value in example.items() if _is_input(key)}
        self._window = example["timestep_pad_mask"].shape[1]
        self._has_pad_mask_dict = "pad_mask_dict" in example
        self._extra = set(example) - set(self._inputs) - {"timestep", "timestep_pad_mask", "pad_mask_dict"}
        head = model.config["model"]["heads"]["action"]
        self._horizon = int(head["kwargs"].get("action_horizon", 1))
        if not 1 <= execute <= self._horizon:
            raise PolicyError(f"execute={execute}: the model predicts {self._horizon} actions at a time")
        self._statistics = _statistics(model.dataset_statistics, "proprio" in self._inputs, dataset)
        self._normalization = normalization
        self._sizes = sorted({-(-batch_size // 4), batch_size})
        self._samples = head["name"] in _SAMPLING_HEADS
        self._seed = seed
        self._new_chunks: Callable[[], ChunkExecutor] = (
            (lambda: TemporalEnsemble(self._horizon, ensemble_decay))
            if ensemble
            else (lambda: RecedingHorizon(execute))
        )
        self.identity = {
            "execute": "ensemble" if ensemble else execute,
            "normalization": normalization,
            **({"sampling_seed": seed} if self._samples else {}),
            **(details or {}),
        }
        self._episodes: dict[int, EpisodeHistory] = {}
        self._run = self._compile()
        self._tasks: dict[tuple[str, ...], Any] = {}

    @classmethod
    def load(cls, checkpoint: str | Path, *, step: int | None = None, **options: Any) -> OctoPolicy:
        """From a directory in upstream's layout (ours are too), or `hf://owner/repository`.

        Raises:
            CheckpointError: the directory is missing, incomplete or damaged.
            PolicyError: see the class.
        """
        from gap_vla.octo import OctoModel

        model = OctoModel.load_pretrained(checkpoint, step=step)
        details = {"parameters": parameter_digest(model.params), **options.pop("details", {})}
        policy = cls(model, details=details, **options)
        policy.source = str(checkpoint)
        return policy

    @property
    def action_dim(self) -> int:
        return len(self._statistics["action"]["mean"])

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that the model looks through: `primary`, `wrist`."""
        return tuple(key.removeprefix("image_") for key in self._inputs if key.startswith("image_"))

    @property
    def image_size(self) -> int:
        """Height of the largest picture that the model takes; smaller ones are made from it."""
        return max(shape[0] for key, shape in self._inputs.items() if key.startswith("image_"))

    @property
    def uses_proprio(self) -> bool:
        return "proprio" in self._inputs

    @property
    def action_horizon(self) -> int:
        """Actions in a predicted chunk."""
        return self._horizon

    @property
    def window_size(self) -> int:
        """Observations that the model looks back on, the present one included."""
        return self._window

    def warm_up(self) -> None:
        """Compiles every batch shape, so that no later call has to wait for it."""
        for size in self._sizes:
            rows = {
                key: np.zeros((size, *shape), np.uint8 if key.startswith("image_") else np.float32)
                for key, shape in self._inputs.items()
            }
            numbers = [-1 - row for row in range(size)]
            self.reset(numbers)
            self.predict(rows, numbers)
            self.forget(numbers)

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            self._episodes[episode] = EpisodeHistory(episode, self._window, self._new_chunks())

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """One action per row, in the units of the training data.

        Raises:
            PolicyError: an input of the model is missing, or has another shape than in training.
        """
        episodes = self._show(observations, episode_ids)
        asking = [episode for episode in episodes if episode.chunks.wants_chunk]
        for episode, chunk in zip(asking, self._predict(asking)):
            episode.chunks.add(chunk)
        return np.stack([episode.chunks.next() for episode in episodes]).astype(np.float32)

    def predict(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B H A"]:
        """The whole chunk for each row, predicted anew; history as in `act`, executed chunks untouched."""
        return np.stack(self._predict(self._show(observations, episode_ids)))

    def forget(self, episode_ids: Sequence[int]) -> None:
        """These episodes are over."""
        for episode in episode_ids:
            self._episodes.pop(episode, None)

    def _show(self, observations: Mapping[str, np.ndarray], episode_ids: Sequence[int]) -> list[EpisodeHistory]:
        prepared = self._prepare(observations)
        texts = observations.get("language_instruction", [""] * len(episode_ids))
        episodes = [self._episodes[episode] for episode in episode_ids]
        for row, episode in enumerate(episodes):
            episode.see({key: value[row] for key, value in prepared.items()}, str(texts[row]))
        return episodes

    def _prepare(self, observations: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        prepared = {}
        for key, shape in self._inputs.items():
            if key not in observations:
                raise PolicyError(
                    f"the checkpoint takes {key}, the task gives {sorted(observations)}; "
                    "was it trained for this task, with these cameras?"
                )
            value = observations[key]
            if key.startswith("image_"):
                value = _resized(value, shape)
            elif value.shape[1:] != shape:
                raise PolicyError(
                    f"the checkpoint takes {key} of width {shape[0]}, the task gives {value.shape[1]}: "
                    "it was trained for another task or robot"
                )
            if key == "proprio":
                value = normalize(value, self._statistics["proprio"], self._normalization)
            prepared[key] = value
        return prepared

    def _predict(self, episodes: Sequence[EpisodeHistory]) -> list[Float[np.ndarray, "H A"]]:
        chunks: list[np.ndarray] = []
        for start in range(0, len(episodes), self._sizes[-1]):
            chunks.extend(self._predict_batch(episodes[start : start + self._sizes[-1]]))
        return chunks

    def _predict_batch(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        size = next(size for size in self._sizes if size >= len(episodes))
        filled = [*episodes, *[episodes[0]] * (size - len(episodes))]
        inputs = [episode.inputs() for episode in filled]
        observation: dict[str, Any] = {key: np.stack([one[key] for one in inputs]) for key in inputs[0]}
        if self._has_pad_mask_dict:
            there = np.ones((size, self._window), bool)
            observation["pad_mask_dict"] = {key: there for key in [*self._inputs, "timestep"]}
        task = self._task(tuple(episode.instruction for episode in filled))
        keys = np.stack([self._key(episode) for episode in filled])
        normalized = np.asarray(self._run(self._model.params, observation, task, keys))[: len(episodes)]
        return unnormalize(normalized[..., : self.action_dim], self._statistics["action"], self._normalization)

    def _key(self, episode: EpisodeHistory) -> np.ndarray:
        import jax

        root = jax.random.PRNGKey(self._seed)
        if not self._samples:
            return np.asarray(root)
        return np.asarray(jax.random.fold_in(jax.random.fold_in(root, episode.number), episode.steps))

    def _task(self, texts: tuple[str, ...]) -> Any:
        """The model's task input: the instructions if it reads them, everything else absent."""
        if texts not in self._tasks:
            if self._model.text_processor is not None:
                self._tasks[texts] = self._model.create_tasks(texts=list(texts))
            else:
                self._tasks[texts] = _zeros(self._model.example_batch["task"], len(texts))
        return self._tasks[texts]

    def _compile(self) -> Callable[..., Any]:
        import jax

        def one_batch(params: Any, observation: Any, task: Any, keys: Any) -> Any:
            return self._model.replace(params=params).sample_actions(observation, task, rng=keys[0])

        def one_by_one(params: Any, observation: Any, task: Any, keys: Any) -> Any:
            def row(observation: Any, task: Any, key: Any) -> Any:
                single = jax.tree.map(lambda leaf: leaf[None], (observation, task))
                return self._model.replace(params=params).sample_actions(*single, rng=key)[0]

            return jax.vmap(row)(observation, task, keys)

        return jax.jit(one_by_one if self._samples else one_batch)


def parameter_digest(params: Any) -> str:
    """Hexadecimal hash of all parameters: two checkpoints with the same one act alike."""
    import jax

    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        content.update(jax.tree_util.keystr(path).encode())
        content.update(np.ascontiguousarray(leaf).tobytes())
    return content.hexdigest()[:16]


def _is_input(key: str) -> bool:
    return key.startswith("image_") or key == "proprio"


def _statistics(found: Any, needs_proprio: bool, dataset: str | None) -> Mapping[str, Any]:
    if not found:
        raise PolicyError("the checkpoint has no dataset_statistics.json; its actions cannot be put into robot units")
    if dataset is not None:
        if dataset not in found:
            raise PolicyError(f"no statistics of {dataset!r} in the checkpoint; it has {', '.join(sorted(found))}")
        found = found[dataset]
    if "action" not in found:
        names = ", ".join(sorted(key for key, value in found.items() if isinstance(value, Mapping)))
        raise PolicyError(f"the checkpoint has statistics of several datasets; choose one with --dataset: {names}")
    if needs_proprio and "proprio" not in found:
        raise PolicyError("the checkpoint takes proprioception, but its statistics have no entry 'proprio'")
    return found


def _zeros(tree: Any, batch: int) -> Any:
    if isinstance(tree, Mapping):
        return {key: _zeros(value, batch) for key, value in tree.items()}
    return np.zeros((batch, *np.shape(tree)[1:]), np.asarray(tree).dtype)


def _resized(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if images.shape[1:] == shape:
        return images
    from PIL import Image

    size = (shape[1], shape[0])
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for image in images])
