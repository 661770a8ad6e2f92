"""Serve a checkpoint to clients of openpi's protocol (openpi-client, LeRobot's and others' websocket clients).

    gap-vla serve-policy --checkpoint runs/threading/NAME
    gap-vla serve-policy --checkpoint DIR --whole-chunks --port 8000      # the client executes the chunks

Listens on this machine only, unless --host says otherwise; there is no authentication. A client sends a map with
"observation/image", "observation/wrist_image", "observation/state" and "prompt" (or the names of --keys), and gets one
with "actions", float32 [H, A] in the units of the training data. Each connection is one episode. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import command_parser, real, whole
from gap_vla.core.errors import UserError, command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=whole(0, 65_535), default=8000, help="default 8000; 0 takes a free one")
    add("--step", type=whole(0), help="which step (default: where its run ended, else the latest)")
    chunks = parser.add_mutually_exclusive_group()
    executed = "actions executed of each predicted chunk (default: as trained)"
    chunks.add_argument("--execute", type=whole(1), help=executed)
    chunks.add_argument("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    answer = "answer with whole chunks; default: one action per observation"
    chunks.add_argument("--whole-chunks", action="store_true", help=answer)
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the clients' names")
    pages = "where web pages that may connect come from, as http://127.0.0.1:3000 (default: only programs may)"
    add("--origin", nargs="+", default=(), metavar="URL", help=pages)
    add("--max-message", type=whole(1), default=16, metavar="MIB", help="of one observation, MiB (default 16)")
    add("--idle", type=real(1), default=600.0, metavar="S", help="seconds until a silent client is dropped (600)")
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from gap_vla.serving.loading import load_checkpoint
    from gap_vla.serving.server import PolicyServer, serve_forever
    from gap_vla.serving.wire import read_keys

    keys = read_keys(options.keys)
    loaded = load_checkpoint(
        options.checkpoint,
        step=options.step,
        execute=1 if options.whole_chunks else options.execute,
        ensemble=options.ensemble,
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
        max_message=options.max_message,
        idle=options.idle,
        origins=options.origin,
    )

    def ready(port: int) -> None:
        host = f"[{options.host}]" if ":" in options.host else options.host  # the colons of IPv6
        print(f"serving {options.checkpoint} at ws://{host}:{port} (Ctrl-C ends it)", flush=True)
        if options.host not in ("127.0.0.1", "::1", "localhost"):
            print("warning: whoever reaches this address can use the policy; there is no authentication", flush=True)

    try:
        asyncio.run(serve_forever(server, options.host, options.port, ready))
    except OSError as error:
        raise UserError(f"cannot listen on {options.host}:{options.port} ({error.strerror})") from None
