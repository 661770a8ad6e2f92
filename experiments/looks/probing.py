"""What trained small policies see, read off their frozen visual features, and which of their branches they need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.looks.linear_probe import probe_beyond, probe_positions, probe_switches
from experiments.looks.probe_data import ProbeData, read_probe_data
from gap_vla.core.errors import UserError
from gap_vla.core.outputs import write_output
from gap_vla.core.seals import EXPORTED
from gap_vla.demos.fields import resized
from gap_vla.report.runs import Run
from gap_vla.rollouts.recordings import require_scene

UNTRAINED = "untrained"
AT_ONCE = 128
STILL = 1e-3
"""Objects whose position varies by less (standard deviation, m) are nothing to probe for."""

NEAR_CHANGE = 3
"""Steps within which a window ends near a change point of the dataset; the same ones for every method."""

HEARD = ("both", "vision", "proprio")


def features_of(policy: Any, images: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n d"]:
    """Visual features of single frames by a `SmallPolicy`, from uint8[N, h, w, 3] for each `image_<camera>`, which are
    resized to the policy's size. Raises UserError: it looks through no camera, or one that the pictures lack.
    """
    import torch

    keys = [f"image_{camera}" for camera in policy.cameras]
    if not keys or not set(keys) <= set(images):
        raise UserError(f"the policy looks through {keys or 'no camera'}; the demonstrations have {sorted(images)}")
    found = []
    with torch.inference_mode():
        for start in range(0, len(images[keys[0]]), AT_ONCE):
            shown = {key: resized(images[key][start : start + AT_ONCE], policy.image_shape[:2]) for key in keys}
            some = {key: torch.from_numpy(frames)[:, None] for key, frames in shown.items()}
            found.append(policy.features(some)[:, 0].float().numpy())
    return np.concatenate(found)


def probe(features: Float[np.ndarray, "n d"], data: ProbeData) -> dict[str, Any]:
    """All probes of one set of features.

    Returns:
        `positions`: object to part (`before grasp`, `before transport`, `all steps`) to `probe_positions`, for objects
        that move between episodes in it; `beyond_proprio`: the same to `probe_beyond`, where proprioception misses the
        object by more than `STILL`; `actions`: `all steps` and `transitions` (near a switch of the expert's phase) to
        `probe_beyond` of the expert's action; `transition`: `probe_switches`.
    """
    everywhere = np.ones(len(data.episodes), bool)
    parts = {"before grasp": data.free, "before transport": data.waiting, "all steps": everywhere}

    def beyond(target: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        return probe_beyond(features[rows], target[rows], data.proprio[rows], data.episodes[rows])

    positions: dict[str, dict[str, Any]] = {}
    partial: dict[str, dict[str, Any]] = {}
    for name, where in data.positions.items():
        for part, rows in parts.items():
            if rows.any() and where[rows].std(0, dtype=np.float64).max() > STILL:
                found = probe_positions(features[rows], where[rows], data.episodes[rows])
                positions.setdefault(name, {})[part] = found
                more = beyond(where, rows)
                if more["covariate_error"] > STILL:
                    partial.setdefault(name, {})[part] = more
    return {
        "positions": positions,
        "beyond_proprio": partial,
        "actions": {
            part: beyond(data.actions, rows)
            for part, rows in (("all steps", everywhere), ("transitions", data.near_switch))
        },
        "transition": probe_switches(features, data.near_switch, data.episodes),
    }


def losses_by_branch(policy: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean loss with both branches, and with one of them alone: the other's features are their mean over all windows.

    Args:
        policy: a `SmallPolicy` with both branches, in evaluation mode.
        batches: of `SmallWindows`, held out.

    Returns:
        `both`, `vision`, `proprio` (which branch is heard) to `all`, `near change points` (windows that end within
        `NEAR_CHANGE` steps of one), `elsewhere`. A part without windows is left out.
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
            parts = {"all": mask, "near change points": mask & near[:, None], "elsewhere": mask & ~near[:, None]}
            silent_vision, silent_proprio = mean_vision.expand_as(vision), mean_proprio.expand_as(proprio)
            shown = {"both": (vision, proprio), "vision": (vision, silent_proprio), "proprio": (silent_vision, proprio)}
            for part, where in parts.items():
                counts[part] = counts.get(part, 0.0) + float(where.sum())
            for heard, features in shown.items():
                generator = torch.Generator().manual_seed(number)
                loss = policy.head.loss(policy.embed(*features), batch["action"], generator)
                for part, where in parts.items():
                    sums[heard, part] = sums.get((heard, part), 0.0) + float((loss * where).sum())
    return {heard: {part: sums[heard, part] / count for part, count in counts.items() if count} for heard in HEARD}


def probe_policy(run: Run, data: ProbeData) -> dict[str, Any]:
    """What one small policy sees: `probe` (missing if it has no eyes), and `branch_losses` (missing if it has one
    branch, or its data are not here).
    """
    policy = policy_of(run)
    found: dict[str, Any] = {}
    if policy.uses_vision:
        found["probe"] = probe(features_of(policy, data.images), data)
    if losses := _branch_losses(policy, run):
        found["branch_losses"] = losses
    return found


def _branch_losses(policy: Any, run: Run) -> dict[str, dict[str, float]] | None:
    """`losses_by_branch` of a policy that has both, on every window of its held-out episodes; None where its store is
    not here.
    """
    from gap_vla.policies.windows import SmallWindows
    from gap_vla.training.data import trained_on
    from gap_vla.training.torch import SmallConfig

    if not (policy.uses_vision and policy.uses_proprio) or (store := trained_on(run.summary)) is None:
        return None
    windows = SmallWindows(
        SmallConfig.from_dict(run.config), store, "val", np.zeros(store.split("val").steps, np.float32)
    )
    return losses_by_branch(policy, windows.in_order())


def reliance(run: Run, demos: Path, episodes: int) -> dict[str, Any]:
    """How a policy's error grows when its pictures or its proprioception come from another episode: what `gap-vla
    diagnose --demos` measures, of the first `episodes` demonstrations of the file.

    Returns:
        `images_swapped` and `proprio_swapped`, each to `cost` (error as a multiple of the undisturbed one) and
        `cost_interval` (95 % over episodes).
    """
    from gap_vla.demos import open_source
    from gap_vla.rollouts.diagnose import open_loop
    from gap_vla.rollouts.recordings import from_episode
    from gap_vla.serving import load_checkpoint

    source = open_source(demos)
    found = open_loop(
        load_checkpoint(run.path, execute=1).policy, [from_episode(source[index]) for index in range(episodes)]
    )
    swapped = {effect.intervention: effect for effect in found.effects if effect.intervention.endswith("_swapped")}
    return {
        name: {"cost": effect.cost, "cost_interval": list(effect.cost_interval or ())}
        for name, effect in swapped.items()
    }


def probe_untrained(run: Run, data: ProbeData) -> dict[str, Any]:
    """The same probes on an untrained network of the run's architecture."""
    return probe(features_of(_untrained(policy_of(run)), data.images), data)


def policy_of(run: Run) -> Any:
    """The run's own `SmallPolicy`: a checkpoint of another run raises CheckpointError."""
    from gap_vla.serving import load_checkpoint

    return load_checkpoint(run.path).policy.model


def _untrained(policy: Any) -> Any:
    import torch

    from gap_vla.policies.methods import build_policy

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = policy.image_shape, policy.proprio_dim, policy.action_dim, policy.built_cameras
        return build_policy(policy.config, policy.method, *sizes).eval()


def probe_runs(runs: Sequence[Run], demos: Path, out: Path, *, command: str) -> dict[str, Any]:
    """Probes every run on the same pictures.

    Args:
        runs: of small policies; those without a visual branch are left out.
        demos: of `collect_probe_demos`.
        out: `probe.json`.

    Returns:
        `demos`, `steps`, `episodes`, `probes` (run's label to `probe`'s result), `still` (objects that do not move),
        `branch_losses`, `labels`, `of` (label to digests of the checkpoint that was probed, where the run has them) and
        `command`. The last label is an untrained network of the first run's architecture.

    Raises:
        UserError: no run has visual features.
        PolicyError: the demonstrations are of another view than a run's.
        ProbeError: the demonstrations do not fit.
    """
    for run in runs:
        require_scene(demos, run.task, run.config.get("demos", {}).get("camera"))
    data = read_probe_data(demos)
    features: dict[str, np.ndarray] = {}
    paths: dict[str, str] = {}
    branches: dict[str, Any] = {}
    first = None
    for run in runs:
        policy = policy_of(run)
        if losses := _branch_losses(policy, run):
            branches[run.label] = losses
        if policy.uses_vision:
            print(f"probe: features of {run.path}", flush=True)
            features[run.label] = features_of(policy, data.images)
            paths[run.label] = str(run.path)
            first = first or policy
    if first is None:
        raise UserError("none of the runs is a small policy that sees; only those can be probed")
    features[UNTRAINED] = features_of(_untrained(first), data.images)
    labels = list(features)
    probes = {label: probe(found, data) for label, found in features.items()}
    if still := [name for name in data.positions if name not in probes[UNTRAINED]["positions"]]:
        print(f"probe: {', '.join(still)} stands still in {demos}, so nothing is asked of it", flush=True)
    result = {
        "demos": str(demos),
        "steps": len(data.episodes),
        "episodes": len(np.unique(data.episodes)),
        "runs": paths,
        "probes": probes,
        "still": still,
        "branch_losses": branches,
        "labels": labels,
        "of": {run.label: run.summary[EXPORTED] for run in runs if EXPORTED in run.summary},
        "command": command,
    }
    write_output(out, "probe", json.dumps(result, indent=2))
    return json.loads(json.dumps(result))
