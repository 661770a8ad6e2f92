"""GAP (M6): the proprioceptive branch learns from each sample with 1 − ρ and is updated with λ, in the first half."""

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.policies.methods.base import Method


class Gap(Method):
    needs_rho = True

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        return configured
