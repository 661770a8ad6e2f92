"""What a finished run was trained on, for reports: ρ of its steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gap_vla.core.foreign import blaming
from gap_vla.report.runs import Run
from gap_vla.rlds import EpisodeStore
from gap_vla.rlds.store import StoreSplit
from gap_vla.training.config import Experiment
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.torch import SmallConfig


def training_rho(run: Run) -> tuple[StoreSplit, Float[np.ndarray, " S"]] | None:
    """The store's training split and ρ of its steps as this run used it; None where the store is not here or the
    method uses no ρ.
    """
    with blaming(run.path / "config.json", "no settings of a run"):
        config: Experiment = (SmallConfig if run.small else FinetuneConfig).from_dict(run.config)
    directory = run.store
    if directory is None or not config.schedule.needs_rho:
        return None
    store = EpisodeStore.open(directory)
    split = store.split("train")
    if run.small:
        from gap_vla.policies.windows import rho_of  # loads torch

        return split, rho_of(config, store)["train"]
    return (split, np.asarray(split.fields["rho"])) if "rho" in split.fields else None
