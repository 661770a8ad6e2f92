"""Training the LSTM of M5 in torch: seeded, on one CPU thread, so that the same data give the same bits.

For 40 demonstrations of 100 steps an epoch is 5 updates, and 100 epochs are enough. Where there is so much data that
`max_steps` allows fewer epochs, recordings are learnt in pieces, one update each, so that updates do not become few;
the state is carried from piece to piece (truncated backpropagation through time).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gap_vla.progress import PATIENCE, Progress

State = tuple[torch.Tensor, torch.Tensor]

PIECE = 100
"""Steps of a piece, where recordings are learnt in pieces."""


class PhaseLSTM(nn.Module):
    """Two LSTM layers and a linear head; logits of ρ."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.run(features, None)[0]

    def run(self, features: torch.Tensor, state: State | None) -> tuple[torch.Tensor, State]:
        """Logits for a piece of recordings, and the state after it."""
        outputs, state = self.lstm(features, state)
        return self.head(outputs)[..., 0], state


def train(
    features: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    *,
    hidden: int,
    epochs: int,
    learning_rate: float | int,
    batch_size: int,
    max_steps: int,
    seed: int,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Minimises the weighted binary cross-entropy of M5.

    Args:
        features: f32[T, F] per recording, scaled.
        targets: f32[T] per recording, c_t of M4.
        weights: f32[T] per recording.
        epochs: passes over the recordings; fewer if they would exceed `max_steps` time steps in all, and then in
            pieces of `PIECE` steps.
        learning_rate: Adam's, falling to zero along a half cosine.

    Returns:
        The parameters in the layout of `lstm.Weights`, without scaling, and the training loss per epoch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of summation, and with it the result, depends on the number of threads
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _train(
                features, targets, weights, hidden, epochs, learning_rate, batch_size, max_steps,
                np.random.default_rng(seed),
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def _train(features, targets, weights, hidden, epochs, learning_rate, batch_size, max_steps, rng):
    model = PhaseLSTM(features[0].shape[1], hidden)
    lengths = [len(f) for f in features]
    affordable = max_steps // max(sum(lengths), 1)
    piece = PIECE if affordable < epochs else max(lengths)
    epochs = max(1, min(epochs, affordable))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(features) // batch_size))
    history: list[float] = []
    progress = Progress("LSTM of ρ", epochs, "epoch", after=PATIENCE, out=sys.stderr)
    for _ in range(epochs):
        # neighbours in length share a batch, so that little is padded
        order = sorted(range(len(features)), key=lambda i: lengths[i] + rng.uniform(0, 0.2 * lengths[i] + 1))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        rng.shuffle(batches)
        loss_sum = weight_sum = 0.0
        for batch in batches:
            x, y, w = (_padded([arrays[i] for i in batch]) for arrays in (features, targets, weights))
            state = None
            for part in _pieces(x.shape[1], piece):
                logits, state = model.run(x[:, part], state)
                state = (state[0].detach(), state[1].detach())
                losses = nn.functional.binary_cross_entropy_with_logits(
                    logits, y[:, part], weight=w[:, part], reduction="sum"
                )
                total = w[:, part].sum()
                optimizer.zero_grad()
                (losses / total).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                loss_sum += float(losses.detach())
                weight_sum += float(total)
            schedule.step()
        history.append(loss_sum / weight_sum)
        progress.update(len(history), f"loss {history[-1]:.3g}")
    return _parameters(model), history


def _pieces(length: int, most: int) -> list[slice]:
    """Slices of at most `most` steps and of nearly equal length.

    >>> _pieces(7, 3)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 7, None)]
    """
    number = -(-length // most)
    size = -(-length // number)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _padded(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    out = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), np.float32)
    for row, array in zip(out, arrays):
        row[: len(array)] = array
    return torch.from_numpy(out)


def _parameters(model: PhaseLSTM) -> dict[str, np.ndarray]:
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}
    out = {}
    for name, layer in (("first", "l0"), ("second", "l1")):
        out[f"{name}_in"] = np.ascontiguousarray(p[f"lstm.weight_ih_{layer}"].T)
        out[f"{name}_hidden"] = np.ascontiguousarray(p[f"lstm.weight_hh_{layer}"].T)
        out[f"{name}_bias"] = p[f"lstm.bias_ih_{layer}"] + p[f"lstm.bias_hh_{layer}"]
    out["head"], out["head_bias"] = p["head.weight"][0].copy(), p["head.bias"].copy()
    return out
