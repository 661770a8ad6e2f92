"""The parts and methods of a small policy by name, `module:class`. Nothing is imported until it is used."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

from gap_vla.core.config import choose

ENCODERS: Mapping[str, str] = {
    "small": "encoders:SmallEncoder",
    "resnet18": "encoders:ResNet18",
    "efficientnet_lite0": "pretrained:EfficientNetLite0",
}

FROZEN: Mapping[str, str] = {"efficientnet_lite0": "pretrained:stored_maps"}
"""Encoders of which a head alone is trained: what gives the head's inputs for all pictures of a store."""

SMALLEST_IMAGE: Mapping[str, int] = {"small": 16, "resnet18": 33, "efficientnet_lite0": 16}
"""Pixels; in smaller pictures the last map of a ResNet has one position, and its spatial softmax is constant."""

WINDOWS_AT_ONCE = 256
"""Held-out windows that are measured beside each other."""

PIXELS_AT_ONCE = 2**21
"""Pixels of one camera that are encoded beside each other where nothing is trained."""

TEMPORALS: Mapping[str, str] = {"none": "fusions:LastStep", "transformer": "fusions:TemporalTransformer"}

FUSIONS: Mapping[str, str] = {
    "concat": "fusions:Concat",
    "sum": "fusions:Sum",
    "film": "fusions:FiLM",
    "attention": "fusions:Attention",
    "phase_gate": "fusions:PhaseGate",
}

HEADS: Mapping[str, str] = {"mlp": "heads:MLPHead", "diffusion": "heads:DiffusionHead", "gmm": "heads:GMMHead"}

METHODS: Mapping[str, str] = {
    "v": "methods:Vision",
    "vp": "methods:Concat",
    "vp_gap": "methods:Gap",
    "vp_slow": "methods:Gap",
    "proprio": "methods:Proprio",
    "msbot": "rivals:MSBot",
    "aux": "rivals:Aux",
    "mask": "rivals:Mask",
    "gap_watched": "watching:GapWatched",
    "gradnorm": "rivals:GradNorm",
    "ogm_ge": "rivals:OgmGe",
    "dropout_noise": "rivals:DropoutNoise",
    "keyframe": "rivals:Keyframe",
    "lambda_only": "methods:Gap",
    "rho_only": "methods:Gap",
    "rho_only_gaussian": "methods:Gap",
    "fixed_rho": "methods:Gap",
    "lambda_matched": "methods:Gap",
    "gap_shuffled": "methods:Gap",
    "gap_gaussian": "methods:Gap",
    "gap_moved": "methods:GapMoved",
    "gap_gaussian_moved": "methods:GapMoved",
    "gap_change_points": "methods:Gap",
    "gap_hdbscan": "methods:Gap",
    "gap_cotpc": "methods:Gap",
}

RECORDED: Mapping[str, str] = {"v": "vision", "vp": "concat", "vp_gap": "gap"}
"""What the records of small policies call these methods, as they always did; both names are understood everywhere."""

CONTROLS: Mapping[str, Mapping[str, Any]] = {
    "vp_slow": {"mode": "constant"},  # a slower proprioceptive branch
    "lambda_only": {"mode": "fixed", "fixed_rho": 0.0},  # the same with GAP's λ
    "lambda_matched": {"mode": "update"},  # as much slower as GAP on average, blind to phases
    "rho_only": {"mode": "sample", "lam": 1.0},  # phases alone
    "rho_only_gaussian": {"mode": "sample", "lam": 1.0},
    "fixed_rho": {"mode": "fixed"},  # `adjustment.fixed_rho` at every step, with λ
}
"""What these methods change of GAP's adjustment."""

RHO_SOURCES: Mapping[str, str] = {
    "rho_only_gaussian": "gaussian",
    "gap_gaussian": "gaussian",
    "gap_gaussian_moved": "gaussian",
    "gap_change_points": "change_points",
    "gap_hdbscan": "hdbscan",
    "gap_cotpc": "cotpc",
    "gap_shuffled": "shuffled",
    "lambda_matched": "mean",
}
"""Methods with another ρ than the dataset's: one of `OF_THE_DATASET`, or the method of `gap_vla.phases` that labels the
stored proprioception.
"""

OF_THE_DATASET = ("dataset", "shuffled", "mean")
"""The dataset's ρ: as it is, permuted over all steps of a split, or its mean at every step."""


def method_name(given: str, known: Iterable[str] = tuple(METHODS), what: str = "method") -> str:
    """The name in `known` of the method that is called `given`, or was called so in records.

    >>> method_name("vp_gap"), method_name("gap")
    ('vp_gap', 'vp_gap')

    Raises:
        ConfigError: unknown; the message says of `what`, and lists the names there are.
    """
    names = {recorded: name for name, recorded in RECORDED.items()}
    return choose(names.get(given, given), tuple(known), what)


def find(registry: Mapping[str, str], name: str) -> Any:
    """The class registered under `name`; the name was checked when the configuration was read."""
    return pkgutil.resolve_name(f"gap_vla.policies.{registry[name]}")
