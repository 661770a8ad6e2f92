"""Gradient adjustment with phase guidance: M6 (paper), M7 (release) and where they apply (M8).

`schedule` decides by how much, without any framework; `jax` applies it to Octo and other Flax models, `torch` to
any `nn.Module`.
"""

from gap_vla.adjustment.schedule import AdjustmentSchedule, Factors

__all__ = ["AdjustmentSchedule", "Factors"]
