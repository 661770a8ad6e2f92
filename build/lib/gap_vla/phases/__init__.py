"""Phases: proprioception in, change points and ρ out (M1-M5). Needs numpy, numba and torch; loads them when used."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "motion": "Motion MotionError DeadBand",
        "noise": "default_dead_band",
        "objective": "default_penalty stroke_starts",
        "segmentation": "segment",
        "estimator": "PhaseEstimator",
        "annotation": "annotate",
        "annotator": "Annotation Annotator load_annotator",
        "methods": "METHODS LABELS_VERSION",
    },
)
