"""Array annotations are checked at run time: a wrong shape at a public boundary fails the test that caused it."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest
from jaxtyping import install_import_hook

PHASES = "annotation estimator measures methods motion noise objective pages segmentation targets training".split()
"""Modules of gap_vla.phases that numba does not compile."""
CHECKED = ["gap_vla.adjustment", "gap_vla.policies", *(f"gap_vla.phases.{module}" for module in PHASES)]
install_import_hook(CHECKED, "beartype.beartype")

# What JAX compiles, any process of this session compiles once, and quickly: most of it runs once or twice.
COMPILED = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="gap_vla-tests-")
if COMPILED:
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": COMPILED, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.02"}
QUICKLY = (
    "xla_backend_optimization_level=0",
    "xla_cpu_use_fusion_emitters=false",
    "xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(f"--{flag}" for flag in QUICKLY))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

collect_ignore_glob = ["*conftest.py"]
collect_ignore = ["octo/upstream_interceptor.py"]
"""--doctest-modules would import scripts for an environment in which upstream's packages are installed."""

LONGEST_FIRST = ("octo/test_octo_parity.py", "method/test_small_methods.py", "training/test_mesh.py")
"""Files of half a minute and more; a worker that began one of them at the end would be left alone with it."""

# Removing a folder takes a millisecond on some disks, and the tests make thousands; they keep about 200 MB.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    files = {str(here / name): place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: files.get(str(item.path), len(files)))


def pytest_unconfigure() -> None:
    if COMPILED:
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture
def blank_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are put together and not drawn, which takes longer than what such a test is about."""
    from PIL import Image

    def save(figure: object, place: IO[Any], *, format: str, **options: object) -> None:
        if format == "svg":
            place.write(b"<svg></svg>")
        else:
            Image.new("L", (1, 1)).save(place, format=format)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)
