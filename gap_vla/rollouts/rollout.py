"""Rolls a policy out: simulators in processes of their own, one batched policy here, one JSON line per episode."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.foreign import whole
from gap_vla.core.progress import Progress
from gap_vla.core.whole import write_json
from gap_vla.rollouts.guard import GuardedPolicy
from gap_vla.rollouts.policy import Policy, PolicyUnavailable, identity
from gap_vla.rollouts.pool import WorkerPool
from gap_vla.rollouts.record import EpisodeLog, EpisodeRecord, EvaluationError
from gap_vla.rollouts.settings import DEFAULT_LIMITS, STEPS, Limits, Settings
from gap_vla.rollouts.summary import scene, summarize
from gap_vla.rollouts.task import Task, sim_task
from gap_vla.rollouts.video import VideoShelf
from gap_vla.rollouts.worker import Crash, Frame, Privilege, Reset, Step

MAX_LOST_IN_A_ROW = 3
"""So many simulator failures without a finished episode between them mean that the machine, not a layout, is broken."""

MAX_SILENT_IN_A_ROW = 3
"""So many calls in a row without an answer in time mean that the policy, or its server, hangs for good."""


def not_finite(observation: Mapping[str, Any]) -> str | None:
    """Which array of an observation holds NaN or infinity, and where; None if none does. Others are words."""
    for key, value in observation.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"{key} is NaN or infinite at index {int(np.argmin(np.isfinite(value)))}"
    return None


def layout_seed(seed: int, episode: int) -> int:
    """The simulator's seed for one episode: evaluations count through layouts, from `seed` on. Every policy gets the
    same ones, so outcomes are paired.

    >>> layout_seed(100_000, 3)
    100003
    """
    return seed + episode


@dataclasses.dataclass
class _Live:
    """An episode that is under way."""

    number: int
    seed: int
    observation: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    pictures: list[np.ndarray] = dataclasses.field(default_factory=list)
    steps: int = -1  # becomes 0 with the first observation
    phase: str | None = None
    simulation: float = 0.0
    rendering: float = 0.0
    policy: float = 0.0

    def take(self, frame: Frame) -> None:
        self.observation, self.phase = frame.observation, frame.phase
        self.steps += 1
        self.simulation += frame.simulation_seconds
        self.rendering += frame.rendering_seconds
        if "image_primary" in frame.observation:
            self.pictures.append(frame.observation["image_primary"])

    def record(self, success: bool, error: str | None) -> EpisodeRecord:
        seconds = {f"{part}_seconds": round(getattr(self, part), 4) for part in ("simulation", "rendering", "policy")}
        return EpisodeRecord(self.number, self.seed, success, max(self.steps, 0), self.phase, error, **seconds)


class _Rollout:
    """The loop: start episodes in free slots, collect every answer, ask the policy once for all of them."""

    def __init__(
        self,
        task: Task,
        policy: GuardedPolicy,
        pool: WorkerPool,
        log: EpisodeLog,
        shelf: VideoShelf,
        shown: Progress,
    ) -> None:
        self._task, self._policy, self._pool, self._log, self._shelf, self._shown = (
            task,
            policy,
            pool,
            log,
            shelf,
            shown,
        )
        self._live: dict[int, _Live] = {}
        self._lost_in_a_row = 0
        self._unanswered: list[tuple[_Live, str]] = []

    def run(self, todo: Sequence[tuple[int, int]]) -> None:
        """Raises PolicyUnavailable if the policy hangs for good; episodes lost to that are not recorded."""
        waiting = deque(_Live(number, seed) for number, seed in todo)
        while waiting or self._live:
            self._start(waiting)
            for slot, answer in self._pool.collect().items():
                self._settle(slot, answer, waiting)
            self._act()
        if self._unanswered and not self._policy.answered:
            raise PolicyUnavailable(self._unanswered[0][1].partition(": ")[2])
        self._record_unanswered()

    def _start(self, waiting: deque[_Live]) -> None:
        free = [slot for slot in range(self._pool.slots) if slot not in self._live]
        fresh = list(zip(free, [waiting.popleft() for _ in free[: len(waiting)]]))
        if not fresh:
            return
        fault = self._policy.reset([episode.number for _, episode in fresh])
        for slot, episode in fresh:
            self._live[slot] = episode
            if fault is None:
                self._pool.send(Reset(slot, episode.seed))
            else:
                self._finish(slot, False, f"at the start: {fault}")

    def _settle(self, slot: int, answer: Frame | Crash | None, waiting: deque[_Live]) -> None:
        episode = self._live.get(slot)
        if episode is None:
            return
        if isinstance(answer, Frame):
            episode.take(answer)
            unusable = not_finite(answer.observation)
            if unusable is not None:
                self._lost_in_a_row = 0
                self._finish(slot, False, f"step {episode.steps}: the simulator's {unusable}")
            elif answer.done or episode.steps >= self._task.horizon:
                self._lost_in_a_row = 0
                self._finish(slot, answer.success, None)
            return
        if isinstance(answer, Crash):
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= MAX_LOST_IN_A_ROW:
                raise EvaluationError(
                    f"{MAX_LOST_IN_A_ROW} simulator failures in a row; the last: episode {episode.number} of "
                    f"{self._task.name}, layout seed {episode.seed}, step {max(episode.steps, 0)}: {answer.message}"
                ) from RuntimeError(answer.traceback)
            if episode.steps >= 0:
                self._finish(slot, False, f"step {episode.steps}: {answer.message}")
                return
        # Lost before it began, or with a worker that another episode brought down: not this policy's failure.
        del self._live[slot]
        waiting.append(_Live(episode.number, episode.seed))

    def _act(self) -> None:
        slots = sorted(self._live)
        if not slots:
            return
        episodes = [self._live[slot] for slot in slots]
        keys = episodes[0].observation
        batch = {key: np.stack([episode.observation[key] for episode in episodes]) for key in keys}
        batch["language_instruction"] = np.array([self._task.instruction] * len(slots))
        started = time.perf_counter()
        actions, faults = self._policy.act(batch, [episode.number for episode in episodes])
        share = (time.perf_counter() - started) / len(slots)
        if not self._policy.silent:
            self._record_unanswered()  # it answers again: those episodes were lost to a hang of their own
        for row, (slot, episode) in enumerate(zip(slots, episodes)):
            episode.policy += share
            if row in faults:
                self._finish(slot, False, f"step {episode.steps}: {faults[row]}")
            else:
                self._pool.send(Step(slot, actions[row]))

    def _finish(self, slot: int, success: bool, error: str | None) -> None:
        episode = self._live.pop(slot)
        self._policy.forget([episode.number])
        if error is not None and self._policy.silent:
            self._unanswered.append((episode, error))
            if self._policy.silent >= MAX_SILENT_IN_A_ROW:
                raise PolicyUnavailable(f"{self._policy.silent} times in a row {error.partition(': ')[2]}")
        else:
            self._record(episode, success, error)

    def _record_unanswered(self) -> None:
        for episode, error in self._unanswered:
            self._record(episode, False, error)
        self._unanswered.clear()

    def _record(self, episode: _Live, success: bool, error: str | None) -> None:
        self._shelf.add(episode.number, success, episode.pictures)
        self._log.append(episode.record(success, error))
        won = sum(record.success for record in self._log.records.values())
        self._shown.advance(1, f"{won} of {len(self._log.records)} succeeded")


def evaluate(
    policy: Policy,
    task: str | Task,
    *,
    episodes: int,
    seed: int,
    out_dir: str | Path,
    image_size: int = 64,
    cameras: Sequence[str] = ("primary",),
    variant: str = "default",
    camera: str = "near",
    workers: int = 2,
    slots_per_worker: int = 4,
    horizon: int | None = None,
    videos: int = 4,
    resume: bool = True,
    progress: bool = True,
    watch: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """Success rate of a policy, on layouts that depend on `seed` alone.

    `out_dir` receives `episodes.jsonl` (a line per episode, as it finishes), `videos/` (failures first),
    `evaluation.json` (what is evaluated) and at the end `summary.json`. Called again after a kill it does
    the missing episodes only; `episodes` may be raised later.

    Args:
        policy: see `Policy`. It is called for all live episodes at once, at most `workers * slots_per_worker`.
        task: a name of `gap_vla.sim.TASK_NAMES`, or any `Task` (then the picture and variant arguments are its own).
        horizon: control steps per episode; the task's own by default.
        watch: tell which phase of the scripted expert's plan each episode reached (`PhaseWatcher`).
        limits: how long to wait for the simulator and for the policy.

    Returns:
        The content of `summary.json`: `summarize`'s figures and what was evaluated.

    Raises:
        EvaluationError: a setting that measures nothing, `out_dir` holds something else, the simulator fails again and
            again, or not one episode was played to its end.
        PolicyUnavailable: the policy has gone; what is finished is kept, and the same call continues.
    """
    Settings(episodes, seed, workers, slots_per_worker, videos)
    if isinstance(task, str):
        chosen: Task = sim_task(
            task,
            image_size=image_size,
            cameras=tuple(cameras),
            variant=variant,
            camera=camera,
            horizon=horizon,
        )
    elif horizon is not None:
        raise EvaluationError(f"horizon={horizon}: a task given as an object has its own, {task.horizon}")
    else:
        chosen = task
    whole(f"{chosen.name}: horizon", chosen.horizon, int(STEPS.least), int(STEPS.most), EvaluationError)
    layouts = getattr(policy, "layout_seeds", None) or {e: layout_seed(seed, e) for e in range(episodes)}
    if len(layouts) < episodes:
        raise EvaluationError(f"{policy.name} knows {len(layouts)} layouts, {episodes} episodes are asked for")
    out = Path(out_dir)
    what = {
        "task": {**chosen.identity(), "horizon": chosen.horizon},
        "seed": seed,
        "policy": identity(policy),
    }
    log = EpisodeLog(out, what, resume=resume)
    todo = [(e, layouts[e]) for e in range(episodes) if e not in log.records]
    started = time.monotonic()
    if todo:
        workers = min(workers, len(todo))
        slots = min(slots_per_worker, -(-len(todo) // workers))
        needs_expert = bool(getattr(policy, "privileged", False))
        mode = Privilege.ACTIONS if needs_expert else Privilege.PHASES if watch else Privilege.NONE
        what_runs = f"{policy.name} on {scene(chosen.identity())}"
        shown = Progress(what_runs, episodes, "episode", episodes - len(todo), alone=True, quiet=not progress)
        guarded = GuardedPolicy(policy, chosen.action_dim, limit=limits.policy, first_limit=limits.policy_first)
        pool = WorkerPool(chosen, workers, slots, mode, step_limit=limits.simulator, start_limit=limits.simulator_first)
        try:
            _Rollout(chosen, guarded, pool, log, VideoShelf(out / "videos", videos), shown).run(todo)
        except PolicyUnavailable as error:
            done = [record.success for record in log.records.values()]
            raise PolicyUnavailable(
                f"{error}; {len(done)} of {episodes} episodes are finished, {sum(done)} succeeded; kept in "
                f"{log.path}: the same command continues"
            ) from error
        finally:
            pool.close()
            guarded.close()
            log.close()
            shown.close()
    log.close()
    cut_short = [record for e in range(episodes) if (record := log.records[e]).error is not None]
    if len(cut_short) == episodes:
        raise EvaluationError(
            f"all {episodes} episodes were cut short, so nothing was measured; the first at {cut_short[0].error}. They "
            f"are kept in {log.path}: remove it to try again"
        )
    summary = {
        **what,
        "source": getattr(policy, "source", None),
        **summarize([log.records[e] for e in range(episodes)], chosen.phases),
        "wall_seconds_of_last_run": round(time.monotonic() - started, 1),
        "videos": [str(path.relative_to(out)) for path in VideoShelf(out / "videos", videos).paths],
    }
    write_json(out / "summary.json", summary)
    return summary
