"""What is wrong with an RLDS dataset, of whatever origin: `check_dataset(version_dir) -> Report`."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(__name__, {"report": "Report", "run": "check_dataset"})
