"""Any gymnasium environment as a task of the rollouts; a small JSON file says how to make it and how to read it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

import gap_vla
from gap_vla.core.columns import Columns
from gap_vla.core.config import STRICT, build, choose
from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json
from gap_vla.core.identity import plain
from gap_vla.demos.arrays import resized
from gap_vla.rollouts.policy import Bounds

FOLDER = Path(gap_vla.__file__).parent / "sim" / "worlds"
"""The worlds that are known by name, a JSON file each."""

REWARD = "reward>="


@dataclass(frozen=True, config=STRICT)
class World:
    """A gymnasium environment, and where its observation has what policies see."""

    id: str
    """The id under which gymnasium knows the environment."""
    observation: dict[str, str]
    """Our key (`image_primary`, `image_wrist`, `proprio`) to the array in the observation: "pixels/top" is
    observation["pixels"]["top"], "." is the whole observation, and a + joins several arrays."""
    action_columns: str
    """Columns of the action, as "joints:6 gripper_01 | joints:6 gripper_01"."""
    instruction: str
    """What the robot is told."""
    horizon: Annotated[int, Field(ge=1)]
    """Control steps after which an episode ends."""
    success: str = "is_success"
    """The entry of `info` that says whether the task is solved, or a threshold on the reward as "reward>=4"."""
    package: str = ""
    """The Python package to import, so that gymnasium knows the id."""
    make: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the environment."""
    columns: str = ""
    """Columns of the state, for the reader; empty: not described."""
    action_low: Bounds = -1.0
    """The least action, one number or one a column; a policy's actions are clipped to it."""
    action_high: Bounds = 1.0
    """The greatest action."""
    random: tuple[float, float] | None = None
    """What the policy `random` draws from, in every column; not given: from the least to the greatest action."""
    source: str = ""
    """Where the environment comes from."""

    def __post_init__(self) -> None:
        Columns.parse(self.action_columns)
        if self.success.startswith(REWARD):
            float(self.success.removeprefix(REWARD))


@dataclasses.dataclass(frozen=True)
class GymnasiumTask:
    """A `Task` (gap_vla.rollouts.task) in a gymnasium environment; it has no phases and no scripted expert.

    `image_size` is the height and width that its pictures are resized to; None leaves them as they are drawn.
    """

    name: str
    world: World
    horizon: int
    image_size: int | None = None
    phases: tuple[str, ...] = ()

    @property
    def instruction(self) -> str:
        return self.world.instruction

    @property
    def action_dim(self) -> int:
        return Columns.parse(self.world.action_columns).width

    @property
    def action_range(self) -> tuple[Bounds, Bounds]:
        """The least and the greatest action."""
        return self.world.action_low, self.world.action_high

    @property
    def random_range(self) -> tuple[Bounds, Bounds]:
        """What the policy `random` draws from."""
        return self.world.random or self.action_range

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(key.removeprefix("image_") for key in self.world.observation if key.startswith("image_"))

    def make(self) -> MappedEnvironment:
        import gymnasium

        from gap_vla.sim.rendering import require_rendering

        with contextlib.suppress(UserError):  # not every environment draws with OpenGL
            require_rendering()
        if self.world.package:
            importlib.import_module(self.world.package)
        # the environments' own checker warns of what their authors know
        how = {"max_episode_steps": self.horizon, "disable_env_checker": True, **self.world.make}
        return MappedEnvironment(gymnasium.make(self.world.id, **how), self.world, self.image_size)

    def make_expert(self, env: Any, *, seed: int) -> Any:
        raise UserError(f"{self.name} has no scripted expert")

    def filmed(self) -> GymnasiumTask:
        return dataclasses.replace(self, image_size=None)

    def identity(self) -> dict[str, Any]:
        world = {key: value for key, value in plain(self.world).items() if key not in ("columns", "source", "random")}
        return {"task": self.name, **world, "image_size": self.image_size}


class MappedEnvironment:
    """A gymnasium environment with observations under our names, and `info["success"]`."""

    def __init__(self, env: Any, world: World, image_size: int | None) -> None:
        self.env, self._world = env, world
        self._size = (image_size, image_size) if image_size else None

    def reset(self, *, seed: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed)
        return self._mapped(observation), {**info, "success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(np.array(action))  # some write into it
        word = self._world.success
        success = reward >= float(word.removeprefix(REWARD)) if word.startswith(REWARD) else info[word]
        return self._mapped(observation), float(reward), terminated, truncated, {**info, "success": bool(success)}

    def close(self) -> None:
        self.env.close()

    def _mapped(self, observation: Any) -> dict[str, np.ndarray]:
        found = {}
        for key, names in self._world.observation.items():
            arrays = [np.asarray(_at(observation, name)) for name in names.split("+")]
            if key.startswith("image_"):
                found[key] = resized(arrays[0][None], self._size)[0]
            else:
                found[key] = np.concatenate([array.ravel() for array in arrays]).astype(np.float32)
        return found


def _at(observation: Any, name: str) -> Any:
    for part in [] if name == "." else name.split("/"):
        observation = observation[part]
    return observation


def world_names() -> tuple[str, ...]:
    """Names of the worlds in `FOLDER`."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def gymnasium_task(world: str | Path, *, horizon: int | None = None, image_size: int | None = None) -> GymnasiumTask:
    """The task of a world's name, or of a JSON file with the fields of `World`; the file's name is the task's.

    Raises UserError: an unknown name, a file that is no world, or a package that is not installed.
    """
    file = Path(world)
    if file.suffix != ".json":
        file = FOLDER / f"{choose(str(world), world_names(), 'task')}.json"
    found = build(World, read_json(file))
    if found.package and importlib.util.find_spec(found.package.partition(".")[0]) is None:
        raise UserError(
            f"{file.stem} needs the Python package {found.package}, which is not installed ({found.source})"
        )
    return GymnasiumTask(file.stem, found, horizon or found.horizon, image_size)
