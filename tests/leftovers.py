"""What a writer that was killed leaves hidden."""

from pathlib import Path

from gap_vla.core.whole import LOCK


def leave(path: Path, *names: str) -> Path:
    """The hidden folder in which `path` was made, with its lock and these files."""
    folder = path.with_name(f".{path.name}.gap_vla-abcdefgh.partial")
    folder.mkdir(parents=True)
    for name in (LOCK, *names):
        (folder / name).write_text("half")
    return folder
