"""What `scripts/serve_policy.py` does: load a checkpoint, warm it up, serve it until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import ipaddress
from typing import Any

from gap_vla.rollouts.policy import PolicyError
from gap_vla.serving.key_mapping import KeyMapping
from gap_vla.serving.loading import load_checkpoint
from gap_vla.serving.policy_server import PolicyServer, serve_forever
from gap_vla.serving.server_limits import ServerLimits


def serve_command(options: argparse.Namespace) -> None:
    """Serves until Ctrl-C or SIGTERM, which are its ordinary end.

    Raises:
        PolicyError: no such checkpoint, a damaged one, or an address that cannot be listened on.
    """
    keys = KeyMapping.read(options.keys) if options.keys else KeyMapping()
    loaded = load_checkpoint(
        options.checkpoint,
        step=options.step,
        execute=options.execute,
        ensemble=options.ensemble,
        dataset=options.dataset,
        batch_size=1,
    )
    policy: Any = loaded.policy
    print(f"compiling {policy.name} …", flush=True)
    policy.warm_up()
    metadata = {
        "task": loaded.task or "",
        "image_size": policy.image_size,
        "cameras": list(policy.cameras),
        "proprio_dim": policy.proprio_dim,
        "camera": loaded.view(),
        "action_dim": policy.action_dim,
        "action_horizon": policy.action_horizon,
        "window_size": policy.window_size,
    }
    limits = ServerLimits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(ServerLimits)})
    server = PolicyServer(policy, whole_chunks=options.whole_chunks, metadata=metadata, keys=keys, limits=limits)

    def ready(port: int) -> None:
        print(f"serving {options.checkpoint} at ws://{options.host}:{port} (Ctrl-C ends it)", flush=True)
        if not _is_loopback(options.host):
            print("warning: whoever reaches this address can use the policy; there is no authentication", flush=True)

    try:
        asyncio.run(serve_forever(server, options.host, options.port, ready))
    except OSError as error:
        raise PolicyError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
