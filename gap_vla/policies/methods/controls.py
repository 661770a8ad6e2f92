"""Controls: each keeps one part of GAP's adjustment, so that a gain can be told from that of the other part."""

import dataclasses

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.policies.methods.base import Method
from gap_vla.policies.methods.gap import Gap


class LambdaOnly(Method):
    """λ on the updates, ρ = 0: a slower proprioceptive branch, blind to phases."""

    rho_source = "zero"

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        return dataclasses.replace(configured, mode="fixed", fixed_rho=0.0)


class RhoOnly(Gap):
    """1 − ρ on each sample's gradient, λ = 1: phases alone."""

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        return dataclasses.replace(configured, mode="sample", lam=1.0)


class RhoOnlyGaussian(RhoOnly):
    """As rho_only, with ρ as Gaussian bumps at the change points."""

    needs_rho = False
    rho_source = "gaussian"


class FixedRho(Method):
    """The same ρ at every step (`adjustment.fixed_rho`), with λ."""

    rho_source = "zero"

    def schedule(self, configured: AdjustmentSchedule) -> AdjustmentSchedule:
        return dataclasses.replace(configured, mode="fixed")
