"""ρ of every stored step, from the dataset or computed from the stored proprioception (no TensorFlow)."""

from __future__ import annotations

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.identity import digest
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.config import SmallConfig
from gap_vla.policies.methods import method_of
from gap_vla.rlds import EpisodeStore


def rho_of(config: SmallConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """ρ of every step, by split: float32[S].

    The dataset's own where the method wants that (zeros if there is none and the method does not need it), zeros for
    the controls without ρ, and otherwise labels of `gap_vla.phases`, kept beside the store.

    Raises:
        ConfigError: the method needs the dataset's ρ and it has none, or kept labels are of other episodes.
    """
    method = method_of(config.method)
    if method.rho_source == "zero":
        return {name: np.zeros(split.steps, np.float32) for name, split in store.splits.items()}
    if method.rho_source != "dataset":
        return _labelled(config, store, method.rho_source)
    if all("rho" in split.fields for split in store.splits.values()):
        return {name: np.asarray(split.fields["rho"], np.float32) for name, split in store.splits.items()}
    if method.needs_rho and method.schedule(config.adjustment).needs_rho:
        raise ConfigError(
            f"the dataset in {store.directory} has no steps/rho, which method {config.method} needs; add it with "
            "scripts/annotate.py, or train with gap_gaussian, which computes ρ from the stored proprioception"
        )
    return {name: np.zeros(split.steps, np.float32) for name, split in store.splits.items()}


def _labelled(config: SmallConfig, store: EpisodeStore, source: str) -> dict[str, np.ndarray]:
    from gap_vla.phases.annotation import Annotation, annotate

    identity = {
        "store": store.source_hash,
        "method": source,
        "seed": config.phases.seed,
        "options": dict(config.phases.options),
    }
    kept = store.directory.with_name(f"{store.directory.name}.rho") / f"{source}-{digest(identity)}"
    lengths = [int(n) for split in store.splits.values() for n in np.diff(split.offsets)]
    if (kept / "labels.json").exists():
        annotation = Annotation.load(kept)
    else:
        print(f"rho: labelling {len(lengths)} episodes with {source} → {kept}", flush=True)
        annotation = annotate(
            list(_without_images(store)), method=source, seed=config.phases.seed, workers=1, **identity["options"]
        )
        annotation.save(kept)
    if [len(rho) for rho in annotation.rho] != lengths:
        raise ConfigError(f"the labels in {kept} are of other episodes than {store.directory}; delete that folder")
    flat = np.concatenate(annotation.rho).astype(np.float32)
    ends = np.cumsum([split.steps for split in store.splits.values()])
    return dict(zip(store.splits, np.split(flat, ends[:-1])))


def _without_images(store: EpisodeStore):
    for name, split in store.splits.items():
        for index in range(len(split)):
            part = slice(int(split.offsets[index]), int(split.offsets[index + 1]))
            action = np.asarray(split.fields["action"][part])
            proprio = np.asarray(split.fields["proprio"][part])
            metadata = {"file": str(store.directory), "name": f"{name} {index}"}
            yield Episode(images={}, proprio=proprio, action=action, metadata=metadata)
