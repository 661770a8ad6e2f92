"""What trained policies see and when it matters: takeovers by another policy, linear probes, similarity."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "TakeoverPolicy": "takeover",
        "Window": "takeover",
        "cka": "similarity",
        "probe_beyond": "partial_probe",
        "phase_windows": "takeover",
        "probe_positions": "linear_probe",
        "probe_runs": "probe_run",
        "probe_transitions": "linear_probe",
        "step_windows": "takeover",
        "take_over": "takeover_run",
    },
)
