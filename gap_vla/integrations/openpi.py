"""GAP in openpi's π0, JAX (read at 15a9616). Parameters and checkpoints stay π0's own."""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_vla.adjustment.jax import path_of, scale_gradient, scale_group_updates
from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.integrations.openpi_state import RhoInState, require_pi0


def train(script: ModuleType, config: Any, rho_of_frame: np.ndarray, lam: float = 0.3, window: float = 0.5) -> None:
    """`script.main(config)` with GAP (M6).

    Args:
        script: openpi's `scripts/train.py`, as a module.
        config: a `TrainConfig` for π0 on LeRobot data.
        rho_of_frame: float32[frames], ρ by LeRobot's `index`.
        lam, window: λ, and the share of the steps in which GAP acts, from the first on.

    Raises:
        ConfigError: the model is another one than π0, or the state leaves no slot free.
    """
    schedule, plain = AdjustmentSchedule(lam=lam, window=window), script.train_step
    active = schedule.active_steps(config.num_train_steps)
    require_pi0(config.model)
    config = dataclasses.replace(
        config,
        model=_with_gap(config.model),
        data=RhoInState(config.data, rho_of_frame),
        optimizer=ScaledOptimizer(config.optimizer, schedule.lam, active),
    )

    def train_step(config: Any, rng: Any, state: Any, batch: Any) -> Any:
        observation, actions = batch
        packed = observation.state.at[..., -1].multiply(jnp.where(state.step < active, 1.0, 0.0))
        return plain(config, rng, state, (dataclasses.replace(observation, state=packed), actions))

    script.train_step = train_step  # type: ignore[attr-defined]
    try:
        script.main(config)
    finally:
        script.train_step = plain  # type: ignore[attr-defined]


def _with_gap(model_config: Any) -> Any:
    class Config(type(model_config)):  # type: ignore[misc]
        def create(self, rng: Any) -> Any:
            model = super().create(rng)
            object.__setattr__(model, "__class__", gap_class(type(model)))  # type: ignore[arg-type]
            return model

    fields = dataclasses.fields(model_config)
    return Config(**{field.name: getattr(model_config, field.name) for field in fields})


@functools.cache
def gap_class(pi0: Any) -> Any:
    """A subclass of `Pi0` in which the gradient of `state_proj`'s token is multiplied by 1 - ρ (M6)."""

    class GapPi0(pi0):
        def embed_suffix(self, obs: Any, noisy_actions: Any, timestep: Any) -> tuple[Any, ...]:
            rho, state = obs.state[:, -1], obs.state.at[:, -1].set(0)
            obs = dataclasses.replace(obs, state=state)
            tokens, *rest = super().embed_suffix(obs, noisy_actions, timestep)
            state_token = scale_gradient(tokens[:, :1], 1 - rho)  # what state_proj gave is the first token
            return (jnp.concatenate([state_token, tokens[:, 1:]], 1), *rest)

    return GapPi0


@dataclasses.dataclass(frozen=True)
class ScaledOptimizer:
    """An `OptimizerConfig`: in the first `active` steps λ scales all that `inner` does to `state_proj`."""

    inner: Any
    lam: float
    active: int

    def create(self, lr: Any, weight_decay_mask: Any = None) -> optax.GradientTransformation:
        inner = self.inner.create(lr, weight_decay_mask=weight_decay_mask)

        def scaled(tree: Any) -> optax.GradientTransformationExtraArgs:
            paths = [path_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
            group = {path: () for path in paths if path.split("/")[0] == "state_proj"}
            return scale_group_updates(group, lambda step: jnp.where(step < self.active, self.lam, 1.0))

        def init(params: Any) -> Any:
            return inner.init(params), scaled(params).init(params)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            updates, own = inner.update(updates, state[0], params)
            updates, count = scaled(updates).update(updates, state[1], params)
            return updates, (own, count)

        return optax.GradientTransformation(init, update)
