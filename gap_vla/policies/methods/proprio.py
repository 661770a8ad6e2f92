"""State only: there is no image encoder. What is left of the success rate needs no eyes."""

from gap_vla.policies.methods.base import Method


class Proprio(Method):
    vision = False
