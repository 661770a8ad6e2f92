"""Phases: proprioception in, change points and ρ out (M1-M5). Numba and torch are loaded when they are used."""

from gap_vla.phases.annotation import Annotation, Annotator, annotate, load_annotator
from gap_vla.phases.estimator import PhaseEstimator
from gap_vla.phases.methods import LABELS_VERSION, METHODS
from gap_vla.phases.motion import DeadBand, Motion
from gap_vla.phases.noise import default_dead_band
from gap_vla.phases.objective import default_penalty, stroke_starts
from gap_vla.phases.segmentation import segment

__all__ = [
    "LABELS_VERSION",
    "METHODS",
    "Annotation",
    "Annotator",
    "DeadBand",
    "Motion",
    "PhaseEstimator",
    "annotate",
    "default_dead_band",
    "default_penalty",
    "load_annotator",
    "segment",
    "stroke_starts",
]
