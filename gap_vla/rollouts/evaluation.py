"""An evaluation: what it is asked for, how long it waits, and its success rate, kept where it can be continued."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import pickle
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from gap_vla.core.foreign import Section, one_line, whole
from gap_vla.core.locks import alone
from gap_vla.core.progress import Progress
from gap_vla.core.typed_config import EPISODES, LAYOUT_SEED, WORKERS, Bounds, check_numbers
from gap_vla.core.whole import clear_leftovers, write_json
from gap_vla.rollouts.chunk_policy import ChunkPolicy
from gap_vla.rollouts.film_notes import film_of
from gap_vla.rollouts.policy import (
    FIRST_ANSWER,
    ExpertPolicy,
    GuardedPolicy,
    Policy,
    PolicyUnavailable,
    as_json,
    identity,
)
from gap_vla.rollouts.record import (
    EPISODES_FILE,
    SUMMARY_FILE,
    EpisodeLog,
    EvaluationError,
    VideoShelf,
    read_episodes,
)
from gap_vla.rollouts.rollout import Rollout
from gap_vla.rollouts.summary import CANNOT_END_SO, cannot_end_so, differ, require_phases, summarize, title
from gap_vla.rollouts.task import SLOTS, STEPS, SimTask, Task, sim_task
from gap_vla.rollouts.workers import Privilege, WorkerPool
from gap_vla.sim import TASK_NAMES, task_spec

SECONDS = Bounds(0.001, 86_400, "seconds; at most a day")
BOUNDS = {
    "episodes": Bounds(1, EPISODES.most, "no episode measures nothing"),
    "seed": LAYOUT_SEED,
    "workers": WORKERS,
    "slots_per_worker": Bounds(1, 256, "environments of a process"),
    "videos": EPISODES,
}
"""Of the numbers among the arguments of `evaluate`, in their order."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds to wait for one answer; the first ones include building the simulator, or compiling the policy, and have
    never less than the later ones.

    Raises:
        EvaluationError: a time in which nothing can answer.
    """

    simulator: Annotated[float, SECONDS] = 60.0
    simulator_first: Annotated[float, SECONDS] = 300.0
    policy: Annotated[float, SECONDS] = 60.0
    policy_first: Annotated[float, SECONDS] = FIRST_ANSWER

    def __post_init__(self) -> None:
        check_numbers(self, "limit", EvaluationError)


def evaluated(policy: Policy, task: Task, seed: int) -> dict[str, Any]:
    """What an evaluation is one of, as `evaluation.json` has it."""
    scene = {"task": task.name, **task.identity(), "horizon": int(task.horizon)}
    if task.name not in TASK_NAMES or task.instruction != task_spec(task.name).instruction:
        scene.setdefault("instruction", task.instruction)
    said_by = next((base.__module__ for base in type(task).__mro__ if "identity" in vars(base)), "gap_vla.")
    its_own = "identity" in getattr(task, "__dict__", {}) or type(task).__module__.startswith("gap_vla.")
    if said_by.startswith("gap_vla.") and not its_own:
        scene.setdefault("class", type(task).__qualname__)  # its changes are no part of what it inherits, or hands on
    return {"task": as_json(task.name, scene), "seed": int(seed), "policy": identity(policy)}


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
    watch: bool = True,
    limits: Limits | None = None,
    **scene: Any,
) -> dict[str, Any]:
    """Success rate of a policy, on layouts that count from `seed` on: every policy gets the same ones.

    `out_dir` receives `episodes.jsonl` (a line per episode, as it finishes), `videos/` (failures first),
    `evaluation.json` (what is evaluated) and at the end `summary.json`. Called again after a kill it does
    the missing episodes only; `episodes` may be raised later.

    Args:
        policy: see `Policy`. It is called for all live episodes at once, at most `workers * slots_per_worker`.
        task: a name of `gap_vla.sim.TASK_NAMES`, or any `Task`.
        watch: tell which phase of the scripted expert's plan each episode reached (`PhaseWatcher`).
        limits: how long to wait for the simulator and for the policy; default: `Limits()`.
        scene: of a task given by name: `image_size`, `cameras`, `variant`, `camera`, `horizon`, as in `sim_task`.

    Returns:
        The content of `summary.json`: `summarize`'s figures and what was evaluated.

    Raises:
        EvaluationError: a setting that measures nothing, `out_dir` holds something else, the simulator fails again and
            again, or not one episode was played to its end.
        InUseError: another process evaluates in `out_dir`.
        PolicyUnavailable: the policy has gone; what is finished is kept, and the same call continues.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a simulator's process imports the program
        raise EvaluationError(
            'evaluate() has to be called below `if __name__ == "__main__":`, else each simulator calls it'
        )
    for (name, bounds), value in zip(BOUNDS.items(), (episodes, seed, workers, slots_per_worker, videos)):
        whole(name, value, int(bounds.least), int(bounds.most), EvaluationError)
    wait = limits or Limits()
    if scene and not isinstance(task, str):
        raise EvaluationError(f"{next(iter(scene))}: a task given as an object has its own")
    chosen: Task = sim_task(task, **scene) if isinstance(task, str) else task
    for part in ("name", "instruction", "horizon", "action_dim", "phases", "make", "identity"):
        if not hasattr(chosen, part):
            raise EvaluationError(f"the task has no `{part}`; `gap_vla.rollouts.Task` says what it is to be")
    if chosen.phases and watch and not callable(getattr(chosen, "make_watcher", None)):
        raise EvaluationError(
            "the task names phases and has no `make_watcher` that tells them; give it one, or phases = ()"
        )
    _require_sent(chosen)
    if lacks := [part for part in ("name", "reset", "act") if not hasattr(policy, part)]:
        raise EvaluationError(f"the policy has no `{lacks[0]}`; `gap_vla.rollouts.Policy` says what it is to be")
    if watch and chosen.phases:
        require_phases(chosen.phases)
    told = Section({"name": chosen.name, "instruction": chosen.instruction}, "the task", EvaluationError)
    for name in told.values:
        told.text(name)
    whole(f"{chosen.name}: action_dim", chosen.action_dim, 1, 10_000, EvaluationError)
    whole(f"{chosen.name}: horizon", chosen.horizon, int(STEPS.least), int(STEPS.most), EvaluationError)
    named = getattr(policy, "layout_seeds", None)
    seed = int(seed)  # numpy's goes into no JSON
    layouts = {e: seed + e for e in range(episodes)} if named is None else named
    seeds = [layouts[e] for e in range(episodes) if e in layouts]
    known = [whole(f"{policy.name}: layout_seeds", one, 0, 2**32 - 1, EvaluationError) for one in seeds]
    if len({*known}) < episodes:
        raise EvaluationError(f"{policy.name} knows {len({*known})} layouts, {episodes} episodes are asked for")

    if isinstance(chosen, SimTask) and isinstance(policy, ChunkPolicy):  # others may resize by themselves
        looks = {"camera": chosen.camera, "image_size": chosen.image_size} if chosen.cameras else {}
        shown = {"trained_task": chosen.name, **looks}
        trained = {key: getattr(policy, key, None) for key in shown}
        if others := [key for key in shown if trained[key] not in (None, shown[key])]:
            said = ", ".join(f"{key} {trained[key]}, not {shown[key]} as here" for key in others)
            warnings.warn(f"{policy.name} was trained with {said.removeprefix('trained_')}", stacklevel=2)
    summary_file = (out := Path(out_dir).absolute()) / SUMMARY_FILE  # also where a policy changes the present folder
    what = evaluated(policy, chosen, seed)
    with alone(out / ".lock", str(out)):
        for place in (out, out / "videos"):
            clear_leftovers(place)
        log = EpisodeLog(out, what)
        shelf = VideoShelf(out / "videos", videos, log=log)
        size = chosen.image_size if type(chosen) is SimTask else None
        shelf.require_of(log, isinstance(chosen, SimTask), size)  # others may show a picture every second step
        for e, r in log.records.items():
            if cannot_end_so(r, what["task"]):
                raise EvaluationError(f"{log.path}: episode {e} {CANNOT_END_SO}; remove it")
            odd = {
                "steps": r.steps > chosen.horizon,
                "layout_seed": r.layout_seed != (seed + e if named is None else layouts.get(e)),
            }
            odd["phase"] = r.phase not in (None, *(chosen.phases or [r.phase]))
            if said := ", ".join(f"{key} {getattr(r, key)!r:.60}" for key, other in odd.items() if other):
                raise EvaluationError(
                    f"{log.path}: episode {e} is none of this evaluation ({said}); remove it, or choose another --out"
                )
        summarized = kept_summary(policy, chosen, seed, out) is not None
        whose = getattr(policy, "undisturbed", policy)
        greeted = getattr(whose, "server_metadata", None)
        names = getattr(whose, "identity", None) if greeted is None else {*greeted} - {"policy", "answers", "inputs"}
        if log.records and not names and type(whose) is not ExpertPolicy:
            which = "which has no" if greeted is None else "whose server says no"
            there = f"{out} holds {len(log.records)} episodes of {policy.name!r}, {which} `identity`"
            warnings.warn(f"{there}; were they another policy's, give another folder", stacklevel=2)
        todo = [(e, known[e]) for e in range(episodes) if e not in log.records]
        started = time.monotonic()
        if todo:
            log.require_open()
            workers = min(workers, len(todo))
            slots = min(slots_per_worker, -(-len(todo) // workers))
            if isinstance(chosen, SimTask):
                if chosen.cameras:
                    shelf.require_ready()
                chosen.require_memory(len(todo), workers, slots, videos)
            watched = watch and hasattr(chosen, "make_watcher")
            mode: Privilege | None = (
                "actions" if getattr(policy, "privileged", False) else "phases" if watched else None
            )
            with _acting(whose):
                line = Progress(title(what), episodes, "episode", episodes - len(todo), alone=True, quiet=not progress)
                guarded = GuardedPolicy(policy, chosen.action_dim, limit=wait.policy, first_limit=wait.policy_first)
                pool = WorkerPool(
                    chosen, workers, slots, mode, step_limit=wait.simulator, start_limit=wait.simulator_first
                )
                try:
                    Rollout(chosen, guarded, pool, log, shelf, line).run(todo)
                except PolicyUnavailable as error:
                    done = [record.success for record in log.records.values()]
                    kept = f"{sum(done)} succeeded; kept in {log.path}: the same command continues"
                    finished = f"{len(done)} of {episodes} episodes are finished, {kept if done else 'none is kept'}"
                    raise PolicyUnavailable(f"{error}; {finished}") from error
                finally:
                    pool.close()
                    guarded.close()
                    line.close()
        cut_short = [record for e in range(episodes) if (record := log.records[e]).error is not None]
        if len(cut_short) == episodes:
            raise EvaluationError(
                f"all {episodes} episodes were cut short, so nothing was measured; the first at {cut_short[0].error}. "
                f"They are kept in {log.path}: remove it to try again"
            )
        log.require_there()
        if summary_file.exists() and not summarized:
            raise EvaluationError(f"{summary_file} came while the episodes were played; move it away and go on")
        summary = {
            **what,
            "seed": what.get("seed") if named is None else None,  # whose layouts count from no seed
            "source": None if (source := getattr(policy, "source", None)) is None else str(source),
            **summarize([log.records[e] for e in range(episodes)], chosen.phases),
            "wall_seconds_of_last_run": round(time.monotonic() - started, 1),
            "videos": [str(path.relative_to(out)) for path in shelf.paths if film_of(path.name) in range(episodes)],
        }
        write_json(summary_file, summary)
    return summary


_ACTING: dict[int, object] = {}
"""By `id`, the policies that act in evaluations of this process."""


@contextlib.contextmanager
def _acting(policy: Policy) -> Iterator[None]:
    """Raises EvaluationError if another thread evaluates the same object: both number their episodes from 0, and what
    is remembered of one would be taken for the other's. Of somebody else's class, which may remember nothing, warns."""
    token, bases = object(), {*type(policy).__mro__} - {Policy, ExpertPolicy}
    if _ACTING.setdefault(id(policy), token) is not token and type(policy) is not ExpertPolicy:
        told = f"{policy.name} acts in another evaluation at the same time; give each a policy object of its own"
        if any(base.__module__.startswith("gap_vla.") for base in bases):
            raise EvaluationError(told)
        warnings.warn(f"{told}, if it remembers anything of an episode", stacklevel=4)
    try:
        yield
    finally:
        if _ACTING.get(id(policy)) is token:
            del _ACTING[id(policy)]


def kept_summary(policy: Policy, task: Task, seed: int, out: Path) -> dict[str, Any] | None:
    """The summary that an earlier call left in a folder, if any. Raises EvaluationError: it is of another evaluation,
    or not what its episodes give."""
    if not (file := out / SUMMARY_FILE).exists():
        return None
    of = evaluated(policy, task, seed)
    if getattr(policy, "layout_seeds", None) is not None:  # its layouts count from no seed
        of = {key: of[key] for key in ("task", "policy")}
    summary, lines = Section.read(file, EvaluationError, "move it away"), out / EPISODES_FILE
    records = read_episodes(lines)[0] if lines.exists() else {}
    numbers = range(summary.whole("episodes", 1, int(EPISODES.most)))
    odd = [f"episode {e}" for e in numbers if e not in records]
    if not odd:
        right = {**of, **summarize([records[e] for e in numbers], task.phases)}
        odd = [key for key, value in right.items() if differ(summary.values.get(key), value)]
    if odd:
        raise EvaluationError(f"{file} says of {odd[0]} other than {lines}; copy both again, or move it away")
    return dict(summary.values)


def _require_sent(task: Task) -> None:
    """Raises EvaluationError: a task that does not arrive in other processes."""
    program = getattr(sys.modules["__main__"], "__file__", None)  # "<stdin>" of `python -`
    if type(task).__module__ == "__main__" and not (program and Path(program).is_file()):
        raise EvaluationError(
            f"{type(task).__name__} is written where no other process can import it, as a notebook or a pipe; "
            "simulators are processes of their own: put it into a module"
        )
    try:
        pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        what = f"the task {type(task).__name__}: {one_line(error)}"
        raise EvaluationError(f"{what}; it is sent to the simulators' processes, so it must pickle") from error
    except RuntimeError:  # what processes share, as locks, goes to new ones alone
        pass
