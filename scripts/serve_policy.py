"""Serve a checkpoint to clients of openpi's protocol (openpi-client, LeRobot's and others' websocket clients).

    python scripts/serve_policy.py --checkpoint runs/threading/NAME
    python scripts/serve_policy.py --checkpoint DIR --whole_chunks --port 8000      # the client executes the chunks

Listens on this machine only, unless --host says otherwise; there is no authentication. A client sends a map with
"observation/image", "observation/wrist_image", "observation/state" and "prompt" (or the names of --keys), and gets one
with "actions", float32 [H, A] in the units of the training data. Each connection is one episode. Ctrl-C ends it.

What one client may ask for is bounded (--max_message, --max_prompt, --max_connections, --idle).
"""

import argparse
import sys
from pathlib import Path

from gap_vla.cli.arguments import command_parser, real, saved_step, whole
from gap_vla.core.errors import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=whole(0, 65_535), default=8000, help="default 8000; 0 takes a free one")
    add("--step", type=saved_step, help="which step of the checkpoint (default: the latest)")
    add("--execute", type=whole(1, 256), help="actions executed of each predicted chunk (default: as trained)")
    add("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    add("--whole_chunks", action="store_true", help="answer with whole chunks; default: one action per observation")
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the clients' names")
    add("--max_message", type=whole(1, 256), default=16, metavar="MIB", help="of one observation, MiB (default 16)")
    add("--max_prompt", type=whole(1, 100_000), default=2000, metavar="N", help="characters of it (default 2000)")
    add("--max_connections", type=whole(1, 1000), default=64, metavar="N", help="at once (default 64)")
    add("--idle", type=real(1, 86_400), default=600, metavar="S", help="seconds until a silent client is dropped (600)")
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from gap_vla.cli.serve import serve_command

    serve_command(options)


if __name__ == "__main__":
    sys.exit(main())
