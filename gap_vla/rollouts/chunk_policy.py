"""What every network that predicts chunks of actions needs in rollouts: history, normalisation, batches, execution."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.foreign import CheckpointError, shown, whole
from gap_vla.core.identity import digest
from gap_vla.demos.fields import resized
from gap_vla.rlds.statistics import check_statistics, normalize, unnormalize
from gap_vla.rollouts.policy import PolicyError

MAX_BATCH = 4096
"""Episodes that a policy is asked about at once: environments per process times processes."""


def _require_ids(given: Sequence[int]) -> None:
    if isinstance(given, str) or not isinstance(given, Iterable) or not all(isinstance(i, Hashable) for i in given):
        raise PolicyError(f"the episodes are {shown(given)}; give a list of their numbers")


class RecedingHorizon:
    """One episode's memory of what has been predicted: executes the first `execute` actions of a chunk, then asks for
    the next chunk.
    """

    def __init__(self, execute: int) -> None:
        self._execute = execute
        self._left: deque[np.ndarray] = deque()

    @property
    def wants_chunk(self) -> bool:
        """Whether a prediction for the present step is needed before `next`."""
        return not self._left

    def add(self, chunk: Float[np.ndarray, "H A"]) -> None:
        """The prediction made at the present step, for it and the H - 1 steps after it."""
        self._left = deque(chunk[: self._execute])

    def next(self) -> Float[np.ndarray, " A"]:
        """The action to execute now; moves on by one step."""
        return self._left.popleft()


class TemporalEnsemble:
    """The same for predictions at every step: the mean of what the last chunks say about the present one (T. Zhao et
    al., 2023, without their weights).
    """

    wants_chunk = True

    def __init__(self, horizon: int) -> None:
        self._chunks: deque[np.ndarray] = deque(maxlen=horizon)

    def add(self, chunk: Float[np.ndarray, "H A"]) -> None:
        self._chunks.append(chunk)

    def next(self) -> Float[np.ndarray, " A"]:
        newest = len(self._chunks) - 1
        opinions = np.stack([chunk[newest - age] for age, chunk in enumerate(self._chunks)])
        return (opinions * np.float64(1 / len(opinions))).sum(0)


class EpisodeHistory:
    """What one episode remembers: the last W observations, and its chunks. The first observation fills the window,
    marked as padding, as in training.
    """

    def __init__(self, number: int, window: int, chunks: RecedingHorizon | TemporalEnsemble) -> None:
        self.number, self.steps, self.instruction = number, 0, ""
        self.chunks = chunks
        self._window = window
        self._history: deque[dict[str, np.ndarray]] = deque(maxlen=window)

    def see(self, observation: dict[str, np.ndarray], instruction: str = "") -> None:
        self.instruction = instruction
        kept = [*self._history, observation] if self._history else [observation] * self._window
        self._history = deque(kept, self._window)  # a new one, so that the one before can be put back
        self.steps += 1

    def inputs(self) -> dict[str, np.ndarray]:
        seen = np.arange(self._window) >= self._window - self.steps
        timestep = np.maximum(np.arange(self._window) + self.steps - self._window, 0).astype(np.int32)
        stacked = {key: np.stack([moment[key] for moment in self._history]) for key in self._history[0]}
        return {**stacked, "timestep": timestep, "timestep_pad_mask": seen}


class ChunkPolicy(abc.ABC):
    """Runs a network for many episodes at once; a subclass says how a batch of windows becomes normalised chunks.

    The network sees two batch sizes only (`batch_size` and a quarter of it, filled up with copies), so that compiled
    code is compiled twice at most. Heads that sample draw from (seed, episode, step), so an episode does not depend on
    which others run beside it.

    Args:
        inputs: shape of one step of each input: `image_<camera>` → (H, W, 3) and, if it is taken, `proprio` → (P,).
        statistics: of the training data, `action` and, if it is taken, `proprio`.
        normalization: of actions and proprioception in training: `normal` or `bounds`.
        window: observations that the network looks back on, the present one included.
        horizon: actions in a predicted chunk.
        execute: actions executed of each predicted chunk.
        ensemble: predict at every step and average the chunks instead, see `TemporalEnsemble`.
        action_dim: dimensions that the network predicts; those beyond the statistics' are dropped.
        samples: whether the head draws its actions.
        details: entries for `identity`.
        source: the directory that it comes from, for messages and for whoever reads the result.
        upstreams: see `check_statistics`.

    Attributes:
        cameras: through which the policy looks: `primary`, `wrist`.
        image_size: height in pixels of the largest picture that the network takes (smaller ones are made from it), if
            any.
        proprio_dim: width of the proprioception that the policy takes, if any (`uses_proprio`).
        action_dim: width of its actions.
        action_horizon: actions in a predicted chunk.
        window_size: observations that the policy looks back on, the present one included.
        camera: the primary camera's view in training, where the checkpoint tells.
        trained_task: the name of the task of its training, where that is known.
        reads_instructions: whether it must be given one.

    Raises:
        PolicyError: an impossible `execute`, or inputs that are none.
        CheckpointError: statistics that cannot be used.
    """

    def __init__(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        statistics: Mapping[str, Any],
        *,
        window: int,
        horizon: int,
        action_dim: int,
        samples: bool,
        normalization: str = "normal",
        execute: int = 1,
        ensemble: bool = False,
        batch_size: int = 8,
        seed: int = 0,
        name: str = "",
        details: Mapping[str, Any] | None = None,
        source: str | None = None,
        upstreams: bool = False,
    ) -> None:
        for what, value, least, most in (
            ("batch_size", batch_size, 1, MAX_BATCH),
            ("seed", seed, 0, 2**32 - 1),
            ("execute", execute, 1, 100_000),
        ):
            whole(what, value, least, most, PolicyError)
        if execute > horizon:
            raise PolicyError(f"execute={execute}: the model predicts {horizon} actions at a time")
        if not isinstance(ensemble, bool) or (ensemble and execute != 1):
            what = f"ensemble is {ensemble!r:.60}, execute {execute}"
            raise PolicyError(f"{what}; an ensemble, which is True or False, predicts anew at every step")
        where = f"{source or name}/dataset_statistics.json"
        check = functools.partial(check_statistics, statistics)
        widths = {"action": check("action", normalization, where, widest=action_dim)}
        for key, shape in inputs.items():
            if len(shape) != (3 if key.startswith("image_") else 1) or (len(shape) == 3 and shape[2] != 3):
                raise PolicyError(
                    f"{source or name}: one step of {key} is {shape}; pictures are (h, w, 3), proprio (P,)"
                )
        if "proprio" in inputs:
            width = inputs["proprio"][0]
            found = check("proprio", normalization, where, widest=width)
            if found < width:
                raise CheckpointError(f"{where}: proprio.mean is {found} wide, the network takes {width} dimensions")
            widths["proprio"] = width
        self.name = name
        self.source = source
        self.camera: str | None = None
        self.trained_task: str | None = None
        self.reads_instructions = False
        sizes = {key.removeprefix("image_"): shape[0] for key, shape in inputs.items() if key.startswith("image_")}
        self.cameras = tuple(sizes)
        self.image_size = max(sizes.values(), default=None)
        self.uses_proprio = "proprio" in inputs
        self.proprio_dim = inputs["proprio"][0] if self.uses_proprio else None
        self.action_dim = widths["action"]
        self.action_horizon, self.window_size = horizon, window
        self._inputs, self._statistics, self._normalization = dict(inputs), statistics, normalization
        self._samples, self._seed = samples, seed
        self._sizes = sorted({-(-batch_size // 4), batch_size})
        self._new_chunks: Callable[[], RecedingHorizon | TemporalEnsemble] = (
            (lambda: TemporalEnsemble(horizon)) if ensemble else (lambda: RecedingHorizon(execute))
        )
        scales = {
            key: unnormalize(np.eye(2)[:, :1] * np.ones(n), statistics[key], normalization) for key, n in widths.items()
        }
        self._identity: dict[str, Any] = {
            "execute": "ensemble" if ensemble else execute,
            "normalization": normalization,
            "statistics": digest({key: scale.tobytes().hex() for key, scale in scales.items()}, 16),  # by what they do
            **({"sampling_seed": seed} if samples else {}),
            **(details or {}),
        }
        self._episodes: dict[int, EpisodeHistory] = {}

    @abc.abstractmethod
    def _normalized_chunks(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        """The network's prediction for the present step of each episode; their number is one of the batch sizes."""

    def warm_up(self) -> None:
        """Runs every batch size once, so that no later call has to wait for compilation or other preparations."""
        for size in self._sizes:
            rows = {
                key: np.zeros((size, *shape), np.uint8 if key.startswith("image_") else np.float32)
                for key, shape in self._inputs.items()
            }
            rows["language_instruction"] = np.array([""] * size)
            numbers = [-1 - row for row in range(size)]
            self.reset(numbers)
            self.predict(rows, numbers)
            self.forget(numbers)

    def reset(self, episode_ids: Sequence[int]) -> None:
        """These episodes begin."""
        _require_ids(episode_ids)
        self.forget(episode_ids)
        for episode in episode_ids:
            self._episodes[episode] = EpisodeHistory(episode, self.window_size, self._new_chunks())

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """One action per row, in the units of the training data.

        Raises:
            PolicyError: an input of the network is missing, not finite, no numbers, or has another shape than in
                training (pictures are uint8 and resized), or its rows are not those of the episodes.
        """
        with self._shown(observations, episode_ids) as episodes:
            asking = [episode for episode in episodes if episode.chunks.wants_chunk]
            for episode, chunk in zip(asking, self._predict(asking)):
                episode.chunks.add(chunk)
        return np.stack([episode.chunks.next() for episode in episodes]).astype(np.float32)

    def predict(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B H A"]:
        """The whole chunk for each row, predicted anew; history as in `act`, executed chunks untouched."""
        with self._shown(observations, episode_ids) as episodes:
            return np.stack(self._predict(episodes))

    @property
    def identity(self) -> dict[str, Any]:
        """What an evaluation compares, to notice another policy."""
        self._identity |= self._parameters()
        return self._identity

    @identity.setter
    def identity(self, said: dict[str, Any]) -> None:
        self._identity = said

    def _parameters(self) -> dict[str, Any]:
        """Of an identity, what may change while a policy lives."""
        return {}

    def forget(self, episode_ids: Sequence[int]) -> None:
        """These episodes are over."""
        for episode in episode_ids:
            self._episodes.pop(episode, None)

    @contextlib.contextmanager
    def _shown(
        self, observations: Mapping[str, np.ndarray], episode_ids: Sequence[int]
    ) -> Iterator[list[EpisodeHistory]]:
        """The episodes, which remember these observations unless the prediction fails: then the same may be given
        again."""
        if not isinstance(observations, Mapping):
            raise PolicyError(f"observations are {shown(observations)}; give a dictionary of arrays")
        _require_ids(episode_ids)
        prepared = {key: self._prepared(key, shape, observations) for key, shape in self._inputs.items()}
        texts = observations.get("language_instruction", None if self.reads_instructions else [""] * len(episode_ids))
        if texts is None:
            raise PolicyError(f"the policy reads an instruction, it is given {', '.join(sorted(observations))} alone")
        texts = np.atleast_1d(texts)
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise PolicyError(f"language_instruction is {odd[0]!r:.60}, no text; give str (bytes: .decode())")
        rows = {key: len(value) for key, value in prepared.items()} | {"language_instruction": len(texts)}
        if odd := [key for key, found in rows.items() if found != len(episode_ids)]:
            raise PolicyError(f"{odd[0]} has {rows[odd[0]]} rows for {len(episode_ids)} episodes; give one for each")
        unknown = [episode for episode in episode_ids if episode not in self._episodes]
        if unknown or len({*episode_ids}) < len(episode_ids):
            raise PolicyError(f"episodes {[*episode_ids]}: reset each of them once before it acts, and name it once")
        episodes = [self._episodes[episode] for episode in episode_ids]
        before = [{**vars(episode)} for episode in episodes]
        for row, episode in enumerate(episodes):
            now = {key: value[row].copy() for key, value in prepared.items()}  # a robot may fill one array again
            if self.reads_instructions and episode.steps and episode.instruction != texts[row]:
                episode.chunks = self._new_chunks()  # those of another instruction are not what is asked for
            episode.see(now, str(texts[row]))
        try:
            yield episodes
        except BaseException:
            for episode, remembered in zip(episodes, before):
                vars(episode).update(remembered)
            raise

    def _prepared(self, key: str, shape: tuple[int, ...], observations: Mapping[str, np.ndarray]) -> np.ndarray:
        if key not in observations:
            raise PolicyError(
                f"the policy takes {key}, it is given {sorted(observations)}; "
                "was it trained for this task, with these cameras?"
            )
        value = observations[key]
        if np.ma.is_masked(value):
            raise PolicyError(f"{key} is masked in places; the policy needs every value")
        value = np.asarray(value)
        found = f"{value.dtype}{[*value.shape]}"
        if key.startswith("image_"):
            if value.dtype != np.uint8 or value.ndim != 4 or value.shape[-1] != 3 or 0 in value.shape:
                raise PolicyError(f"{key} is {found}; the policy takes pictures as uint8[B, h, w, 3]")
            if value.shape[1] * shape[1] != value.shape[2] * shape[0]:
                size = f"{value.shape[1]} × {value.shape[2]}"
                raise PolicyError(f"{key} is {size}, in training {shape[0]} × {shape[1]}; crop or pad it to that form")
            return resized(value, (shape[0], shape[1]))
        if value.ndim != 2 or value.dtype.kind not in "fiu":
            raise PolicyError(f"{key} is {found}; the policy takes numbers [B, {shape[0]}]")
        if value.shape[1:] != shape:
            raise PolicyError(
                f"the policy takes {key} of width {shape[0]}, the task gives {value.shape[1]}: "
                "it was trained for another task or robot"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            # float32: 1e308 is too much
            normalized = normalize(value, self._statistics["proprio"], self._normalization)
        if not np.isfinite(normalized).all():
            row, column = np.argwhere(~np.isfinite(normalized))[0]
            raise PolicyError(f"{key} is {value[row, column]} at index {column}; it cannot be normalised to a number")
        return normalized

    def _predict(self, episodes: Sequence[EpisodeHistory]) -> list[Float[np.ndarray, "H A"]]:
        chunks: list[np.ndarray] = []
        for start in range(0, len(episodes), self._sizes[-1]):
            some = episodes[start : start + self._sizes[-1]]
            size = next(size for size in self._sizes if size >= len(some))
            normalized = self._normalized_chunks([*some, *[some[0]] * (size - len(some))])[: len(some)]
            actions = unnormalize(normalized, self._statistics["action"], self._normalization)
            chunks.extend(np.array(actions))  # a network may fill one array again
        return chunks
