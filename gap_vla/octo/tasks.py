"""Tasks from goal images and instructions, as `OctoModel.create_tasks` offers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.octo.batch_checks import check_batch

_NOT_GOALS = ("pad_mask_dict", "language_instruction")


def create_tasks(
    example: Mapping[str, Any],
    text_processor: Any,
    goals: Mapping[str, Any] | None,
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    """See `OctoModel.create_tasks`; `example` is the task of the model's example batch."""
    if goals is None and texts is None:
        raise ValueError("give goals, texts or both")
    if goals is not None:
        batch = len(next(iter(goals.values())))
        task: dict[str, Any] = dict(goals)
        masks = {key: np.ones(batch, bool) for key in goals}
    else:
        assert texts is not None
        batch = len(texts)
        shapes = {key: value for key, value in example.items() if key not in _NOT_GOALS}
        task = {key: np.zeros((batch, *value.shape[1:]), value.dtype) for key, value in shapes.items()}
        masks = {key: np.zeros(batch, bool) for key in shapes}

    if texts is not None:
        if text_processor is None:
            raise ValueError(
                "this model has no text processor, so it takes no texts; pass goals, or put embeddings into "
                "task['language_instruction'] yourself"
            )
        if len(texts) != batch:
            raise ValueError(f"{len(texts)} texts for {batch} goals")
        task["language_instruction"] = text_processor.encode(list(texts))
        masks["language_instruction"] = np.ones(batch, bool)
    else:
        if text_processor is not None:
            task["language_instruction"] = text_processor.encode([""] * batch)
        masks["language_instruction"] = np.zeros(batch, bool)

    task["pad_mask_dict"] = masks
    check_batch("task", task, example, leading=1)
    return task
