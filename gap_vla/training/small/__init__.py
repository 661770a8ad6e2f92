"""Training of small torch policies from an episode store: no TensorFlow, no JAX, no simulator."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(__name__, {"train_small": "run", "run_directory_of": "run", "report": "run"})
