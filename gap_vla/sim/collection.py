"""Collecting demonstrations in parallel processes: resumable, complete or absent, equal for any number of workers."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError, is_full_disk, keeping, message_of
from gap_vla.core.foreign import finite, whole
from gap_vla.core.identity import digest
from gap_vla.core.locks import alone
from gap_vla.core.marks import HDF5, others_in
from gap_vla.core.outputs import claim
from gap_vla.core.processes import starting_workers
from gap_vla.core.progress import Progress
from gap_vla.core.resources import require_disk, require_memory
from gap_vla.core.typed_config import EPISODES
from gap_vla.core.whole import replacing
from gap_vla.sim.demonstration import demonstrate
from gap_vla.sim.environment import make
from gap_vla.sim.recording import LAYOUT_VERSION, assemble, require_of, write_demonstration
from gap_vla.sim.rendering_backend import require_rendering
from gap_vla.sim.specs import task_spec
from gap_vla.sim.variants import variant_spec

_PATIENCE = 900.0
"""Seconds without any finished episode after which a collection gives up."""

SIMULATOR = 300 * 2**20
"""Bytes of a process with a simulator and its renderer."""

KEPT, FAILED, REFUSED, CRASHED = "kept", "failed", "refused", "crashed"

_OWN = r"lock|settings\.json|attempt_\d{6,}\.(hdf5|failed)"
"""Names in the folder of finished episodes."""


class CollectionError(UserError, RuntimeError):
    """Demonstrations could not be collected; the message says why and what to do."""


def collect_demos(
    task: str,
    n: int,
    out: str | Path,
    *,
    seed: int = 0,
    image_size: int = 64,
    cameras: Sequence[str] = ("primary",),
    camera: str = "near",
    action_noise: float = 0.0,
    workers: int = 2,
    variant: str = "default",
    progress: bool = True,
    shown: Callable[[Path], object] = lambda whole: None,
) -> Path:
    """Writes the expert's first `n` successful episodes to an HDF5 file in robomimic's layout.

    Attempts are numbered, and attempt k always plays the same episode; those that fail are counted and left out.
    The result does not depend on the number of workers. Finished episodes lie in `<out>.parts` until all are
    there; an interrupted collection continues from them when the same call is made again.

    Args:
        task: short name (`gap_vla.sim.TASK_NAMES`).
        n: number of demonstrations.
        out: file to write; it must not exist.
        seed: of the collection; 32 bits.
        image_size, cameras, camera, variant: as in `gap_vla.sim.make`.
        action_noise: standard deviation of the disturbance of executed actions; the recorded label (`actions`) is
            the expert's clean action, `executed_actions` what was done.
        workers: processes. Call it from a script's `if __name__ == "__main__"`: they are spawned.
        progress: report to stderr.
        shown: is given the whole file before it is at `out`, so that pictures made there are there when it is.

    Returns:
        `out`.

    Raises:
        OutputError: `out` exists or is no name of an HDF5 file.
        CollectionError: a number beyond its bounds, the parts of another collection are in the way, a worker died, or
            the expert hardly ever succeeds.
        InUseError: another process is collecting into the same file.
        UnknownNameError: task, variant or camera.
        RenderingError: no OpenGL library.
    """
    out = Path(out)
    spec = task_spec(task)
    spec.require_cameras(cameras, camera)
    variant_spec(variant).require_shown(cameras, camera)
    for what, number, least, most in (("n", n, 1, EPISODES.most), ("workers", workers, 1, 1024)):
        whole(what, number, least, int(most), CollectionError)
    seed = whole("seed", seed, 0, 2**32 - 1, CollectionError)
    image_size = whole("image_size", image_size, 1, 4096, CollectionError)
    action_noise = finite("action_noise", action_noise, 0, 1, CollectionError)
    if cameras:
        require_rendering()
    claim(out, "demos", overwrite=None, suffixes=HDF5)
    env_kwargs = dict(image_size=image_size, cameras=list(cameras), camera=camera, variant=variant)
    settings = {
        "layout_version": LAYOUT_VERSION,
        "pictures_version": spec.pictures_version,
        "env_kwargs": env_kwargs,
        "task": task,
        "variant": variant,
        "language_instruction": spec.instruction,
        "phase_names": list(spec.phases),
        "control_hz": spec.control_hz,
        "action_noise": action_noise,
        "collection_seed": seed,
    }
    folder = out.with_name(out.name + ".parts")
    try:
        with keeping(f"any finished episodes are in {folder}, the same command continues"), _parts(folder, settings):
            done = _finished(folder)
            missing = n - sum(outcome == KEPT for outcome in done.values())
            if missing > 0:
                require_space(task, missing, image_size, len(cameras), workers, folder)
            if done and progress:
                print(f"{out}: continuing after {len(done)} attempts", file=sys.stderr)
            arguments = task, env_kwargs, action_noise, folder, digest(settings)
            _play(n, seed, min(workers, n), arguments, done, progress)
            kept = sorted(attempt for attempt, outcome in done.items() if outcome == KEPT)[:n]

            def before_it_is_there(whole: Path) -> None:
                shown(whole)
                claim(out, "demos", overwrite=None, suffixes=HDF5)  # nobody may have put a file there meanwhile

            counts = {"attempts": kept[-1] + 1, "failures": kept[-1] + 1 - n}
            assemble(
                {_piece(folder, attempt, KEPT): _seed_of(seed, attempt) for attempt in kept},
                out,
                env_name=spec.gymnasium_id,
                settings=settings,
                counts=counts,
                shown=before_it_is_there,
            )
            if not others_in(folder, _OWN):  # what somebody put there meanwhile stays, and all that lies beside it
                shutil.rmtree(folder)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise _stopped(message_of(error), folder) from error
    return out


def require_space(task: str, episodes: int, image_size: int, cameras: int, workers: int, folder: Path) -> None:
    """Refuses a collection that the machine cannot hold.

    Each worker is a simulator and keeps one episode's pictures; half of what is recorded reaches the disk, compressed.
    A demonstration has about half as many steps as the task's horizon, and pictures 3 bytes a pixel.

    Raises:
        ResourceError: with the numbers.
    """
    episode = task_spec(task).horizon / 2 * 3.0 * cameras * image_size**2
    processes = min(workers, episodes)
    require_memory({f"{processes} simulators": processes * (SIMULATOR + episode)}, "the workers, or the image size")
    require_disk({f"{episodes} demonstrations": 0.5 * episodes * episode}, folder, "their number, or the image size")


def _stopped(why: str, folder: Path) -> CollectionError:
    kept = f"finished episodes are kept in {folder}, and " if _finished(folder) else ""
    again = "the same command continues once this is put right (free space, if the disk is full)"
    return CollectionError(f"{why}; {kept}{again}")


@contextlib.contextmanager
def _parts(folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Opens the folder of finished episodes, alone, and only if it was made with the same settings."""
    described = folder / "settings.json"
    if others := others_in(folder, _OWN):
        raise CollectionError(f"{others[0]} was not written by a collection; move it away, or choose another name")
    with alone(folder / "lock", str(folder)):
        text = json.dumps(settings, sort_keys=True, indent=1)
        stored = described.read_text(errors="replace") if described.exists() else ""
        if not stored.strip() and _finished(folder):
            raise CollectionError(
                f"{described} is empty, so nobody knows how the demonstrations beside it were made; delete {folder} "
                "and collect again"
            )
        if stored.strip() and stored != text:
            raise CollectionError(
                f"{folder} holds demonstrations made with other settings:\n{stored}\n"
                "delete the folder, choose another name, or use the same settings to continue"
            )
        if not stored.strip():
            with replacing(described) as temporary:
                temporary.write_text(text)
        for piece in sorted(folder.glob("attempt_*")):
            require_of(piece, digest(settings))
        for leftover in folder.glob(".attempt_*"):
            leftover.unlink()  # a process that was killed while it wrote
        try:
            yield
        finally:
            if not _finished(folder):  # nothing came to be
                described.unlink(missing_ok=True)


def _piece(folder: Path, attempt: int, outcome: str) -> Path:
    """What a finished attempt leaves."""
    return folder / f"attempt_{attempt:06d}.{'hdf5' if outcome == KEPT else 'failed'}"


def _finished(folder: Path) -> dict[int, str]:
    """Outcome of every attempt that an earlier call finished."""
    return {
        int(path.stem.split("_")[1]): KEPT if path.suffix == ".hdf5" else FAILED for path in folder.glob("attempt_*")
    }


def _play(
    n: int,
    seed: int,
    workers: int,
    arguments: tuple[str, dict[str, Any], float, Path, str],
    done: dict[int, str],
    progress: bool,
) -> None:
    """Plays attempts in order until `n` are kept; fills `done`. The arguments are those of `_work`.

    No attempt is begun that could turn out superfluous, so that the kept ones are the first `n` in any case.
    """
    task, env_kwargs, action_noise, folder, _ = arguments
    start, steps = time.perf_counter(), 0

    def kept_by_now() -> int:
        """Of the attempts before the first that is not finished."""
        return sum(done[attempt] == KEPT for attempt in itertools.takewhile(done.__contains__, itertools.count()))

    if (kept := kept_by_now()) >= n:
        return
    shown = Progress(task, n, "demonstration", done=kept, out=sys.stderr, quiet=not progress)
    with _workers(workers, arguments) as pool:
        idle = list(pool)
        busy: dict[Any, int] = {}
        while kept < n:
            while idle:
                attempt = next(a for a in itertools.count() if a not in done and a not in busy.values())
                if attempt - sum(outcome == FAILED for other, outcome in done.items() if other < attempt) >= n:
                    break
                connection = idle.pop()
                with _alive(attempt):
                    connection.send((attempt, _seed_of(seed, attempt)))
                busy[connection] = attempt
            # twice: for who was stopped (Ctrl-Z) meanwhile, the first is over when he goes on
            ready: list[Any] = wait(list(busy), _PATIENCE / 2) or wait(list(busy), _PATIENCE / 2)
            if not ready:
                raise CollectionError(
                    f"{task}: no worker finished an episode within {_PATIENCE:.0f} s (a hanging OpenGL driver gives no "
                    "error); make the same call again to continue, with fewer workers if the machine is busy"
                )
            for connection in ready:
                with _alive(busy[connection]):
                    finished, outcome, detail = connection.recv()
                if outcome == REFUSED:
                    raise _stopped(detail, folder)
                if outcome == CRASHED:
                    raise CollectionError(f"{task}: a worker failed; finished episodes are in {folder}.\n{detail}")
                del busy[connection]
                idle.append(connection)
                done[finished] = outcome
                steps += detail
            kept, failures = kept_by_now(), sum(outcome == FAILED for outcome in done.values())
            if failures >= 20 and failures > 9 * (len(done) - failures):
                raise CollectionError(
                    f"{task}: the expert failed in {failures} of {len(done)} attempts (action_noise={action_noise}, "
                    f"{env_kwargs['variant']}); use less noise or another variant"
                )
            rate = steps / (time.perf_counter() - start)
            shown.update(kept, f"{failures} failed and not kept, {rate:.0f} steps/s")


def _seed_of(seed: int, attempt: int) -> int:
    """Of an attempt's layout, far from the small numbers that evaluations count through."""
    return int(np.random.SeedSequence((seed, attempt)).generate_state(1)[0])


@contextlib.contextmanager
def _alive(attempt: int) -> Iterator[None]:
    """What a pipe raises whose other end has died becomes a CollectionError."""
    try:
        yield
    except (EOFError, OSError):
        raise CollectionError(
            f"a worker died during attempt {attempt} (killed, out of memory, or started by a script that calls outside "
            "of `if __name__ == '__main__'`); make the same call again to continue"
        ) from None


@contextlib.contextmanager
def _workers(n: int, arguments: tuple[Any, ...]) -> Iterator[list[Any]]:
    """Starts `n` processes and gives the connections to them; none is left when the block ends, however it ends."""
    context = multiprocessing.get_context("spawn")  # a fork after an OpenGL context exists would hang
    processes, connections = [], []
    try:
        with starting_workers():
            for _ in range(n):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                connections.append(ours)
        yield connections
        for connection in connections:
            connection.send(None)
        for process in processes:
            process.join(timeout=10.0)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(
    connection: Connection, task: str, env_kwargs: dict[str, Any], action_noise: float, folder: Path, made: str
) -> None:
    """Plays in a process of its own: receives (attempt, seed), answers (attempt, outcome, steps); ends on None.

    What it leaves of each attempt in `folder` tells the digest of the settings, `made`. What ends it before that is
    answered instead of the steps: as REFUSED what the user can put right, on one line; as CRASHED the traceback of
    anything else.
    """
    with contextlib.suppress(ConnectionError):  # the parent has gone
        try:
            env = make(task, **env_kwargs)
            while (order := connection.recv()) is not None:
                attempt, seed = order
                demo = demonstrate(env, seed, action_noise)
                if demo.success:
                    write_demonstration(_piece(folder, attempt, KEPT), demo, made)
                else:
                    with replacing(_piece(folder, attempt, FAILED)) as temporary:
                        temporary.write_text(made)
                connection.send((attempt, KEPT if demo.success else FAILED, len(demo)))
            env.close()
        except (UserError, OSError, MemoryError) as error:
            connection.send((-1, REFUSED, message_of(error)))
        except Exception:
            connection.send((-1, CRASHED, traceback.format_exc()))
