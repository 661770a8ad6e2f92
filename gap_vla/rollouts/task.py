"""What a rollout needs to know of a task, so that workers can be given any simulator, not only `gap_vla.sim`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from gap_vla.core.errors import UserError
from gap_vla.sim.specs import task_spec

FILM_SIZE = 256
"""Height and width (pixels) of films, whatever the policy sees."""


class Task(Protocol):
    """A task as the rollouts see it. It is sent to worker processes, so it must pickle.

    Optional: `make_watcher(env)`, whose `look() -> str` is called once per step and tells which phase the episode has
    reached, whoever acts; `filmed() -> Task`, the same task with the pictures that films are made of; `action_range`,
    the least and the greatest action, each a number or one a column (default: -1 and 1).
    """

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

    def make_expert(self, env: Any, *, seed: int) -> Any:
        """A scripted expert for the episode that `env` has just been reset to: `act() -> action`, and its `phase`."""

    def identity(self) -> dict[str, Any]:
        """JSON-able: what must be equal for two evaluations to be of the same thing."""


@dataclasses.dataclass(frozen=True)
class SimTask:
    """A task of `gap_vla.sim`, with its pictures and its variant; `sim_task` makes one by name.

    `disturbance="objects_moved"` shifts the objects early in each episode.
    """

    name: str
    instruction: str
    horizon: int
    action_dim: int
    phases: tuple[str, ...]
    image_size: int = 64
    cameras: tuple[str, ...] = ("primary",)
    variant: str = "default"
    camera: str = "near"
    disturbance: str | None = None

    def make(self) -> Any:
        from gap_vla.sim.environment import make

        simulator = make(
            self.name, image_size=self.image_size, cameras=self.cameras, variant=self.variant, camera=self.camera
        )
        if self.disturbance is None:
            return simulator
        from gap_vla.sim.wrappers import ObjectMover  # after `make`, which settles what MuJoCo draws with

        return ObjectMover(simulator)

    def make_expert(self, env: Any, *, seed: int) -> Any:
        from gap_vla.sim.expert import make_expert

        return make_expert(env, seed=seed)

    def make_watcher(self, env: Any) -> Any:
        from gap_vla.sim.expert import PhaseWatcher

        return PhaseWatcher(env.unwrapped.world)

    def filmed(self) -> SimTask:
        return dataclasses.replace(self, image_size=FILM_SIZE, cameras=("primary",))

    def identity(self) -> dict[str, Any]:
        spec = task_spec(self.name)
        pictures = spec.pictures_version if self.cameras else 1
        return {
            "task": self.name,
            "image_size": self.image_size,
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
    """Looks a task of `gap_vla.sim` up.

    Args:
        cameras: pictures in the observation, of `primary` and `wrist`.
        horizon: control steps after which an episode ends; default: the task's own, which it cannot exceed.
        scene: `image_size` (height and width of the pictures in pixels), `variant` (how the scene differs from the
            demonstrations', of `gap_vla.sim.variants.VARIANT_NAMES`), `camera` (the view of `primary`: `near`, or a
            camera of the simulator's model), `disturbance`.

    Raises:
        UserError: an unknown task, camera, view or variant (lists the known ones), or a horizon beyond the task's.
    """
    from gap_vla.sim.variants import variant_spec

    spec = task_spec(name)
    if horizon is not None and not 1 <= horizon <= spec.horizon:
        raise UserError(f"horizon is {horizon}; an episode of {name} ends at step {spec.horizon}")
    task = SimTask(
        spec.name, spec.instruction, horizon or spec.horizon, spec.action_dim, spec.phases, cameras=tuple(cameras),
        **scene,
    )  # fmt: skip
    variant_spec(task.variant).require_view(task.camera)
    spec.require_cameras(cameras, task.camera)
    return task
