"""The training loop of small policies; a run that is killed and resumed ends with the same parameters, bit for bit."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import torch

from gap_vla.core.errors import UserError
from gap_vla.core.progress import Progress
from gap_vla.core.whole import replacing
from gap_vla.training.interrupt import StopRequest
from gap_vla.training.metrics import MetricsWriter
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.small.checkpoints import SmallState
from gap_vla.training.small.step import SmallTrainer
from gap_vla.training.small.windows import SmallWindows


class DivergedError(UserError, RuntimeError):
    """The loss is not finite; the batch is saved."""


def train(trainer: SmallTrainer, windows: SmallWindows, held_out: SmallWindows, run: RunDirectory, data: str) -> dict:
    """Trains to the last step, from the newest saved state if there is one.

    Args:
        held_out: windows of the validation split.
        data: identity of the dataset, kept with the state.

    Returns:
        The last held-out measurements, steps per second of this process and the share of its time that gathering took.

    Raises:
        DivergedError: the loss became NaN or infinite; the batch lies in the run as `bad_batch.npz`.
        KeyboardInterrupt: after the state of the last whole step was written.
    """
    settings, total = trainer.config.train, trainer.steps
    state = SmallState(run.state, data)
    done = 0
    if (found := state.restore()) is not None:
        done, parts = found
        trainer.restore(parts)
        print(f"train: resumed after step {done}", flush=True)
    metrics = MetricsWriter(run.metrics, run.tensorboard, start_step=done)
    progress = Progress("train", total, "step", done)
    measured = validate(trainer, held_out)
    if done == 0:
        metrics.write(0, measured)
    gathering, started, first = 0.0, time.perf_counter(), done
    with StopRequest() as stop, contextlib.closing(metrics):
        while done < total and not stop.requested:
            asked = time.perf_counter()
            batch = trainer.place(windows.batch(done))
            gathering += time.perf_counter() - asked
            last = done + 1 == total
            logged = (done + 1) % settings.log_every == 0 or last
            measured_now = trainer.step(batch, done, measure=logged)
            done += 1
            saving = done % settings.save_every == 0 or last
            if trainer.device.type == "cpu" or logged or saving:  # a GPU is not asked, and waited for, at every step
                _require_finite(trainer.loss, batch, done, run)
            if logged:
                values = {
                    "train/loss": float(trainer.loss),
                    **measured_now,
                    "train/gradient_norm": float(trainer.norm),
                    "train/learning_rate": trainer.rate(done - 1),
                    "train/steps_per_second": progress.rate(done),
                }
                if trainer.adjustment is not None:
                    values |= _factors(trainer, batch, done - 1)
                metrics.write(done, values)
                progress.update(done, f"loss {values['train/loss']:.4f}", force=last)
            if done % settings.validate_every == 0 or last:
                measured = validate(trainer, held_out)
                metrics.write(done, measured)
                shown = ", ".join(f"{k.removeprefix('val/')} {v:.4f}" for k, v in measured.items())
                print(f"validation after step {done}: {shown}", flush=True)
            if saving:
                state.save(done, trainer.state())
    if done < total:
        if done > first:
            _require_finite(trainer.loss, batch, done, run)
        state.save(done, trainer.state())
        raise KeyboardInterrupt(f"step {done} is saved, go on with --resume")
    seconds = time.perf_counter() - started
    if done > first:
        measured |= {"steps_per_second": (done - first) / seconds, "data_share": gathering / seconds}
    return measured


@torch.no_grad()
def validate(trainer: SmallTrainer, windows: SmallWindows) -> dict[str, float]:
    """Means over all held-out windows.

    `val/loss`, `val/loss_transition` (the dataset's ρ > 0.5), `val/loss_consistent`, `val/action_mse` of the predicted
    chunk, and `val/mean_action_mse`, what predicting the mean action would give. A part without any step is left out.
    """
    policy = trainer.policy.eval()
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}

    def add(name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        weight = mask.to(values.dtype)
        sums[name] = sums.get(name, 0.0) + float((values * weight).sum())
        counts[name] = counts.get(name, 0.0) + float(weight.sum())

    for index, batch in enumerate(windows.in_order()):
        batch = trainer.place(batch)
        mask, action = batch["action_pad_mask"], batch["action"]
        feature = policy.embed(*policy.branch_features(batch))
        loss = policy.head.loss(feature, action, trainer.generator(index))
        chunk = policy.head.predict(feature, trainer.generator(index))
        transition = batch["transition"][:, None] & mask
        add("val/loss", loss, mask)
        add("val/loss_transition", loss, transition)
        add("val/loss_consistent", loss, mask & ~transition)
        add("val/action_mse", (chunk - action).square().mean(-1), mask)
        add("val/mean_action_mse", action.square().mean(-1), mask)
    policy.train()
    return {name: sums[name] / counts[name] for name in sums if counts[name]}


def _factors(trainer: SmallTrainer, batch: dict[str, Any], step: int) -> dict[str, float]:
    factors = trainer.schedule.factors(batch["rho"].cpu().numpy(), step, trainer.steps)
    return {"gap/sample_factor": float(factors.sample.mean()), "gap/update_factor": float(factors.update)}


def _require_finite(loss: torch.Tensor, batch: dict[str, Any], step: int, run: RunDirectory) -> None:
    if torch.isfinite(loss):
        return
    path = run.path / "bad_batch.npz"
    with replacing(path) as temporary:
        np.savez(temporary.open("wb"), **{key: value.cpu().numpy() for key, value in batch.items()})
    raise DivergedError(
        f"the loss is {float(loss)} after step {step}; the batch is saved as {path}. "
        "Look at it for extreme values; if it is ordinary, lower optimizer.learning_rate"
    )
