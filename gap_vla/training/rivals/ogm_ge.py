"""On-the-fly gradient modulation with generalization enhancement (OGM-GE), for a regression loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gap_vla.core.typed_config import Bounds
from gap_vla.training.rivals.interface import Rival


@dataclasses.dataclass(frozen=True)
class OgmGe(Rival):
    """k_m = 1 − tanh(alpha · q_m) if q_m > 1, else 1; update of branch m times k_m; gradient g_m + std(g_m) · ε.

    q_m is how much better the batch is predicted from modality m alone than from the other alone. The published method
    compares softmax scores of the true class; a regression has none, so q_proprio = loss(images only) / loss(state
    only) and q_vision = 1 / q_proprio, by two more forward passes, the other modality blanked: images black and marked
    as padding, the state at its mean. The published factor multiplies the gradient, with SGD; under Adam that nearly
    cancels, so here it multiplies the branch's update. ε ~ N(0, 1), with the spread of the branch's own gradient.

    Args:
        alpha: strength of the modulation.
        enhancement: whether to add the noise (the "GE" part).

    Source: Peng et al. 2022, Balanced Multimodal Learning via On-the-fly Gradient Modulation (arXiv 2203.15332),
    equations 8 to 13.
    """

    alpha: Annotated[float, Bounds(0, 100, "inside a tanh")] = 0.5
    enhancement: bool = True

    modulates = True

    def adjust(
        self,
        memory: dict[str, Any],
        gradients: dict[str, Any],
        loss_of: Callable[[Mapping[str, Any]], Any],
        batch: Mapping[str, Any],
        rng: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        seeing, feeling = loss_of(without_proprio(batch)), loss_of(without_images(batch))
        better = {
            "proprio": seeing / jnp.maximum(feeling, 1e-12),
            "vision": feeling / jnp.maximum(seeing, 1e-12),
        }
        factors = {m: jnp.where(q > 1, 1 - jnp.tanh(self.alpha * q), 1.0) for m, q in better.items()}
        if self.enhancement:
            gradients = dict(gradients)
            for index, label in enumerate(sorted(gradients)):
                if label.split("/")[0] in factors:
                    own = gradients[label]
                    noise = jax.random.normal(jax.random.fold_in(rng, index), own.shape)
                    gradients[label] = own + jnp.std(own) * noise
        return gradients, factors, memory


def without_proprio(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with the state at its mean, 0 after normalisation."""
    observation = dict(batch["observation"])
    observation["proprio"] = jnp.zeros_like(observation["proprio"])
    return {**batch, "observation": observation}


def without_images(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with black pictures, marked as padding where the batch marks padding."""
    observation = dict(batch["observation"])
    masks = dict(observation.get("pad_mask_dict", {}))
    for key in [key for key in observation if key.startswith("image_")]:
        observation[key] = jnp.zeros_like(observation[key])
        if key in masks:
            masks[key] = jnp.zeros_like(masks[key])
    if masks:
        observation["pad_mask_dict"] = masks
    return {**batch, "observation": observation}
