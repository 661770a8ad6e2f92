"""The tasks of Meta-World (v3): the library's models and conditions of success; the resets and experts are ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np
from jaxtyping import Float

from gap_vla.sim.appearance import distractors_mjcf, patterns_mjcf
from gap_vla.sim.cameras import View
from gap_vla.sim.expert import CLOSE, LAST, OPEN, Phase, Style
from gap_vla.sim.variants import Variant
from gap_vla.sim.world import Goal, World

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

REACHABLE = 0.034
"""How far from the bin's middle line the open hand fits between its walls (m); closing it drags the cube along."""
SHIFTS = {"default": (0.0, 0.0), "wide": (0.0, 0.05), "disjoint": (0.03, 0.06)}
"""Least and largest shift (m, along x and along y) of both bins: the library's cube already uses its whole bin."""
BEFORE_WALL_Y, BEHIND_WALL_Y, BESIDE_WALL_X = 0.665, 0.815, -0.10
"""Lines (m) along which the puck goes round the wall, which stands at y = 0.75 from x = -0.02 to 0.22."""


class MetaWorldWorld(World):
    """Base of the Meta-World tasks. Subclasses give `library_name`, `expert_phases`, `landmarks`, `object_bodies`."""

    success_must_hold = False
    groups = (0, 1, 2)
    table_height = 0.0
    wrist = View((-0.06, 0.0, -0.13), (0.10, 0.0, -0.04), 75.0, (0.0, 0.0, 1.0), "hand")
    library_name: ClassVar[str]
    stretch: ClassVar[Sequence[float]] = (1.5,) * 6
    """Factors on the library's ranges (object xyz, goal xyz) in the wide variants; 1 where they mean nothing."""

    def build(self) -> tuple[Any, Any]:
        self.env = _library_class(self.library_name, self.variant, self.object_bodies)()
        self.env._set_task_called = True  # step() refuses otherwise
        self.env._partially_observable = False  # the goal would be zeros
        self.env.__dict__.pop("sawyer_observation_space", None)  # cached with goal bounds of 0, to which step() clips
        self.env.max_path_length = self.spec.horizon + 1  # the environment counts
        self.env._get_state_rand_vec = self._draw_layout  # the library's would come from numpy's global generator
        self._fixed = self.env.model.body_pos.copy(), self.env.model.site_pos.copy()
        return self.env.model, self.env.data

    def place(self, rng: np.random.Generator) -> None:
        self._rng, self._success = rng, False
        self.model.body_pos[:], self.model.site_pos[:] = self._fixed  # the last start moved parts of the model
        self._move_fixtures()
        mujoco.mj_resetData(self.model, self.data)
        self.env.curr_path_length = 0
        self.env.reset_model()

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


def taken(
    at: Callable[[float], np.ndarray], above: Sequence[float], near: float, height: float, hold: int, **down: Any
) -> list[Phase]:
    """The first phases of every expert: to a place above the object, down to it, and the fingers shut.

    Args:
        at: hand positions (m) so far above the object.
        above: where the hand goes first, from the object (x, y, z in m); near: how near to there (m).
        height: of the grasp (m).
        hold: steps that shutting the fingers takes.
        down: how the hand goes down.
    """
    aside = np.array([*above[:2], 0.0])
    return [
        Phase("reach", lambda: [Goal(at(above[2]) + aside, None, OPEN)], near, gain=1.0),
        Phase("descend", lambda: [Goal(at(height), None, OPEN)], **{"gain": 1.0, **down}),
        Phase("grasp", lambda: [Goal(at(height), None, CLOSE)], hold=hold, tolerance=9.0),
    ]


class PuckTask(MetaWorldWorld):
    """A puck that goes to a goal."""

    object_bodies = ("obj",)

    def puck(self, up: float = 0.0) -> np.ndarray:
        """Where the hand takes the puck, `up` m above (m)."""
        return self.data.body("obj").xpos + np.array([-0.005, 0.0, up])

    def landmarks(self) -> dict[str, np.ndarray]:
        return {**super().landmarks(), "puck": self.data.body("obj").xpos.copy(), "goal": self.goal}


class PickPlace(PuckTask):
    """Meta-World's pick-place-v3: success when the puck is within 7 cm of the goal, which is in the air."""

    library_name = "pick-place-v3"
    near = View((0.561, 1.445, 0.783), (-0.018, 0.754, 0.152), 18.6)
    stretch = (1.5, 1.5, 1.0, 1.5, 1.5, 1.2)

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        def brought() -> list[Goal]:
            return [Goal(self.hand()[0] + self.goal - self.data.body("obj").xpos, None, CLOSE)]

        above = [*style.sideways, 0.10 + style.hover]
        return [
            *taken(self.puck, above, 0.025, 0.03, hold=10, tolerance=0.02),
            Phase("transport", brought, gain=1.0, **LAST),
        ]


class PushWall(PuckTask):
    """Meta-World's push-wall-v3: success when the puck is within 7 cm of the goal, which lies behind a wall."""

    library_name = "push-wall-v3"
    near = View((-0.754, 1.183, 0.79), (-0.024, 0.762, 0.082), 16.2)
    stretch = (1.5, 1.3, 1.0, 1.5, 1.3, 1.0)

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        beside = BESIDE_WALL_X - abs(style.sideways[0])

        def along(x: float | None, y: float | None) -> list[Goal]:
            """Hand position that brings the puck to x or y (m), on the table; the other coordinate stays."""
            now = self.data.body("obj").xpos
            wanted = np.array([now[0] if x is None else x, now[1] if y is None else y, 0.015])
            here = self.hand()[0]
            return [Goal(np.array([*(here + wanted - now)[:2], 0.05]), None, CLOSE)]

        above = [*style.sideways, 0.12 + style.hover]
        return [
            *taken(self.puck, above, 0.025, 0.03, hold=8, tolerance=0.02),
            Phase("push", lambda: along(None, BEFORE_WALL_Y), tolerance=0.02, gain=1.5),
            Phase("sidestep", lambda: along(beside, None), tolerance=0.02, gain=1.5),
            Phase("pass_wall", lambda: along(None, BEHIND_WALL_Y), tolerance=0.02, gain=1.5),
            Phase("finish", lambda: along(self.goal[0], self.goal[1]), gain=1.5, **LAST),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        return {**super().landmarks(), "wall_end": np.array([-0.02, 0.75, 0.12])}


class WrenchTask(MetaWorldWorld):
    """A wrench whose ring goes over a peg, or comes off it."""

    object_bodies = ("RoundNut", "asmbly_peg", "peg")

    def handle(self, up: float) -> np.ndarray:
        """Where the hand takes the wrench, `up` m above (m)."""
        return self.site("RoundNut-8") + np.array([-0.02, 0.0, up])

    def peg(self) -> np.ndarray:
        """Top of the peg (m)."""
        raise NotImplementedError

    def landmarks(self) -> dict[str, np.ndarray]:
        wrench = {"ring": self.site("RoundNut"), "handle": self.site("RoundNut-8")}
        return {**super().landmarks(), **wrench, "peg": self.peg()}


class Assembly(WrenchTask):
    """Meta-World's assembly-v3: success when the ring's centre is within 2 cm of the peg and below its top."""

    library_name = "assembly-v3"
    near = View((0.62, 1.424, 0.735), (0.041, 0.734, 0.104), 19.8)
    stretch = (1.0, 1.0, 1.0, 1.5, 1.5, 1.0)

    def peg(self) -> np.ndarray:
        return self.goal

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        def lifted() -> list[Goal]:
            return [Goal(self.hand()[0] + np.array([0.0, 0.0, 0.18 + style.hover]), None, CLOSE)]

        def over_peg(up: float) -> list[Goal]:
            """Hand position that puts the ring's centre over the peg's top; closed loop on the ring."""
            return [Goal(self.hand()[0] + self.goal - self.site("RoundNut") + np.array([0.0, 0.0, up]), None, CLOSE)]

        return [
            *taken(self.handle, [*style.sideways, 0.10], 0.03, 0.03, hold=8, tolerance=0.02),
            Phase("lift", lifted, tolerance=0.03, gain=1.0, once=True),
            Phase("transport", lambda: over_peg(0.08 + style.hover), tolerance=0.015, gain=1.0),
            Phase("insert", lambda: over_peg(-0.10), gain=1.0, **LAST),
        ]


class Disassemble(WrenchTask):
    """Meta-World's disassemble-v3: success when the wrench is 15 cm above where it started."""

    library_name = "disassemble-v3"
    near = View((0.661, 1.327, 0.713), (0.082, 0.636, 0.083), 19.5)
    stretch = (1.5, 1.3, 1.0, 1.0, 1.0, 1.0)

    def peg(self) -> np.ndarray:
        return self.data.body("peg").xpos + np.array([0.0, 0.0, 0.05])

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        def upwards() -> list[Goal]:
            return [Goal(self.hand()[0] + np.array([0.0, 0.0, 0.1]), None, CLOSE)]

        return [
            # pulling before the fingers are shut lets the wrench slip
            *taken(self.handle, [*style.sideways, 0.11], 0.025, 0.01, hold=12, tolerance=0.025),
            Phase("extract", upwards, gain=1.0, **LAST),
        ]


class BinPicking(MetaWorldWorld):
    """Meta-World's bin-picking-v3: success when the cube is within 5 cm of the other bin's centre."""

    library_name = "bin-picking-v3"
    object_bodies = ("obj", "objA", "binA", "binB")
    near = View((0.501, 1.293, 0.845), (0.001, 0.697, 0.067), 19.5)

    def _move_fixtures(self) -> None:
        least, most = SHIFTS[self.variant.positions]
        self._shift = self._rng.uniform(least, most, 2) * self._rng.choice([-1, 1], 2)
        for name in ("binA", "binB", "bin_goal"):
            self.model.body_pos[self.model.body(name).id, :2] += self._shift

    def _draw_layout(self) -> np.ndarray:
        space = self.env._random_reset_space
        layout = self._rng.uniform(space.low, space.high)
        layout[:2] += self._shift
        return layout

    def expert_phases(self, style: Style) -> Sequence[Phase]:
        middle = self.data.body("binA").xpos[1]

        def cube(up: float) -> np.ndarray:
            x, y, z = self.data.body("obj").xpos
            return np.array([x, np.clip(y, middle - REACHABLE, middle + REACHABLE), z + up])

        def lifted() -> list[Goal]:
            here = self.hand()[0]
            return [Goal(np.array([here[0], here[1], 0.19 + style.hover]), None, CLOSE)]

        def over_bin(height: float) -> list[Goal]:
            offset = self.data.body("bin_goal").xpos - self.data.body("obj").xpos
            here = self.hand()[0]
            return [Goal(np.array([here[0] + offset[0], here[1] + offset[1], height]), None, CLOSE)]

        above = [style.sideways[0], 0.0, 0.15 + style.hover]
        return [
            *taken(cube, above, 0.03, 0.03, hold=14, tolerance=0.012, gain=1.5, limit=60),
            Phase("lift", lifted, tolerance=0.03, gain=1.0, once=True),
            Phase("transport", lambda: over_bin(0.19 + style.hover), tolerance=0.025, gain=1.0),
            Phase("lower", lambda: over_bin(0.04), gain=1.0, **LAST),
        ]

    def landmarks(self) -> dict[str, np.ndarray]:
        left, right = (self.data.body(name).xpos for name in ("binA", "binB"))
        ends = {"left_end": left - np.array([0.09, 0.0, 0.0]), "right_end": right + np.array([0.09, 0.0, 0.0])}
        return {**super().landmarks(), "cube": self.data.body("obj").xpos.copy(), **ends}


def _library_class(name: str, variant: Variant, object_bodies: Sequence[str]) -> type[Any]:
    """The library's class, with the variant's distractors and sizes compiled into its model."""
    base = ALL_V3_ENVIRONMENTS[name]

    class Changed(base):  # type: ignore[misc, valid-type]
        def _initialize_simulation(self) -> tuple[Any, Any]:
            spec = mujoco.MjSpec.from_file(self.fullpath)
            scene = distractors_mjcf(variant.distractors, "0 0.7 0")
            assets = patterns_mjcf() if variant.table else ""
            if scene or assets:
                extra = f"<mujoco><asset>{assets}</asset><worldbody>{scene}</worldbody></mujoco>"
                spec.attach(mujoco.MjSpec.from_string(extra), frame=spec.worldbody.add_frame())
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
