"""Vision only: there is no proprioceptive branch."""

from gap_vla.policies.methods.base import Method


class Vision(Method):
    proprio = False
