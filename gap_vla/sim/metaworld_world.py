"""Meta-World tasks (v3): the library's models and success conditions, with resets that a seed determines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np
from jaxtyping import Float

from gap_vla.sim.appearance import Appearance, distractors_mjcf
from gap_vla.sim.cameras import View
from gap_vla.sim.specs import TaskSpec
from gap_vla.sim.textures import add_patterns
from gap_vla.sim.variants import Variant
from gap_vla.sim.world import MAX_STARTS, Goal, World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS


class MetaWorldWorld(World):
    """Base of the Meta-World tasks. Subclasses give `library_name`, `expert_phases`, `landmarks`, `object_bodies`."""

    success_must_hold = False
    groups = (0, 1, 2)
    wrist = View((-0.06, 0.0, -0.13), (0.10, 0.0, -0.04), 75.0, (0.0, 0.0, 1.0), "hand")
    library_name: ClassVar[str]
    stretch: ClassVar[Sequence[float]] = (1.5,) * 6
    """Factors on the library's ranges (object xyz, goal xyz) in the wide variants; 1 where they mean nothing."""

    def __init__(self, spec: TaskSpec, variant: Variant) -> None:
        super().__init__(spec, variant)
        self.env = _library_class(self.library_name, variant, self.object_bodies)()
        self.env._set_task_called = True  # step() refuses otherwise
        self.env._partially_observable = False  # the goal would be zeros
        self.env.__dict__.pop("sawyer_observation_space", None)  # cached with goal bounds of 0, to which step() clips
        self.env.max_path_length = spec.horizon + 1  # the environment counts
        self.env._get_state_rand_vec = self._draw_layout  # the library's would come from numpy's global generator
        self.model, self.data = self.env.model, self.env.data
        self._appearance = Appearance(self.model, variant, self.geoms("object"), self.geoms("table"))
        self._fixed = self.model.body_pos.copy(), self.model.site_pos.copy()
        self._rng = np.random.default_rng(0)
        self._success = False

    def reset(self, rng: np.random.Generator) -> None:
        self._rng, self._success = rng, False
        for _ in range(MAX_STARTS):
            self.model.body_pos[:], self.model.site_pos[:] = self._fixed  # the last start moved parts of the model
            self._move_fixtures()
            mujoco.mj_resetData(self.model, self.data)
            self.env.curr_path_length = 0
            self.env.reset_model()
            mujoco.mj_kinematics(self.model, self.data)  # reset_model moved parts of the model: positions are stale
            if self.starts_well():
                break
        middle = (*self.near.target[:2], 0.0)
        self._appearance.redraw(rng, middle, self.landmarks().values(), self.near.pose(self.data))
        mujoco.mj_forward(self.model, self.data)

    def _move_fixtures(self) -> None:
        """Moves parts of the scene before the episode starts; most tasks leave that to the library."""

    def _draw_layout(self) -> Float[np.ndarray, " 6"]:
        """Initial object and goal position (m): the library's ranges, wider ones, or the wider without the default."""
        space, positions = self.env._random_reset_space, self.variant.positions
        low, high = space.low, space.high
        if positions == "default":
            return self._rng.uniform(low, high)
        center, stretch = (low + high) / 2, np.array(self.stretch)
        half = (high - low) / 2 * stretch
        while True:
            layout = self._rng.uniform(center - half, center + half)
            outside = (stretch > 1) & (high - low > 1e-3) & ((layout < low) | (layout > high))
            if positions == "wide" or outside.any():
                return layout

    def step(self, action: Float[np.ndarray, " 7"]) -> None:
        info = self.env.step(action[[0, 1, 2, 6]])[-1]
        self._success = bool(info["success"])

    def succeeded(self) -> bool:
        return self._success

    def hand(self, arm: int = 0) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"]]:
        return self.body_pose("hand")

    def fingers(self, arm: int = 0) -> Float[np.ndarray, " 2"]:
        middle, rotation = self.hand()
        return np.array([(self.data.body(pad).xpos - middle) @ rotation[:, 1] for pad in ("leftpad", "rightpad")])

    def servo(self, arm: int, goal: Goal, gain: float, speed: float) -> Float[np.ndarray, " 7"]:
        # the hand lags behind its target by up to 3 cm, so the gain is small: full speed from 10 cm / gain away
        move = (goal.position - self.hand()[0]) * (10.0 * gain)
        move = np.clip(move, -speed, speed)
        return np.concatenate([move, np.zeros(3), [goal.gripper]])

    def is_table(self, geom: str, body: str) -> bool:
        return "table" in body

    def landmarks(self) -> dict[str, np.ndarray]:
        return {"hand": self.env.tcp_center.copy()}

    def site(self, name: str) -> Float[np.ndarray, " 3"]:
        """Position (m) of a site."""
        return self.data.site(name).xpos.copy()

    @property
    def goal(self) -> Float[np.ndarray, " 3"]:
        """Where the task wants the object (m)."""
        return self.env._target_pos.copy()


def _library_class(name: str, variant: Variant, object_bodies: Sequence[str]) -> type[Any]:
    """The library's class, with the variant's distractors and sizes compiled into its model."""
    base = ALL_V3_ENVIRONMENTS[name]

    class Changed(base):  # type: ignore[misc, valid-type]
        def _initialize_simulation(self) -> tuple[Any, Any]:
            spec = mujoco.MjSpec.from_file(self.fullpath)
            if variant.distractors:
                scene = distractors_mjcf(variant.distractors, "0 0.7 0")
                extra = mujoco.MjSpec.from_string(f"<mujoco><worldbody>{scene}</worldbody></mujoco>")
                for body in extra.worldbody.bodies:
                    spec.worldbody.add_frame().attach_body(body, "", "")
            if variant.table:
                add_patterns(spec)
            if variant.size != 1.0:
                _resize(spec, spec.body(object_bodies[0]), variant.size)
            model = spec.compile()
            return model, mujoco.MjData(model)

    return Changed


def _resize(spec: Any, body: Any, factor: float) -> None:
    """Scales a body's geoms, meshes and sites about the body's origin."""
    meshes = {geom.meshname for geom in body.geoms if geom.type == mujoco.mjtGeom.mjGEOM_MESH}
    for mesh in spec.meshes:
        if mesh.name in meshes:
            mesh.scale = mesh.scale * factor
    for part in [*body.geoms, *body.sites]:
        part.pos = part.pos * factor
    for geom in body.geoms:
        geom.size = geom.size * factor
        geom.fromto = geom.fromto * factor
    for child in body.bodies:
        child.pos = child.pos * factor
        _resize(spec, child, factor)
