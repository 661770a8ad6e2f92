"""The commands of scripts/, called in this process or in one of their own."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gap_vla.cli

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
WITH_CONFIG = ("compare", "finetune", "train_small")


def load(name: str) -> ModuleType:
    """The module whose `main` is the command: of the package, or the script of the checkout itself."""
    if name.replace("_", "-") in gap_vla.cli.COMMANDS:
        return importlib.import_module(f"gap_vla.cli.{name}")
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, *arguments: object) -> int:
    """Exit status of the command's `main`, that of its argument parser included."""
    try:
        return load(name).main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def start(name: str, *arguments: object, cwd: Path, first_on_path: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{first_on_path}:{ROOT}", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
