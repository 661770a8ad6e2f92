"""The one gymnasium environment of all tasks: pictures, proprioception, counting, checking; physics is the world's."""

from __future__ import annotations

import importlib
import os
import string
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from gap_vla.core.config import choose
from gap_vla.core.errors import UserError
from gap_vla.sim.cameras import CameraPose, StockView, View
from gap_vla.sim.rendering import FastRenderer, require_rendering
from gap_vla.sim.specs import CAMERAS, SETTLE_STEPS, TaskSpec, task_spec
from gap_vla.sim.variants import Variant, variant_spec
from gap_vla.sim.world import World

_REACH = (*(5.0,) * 3, *(1.01,) * 4, *(0.1,) * 2)
"""Generous bounds of one arm's proprio: xyz (m), quaternion, fingers (m)."""


class SimEnv(gymnasium.Env):
    """One task as a gymnasium environment; made by `make`.

    Observation: a dict of `image_primary` and `image_wrist` (uint8[h, w, 3], those asked for), `proprio`
    (float32[9 * arms]: per arm eef xyz (m, world), quaternion wxyz whose sign is continuous within an
    episode, two finger positions (m)) and `language_instruction` (str: what the robot is told).
    Action: float32[7 * arms] in [-1, 1]: per arm delta xyz, delta rotation vector (world frame; scale in
    `task.position_scale`, `task.rotation_scale`), gripper (+1 closes, -1 opens). Values outside are clipped.
    Info: `success` (bool), `episode_seed` (int), `language_instruction` (str). Reward is 1.0 where the task's
    condition holds. An episode terminates when that has held in 5 further steps, which is success (robosuite), or 5
    steps after success (Meta-World), and is truncated at `task.horizon`.

    Attributes:
        task, variant: what this environment is.
        world: the simulator behind it (privileged: experts and tests only).
        cameras: those whose pictures are part of the observation.
        image_size: height and width of these pictures.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium's own declaration
    render_mode: str | None

    def __init__(
        self,
        spec: TaskSpec,
        variant: Variant,
        world: World,
        image_size: int,
        cameras: Sequence[str],
        view: View | StockView,
    ) -> None:
        self.task, self.variant, self.world = spec, variant, world
        self.metadata = {**self.metadata, "render_fps": spec.control_hz}
        self.image_size = image_size
        self.cameras = [camera for camera in CAMERAS if camera in cameras]
        self._views = {"primary": view, "wrist": world.wrist}
        self._renderers: dict[int, FastRenderer] = {}
        self._quaternions: np.ndarray | None = None
        self._steps = self._held = 0
        self._success, self._over = False, True
        self.episode_seed = -1
        spaces: dict[str, gymnasium.Space] = {
            f"image_{camera}": gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
            for camera in self.cameras
        }
        reach = np.tile(_REACH, spec.n_arms).astype(np.float32)
        spaces["proprio"] = gymnasium.spaces.Box(-reach, reach)
        spaces["language_instruction"] = gymnasium.spaces.Text(100, charset=string.ascii_letters + " ,.")
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts the episode that `seed` names: the same one in every process, whatever happened before.

        Without a seed the next one is drawn from the generator that the last seed started.
        """
        seed = None if seed is None else int(seed)  # gymnasium takes no numpy integers
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        rng = np.random.default_rng(self.episode_seed)
        self.world.episodes += 1
        self.world.reset(rng)
        if self.variant.camera:
            self._views["primary"] = self.world.near.shifted(rng)
        self._steps = self._held = 0
        self._success = self._over = False
        self._quaternions = None
        return self._observe(), self._info()

    def step(self, action: Float[np.ndarray, " a"]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes one action. Returns (observation, reward, terminated, truncated, info)."""
        if self._over:
            raise RuntimeError("call reset() before the next step: no episode has begun, or it is over")
        self.world.step(self._checked(action))
        self._steps += 1
        now = self.world.succeeded()
        must_hold = self.world.success_must_hold
        self._held = self._held + 1 if now or (self._held and not must_hold) else 0
        terminated = self._held > SETTLE_STEPS
        self._success = terminated if must_hold else self._held > 0
        truncated = not terminated and self._steps >= self.task.horizon
        self._over = terminated or truncated
        return self._observe(), float(now), terminated, truncated, self._info()

    def render(self) -> np.ndarray:
        """The primary picture of the present state, also where no picture is part of the observation."""
        return self.picture("primary")

    def picture(self, camera: str = "primary", size: int | None = None) -> UInt8[np.ndarray, "size size 3"]:
        """The picture of a camera in the present state, in another size if asked for: 256 pixels for people's eyes.

        The observation's own pictures stay what they are.
        """
        return self.renderer(size).draw(self.world.data, self.camera_pose(camera))

    def camera_pose(self, camera: str = "primary") -> CameraPose:
        """Where `camera` is in the present state; its `project` gives the pixels of world points."""
        return self._views[choose(camera, CAMERAS, "camera")].pose(self.world.data)

    def renderer(self, size: int | None = None) -> FastRenderer:
        """The renderer of pictures of a size (pixels; default: the observation's), made when first needed."""
        size = size or self.image_size
        if size not in self._renderers:
            metaworld = self.task.family == "metaworld"
            self._renderers[size] = FastRenderer(
                self.world.model, size, groups=self.world.groups, sites=metaworld, blend_mipmaps=metaworld
            )
        return self._renderers[size]

    def close(self) -> None:
        """Frees the OpenGL contexts and the simulator."""
        while self._renderers:
            self._renderers.popitem()[1].close()
        self.world.close()

    def _observe(self) -> dict[str, Any]:
        images = {f"image_{camera}": self.picture(camera) for camera in self.cameras}
        proprio = self._continuous(self.world.proprio())
        return {**images, "proprio": proprio, "language_instruction": self.task.instruction}

    def _continuous(self, proprio: np.ndarray) -> np.ndarray:
        """Chooses the sign of each quaternion: first as the simulator has it, then the one nearer to the last."""
        quaternions = proprio.reshape(self.task.n_arms, -1)[:, 3:7]
        reference = quaternions if self._quaternions is None else self._quaternions
        quaternions *= np.where((quaternions * reference).sum(1, keepdims=True) < 0, -1, 1)
        self._quaternions = quaternions.copy()
        return proprio

    def _checked(self, action: Any) -> np.ndarray:
        array = np.asarray(action, np.float64)
        if array.shape != (self.task.action_dim,) or not np.isfinite(array).all():
            raise UserError(
                f"{self.task.name}, step {self._steps}: the action is {array.tolist()}; "
                f"give {self.task.action_dim} finite numbers (per arm delta xyz, delta rotation vector, gripper)"
            )
        return np.clip(array, -1.0, 1.0)

    def _info(self) -> dict[str, Any]:
        return {
            "success": self._success,
            "episode_seed": self.episode_seed,
            "language_instruction": self.task.instruction,
        }


def make(
    name: str,
    *,
    image_size: int = 64,
    cameras: Sequence[str] = ("primary",),
    variant: str = "default",
    camera: str = "near",
    seed: int | None = None,
    render_mode: str | None = "rgb_array",
) -> SimEnv:
    """Makes a task's environment.

    Args:
        name: short name (`gap_vla.sim.TASK_NAMES`).
        image_size: height and width of the pictures (pixels).
        cameras: pictures in the observation, of `primary` and `wrist`; `()` draws nothing and needs no OpenGL.
        variant: `gap_vla.sim.VARIANT_NAMES`.
        camera: the view of `primary`: the task's own `near`, or a camera of the simulator's model by name.
        seed: from which `reset()` without a seed draws its episodes.
        render_mode: gymnasium's; `render()` returns the primary picture in either case.

    >>> env = make("assembly", cameras=())
    >>> observation, info = env.reset(seed=7)
    >>> observation["proprio"].shape
    (9,)
    """
    spec, chosen, cameras = task_spec(name), variant_spec(variant), tuple(cameras)
    spec.require_cameras(cameras, camera)
    chosen.require_view(camera)
    try:
        require_rendering()
    except UserError:
        if cameras:
            raise
        os.environ["MUJOCO_GL"] = "disable"  # else MuJoCo and robosuite cannot be imported
    module = importlib.import_module(spec.module)
    world: World = getattr(module, spec.class_name)(spec, chosen)
    view = world.near if camera == "near" else StockView(camera)
    env = SimEnv(spec, chosen, world, image_size, cameras, view)
    env.render_mode = render_mode
    if seed is not None:
        gymnasium.Env.reset(env, seed=seed)
    return env
