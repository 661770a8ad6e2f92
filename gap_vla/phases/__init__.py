"""Phases: proprioception in, change points and ρ out (M1-M5). Needs numpy, numba and torch; loads them when used."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Motion": "motion",
        "MotionError": "motion",
        "DeadBand": "motion",
        "default_dead_band": "noise",
        "default_penalty": "objective",
        "stroke_starts": "objective",
        "segment": "segmentation",
        "PhaseEstimator": "estimator",
        "annotate": "annotation",
        "Annotation": "annotation",
        "Annotator": "annotation",
        "load_annotator": "annotation",
        "METHODS": "methods",
        "LABELS_VERSION": "methods",
    },
)
