"""How much a trained policy needs each of its branches: its held-out loss when one of them is silenced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gap_vla.drawing.rho_strip import store_of
from gap_vla.report.runs import Run

NEAR_CHANGE = 3
"""Steps this close to a change point of the dataset count as transition; the same ones for every method."""

HEARD = ("both", "vision", "proprio")


def losses_by_branch(
    policy: Any, batches: Iterable[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mean loss with both branches, and with one of them alone: the other's features are their mean over all windows.

    Args:
        policy: a `SmallPolicy` with both branches, in evaluation mode.
        batches: of `SmallWindows`, held out.

    Returns:
        `both`, `vision`, `proprio` (which branch is heard) to `all`, `transition`, `consistent` (windows that end near
        a change point, and the others). A part without windows is left out.
    """
    import torch

    kept: list[tuple[torch.Tensor, torch.Tensor, Mapping[str, Any]]] = []
    with torch.inference_mode():
        for batch in batches:
            vision, proprio = policy.branch_features(batch)
            kept.append((vision, proprio, batch))
        mean_vision = torch.cat([vision for vision, _, _ in kept]).mean(0, keepdim=True)
        mean_proprio = torch.cat([proprio for _, proprio, _ in kept]).mean(0, keepdim=True)
        sums: dict[tuple[str, str], float] = {}
        counts: dict[str, float] = {}
        for number, (vision, proprio, batch) in enumerate(kept):
            near = batch["change_distance"] <= NEAR_CHANGE
            mask = batch["action_pad_mask"]
            parts = {"all": mask, "transition": mask & near[:, None], "consistent": mask & ~near[:, None]}
            silent_vision, silent_proprio = mean_vision.expand_as(vision), mean_proprio.expand_as(proprio)
            shown = {"both": (vision, proprio), "vision": (vision, silent_proprio), "proprio": (silent_vision, proprio)}
            for part, where in parts.items():
                counts[part] = counts.get(part, 0.0) + float(where.sum())
            for heard, features in shown.items():
                generator = torch.Generator().manual_seed(seed + number)
                loss = policy.head.loss(policy.embed(*features), batch["action"], generator)
                for part, where in parts.items():
                    sums[heard, part] = sums.get((heard, part), 0.0) + float((loss * where).sum())
    return {heard: {part: sums[heard, part] / count for part, count in counts.items() if count} for heard in HEARD}


def branch_losses(run: Run) -> dict[str, dict[str, float]] | None:
    """The same for a finished run, on the held-out episodes of its own dataset; None where the policy has one branch
    only, or the data is not here.
    """
    import numpy as np

    from gap_vla.policies import SmallConfig
    from gap_vla.policies.saving import load_saved_policy
    from gap_vla.rlds import EpisodeStore
    from gap_vla.training.small.windows import SmallWindows

    directory = store_of(run)
    policy = load_saved_policy(run.checkpoint)[0]
    if directory is None or not (policy.uses_vision and policy.uses_proprio):
        return None
    store = EpisodeStore.open(directory)
    config = SmallConfig.from_dict(run.config)
    windows = SmallWindows(config, store, "val", np.zeros(store.split("val").steps, np.float32))
    return losses_by_branch(policy, windows.in_order())
