"""Training the LSTM of M5 in torch: seeded, on one CPU thread, so that the same data give the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gap_vla.progress import PATIENCE, Progress


class PhaseLSTM(nn.Module):
    """Two LSTM layers and a linear head; logits of ρ."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(features)[0])[..., 0]


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
        epochs: passes over the recordings; fewer if they would exceed `max_steps` time steps in all.
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
    epochs = max(1, min(epochs, max_steps // max(sum(lengths), 1)))
    updates = epochs * -(-len(features) // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    history: list[float] = []
    progress = Progress("LSTM of ρ", epochs, "epoch", after=PATIENCE)
    for _ in range(epochs):
        # neighbours in length share a batch, so that little is padded
        order = sorted(range(len(features)), key=lambda i: lengths[i] + rng.uniform(0, 0.2 * lengths[i] + 1))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        rng.shuffle(batches)
        loss_sum = weight_sum = 0.0
        for batch in batches:
            x, y, w = (_padded([arrays[i] for i in batch]) for arrays in (features, targets, weights))
            losses = nn.functional.binary_cross_entropy_with_logits(model(x), y, weight=w, reduction="sum")
            optimizer.zero_grad()
            (losses / w.sum()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += float(losses.detach())
            weight_sum += float(w.sum())
        history.append(loss_sum / weight_sum)
        progress.update(len(history), f"loss {history[-1]:.3g}")
    return _parameters(model), history


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
