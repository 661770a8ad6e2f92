"""The parts of a small policy by name: a part is one file, and one line here. Nothing is imported until it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

ENCODERS: Mapping[str, str] = {
    "small": "gap_vla.policies.encoders.small:SmallEncoder",
    "resnet18": "gap_vla.policies.encoders.resnet18:ResNet18",
}

SMALLEST_IMAGE: Mapping[str, int] = {"small": 16, "resnet18": 33}
"""Pixels; in smaller pictures the last map of a ResNet has one position, and its spatial softmax is constant."""

TEMPORALS: Mapping[str, str] = {
    "none": "gap_vla.policies.temporal:LastStep",
    "transformer": "gap_vla.policies.temporal:TemporalTransformer",
}

FUSIONS: Mapping[str, str] = {
    "concat": "gap_vla.policies.fusions.concat:Concat",
    "sum": "gap_vla.policies.fusions.sum:Sum",
    "film": "gap_vla.policies.fusions.film:FiLM",
    "attention": "gap_vla.policies.fusions.attention:Attention",
    "phase_gate": "gap_vla.policies.fusions.phase_gate:PhaseGate",
}

HEADS: Mapping[str, str] = {
    "mlp": "gap_vla.policies.heads.mlp:MLPHead",
    "diffusion": "gap_vla.policies.heads.diffusion:DiffusionHead",
    "gmm": "gap_vla.policies.heads.gmm:GMMHead",
}

METHODS: Mapping[str, str] = {
    "vision": "gap_vla.policies.methods.vision:Vision",
    "concat": "gap_vla.policies.methods.base:Concat",
    "proprio": "gap_vla.policies.methods.proprio:Proprio",
    "msbot": "gap_vla.policies.methods.msbot:MSBot",
    "aux": "gap_vla.policies.methods.aux:Aux",
    "mask": "gap_vla.policies.methods.mask:Mask",
    "gap": "gap_vla.policies.methods.gap:Gap",
    "gradnorm": "gap_vla.policies.methods.gradnorm:GradNorm",
    "ogm_ge": "gap_vla.policies.methods.ogm_ge:OgmGe",
    "dropout_noise": "gap_vla.policies.methods.dropout_noise:DropoutNoise",
    "keyframe": "gap_vla.policies.methods.keyframe:Keyframe",
    "lambda_only": "gap_vla.policies.methods.controls:LambdaOnly",
    "rho_only": "gap_vla.policies.methods.controls:RhoOnly",
    "rho_only_gaussian": "gap_vla.policies.methods.controls:RhoOnlyGaussian",
    "fixed_rho": "gap_vla.policies.methods.controls:FixedRho",
    "gap_gaussian": "gap_vla.policies.methods.alternatives:GapGaussian",
    "gap_change_points": "gap_vla.policies.methods.alternatives:GapChangePoints",
    "gap_hdbscan": "gap_vla.policies.methods.alternatives:GapHdbscan",
    "gap_cotpc": "gap_vla.policies.methods.alternatives:GapCotpc",
}


def find(registry: Mapping[str, str], name: str) -> Any:
    """The class registered under `name`; the name was checked when the configuration was read."""
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
