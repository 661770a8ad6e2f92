"""The code blocks of the tutorials, as a reader runs them: from top to bottom, in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

from runner import Runner

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
SEEN = ("docs", "finetune_configs", "gap_vla", "rlds_builders", "scripts", "tests")
"""What a reader's folder, a checkout, holds besides what the page makes there."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every block in Python or shell, but for those below a comment `<!-- not run: reason -->`."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(<!-- not run: .*? -->\n+)?^```(python|sh)\n(.*?)^```$", text, re.M | re.S)
    return [(language, text) for left_out, language, text in found if not left_out]


def run_page(page: Path, folder: Path, *, runner: Runner | None = None, limit: float = 900) -> str:
    """Runs the blocks of a page; blocks of one language that follow each other share one process, as in a session.

    Args:
        folder: empty; what the blocks make lies there.
        runner: runs the sessions in Python, which need not import the heavy packages then.
        limit: seconds for one session.

    Returns:
        What they printed.
    """
    for name in SEEN:
        (folder / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{_bin(folder)}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    parts: list[tuple[str, str]] = []
    for language, text in blocks(page):
        if parts and parts[-1][0] == language:
            parts[-1] = (language, parts[-1][1] + "\n" + text)
        else:
            parts.append((language, text))
    said = ""
    for number, (language, text) in enumerate(parts):
        if runner and language == "python":
            session = folder / f"session_{number}.py"
            session.write_text(text, encoding="utf-8")
            ended = runner.run(session, [], folder, limit=limit)
            assert ended.status == 0, f"{page.name}:\n{text}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
            said += ended.stdout
            continue
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
        assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        said += done.stdout
    return said


def _bin(folder: Path) -> Path:
    """A folder with `gap-vla` and `python`, whether or not the package is installed."""
    place = folder / ".bin"
    place.mkdir()
    for name, line in (
        ("gap-vla", f'exec {sys.executable} -c "import sys; from gap_vla.cli import main; sys.exit(main())" "$@"'),
        ("python", f'exec {sys.executable} "$@"'),
    ):
        (place / name).write_text(f"#!/bin/sh\n{line}\n")
        (place / name).chmod(0o755)
    return place
