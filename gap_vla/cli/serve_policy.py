"""Serve a checkpoint to clients of openpi's protocol (openpi-client, LeRobot's and others' websocket clients).

    gap-vla serve-policy --checkpoint runs/threading/NAME
    gap-vla serve-policy --checkpoint DIR --whole-chunks --port 8000      # the client executes the chunks

Listens on this machine only, unless --host says otherwise; there is no authentication. A client sends a map with
"observation/image", "observation/wrist_image", "observation/state" and "prompt" (or the names of --keys), and gets one
with "actions", float32 [H, A] in the units of the training data. Each connection is one episode. Ctrl-C ends it.

What one client may ask for is bounded (--max-message, --max-prompt, --max-connections, --idle).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import errno
import ipaddress
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import command_parser, real, saved_step, whole
from gap_vla.core.errors import UserError, command, keeping
from gap_vla.core.foreign import refusing


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=whole(0, 65_535), default=8000, help="default 8000; 0 takes a free one")
    add("--step", type=saved_step, help="which step (default: where its run ended, else the latest)")
    chunks = parser.add_mutually_exclusive_group()
    executed = "actions executed of each predicted chunk (default: as trained)"
    chunks.add_argument("--execute", type=whole(1, 256), help=executed)
    chunks.add_argument("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    answer = "answer with whole chunks; default: one action per observation"
    chunks.add_argument("--whole-chunks", action="store_true", help=answer)
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the clients' names")
    pages = "where web pages that may connect come from, as http://127.0.0.1:3000 (default: only programs may)"
    add("--origin", type=_origin, nargs="+", default=(), metavar="URL", help=pages)
    add("--max-message", type=whole(1, 256), default=16, metavar="MIB", help="of one observation, MiB (default 16)")
    add("--max-prompt", type=whole(1, 100_000), default=2000, metavar="N", help="characters of it (default 2000)")
    add("--max-connections", type=whole(1, 1000), default=64, metavar="N", help="at once (default 64)")
    add("--idle", type=real(1, 86_400), default=600, metavar="S", help="seconds until a silent client is dropped (600)")
    return parser.parse_args(arguments)


def _origin(text: str) -> str:
    """A place as browsers name it, which they do in small ASCII letters, with addresses in one form and without the
    usual port of its scheme."""
    host = r"[\w-]+(?:\.[\w-]+)*\.?|\[[\da-f:]+\]"
    place = re.fullmatch(rf"(?!wss?:|file:)[a-z-]+://({host})(?::([1-9]\d{{0,4}}))?", text, re.ASCII | re.IGNORECASE)
    if not place or int(place[2] or 1) > 65_535 or not _is_plain(place[1].lower().strip("[]")):
        raise argparse.ArgumentTypeError(f"{text!r} is no place of web pages; give SCHEME://HOST or SCHEME://HOST:PORT")
    if text != (said := re.sub(r"^(http:.*):80$|^(https:.*):443$", r"\1\2", text.lower())):
        raise argparse.ArgumentTypeError(f"{text!r} is {said} as browsers say it; give that")
    return text


def _is_plain(host: str) -> bool:
    """Whether it is no address, or one as browsers write it: not 127.1, not 0:0:0:0:0:0:0:1."""
    if ":" not in host and not re.search(r"(^|\.)(\d+|0x[\da-f]*)\.?$", host):
        return True
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host)) == host
    return False


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if threading.current_thread() is not threading.main_thread() or asyncio._get_running_loop() is not None:
        raise UserError("a server needs a process of its own, not a thread or a notebook; start it in a terminal")
    from gap_vla.rollouts.policy import PolicyError
    from gap_vla.serving import KeyMapping, PolicyServer, ServerLimits, load_checkpoint, serve_forever

    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX: a heap for each thread would grow by 20 MB with the clients
    keys = KeyMapping.read(options.keys) if options.keys else KeyMapping()
    if keys != KeyMapping(keys.observation):
        raise PolicyError(f"{options.keys}: a server takes observation alone; leave the other keys to clients")
    if not re.fullmatch(r"[\w.:%-]+", options.host):  # resolvers make this machine of `*`
        raise PolicyError(
            f"--host is {options.host!r}, which is no address; give one of this machine, or 0.0.0.0 for all"
        )
    host = f"[{options.host}]" if ":" in options.host else options.host  # the colons of IPv6
    advice = "give --host an address of this machine, and --port a free one (0 finds one)"
    with refusing(f"cannot listen on {host}:{options.port}", advice, PolicyError):
        try:
            asyncio.run(_require_free(options.host, options.port))
        except PermissionError:
            raise ValueError("permission denied, as of ports below 1024") from None
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
    needed |= {"language_instruction"} if policy.reads_instructions else set()
    if missing := needed - set(keys.observation):
        raise PolicyError(
            f"{options.keys}: the policy needs {', '.join(sorted(missing))} too; name what clients call it"
        )
    print(f"compiling {policy.name} …", flush=True)
    policy.warm_up()
    sizes = ("image_size", "proprio_dim", "action_dim", "action_horizon", "window_size")
    said = {"task": loaded.task or "", "cameras": list(policy.cameras), "camera": loaded.camera or ""}
    metadata = said | {size: getattr(policy, size) for size in sizes}
    limits = ServerLimits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(ServerLimits)})
    server = PolicyServer(
        policy,
        whole_chunks=options.whole_chunks,
        metadata=metadata,
        keys=keys,
        limits=limits,
        origins=options.origin,
    )

    def ready(port: int) -> None:
        print(f"serving {options.checkpoint} at ws://{host}:{port} (Ctrl-C ends it)", flush=True)
        local = options.host == "localhost"
        with contextlib.suppress(ValueError):
            local = ipaddress.ip_address(options.host).is_loopback
        if not local:
            print("warning: whoever reaches this address can use the policy; there is no authentication", flush=True)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which `asyncio.run` replaces by one that cancels
    with keeping("the server has ended; it had written nothing"):
        try:
            asyncio.run(serve_forever(server, options.host, options.port, ready))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PolicyError(f"{host}:{options.port} was taken while the policy was loaded; {advice}") from None


async def _require_free(host: str, port: int) -> None:
    """Raises what a server there would raise; nobody can connect meanwhile. OSError: not even this machine could."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(await loop.create_server(asyncio.Protocol, host, port, start_serving=False)) as server:
        if not server.sockets:  # asyncio leaves out families that the system has not
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        for bound in server.sockets:
            with socket.socket(bound.family) as client:
                if client.connect_ex(bound.getsockname()) == errno.ENETUNREACH:  # a broadcast, or a multicast
                    raise OSError("no client can reach this address")
