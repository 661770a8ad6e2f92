"""Policies acting in simulators: success counted with intervals, and diagnosed."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "policy": "Policy PolicyError PolicyUnavailable RandomPolicy ExpertPolicy ReplayPolicy",
        "octo_policy": "OctoPolicy",
        "record": "EvaluationError EpisodeRecord",
        "task": "Task SimTask sim_task",
        "evaluation": "Limits evaluate",
        "summary": "summarize",
        "statistics": "wilson clopper_pearson mcnemar paired_difference PairedDifference",
    },
)
