"""Chooses how MuJoCo draws without a display, before MuJoCo is imported, and says what to install if nothing can."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import glob
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from gap_vla.core.errors import UserError

_LIBRARIES = {"egl": ("EGL", "libEGL.so.1"), "osmesa": ("OSMesa", "libOSMesa.so.8")}

MISSING = (
    "pictures cannot be drawn: neither EGL (libEGL.so.1) nor OSMesa (libOSMesa) was found. Run `apt-get install -y "
    "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0` (or `apt-get install -y libosmesa6`), or use cameras=() "
    "where no pictures are needed"
)


def require_rendering() -> str:
    """Sets `MUJOCO_GL` to a platform that works without a display, EGL before OSMesa, and returns its name.

    A platform that the user has set stays if its library is there. Software OpenGL gets one thread per process
    (`LP_NUM_THREADS`): several processes with several threads each would wait for one another.

    Raises:
        UserError: no OpenGL library is installed; names the packages.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    _name_glfw()
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in ("glfw", "glx"):
        return wanted
    for platform in [wanted] if wanted in _LIBRARIES else _LIBRARIES:
        if _loadable(platform):
            _select(platform)
            return platform
    raise UserError(f"MUJOCO_GL={wanted}, and {MISSING}" if wanted in _LIBRARIES else MISSING)


def draw_nothing() -> None:
    """Sets `MUJOCO_GL` so that MuJoCo and robosuite can be imported where there is nothing to draw with."""
    os.environ["MUJOCO_GL"] = "disable"


def _loadable(platform: str) -> bool:
    short, soname = _LIBRARIES[platform]
    for candidate in (soname, ctypes.util.find_library(short)):
        with contextlib.suppress(OSError):
            if candidate and ctypes.CDLL(candidate):
                return True
    return False


def _name_glfw() -> None:
    """Names the library that opens windows; else `import glfw` searches for it in a Python process of its own."""
    found = importlib.util.find_spec("glfw")
    if found is not None and found.origin is not None:
        library = Path(found.origin).with_name("x11") / "libglfw.so"
        if library.exists():
            os.environ.setdefault("PYGLFW_LIBRARY", str(library))


def _select(platform: str) -> None:
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = platform  # MuJoCo refuses another of PyOpenGL's
    chosen = sys.modules.get("mujoco.gl_context")
    if chosen is not None and chosen.__dict__.get("_MUJOCO_GL") != platform:
        importlib.reload(chosen)  # MuJoCo was imported first, and has settled for a window system


def require_no_second_llvm() -> None:
    """Refuses to draw in software beside TensorFlow. Both bring an LLVM, and their symbols collide: Python crashes.

    Raises:
        UserError: TensorFlow is loaded and there is no GPU to draw on.
    """
    on_gpu = os.path.exists("/dev/nvidiactl") or bool(glob.glob("/dev/dri/renderD*"))
    if "tensorflow" in sys.modules and not on_gpu:
        raise UserError(
            "TensorFlow is loaded in this process, and drawing without a GPU beside it crashes Python; run the "
            "simulator in a process without TensorFlow, as collect_demos and evaluate do (keep `import tensorflow` "
            "below `if __name__ == '__main__'`), or make the environment with cameras=()"
        )
