"""What a rollout needs to know of a task, so that workers can be given any simulator, not only `gap_vla.sim`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from gap_vla import sim
from gap_vla.core.resources import require_memory
from gap_vla.core.typed_config import Bounds, check_numbers, choose
from gap_vla.rollouts.record import EvaluationError

STEPS = Bounds(1, 100_000, "control steps of an episode")
SLOTS = 4
"""Environments of a worker process, unless more or fewer are asked for."""
IMAGE_SIZE = Bounds(1, 1024, "pixels; larger pictures take all memory")


class ActingExpert(Protocol):
    """A scripted expert looking at the environment's present state."""

    @property
    def phase(self) -> str: ...

    def act(self) -> np.ndarray: ...


class Watcher(Protocol):
    """Tells which phase an episode has reached, whoever acts."""

    def look(self) -> str:
        """Called once per step."""


class Task(Protocol):
    """A task as the rollouts see it. It is sent to worker processes, so it must pickle."""

    @property
    def name(self) -> str: ...

    @property
    def instruction(self) -> str: ...

    @property
    def horizon(self) -> int: ...

    @property
    def action_dim(self) -> int: ...

    @property
    def phases(self) -> tuple[str, ...]: ...

    def make(self) -> Any:
        """A gymnasium environment, made and used inside one worker; `info["success"]` of its steps is 0 or 1."""

    def make_expert(self, env: Any, *, seed: int) -> ActingExpert:
        """An expert for the episode that `env` has just been reset to."""

    def make_watcher(self, env: Any) -> Watcher | None:
        """A watcher for the episode that `env` has just been reset to, or None. A task without phases needs none."""

    def identity(self) -> dict[str, Any]:
        """JSON-able: what must be equal for two evaluations to be of the same thing."""


@dataclasses.dataclass(frozen=True)
class SimTask:
    """A task of `gap_vla.sim`, with its pictures and its variant; see `sim_task` to build one by name.

    `disturbance="objects_moved"` shifts the objects early in each episode.
    """

    name: str
    instruction: str
    horizon: Annotated[int, STEPS]
    action_dim: int
    phases: tuple[str, ...]
    image_size: Annotated[int, IMAGE_SIZE] = 64
    cameras: tuple[str, ...] = ("primary",)
    variant: str = "default"
    camera: str = "near"
    disturbance: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "", EvaluationError)
        if self.name in sim.TASK_NAMES and self.horizon > (last := sim.task_spec(self.name).horizon):
            raise EvaluationError(f"horizon is {self.horizon}, an episode of {self.name} ends at step {last}; lower it")
        if self.disturbance is not None:
            choose(self.disturbance, ["objects_moved"], "disturbance", EvaluationError)

    def require_memory(self, episodes: int, workers: int, slots: int, videos: int) -> None:
        """Raises ResourceError, with the numbers: the machine cannot hold the simulators of `workers` processes with
        `slots` environments each, and the pictures of so many episodes at once, of which films are to be made; about
        half a horizon each."""
        workers = min(workers, episodes)
        slots = min(slots, -(-episodes // workers))
        film = self.horizon / 2 * 3.0 * self.image_size**2 if self.cameras and videos else 0.0
        live = min(episodes, workers * slots)
        simulators = workers * sim.task_spec(self.name).memory(slots)
        needs = {f"{workers} simulators": simulators, f"pictures of {live} episodes": live * film}
        require_memory(needs, "lower the workers, their slots or the image size, or ask for no videos")

    def make(self) -> Any:
        scene = {"image_size": self.image_size, "cameras": self.cameras, "variant": self.variant, "camera": self.camera}
        simulator = sim.make(self.name, **scene)  # first: it settles what MuJoCo draws with, which others load
        from gap_vla.sim.disturbance import ObjectMover
        from gap_vla.sim.watching import RenderTimer

        return ObjectMover(RenderTimer(simulator)) if self.disturbance else RenderTimer(simulator)

    def make_expert(self, env: Any, *, seed: int) -> ActingExpert:
        return sim.make_expert(env, seed=seed)

    def make_watcher(self, env: Any) -> Watcher:
        from gap_vla.sim.watching import PhaseWatcher

        return PhaseWatcher(env.unwrapped.world)

    def identity(self) -> dict[str, Any]:
        spec = sim.task_spec(self.name)
        pictures = spec.pictures_version if self.cameras else 1
        return {
            "task": self.name,
            "image_size": int(self.image_size),
            "cameras": list(self.cameras),
            "variant": self.variant,
            "camera": self.camera,
            **({"pictures_version": pictures} if pictures > 1 else {}),
            **({"disturbance": self.disturbance} if self.disturbance else {}),
            **({"instruction": self.instruction} if self.instruction != spec.instruction else {}),
        }


def sim_task(
    name: str, *, cameras: Sequence[str] = SimTask.cameras, horizon: int | None = None, **scene: Any
) -> SimTask:
    """Looks the task up in `gap_vla.sim`.

    Args:
        cameras: pictures in the observation, of `primary` and `wrist`.
        horizon: control steps after which an episode ends; default: the task's own.
        scene: `image_size` (height and width of the pictures in pixels), `variant` (how the scene differs from the
            demonstrations', of `gap_vla.sim.VARIANT_NAMES`), `camera` (the view of `primary`: `near`, or a camera of
            the simulator's model).

    Raises:
        UnknownNameError: an unknown task, camera, view or variant; lists the known ones.
        EvaluationError: an impossible `horizon` or `image_size`.
    """
    spec = sim.task_spec(name)
    length = spec.horizon if horizon is None else horizon
    task = SimTask(spec.name, spec.instruction, length, spec.action_dim, spec.phases, cameras=tuple(cameras), **scene)
    sim.variant_spec(task.variant).require_view(task.camera)
    spec.require_cameras(cameras, task.camera)
    return task
