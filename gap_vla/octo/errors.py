"""What goes wrong between a model, its checkpoint and a batch."""

from __future__ import annotations

from gap_vla.core.errors import UserError


class CheckpointError(UserError, ValueError):
    """A checkpoint directory that cannot be used; the message names the file or the parameters, and what to do."""


class BatchError(UserError, ValueError):
    """Observations or tasks that do not fit the model; the message names the key and both shapes."""
