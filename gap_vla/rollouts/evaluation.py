"""An evaluation: a policy's success rate on a task, kept where it can be continued."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.files import file_lock, write_json
from gap_vla.core.progress import Progress
from gap_vla.rollouts.policy import Policy, identity
from gap_vla.rollouts.records import SUMMARY_FILE, EpisodeLog, EpisodeRecord, is_simulators, summarize, title
from gap_vla.rollouts.rollout import Rollout
from gap_vla.rollouts.task import Task, sim_task
from gap_vla.rollouts.workers import Crash, Limits, WorkerPool
from gap_vla.sim.variants import variant_spec

SLOTS = 4
"""Environments of a worker process, unless more or fewer are asked for."""


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
    `evaluation.json` (what is evaluated) and at the end `summary.json`. Called again after a kill it does the missing
    episodes only; `episodes` may be raised later.

    Args:
        policy: see `Policy`. It is called for all live episodes at once, at most `workers * slots_per_worker`.
        task: a name of `gap_vla.sim.specs.TASK_NAMES`, or any `Task`.
        videos: how many episodes to film.
        watch: tell which phase of the scripted expert's plan each episode reached.
        limits: how long to wait for the simulator; default: `Limits()`.
        scene: of a task given by name: `image_size`, `cameras`, `variant`, `camera`, `horizon`, as in `sim_task`.

    Returns:
        The content of `summary.json`: `summarize`'s figures and what was evaluated.

    Raises:
        UserError: `out_dir` holds something else or another process works there, the policy does not fit the task or
            has gone, the simulator fails again and again, or not one episode was played to its end.
    """
    started = time.monotonic()
    chosen: Task = sim_task(task, **scene) if isinstance(task, str) else task
    out, wait = Path(out_dir).absolute(), limits or Limits()
    scene_of = {"task": chosen.name, **chosen.identity(), "horizon": chosen.horizon}
    what = {"task": scene_of, "seed": int(seed), "policy": identity(policy)}
    layouts: Mapping[int, int] | None = getattr(policy, "layout_seeds", None)
    seeds = {e: seed + e for e in range(episodes)} if layouts is None else layouts
    if missing := [e for e in range(episodes) if e not in seeds]:
        raise UserError(f"{policy.name} knows {missing[0]} layouts, {episodes} episodes are asked for")
    with file_lock(out / ".lock", str(out)):
        log = EpisodeLog(out, what)
        todo = [(e, seeds[e]) for e in range(episodes) if e not in log.records]
        workers = min(workers, len(todo))
        slots = min(slots_per_worker, -(-len(todo) // max(workers, 1)))
        watched = watch and bool(chosen.phases) and hasattr(chosen, "make_watcher")
        privilege: Any = "actions" if getattr(policy, "privileged", False) else "phases" if watched else None
        bar = Progress(title(what), episodes, "episode", episodes - len(todo), quiet=not progress)
        pool = WorkerPool(chosen, workers, slots, privilege, wait)
        rollout = Rollout(chosen, policy, pool, log, bar)
        try:
            rollout.run(todo)
            bar.close()
            if todo and videos and getattr(chosen, "cameras", True):
                make_films(pool, log, rollout.played, videos)
        except UserError as error:
            if not log.records:
                raise
            finished = f"{len(log.records)} of {episodes} episodes are finished and kept in {log.path}"
            raise UserError(f"{error}; {finished}: the same command continues") from error
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
            "seed": what["seed"] if layouts is None else None,
            "source": None if source is None else str(source),
            **summarize(records, chosen.phases),
            "wall_seconds_of_last_run": round(time.monotonic() - started, 1),
            "videos": [str(film.relative_to(out)) for film in films if film.exists()],
        }
        write_json(out / SUMMARY_FILE, summary)
    return summary


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


def evaluate_variants(
    policy: Policy, task: str, variants: Sequence[str], out: Path, *, seed: int | None, scene: Mapping[str, Any],
    **options: Any,
) -> Iterator[tuple[Path, dict[str, Any]]]:  # fmt: skip
    """Evaluates a policy on variants of a task; yields the folder and the summary of each.

    Several variants go into folders of their own below `out`; those that differ in
    pictures alone are left out where there are none.

    Args:
        seed: first layout seed; default: where the variant's own seeds begin.
        scene: `image_size`, `cameras`, `camera` and `horizon`, as in `sim_task`.
        options: of `evaluate`.

    Raises:
        UserError: the policy replays recordings of another variant.
    """
    recorded = getattr(policy, "variant", None)
    if recorded is not None and tuple(variants) != (recorded,):
        raise UserError(f"{policy.name} is of variant {recorded}; pass --variant {recorded}")
    for variant in variants:
        spec = variant_spec(variant)
        if spec.only_looks and not scene["cameras"]:
            print(f"note: {variant} is left out, as it differs in pictures alone", file=sys.stderr)
            continue
        folder = out / variant if len(variants) > 1 else out
        first = spec.first_seed if seed is None else seed
        summary = evaluate(policy, task, seed=first, out_dir=folder, variant=variant, **scene, **options)
        lost = sum(then and not now for then, now in zip(getattr(policy, "succeeded", ()), summary["outcomes"]))
        if lost:
            why = "their seeds, actions or horizon are not those with which they were recorded"
            print(f"note: {lost} recordings of a success ended without it here: {why}", file=sys.stderr)
        yield folder, summary
