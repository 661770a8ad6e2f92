"""Choosing the OpenGL platform before MuJoCo is imported, and saying what to install when there is none."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import glob
import importlib.util
import os
import shutil
import sys
from multiprocessing import parent_process
from pathlib import Path

from gap_vla.core.errors import UserError

APT_EGL = "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0"
APT_OSMESA = "apt-get install -y libosmesa6"
_SHADERS = 2**26
"""Bytes of free disk, below which Mesa is told to keep no compiled shaders."""
_LIBRARIES = {"egl": ("EGL", "libEGL.so.1"), "osmesa": ("OSMesa", "libOSMesa.so.8")}


class RenderingError(UserError, RuntimeError):
    """Pictures cannot be drawn here; the message says why and what to do."""


def _loadable(platform: str) -> bool:
    short, soname = _LIBRARIES[platform]
    for candidate in (soname, ctypes.util.find_library(short)):
        with contextlib.suppress(OSError):
            if candidate and ctypes.CDLL(candidate):
                return True
    return False


def require_rendering() -> str:
    """Sets `MUJOCO_GL` to a platform that works without a display, EGL before OSMesa, and returns its name.

    A value that the user has set stays, and MuJoCo may have been imported before. Software OpenGL is told to use
    one thread per process (`LP_NUM_THREADS`): the pictures are small, and several processes with several threads
    each would wait for one another. Where its cache's disk is full, it is told to keep none.

    Raises:
        RenderingError: no OpenGL library is installed (names the apt packages), or `MUJOCO_GL` asks for one that is
            missing, or MuJoCo was imported earlier and cannot be switched.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    _keep_no_shaders_on_a_full_disk()
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in ("glfw", "glx"):
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise RenderingError(f"MUJOCO_GL={wanted} needs a display, and there is none; unset it")
        return wanted
    _name_glfw()
    if wanted in _SET_HERE:  # by `draw_nothing`, and now there is to be a picture
        wanted = ""
    if wanted in ("disable", "off", "0"):
        raise RenderingError(f"MUJOCO_GL={wanted} switches rendering off; unset it, or use cameras=()")
    if wanted and wanted not in _LIBRARIES:
        raise RenderingError(f"MUJOCO_GL={wanted} is nothing to draw with; give {', '.join(_LIBRARIES)}, or unset it")
    for platform in [wanted] if wanted else _LIBRARIES:
        if _loadable(platform):
            _select(platform)
            return platform
    if wanted:
        package = APT_EGL if wanted == "egl" else APT_OSMESA
        raise RenderingError(
            f"MUJOCO_GL={wanted}, but lib{_LIBRARIES[wanted][0]} is not installed; run `{package}`, or unset "
            "MUJOCO_GL to let gap_vla choose"
        )
    raise RenderingError(
        "no library for drawing without a display was found: neither EGL (libEGL.so.1) nor OSMesa (libOSMesa). "
        f"Run `{APT_EGL}` (or `{APT_OSMESA}`), or use cameras=() where no pictures are needed"
    )


_SET_HERE: set[str] = set()


def draw_nothing() -> None:
    """Sets `MUJOCO_GL` so that MuJoCo and robosuite can be imported where there is nothing to draw with."""
    os.environ["MUJOCO_GL"] = "disable"
    _SET_HERE.add("disable")


def _keep_no_shaders_on_a_full_disk() -> None:
    """Mesa maps the file of its cache before it has room for it, and the process dies by SIGBUS where there is none."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    place = Path(os.environ.get("MESA_SHADER_CACHE_DIR") or home).absolute()
    there = next((folder for folder in (place, *place.parents) if folder.is_dir()), place)
    with contextlib.suppress(OSError):
        if shutil.disk_usage(there).free < _SHADERS:
            os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")


def _name_glfw() -> None:
    """Names the library that opens windows, which simulators load but nobody needs here.

    Unnamed, it is looked for by a Python of its own, which prints a traceback when the simulator is ended meanwhile.
    """
    found = importlib.util.find_spec("glfw")
    if found is not None and found.origin is not None:
        library = Path(found.origin).with_name("x11") / "libglfw.so"
        if library.exists():
            os.environ.setdefault("PYGLFW_LIBRARY", str(library))


def _select(platform: str) -> None:
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = platform  # MuJoCo refuses another of PyOpenGL's
    chosen = sys.modules.get("mujoco.gl_context")
    if chosen is not None and chosen.__dict__.get("_MUJOCO_GL") != platform:
        try:
            importlib.reload(chosen)  # MuJoCo was imported first, and has settled for a window system
        except Exception as error:
            raise RenderingError(
                f"mujoco was imported before gap_vla could choose {platform} for it ({error}); set "
                f"MUJOCO_GL={platform} in the environment, or call gap_vla.sim.require_rendering() first"
            ) from error


def require_no_second_llvm() -> None:
    """Refuses to draw in software beside TensorFlow.

    Mesa's software renderer and TensorFlow each bring an LLVM whose symbols collide: the interpreter would crash when
    the second of the two is used, whichever comes first. On a GPU nothing of Mesa's is loaded.

    Raises:
        RenderingError: TensorFlow is loaded and there is no GPU to draw on.
    """
    on_gpu = os.path.exists("/dev/nvidiactl") or bool(glob.glob("/dev/dri/renderD*"))
    if "tensorflow" in sys.modules and not on_gpu:
        if parent_process() is not None:
            raise RenderingError(
                "the program imports TensorFlow, and so does each simulator's process, which imports the program; "
                "drawing without a GPU beside it crashes Python (both bring their own LLVM): import it below "
                "`if __name__ == '__main__'`, or in the function that needs it"
            )
        raise RenderingError(
            "TensorFlow is loaded in this process, and drawing without a GPU beside it crashes Python (both bring "
            "their own LLVM); run the simulator in a process without TensorFlow, as gap_vla.sim.collect_demos and "
            "gap_vla.rollouts.evaluate do, or make the environment with cameras=()"
        )
