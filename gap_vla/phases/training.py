"""Training the LSTM of M5 in torch: seeded, on one CPU thread, so that the same data give the same bits.

Where `max_steps` allows fewer epochs than are planned, recordings are learnt in pieces, one update each; the state is
carried from piece to piece (truncated backpropagation through time).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from gap_vla.core.progress import PATIENCE, Progress

State = tuple[torch.Tensor, torch.Tensor]

PIECE = 100
"""Steps of a piece, where recordings are learnt in pieces."""

MOST_EPOCHS, STEPS_PER_EPOCH, LEAST_UPDATES = 100, 50, 100
"""An epoch for every so many time steps of the examples, and never so few that the weights have hardly moved."""

Example = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features f32[T, F] (scaled), targets f32[T] (c_t of M4) and weights f32[T] of one recording."""


class Trained(NamedTuple):
    arrays: dict[str, np.ndarray]  # parameters in the layout of `lstm.Weights`, without scaling, after the epoch kept
    losses: list[float]  # of every epoch
    held_losses: list[float]  # on the held-out recordings after every epoch; empty without any
    kept: int  # index of the epoch of least held-out loss, else the last


class PhaseLSTM(nn.Module):
    """Two LSTM layers and a linear head; logits of ρ."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Logits for a piece of recordings, and the state after it."""
        outputs, state = self.lstm(features, state)
        return self.head(outputs)[..., 0], state


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The order of summation depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def train(examples: Sequence[Example], held_out: Sequence[Example], settings: Any) -> Trained:
    """Minimises the weighted binary cross-entropy of M5.

    Args:
        examples: recordings to learn.
        held_out: recordings that choose the epoch and are not learnt; may be none.
        settings: `EstimatorSettings`.
    """
    batch_size, epochs = settings.batch_size, settings.epochs
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)  # torch.manual_seed seeds the GPUs of a program, too
        model = PhaseLSTM(examples[0][0].shape[1], settings.hidden)
    rng = np.random.default_rng(settings.seed)
    lengths = [len(example[0]) for example in examples]
    updates = -(-len(examples) // batch_size)
    epochs = planned_epochs(sum(lengths), updates) if epochs is None else epochs
    affordable = settings.max_steps // max(sum(lengths), 1)
    piece = PIECE if affordable < epochs else max(lengths)
    epochs = max(1, min(epochs, affordable))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * updates)
    losses: list[float] = []
    held_losses: list[float] = []
    kept = 0
    best: dict[str, np.ndarray] = {}
    progress = Progress("LSTM of ρ", epochs * sum(lengths), "step", after=PATIENCE)
    for epoch in range(epochs):
        # neighbours in length share a batch, so that little is padded
        order = sorted(range(len(examples)), key=lambda i: lengths[i] + rng.uniform(0, 0.2 * lengths[i] + 1))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        rng.shuffle(batches)
        loss_sum = weight_sum = 0.0
        for batch in batches:
            x, y, w = (_padded(arrays) for arrays in zip(*(examples[i] for i in batch)))
            state = None
            for part in _pieces(x.shape[1], piece):
                logits, state = model(x[:, part], state)
                state = (state[0].detach(), state[1].detach())
                loss, total = _weighted_loss(logits, y[:, part], w[:, part])
                if not total:  # the samples ahead, in which nothing is asked
                    continue
                optimizer.zero_grad()
                (loss / total).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                loss_sum += float(loss.detach())
                weight_sum += float(total)
            progress.advance(sum(lengths[i] for i in batch), f"epoch {epoch + 1} of {epochs}")
            schedule.step()
        losses.append(loss_sum / weight_sum)
        if held_out:
            held_losses.append(_held_out_loss(model, held_out, batch_size))
        if not best or not held_out or held_losses[-1] <= held_losses[kept]:
            kept, best = len(losses) - 1, _parameters(model)
    progress.close()
    return Trained(best, losses, held_losses, kept)


def planned_epochs(steps: int, updates: int) -> int:
    """How many passes over so many time steps, in so many updates each.

    >>> planned_epochs(10_000, 13), planned_epochs(500, 7), planned_epochs(100, 1)
    (100, 15, 100)
    """
    return min(MOST_EPOCHS, max(steps // STEPS_PER_EPOCH, -(-LEAST_UPDATES // max(updates, 1))))


def _weighted_loss(logits: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the weighted cross-entropies and of the weights."""
    return nn.functional.binary_cross_entropy_with_logits(logits, y, weight=w, reduction="sum"), w.sum()


@torch.no_grad()
def _held_out_loss(model: PhaseLSTM, held_out: Sequence[Example], batch_size: int) -> float:
    loss_sum = weight_sum = 0.0
    for start in range(0, len(held_out), batch_size):
        x, y, w = (_padded(arrays) for arrays in zip(*held_out[start : start + batch_size]))
        loss, total = _weighted_loss(model(x)[0], y, w)
        loss_sum += float(loss)
        weight_sum += float(total)
    return loss_sum / weight_sum


def _pieces(length: int, most: int) -> list[slice]:
    """Slices of at most `most` steps and of nearly equal length.

    >>> _pieces(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    """
    number = -(-length // most)
    size = -(-length // number)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _padded(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([torch.from_numpy(array) for array in arrays], batch_first=True)


def _parameters(model: PhaseLSTM) -> dict[str, np.ndarray]:
    p = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}
    out = {}
    for name, layer in (("first", "l0"), ("second", "l1")):
        out[f"{name}_in"] = np.ascontiguousarray(p[f"lstm.weight_ih_{layer}"].T)
        out[f"{name}_hidden"] = np.ascontiguousarray(p[f"lstm.weight_hh_{layer}"].T)
        out[f"{name}_bias"] = p[f"lstm.bias_ih_{layer}"] + p[f"lstm.bias_hh_{layer}"]
    out["head"], out["head_bias"] = p["head.weight"][0].copy(), p["head.bias"].copy()
    return out
