"""The commands that let a policy act: rolled out, tampered with, or served."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import re
import sys
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import Cameras, Parser, command_parser, real, seed, whole
from gap_vla.core.errors import UserError, command
from gap_vla.core.files import write_json

LIBRARY = 5_000
"""Recordings of a diagnosis are of layouts this far behind `--seed`, so that no rollout is shown its own."""


def _add_execute(add: Any) -> None:
    add("--execute", type=whole(1), help="actions executed of each predicted chunk (default: as trained)")


def _add_checkpoint(add: Any, **how: Any) -> None:
    add("--checkpoint", help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME", **how)


def _add_policy(parser: Parser, others: str) -> None:
    """The policy of a command that rolls one out, and how its task is shown to it; see `_load_policy`.

    Args:
        others: policies that are no checkpoint, for `--help`.
    """
    from gap_vla.rollouts.worlds import world_names
    from gap_vla.sim.specs import TASK_NAMES

    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True).add_argument
    _add_checkpoint(what)
    what("--policy", help=f"{others}, or ws://HOST:PORT (a server of openpi's protocol)")
    tasks = f"{', '.join(TASK_NAMES)}; {', '.join(world_names())}; or a JSON file that names a gymnasium environment"
    add("--task", metavar="TASK|FILE", help=f"one of {tasks} (default: as trained)")
    add("--step", type=whole(0), help="which step (default: where its run ended, else the latest)")
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the server's (only for ws://)")
    add("--patience", type=real(0), default=60.0, help="seconds to wait for a server that is away (default 60)")
    add("--image-size", type=whole(16), help="pixels, square (default: the checkpoint's, or 64)")
    add("--cameras", action=Cameras, help="primary, wrist, both or none (default: the checkpoint's, or primary)")
    add("--workers", type=whole(1), default=2, help="simulator processes (default 2)")
    add("--quiet", action="store_true", help="no progress line")


def _load_policy(options: Any, *, seed: int = 0, execute: int | None = None, **of_checkpoint: Any) -> Any:
    """The `LoadedPolicy` of `_add_policy`'s options, with the task that is asked for, or that of its training if known.

    Args:
        seed: of a random policy.
        execute: actions of each predicted chunk; default: as trained, or as the key file of a server says.
        of_checkpoint: further arguments of `gap_vla.serving.loading.load_checkpoint`.
    """
    from gap_vla.serving import loading
    from gap_vla.sim.specs import task_spec

    world = _world(options.task)
    task = world.name if world else options.task
    if options.checkpoint:
        how = {"step": options.step, "dataset": options.dataset, "execute": execute, **of_checkpoint}
        loaded = loading.load_checkpoint(options.checkpoint, task=task, **how)
    elif task is None:
        raise UserError(f"--policy {options.policy} needs --task")
    else:
        loaded = loading.load_policy(
            options.policy,
            action_dim=world.action_dim if world else task_spec(task).action_dim,
            random_range=world.random_range if world else (-1.0, 1.0),
            task=task,
            seed=seed,
            keys=options.keys,
            execute=execute,
            patience=options.patience,
        )
    return dataclasses.replace(loaded, task=task or loaded.task)


def _world(task: str | None, policy: Any = None, size: int | None = None, horizon: int | None = None) -> Any:
    """The `GymnasiumTask` of what `--task` says, in the size of the policy's pictures; None: one of our own tasks."""
    from gap_vla.core.config import choose
    from gap_vla.rollouts.worlds import gymnasium_task, world_names
    from gap_vla.sim.specs import TASK_NAMES

    if task is None or task in TASK_NAMES:
        return None
    if not task.endswith(".json"):
        choose(task, (*TASK_NAMES, *world_names()), "task")
    return gymnasium_task(task, image_size=size or getattr(policy, "image_size", None), horizon=horizon)


def _default_out(options: Any, inside: str, outside: str) -> Path:
    """Where results go without `--out`: `inside` the checkpoint's folder, or a folder named by `outside` and policy."""
    if options.checkpoint and Path(options.checkpoint).is_dir():
        return Path(options.checkpoint) / inside
    policy = options.checkpoint or options.policy
    if policy.startswith("ws"):
        from gap_vla.serving.client import public

        policy = public(policy)
    return Path("runs") / outside.format(re.sub("://|[/:]", "_", policy))


@command
def evaluate(argv: list[str] | None = None) -> None:
    """How often does a policy succeed? Rolls it out in simulation, with intervals, phases and films.

        gap-vla evaluate --checkpoint runs/threading/NAME --episodes 100
        gap-vla evaluate --policy expert --task stack
        gap-vla evaluate --policy ws://localhost:8000 --keys keys.json --task stack # a VLA behind a server
        gap-vla evaluate --checkpoint DIR --variant positions_wide                  # out of distribution
        gap-vla evaluate --policy random --task gym_aloha_transfer_cube             # other packages' environments

    The folder given by --out receives summary.json, episodes.jsonl (a line per episode, written as it finishes),
    videos/ (failures first) and index.html. A killed evaluation continues when the same command is given again.
    """
    from gap_vla.sim.variants import VARIANT_NAMES, variant_spec

    parser = command_parser(evaluate)
    _add_policy(parser, "expert, random")
    add = parser.add_argument
    add("--episodes", type=whole(1), default=20, help="rollouts (default 20; take 100 for results)")
    layouts = "first layout seed (default: where the variant's own seeds begin); given, `random` also draws by it"
    add("--seed", type=seed, help=layouts)
    add("--variant", default="default", metavar="NAME", help=f"variant of the scene: {', '.join(VARIANT_NAMES)}")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/eval)")
    _add_execute(add)
    add("--camera", help="view of the primary camera (default: the one of training, or near)")
    add("--horizon", type=whole(1), help="control steps per episode, at most and by default the task's")
    add("--slots", type=whole(1), default=4, help="environments per process; a batch is workers * slots (default 4)")
    add("--videos", type=whole(0), default=4, help="rollouts to film, failures first (default 4)")
    options = parser.parse_args(argv)
    from gap_vla.report.evaluations import write_page
    from gap_vla.rollouts import evaluation
    from gap_vla.rollouts.records import describe
    from gap_vla.sim.rendering import require_rendering

    at_once = options.workers * options.slots
    loaded = _load_policy(options, seed=options.seed or 0, execute=options.execute, batch_size=at_once)
    if loaded.task is None:
        raise UserError(f"{options.checkpoint} does not say for which task it was trained; pass --task")
    world = _world(options.task or loaded.task, loaded.policy, options.image_size, options.horizon)
    cameras = loaded.cameras if options.cameras is None else options.cameras
    if cameras and not world:
        require_rendering()
    variant = options.variant
    suffix = "" if variant == "default" else f"_{variant}"
    out = options.out or _default_out(options, f"evaluation_{loaded.task}{suffix}", f"eval/{loaded.task}_{{}}{suffix}")
    summary = evaluation.evaluate(
        loaded.policy,
        world or loaded.task,
        episodes=options.episodes,
        seed=variant_spec(variant).first_seed if options.seed is None else options.seed,
        out_dir=out,
        workers=options.workers,
        slots_per_worker=options.slots,
        videos=options.videos,
        progress=not options.quiet,
        image_size=options.image_size or loaded.image_size,
        cameras=cameras,
        camera=options.camera or loaded.view,
        variant=variant,
        horizon=options.horizon,
    )
    print(f"{describe(summary)}\n→ {out / 'summary.json'}, {write_page(out, summary)}", flush=True)


@command
def diagnose(argv: list[str] | None = None) -> None:
    """Does the policy look? Tamper with its pictures and its proprioception, and see how far actions and success
    change.

        gap-vla diagnose --checkpoint runs/assembly/NAME    # the expert's episodes, in simulation
        gap-vla diagnose --checkpoint DIR --demos demos.hdf5    # recorded demonstrations, no simulator
        gap-vla diagnose --checkpoint DIR --demos data/rlds/NAME/1.0.0 --episodes val
        gap-vla diagnose --checkpoint DIR --closed-loop 20    # success under each intervention too
        gap-vla diagnose --policy ws://localhost:8000 --task stack --keys k.json   # somebody else's VLA

    Prints first whether the policy looks, then a table; --out receives diagnosis.json and the rollouts.
    """
    from gap_vla.demos.fields import add_options
    from gap_vla.rollouts.diagnose import ALL_INTERVENTIONS, OBJECTS_MOVED, closed_loop, open_loop

    # of two --image-size, the policy's counts, and --episodes may be a number too
    parser = command_parser(diagnose, conflict_handler="resolve")
    add_options(parser)
    _add_policy(parser, "random")
    add = parser.add_argument
    add("--demos", type=Path, help="demonstrations to show, of any kind (default: the expert in the simulator)")
    recorded = 'recorded episodes to show (default 10), or which of --demos, as "0:10,12"'
    add("--episodes", default="10", metavar="N|SELECTION", help=recorded)
    acted = "rollouts per intervention (default 0: open loop only)"
    add("--closed-loop", type=whole(0, LIBRARY), default=0, metavar="N", help=acted)
    which, every = f"of the rollouts (default: all): {', '.join(ALL_INTERVENTIONS)}", list(ALL_INTERVENTIONS)
    add("--interventions", nargs="+", choices=every, default=every, metavar="NAME", help=which)
    add("--seed", type=seed, default=100_000, help="first layout seed (default 100000)")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/diagnosis)")
    options = parser.parse_args(argv)
    from gap_vla.report.evaluations import report, verdict
    from gap_vla.rollouts.policy import identity
    from gap_vla.rollouts.records import require_same
    from gap_vla.rollouts.task import sim_task
    from gap_vla.sim.rendering import require_rendering

    loaded, data, task = _load_policy(options, execute=1), options.demos, None
    out = options.out or _default_out(options, "diagnosis", "diagnosis/{}")
    interventions = options.interventions
    if loaded.task and (options.closed_loop or not data):
        if task := _world(options.task or loaded.task, loaded.policy, options.image_size):
            interventions = [name for name in interventions if name != OBJECTS_MOVED]
        else:
            require_rendering()
            size, cameras = options.image_size or loaded.image_size, options.cameras or loaded.cameras
            task = sim_task(loaded.task, image_size=size, cameras=cameras, camera=loaded.view)
    told = {"path": str(data.resolve())} if data else {"seed": options.seed, **(task.identity() if task else {})}
    of = {"policy": identity(loaded.policy), "recordings": told}
    require_same(out / "diagnosis.json", of)
    shown = _recordings(options, loaded, task)
    opened = open_loop(loaded.policy, shown, progress=not options.quiet)
    closed: tuple[Any, ...] = ()
    if options.closed_loop:
        if task is None:
            raise UserError("the task is not known; pass --task, or no --closed-loop")
        print(f"{report(opened)}\n\nrollouts follow", flush=True)
        closed = closed_loop(
            _load_policy(options).policy,
            task,
            shown,
            episodes=options.closed_loop,
            seed=options.seed,
            out_dir=out,
            interventions=interventions,
            workers=options.workers,
            progress=not options.quiet,
        )
    print(report(opened, closed))
    content = {
        **of,
        "episodes": len(shown),
        "open_loop": dataclasses.asdict(opened),
        "closed_loop": [dataclasses.asdict(entry) for entry in closed],
        "verdict": verdict(opened, closed),
    }
    write_json(out / "diagnosis.json", content)
    print(f"→ {out / 'diagnosis.json'}")


def _recordings(options: Any, loaded: Any, task: Any) -> list[Any]:
    """What the policy is shown: demonstrations, or the expert's episodes."""
    from gap_vla.demos.fields import fields_from
    from gap_vla.demos.source import open_source
    from gap_vla.rollouts.recordings import from_episode, from_simulator, require_task
    from gap_vla.rollouts.task import SimTask

    number = int(options.episodes) if options.episodes.isdigit() else None
    if options.demos:
        said = {**vars(options), "image_size": None, "episodes": "" if number else options.episodes}
        source = open_source(options.demos, fields_from(argparse.Namespace(**said)))
        print(source.account())
        require_task(source, loaded.task, loaded.camera)
        return [from_episode(episode) for episode in itertools.islice(source, number)]
    if task is None or number is None:
        raise UserError("without recordings, give --task and a number of --episodes")
    if not isinstance(task, SimTask):
        raise UserError(f"{task.name} has no scripted expert; give --demos")
    print(f"recording the expert in {number} layouts …", file=sys.stderr, flush=True)
    return from_simulator(task, [options.seed + LIBRARY + n for n in range(number)], workers=options.workers)


@command
def serve_policy(argv: list[str] | None = None) -> None:
    """Serve a checkpoint to clients of openpi's protocol (openpi-client, LeRobot's and others' websocket clients).

        gap-vla serve-policy --checkpoint runs/threading/NAME
        gap-vla serve-policy --checkpoint DIR --whole-chunks --port 8000      # the client executes the chunks

    Listens on this machine only, unless --host says otherwise; there is no authentication. A client sends a map with
    "observation/image", "observation/wrist_image", "observation/state" and "prompt" (or the names of --keys), and gets
    one with "actions", float32 [H, A] in the units of the training data. Each connection is one episode. Ctrl-C ends
    it.
    """
    parser = command_parser(serve_policy)
    add = parser.add_argument
    _add_checkpoint(add, required=True)
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=whole(0, 65_535), default=8000, help="default 8000; 0 takes a free one")
    add("--step", type=whole(0), help="which step (default: where its run ended, else the latest)")
    answer = "answer with whole chunks; default: one action per observation"
    chunks = parser.add_mutually_exclusive_group().add_argument
    _add_execute(chunks)
    chunks("--whole-chunks", action="store_true", help=answer)
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the clients' names")
    options = parser.parse_args(argv)
    from gap_vla.serving.loading import load_checkpoint
    from gap_vla.serving.server import PolicyServer, serve_forever
    from gap_vla.serving.wire import read_keys

    keys = read_keys(options.keys)
    loaded = load_checkpoint(
        options.checkpoint,
        step=options.step,
        execute=1 if options.whole_chunks else options.execute,
        dataset=options.dataset,
        batch_size=1,
    )
    policy: Any = loaded.policy
    if options.whole_chunks and policy.window_size > 1:
        problem = f"this policy was trained on {policy.window_size} steps in a row"
        print(f"warning: {problem}; clients that execute whole chunks show it the first of each alone", flush=True)
    needed = {f"image_{camera}" for camera in policy.cameras} | ({"proprio"} if policy.proprio_dim else set())
    if missing := needed - set(keys.observation):
        raise UserError(f"{options.keys}: the policy needs {', '.join(sorted(missing))} too; name what clients call it")
    print(f"compiling {policy.name} …", flush=True)
    policy.warm_up()
    sizes = ("image_size", "proprio_dim", "action_dim", "action_horizon", "window_size")
    said = {"task": loaded.task or "", "cameras": list(policy.cameras), "camera": loaded.camera or ""}
    server = PolicyServer(
        policy,
        whole_chunks=options.whole_chunks,
        metadata=said | {size: getattr(policy, size) for size in sizes},
        keys=keys,
    )

    def ready(port: int) -> None:
        host = f"[{options.host}]" if ":" in options.host else options.host  # the colons of IPv6
        print(f"serving {options.checkpoint} at ws://{host}:{port} (Ctrl-C ends it)", flush=True)
        if options.host not in ("127.0.0.1", "::1", "localhost"):
            print("warning: whoever reaches this address can use the policy; there is no authentication", flush=True)

    asyncio.run(serve_forever(server, options.host, options.port, ready))
