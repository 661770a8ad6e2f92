"""A policy, and calls as users make them."""

import pytest
import torch
from jaxtyping import config
from torch_policy import Policy


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy()


@pytest.fixture
def unchecked(monkeypatch):
    """As outside of the tests, in which annotations are checked first."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
