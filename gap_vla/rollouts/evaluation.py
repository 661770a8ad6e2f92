"""An evaluation: a policy's success rate on a task, kept where it can be continued.

Simulators run in processes of their own; one batched policy here acts for all of them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.files import file_lock, write_json
from gap_vla.core.progress import Progress
from gap_vla.rollouts.policy import EXPERT_ACTION, Bounds, Policy, forget, identity
from gap_vla.rollouts.records import SUMMARY_FILE, EpisodeLog, EpisodeRecord, is_simulators, summarize, title
from gap_vla.rollouts.task import SimTask, Task, sim_task
from gap_vla.rollouts.workers import Crash, Frame, WorkerPool

SLOTS = 4
"""Environments of a worker process, unless more or fewer are asked for."""

MOST_ACTION = 100.0
"""Entries of actions may be so many half ranges off the middle of the task's range, and are clipped to it; beyond that
they are no actions."""

MAX_CRASHES_IN_A_ROW = 3
"""So many simulator failures without a finished episode between them mean that the machine, not a layout, is broken."""


def evaluate(
    policy: Policy,
    task: str | Task,
    *,
    episodes: int,
    seed: int,
    out_dir: str | Path,
    workers: int = 2,
    slots_per_worker: int = SLOTS,
    videos: int = 4,
    progress: bool = True,
    **scene: Any,
) -> dict[str, Any]:
    """Success rate of a policy, on layouts that count from `seed` on: every policy gets the same ones.

    `out_dir` receives `episodes.jsonl` (a line per episode, as it finishes), `videos/` (failures first),
    `evaluation.json` (what is evaluated) and at the end `summary.json`. Called again after a kill it does the missing
    episodes only; `episodes` may be raised later.

    Args:
        policy: see `Policy`. It is called for all live episodes at once, at most `workers * slots_per_worker`.
        task: a name of `gap_vla.sim.specs.TASK_NAMES`, or any `Task`.
        videos: how many episodes to film.
        scene: of a task given by name: `image_size`, `cameras`, `variant`, `camera`, `horizon`, as in `sim_task`.

    Returns:
        The content of `summary.json`: `summarize`'s figures and what was evaluated.

    Raises:
        UserError: `out_dir` holds something else or another process works there, the policy does not fit the task or
            has gone, the simulator fails again and again, or not one episode was played to its end.
    """
    chosen: Task = sim_task(task, **scene) if isinstance(task, str) else task
    out = Path(out_dir).absolute()
    scene_of = {"task": chosen.name, **chosen.identity(), "horizon": chosen.horizon}
    what = {"task": scene_of, "seed": int(seed), "policy": identity(policy)}
    with file_lock(out / ".lock", str(out)):
        log = EpisodeLog(out, what)
        todo = [(e, seed + e) for e in range(episodes) if e not in log.records]
        workers = min(workers, len(todo))
        slots = min(slots_per_worker, -(-len(todo) // max(workers, 1)))
        watched = bool(chosen.phases) and hasattr(chosen, "make_watcher")
        privilege: Any = "actions" if getattr(policy, "privileged", False) else "phases" if watched else None
        bar = Progress(title(what), episodes, "episode", episodes - len(todo), quiet=not progress)
        pool = WorkerPool(chosen, workers, slots, privilege)
        rollout = Rollout(chosen, policy, pool, log, bar)
        try:
            rollout.run(todo)
            bar.close()
            if todo and videos and getattr(chosen, "cameras", True):
                make_films(pool, log, rollout.played, videos)
        except UserError:
            finished = f"{len(log.records)} of {episodes} episodes are finished and kept in {log.path}"
            print(f"{finished}: the same command continues", file=sys.stderr)
            raise
        finally:
            pool.close()
        records = [log.records[e] for e in range(episodes)]
        if all(record.error for record in records):
            raise UserError(
                f"all {episodes} episodes were cut short, so nothing was measured; the first at {records[0].error}. "
                f"They are kept in {log.path}: remove it to try again"
            )
        source = getattr(policy, "source", None)
        films = [_film(out, record) for record in in_order_of_films(records)]
        summary = {
            **what,
            "source": None if source is None else str(source),
            **summarize(records, chosen.phases),
            "videos": [str(film.relative_to(out)) for film in films if film.exists()],
        }
        write_json(out / SUMMARY_FILE, summary)
    return summary


# ---- the loop


@dataclasses.dataclass
class _Live:
    """An episode that is under way."""

    number: int
    seed: int
    again: bool = False  # its simulator failed once, and it is played a second time
    observation: dict[str, Any] = dataclasses.field(default_factory=dict)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    steps: int = -1  # becomes 0 with the first observation
    phase: str | None = None

    def see(self, frame: Frame) -> None:
        self.observation, self.phase = frame.observation, frame.phase
        self.steps += 1

    def record(self, success: bool, error: str | None) -> EpisodeRecord:
        return EpisodeRecord(self.number, self.seed, success, max(self.steps, 0), self.phase, error)


@dataclasses.dataclass
class Rollout:
    """The loop: start episodes in free slots, collect every answer, ask the policy once for all of them.

    Attributes:
        played: episode to the actions that were executed in it.
    """

    task: Task
    policy: Policy
    pool: WorkerPool
    log: EpisodeLog
    shown: Progress
    played: dict[int, list[np.ndarray]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._live: dict[int, _Live] = {}
        self._waiting: deque[_Live] = deque()
        self._crashes_in_a_row = 0
        self._range: tuple[Bounds, Bounds] = getattr(self.task, "action_range", (-1.0, 1.0))

    def run(self, todo: Sequence[tuple[int, int]]) -> None:
        """Plays these episodes, given by number and layout seed."""
        self._waiting.extend(_Live(number, seed) for number, seed in todo)
        self._start()
        if todo and hasattr(self.policy, "warm_up"):
            self.policy.warm_up()  # while the simulators start
        while self._waiting or self._live:
            for slot, answer in self.pool.collect().items():
                if slot in self._live:
                    self._settle(slot, answer)
            if self._live:
                self._act()
            self._start()

    def _start(self) -> None:
        free = [slot for slot in range(self.pool.slots) if slot not in self._live]
        fresh = list(zip(free, [self._waiting.popleft() for _ in free[: len(self._waiting)]]))
        if fresh:
            self.policy.reset([episode.number for _, episode in fresh])
        for slot, episode in fresh:
            self._live[slot] = episode
            self.pool.send(slot, "reset", episode.seed)

    def _settle(self, slot: int, answer: Any) -> None:
        """Takes what `WorkerPool.collect` has for an episode."""
        episode = self._live[slot]
        if isinstance(answer, Frame):
            episode.see(answer)
            if answer.done or episode.steps >= self.task.horizon:
                self._crashes_in_a_row = 0
                self._finish(slot, answer.success, None)
        elif not isinstance(answer, Crash):  # lost with a worker that another episode brought down
            self._play_again(slot, episode.again)
        elif episode.again and self.log.records:
            self._finish(slot, False, f"step {max(episode.steps, 0)}: {answer.message}")
        else:
            self._crashes_in_a_row += 1
            if self._crashes_in_a_row >= MAX_CRASHES_IN_A_ROW:
                raise UserError(
                    f"{MAX_CRASHES_IN_A_ROW} simulator failures in a row; the last: episode {episode.number} of "
                    f"{self.task.name}, layout seed {episode.seed}, step {max(episode.steps, 0)}: {answer.message}"
                )
            self._play_again(slot)

    def _act(self) -> None:
        slots = sorted(self._live)
        episodes = [self._live[slot] for slot in slots]
        numbers = [episode.number for episode in episodes]
        answer = self.policy.act(self._batch(episodes), numbers)
        actions, faults = usable_actions(self.policy, answer, (len(slots), self.task.action_dim), *self._range)
        for row, (slot, episode) in enumerate(zip(slots, episodes)):
            if row in faults:
                self._finish(slot, False, f"step {episode.steps}: {faults[row]}")
            else:
                episode.actions.append(actions[row])
                self.pool.send(slot, "step", actions[row])

    def _batch(self, episodes: Sequence[_Live]) -> dict[str, np.ndarray]:
        privileged = getattr(self.policy, "privileged", False)
        keys = [key for key in episodes[0].observation if privileged or key != EXPERT_ACTION]
        batch = {key: np.stack([episode.observation[key] for episode in episodes]) for key in keys}
        if "language_instruction" not in batch or isinstance(self.task, SimTask):
            batch["language_instruction"] = np.array([self.task.instruction] * len(episodes))
        return batch

    def _play_again(self, slot: int, again: bool = True) -> None:
        episode = self._live.pop(slot)
        forget(self.policy, [episode.number])
        self._waiting.append(_Live(episode.number, episode.seed, again))

    def _finish(self, slot: int, success: bool, error: str | None) -> None:
        episode = self._live.pop(slot)
        forget(self.policy, [episode.number])
        self.log.append(episode.record(success, error))
        self.played[episode.number] = episode.actions
        won = sum(record.success for record in self.log.records.values())
        self.shown.advance(1, f"{won} of {len(self.log.records)} succeeded")


def usable_actions(
    policy: Policy, answer: Any, shape: tuple[int, int], low: Bounds = -1.0, high: Bounds = 1.0
) -> tuple[Float[np.ndarray, "B A"], dict[int, str]]:
    """What a policy returned, clipped to the task's range as networks overshoot, and by row why it is unusable.

    Raises UserError: it has another shape.
    """
    actions = np.asarray(answer, np.float32)
    if actions.shape != shape:
        raise UserError(
            f"{policy.name} returned actions of shape {actions.shape}, the task takes {shape}: was it trained for it?"
        )
    least, most = np.asarray(low, np.float32), np.asarray(high, np.float32)
    usable = np.abs(actions - (least + most) / 2) <= MOST_ACTION * (most - least) / 2  # not NaN
    faults = {
        row: f"the policy returned {actions[row][~usable[row]]} in action entries {np.flatnonzero(~usable[row])}"
        for row in np.flatnonzero(~usable.all(1)).tolist()
    }
    return np.clip(np.where(usable, actions, 0), least, most), faults


# ---- films


def in_order_of_films(records: Sequence[EpisodeRecord]) -> list[EpisodeRecord]:
    """Failures first, then by number."""
    return sorted(records, key=lambda record: (record.success, record.episode))


def chosen_for_films(records: Sequence[EpisodeRecord], videos: int) -> list[EpisodeRecord]:
    """Failures first, but one success where there is room for two."""
    lost, won = ([r for r in in_order_of_films(records) if r.success == success] for success in (False, True))
    lost = lost[: videos - bool(won and videos > 1)]
    return [*lost, *won[: videos - len(lost)]]


def make_films(pool: WorkerPool, log: EpisodeLog, played: Mapping[int, Sequence[np.ndarray]], videos: int) -> None:
    """Plays what was chosen once more, with pictures for people, and keeps the films that end as their episodes did."""
    out = log.path.parent
    records = [record for record in log.records.values() if not is_simulators(record)]
    asked = [r for r in chosen_for_films(records, videos) if r.episode in played and not _film(out, r).exists()]
    for some in (dict(enumerate(asked[start : start + len(pool)])) for start in range(0, len(asked), len(pool))):
        for slot, record in some.items():  # one for each process
            actions = np.array(played[record.episode], np.float32)
            pool.send(slot, "film", record.layout_seed, actions, _film(out, record))
        answers = pool.collect()
        for slot, record in some.items():
            if (answer := answers[slot]) is not record.success:
                _film(out, record).unlink(missing_ok=True)
                why = answer.message if isinstance(answer, Crash) else "played again, it does not end as before"
                print(f"note: episode {record.episode} is not filmed: {why}", file=sys.stderr)


def _film(out: Path, record: EpisodeRecord) -> Path:
    return out / "videos" / f"episode_{record.episode:04d}_{'success' if record.success else 'failure'}.mp4"
