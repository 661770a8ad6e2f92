"""Collecting demonstrations in parallel processes: resumable, complete or absent, equal for any number of workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gap_vla.core.errors import is_full_disk, keeping, message_of
from gap_vla.core.foreign import finite, whole
from gap_vla.core.identity import digest
from gap_vla.core.locks import alone
from gap_vla.core.marks import HDF5, closed_in, others_in
from gap_vla.core.outputs import claim
from gap_vla.core.resources import require_disk, require_memory
from gap_vla.core.typed_config import EPISODES
from gap_vla.core.whole import clear_leftovers
from gap_vla.sim.attempts import KEPT, CollectionError, finished, piece, play, seed_of, stopped
from gap_vla.sim.recording import LAYOUT_VERSION, assemble, require_of
from gap_vla.sim.rendering_backend import require_rendering
from gap_vla.sim.specs import task_spec
from gap_vla.sim.variants import variant_spec

_OWN = r"lock|attempt_\d{6,}\.(hdf5|failed)"
"""Names in the folder of finished episodes."""


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
    folder, made = out.with_name(out.name + ".parts"), digest(settings)
    try:
        with keeping(f"any finished episodes are in {folder}, the same command continues"), _parts(folder, made):
            done = finished(folder)
            missing = n - sum(outcome == KEPT for outcome in done.values())
            if missing > 0:
                require_space(task, missing, image_size, len(cameras), workers, folder)
            if done and progress:
                print(f"{out}: continuing after {len(done)} attempts", file=sys.stderr)
            arguments = task, env_kwargs, action_noise, folder, made
            play(n, seed, min(workers, n), arguments, done, progress)
            kept = sorted(attempt for attempt, outcome in done.items() if outcome == KEPT)[:n]

            def before_it_is_there(whole: Path) -> None:
                shown(whole)
                claim(out, "demos", overwrite=None, suffixes=HDF5)  # nobody may have put a file there meanwhile

            counts = {"attempts": kept[-1] + 1, "failures": kept[-1] + 1 - n}
            assemble(
                {piece(folder, attempt, KEPT): seed_of(seed, attempt) for attempt in kept},
                out,
                env_name=spec.gymnasium_id,
                settings=settings,
                counts=counts,
                shown=before_it_is_there,
            )
            # what somebody put there meanwhile stays, and all that lies beside it
            if own := not others_in(folder, _OWN) and not closed_in(folder):
                with keeping(f"{out} is whole, and what is left of {folder} may be deleted"):
                    shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # network file systems keep the open lock, and its folder
        if own and folder.exists():
            print(f"note: {folder} cannot be removed; {out} is whole and needs it no more", flush=True)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise stopped(message_of(error), folder) from error
    return out


def require_space(task: str, episodes: int, image_size: int, cameras: int, workers: int, folder: Path) -> None:
    """Refuses a collection that the machine cannot hold.

    Each worker is a simulator and keeps one episode's pictures; half of what is recorded reaches the disk, compressed.
    A demonstration has about half as many steps as the task's horizon, and pictures 3 bytes a pixel.

    Raises:
        ResourceError: with the numbers.
    """
    spec, processes = task_spec(task), min(workers, episodes)
    episode = spec.horizon / 2 * 3.0 * cameras * image_size**2
    require_memory(
        {f"{processes} simulators": processes * (spec.memory() + episode)}, "lower the workers, or the image size"
    )
    require_disk(
        {f"{episodes} demonstrations": 0.5 * episodes * episode}, folder, "lower their number, or the image size"
    )


@contextlib.contextmanager
def _parts(folder: Path, made: str) -> Iterator[None]:
    """Opens the folder of finished episodes, alone, and only if all are whole and of the settings with this digest."""
    own = not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink())  # else no lock is put into it
    with alone(folder / "lock", str(folder)) if own else contextlib.nullcontext():
        if others := others_in(folder, _OWN):  # under the lock: what another process is writing comes and goes
            raise CollectionError(f"{others[0]} was not written by a collection; move it away, or choose another name")
        for path in sorted(folder.glob("attempt_*")):
            require_of(path, made)
        clear_leftovers(folder)
        yield
