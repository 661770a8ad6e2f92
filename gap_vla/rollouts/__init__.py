"""Policies acting in simulators: success counted with intervals, and diagnosed."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Policy": "policy",
        "PolicyError": "policy",
        "PolicyUnavailable": "policy",
        "RandomPolicy": "policy",
        "ExpertPolicy": "policy",
        "ReplayPolicy": "policy",
        "OctoPolicy": "octo_policy",
        "EvaluationError": "record",
        "EpisodeRecord": "record",
        "Task": "task",
        "SimTask": "task",
        "sim_task": "task",
        "Limits": "evaluation",
        "evaluate": "evaluation",
        "summarize": "summary",
        "wilson": "statistics",
        "clopper_pearson": "statistics",
        "mcnemar": "statistics",
        "paired_difference": "statistics",
        "PairedDifference": "statistics",
    },
)
