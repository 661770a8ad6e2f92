"""What a finished run was trained on, for reports: ρ of its steps, and the windows that were held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.report.runs import Run
from gap_vla.rlds import EpisodeStore
from gap_vla.rlds.store import StoreSplit


def training_rho(run: Run) -> tuple[StoreSplit, Float[np.ndarray, " S"]] | None:
    """The store's training split and ρ of its steps as this run used it; None where the store is not here or the
    method uses no ρ.
    """
    directory = run.store
    if directory is None:
        return None
    if run.small:
        from gap_vla.policies import SmallConfig, method_of
        from gap_vla.training.small.labels import rho_of

        config = SmallConfig.from_dict(run.config)
        if not method_of(config.method).schedule(config.adjustment).needs_rho:
            return None
        store = EpisodeStore.open(directory)
        return store.split("train"), rho_of(config, store)["train"]
    from gap_vla.training.config import FinetuneConfig

    if not FinetuneConfig.from_dict(run.config).schedule.needs_rho:
        return None
    split = EpisodeStore.open(directory).split("train")
    return (split, np.asarray(split.fields["rho"])) if "rho" in split.fields else None


def held_out_windows(run: Run) -> Iterable[Mapping[str, Any]] | None:
    """Batches of every window of a small policy's held-out episodes; None where its store is not here."""
    from gap_vla.policies import SmallConfig
    from gap_vla.training.small.windows import SmallWindows

    directory = run.store
    if directory is None:
        return None
    store = EpisodeStore.open(directory)
    config = SmallConfig.from_dict(run.config)
    return SmallWindows(config, store, "val", np.zeros(store.split("val").steps, np.float32)).in_order()
