"""What a finished run exported, read once more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gap_vla.core.foreign import Section, refusing, regular
from gap_vla.core.typed_config import ConfigError


def require_exported(checkpoint: Path, files: Sequence[str]) -> None:
    """Raises ConfigError if one of the files is missing or cut off, CheckpointError if weights are not those of their
    checksum or of the run; parameters that have no checksum are not loaded."""
    import msgpack
    from safetensors import SafetensorError, safe_open

    for path in (regular(checkpoint / name, ConfigError) for name in files):
        where = f"{path}, of a finished run, cannot be read"
        advice = "copy it again, or move checkpoint/ and summary.json away: --resume makes them again"
        with (
            refusing(where, advice, ConfigError, (msgpack.OutOfData, SafetensorError)),
            path.open("rb") as stream,
        ):
            if path.suffix == ".json":
                json.load(stream)
            elif path.suffix == ".safetensors":
                safe_open(path, "np")
            else:
                msgpack.Unpacker(stream, max_buffer_size=0).skip()
    if "policy.json" in files and "weights" in Section.read(checkpoint / "policy.json", ConfigError):
        from gap_vla.serving import load_checkpoint

        load_checkpoint(checkpoint)  # compares it with its run
