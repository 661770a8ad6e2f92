"""What `annotate_rlds` would do with a dataset, without writing it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.demos.layout import StateLayout
from gap_vla.rlds.annotated import low_dimensional
from gap_vla.rlds.fields import flatten
from gap_vla.rlds.labelled import change_point_mask
from gap_vla.rlds.preview import save_episode_picture
from gap_vla.rlds.reader import open_builder, read_steps

_EPISODES = 50
"""A look at a large dataset does not read all of it."""


def dry_run_rlds(
    version_dir: str | Path,
    picture: Path,
    *,
    state_key: str = "observation/state",
    layout: str | Mapping[str, Any] | StateLayout = "bridge",
    action_key: str = "action",
    method: str = "lstm",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Which fields are read, which are kept and added, and the first episode with ρ as a picture.

    Args: as `gap_vla.rlds.annotate_rlds`; ρ is that of a fit on the first 50 episodes.

    Returns:
        The account, as lines of text.
    """
    from gap_vla.phases import annotate

    version_dir, layout_of = Path(version_dir).expanduser(), StateLayout.of(layout)
    builder = open_builder(version_dir)
    total = sum(split.num_examples for split in builder.info.splits.values())
    found = low_dimensional(version_dir, builder, state_key, action_key, layout_of)
    episodes = list(itertools.islice(found, _EPISODES))
    lengths = [len(e) for e in episodes]
    looked = f"the first {len(episodes)} of {total} episodes" if len(episodes) < total else f"{total} episodes"
    lines = [f"{version_dir} (rlds): {looked}, {min(lengths)} to {max(lengths)} steps"]
    used = {**dict.fromkeys(state_key.split("+"), "read as the pose"), action_key: "read for the statistics"}
    for path, feature in sorted(flatten(builder.info.features["steps"].feature).items()):
        shape = "x".join(str(n) for n in feature.shape) or "scalar"
        kind = np.dtype(feature.np_dtype).name if feature.np_dtype is not object else "string"
        lines.append(f"  steps/{path}: {kind} {shape}  kept" + (f", {used[path]}" if path in used else ""))
    lines.append(f"  pose: {state_key} in layout {layout if isinstance(layout, str) else vars(layout_of)}")
    first = episodes[0]
    lines.append(f"  first pose: position {np.round(first.proprio[0, :3], 3).tolist()} m")
    if method != "none":
        annotation = annotate(episodes, method=method, seed=seed, **dict(options or {}))
        mask = change_point_mask(annotation.change_points[0], len(first))
        first = first.replace(rho=np.asarray(annotation.rho[0], np.float32), change_point=mask)
        lines += ["  steps/rho: float32 scalar  added", "  steps/change_point: bool scalar  added"]
    lines.append("  dropped: nothing")
    split = next(name for name, info in builder.info.splits.items() if info.num_examples)
    steps = flatten(next(read_steps(version_dir, split))[0])
    images = {k.rsplit("/", 1)[-1]: v for k, v in steps.items() if getattr(v, "ndim", 0) == 4 and v.dtype == np.uint8}
    texts = steps.get("language_instruction", [b""])
    language = texts[0].decode() if isinstance(texts[0], bytes) else ""
    shown = first.replace(images=images, language_instruction=language)
    return "\n".join([*lines, f"picture: {save_episode_picture(shown, picture)}"])
