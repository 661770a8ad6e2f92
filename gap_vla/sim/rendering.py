"""Drawing without a display: how MuJoCo does it, and a renderer that leaves out what makes software OpenGL slow."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import glob
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gap_vla.core.errors import UserError
from gap_vla.sim.cameras import CameraPose

_LIBRARIES = {"egl": ("EGL", "libEGL.so.1"), "osmesa": ("OSMesa", "libOSMesa.so.8")}

MISSING = (
    "pictures cannot be drawn: neither EGL (libEGL.so.1) nor OSMesa (libOSMesa) was found. Run `apt-get install -y "
    "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0` (or `apt-get install -y libosmesa6`), or use cameras=() "
    "where no pictures are needed"
)

_HIDDEN_GROUP = 5
"""A geom group that is never shown. Groups are for the eye only: contacts use contype and conaffinity."""

_SUPERSAMPLE = 2
"""How many times larger a picture is drawn before neighbouring pixels are averaged."""

_process_with_context: int | None = None
"""The process that made the first OpenGL context; a forked child inherits the value, but not a usable context."""

_open: weakref.WeakSet[FastRenderer] = weakref.WeakSet()


def _close_all() -> None:
    """Frees contexts before the interpreter takes OpenGL's library away from under them."""
    for renderer in list(_open):
        if renderer.owner == (os.getpid(), threading.current_thread()):
            renderer.close()


class FastRenderer:
    """Draws square pictures of one MuJoCo model, in the process and thread that made it.

    On software OpenGL the time goes into the shadow map, multisampling and reflections, hardly into pixels. They
    are switched off here; edges are smoothed by drawing twice as large and averaging, which keeps the
    position of things thinner than a pixel. The sky stays (it costs 0.5 ms and gives the background its colour).

    Args:
        model: mujoco.MjModel.
        size: height and width (pixels).
        groups: visible geom groups.
        sites: whether sites are drawn (goals of some tasks are sites).
        blend_mipmaps: False reads textures from the nearest of their sizes instead of blending the nearest two, which
            computes a textured picture in two thirds of the time.
    """

    def __init__(self, model: Any, size: int, *, groups: Iterable[int], sites: bool, blend_mipmaps: bool) -> None:
        global _process_with_context
        require_rendering()
        require_no_second_llvm()
        import mujoco

        from gap_vla.sim.culling import Culling

        if _process_with_context not in (None, os.getpid()):
            raise UserError(
                "this process was forked from one that had already drawn pictures, and OpenGL would hang; start "
                "workers with multiprocessing.get_context('spawn')"
            )
        self.owner = os.getpid(), threading.current_thread()
        self._model, self._culling = model, Culling(model, groups)
        pixels = size * _SUPERSAMPLE
        quality, buffer = model.vis.quality, model.vis.global_
        kept = quality.offsamples, quality.shadowsize, buffer.offwidth, buffer.offheight
        quality.offsamples, quality.shadowsize = 0, 0  # read once, when the context is made
        buffer.offwidth, buffer.offheight = max(pixels, buffer.offwidth), max(pixels, buffer.offheight)
        try:
            self._renderer = mujoco.Renderer(model, pixels, pixels)
        except Exception as error:  # EGL reports a missing driver in many ways
            raise UserError(f"no OpenGL context could be made ({error}); see gap_vla.sim.require_rendering") from error
        finally:
            quality.offsamples, quality.shadowsize, buffer.offwidth, buffer.offheight = kept
        _process_with_context = os.getpid()
        if not blend_mipmaps:
            _read_nearest_mipmap(self._renderer._mjr_context)
        for flag in ("SHADOW", "REFLECTION", "HAZE", "FOG"):
            self._renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[list(groups)] = 1
        if not sites:
            self._options.sitegroup[:] = 0
        self._free_camera = mujoco.MjvCamera()
        _open.add(self)
        atexit.unregister(_close_all)
        atexit.register(_close_all)  # last registered runs first: before MuJoCo terminates EGL

    def draw(self, data: Any, camera: CameraPose) -> UInt8[np.ndarray, "size size 3"]:
        """The picture of the state `data` (mujoco.MjData); row 0 is the top."""
        self._aim(data, camera)
        image = self._renderer.render()
        k = _SUPERSAMPLE
        columns = sum((image[i::k] for i in range(1, k)), start=image[::k].astype(np.uint16))
        total = sum((columns[:, i::k] for i in range(1, k)), start=columns[:, ::k])
        return (total // (k * k)).astype(np.uint8)

    def segment(self, data: Any, camera: CameraPose) -> np.ndarray:
        """int32[s, s]: id of the geom that each pixel of the larger, unaveraged picture shows; -1 where none is."""
        import mujoco

        self._aim(data, camera)
        self._renderer.enable_segmentation_rendering()
        ids, kinds = np.moveaxis(self._renderer.render(), -1, 0)
        self._renderer.disable_segmentation_rendering()
        return np.where(kinds == int(mujoco.mjtObj.mjOBJ_GEOM), ids, -1)

    def _aim(self, data: Any, camera: CameraPose) -> None:
        self._require_owner()
        model = self._model
        groups = model.geom_group.copy(), model.site_group.copy()
        model.geom_group[self._culling.geoms(data, camera)] = _HIDDEN_GROUP
        model.site_group[self._culling.sites(data, camera)] = _HIDDEN_GROUP
        self._renderer.update_scene(data, self._free_camera, self._options)
        model.geom_group[:], model.site_group[:] = groups
        for eye in self._renderer.scene.camera:
            eye.pos[:], eye.forward[:], eye.up[:] = camera.position, camera.forward, camera.up
            top = eye.frustum_near * np.tan(np.radians(camera.fovy) / 2)
            eye.frustum_bottom, eye.frustum_top, eye.frustum_center = -top, top, 0.0
            eye.frustum_width = top

    def _require_owner(self) -> None:
        if self.owner != (os.getpid(), threading.current_thread()):
            raise UserError(
                "an OpenGL context belongs to the process and the thread that made it; make the environment inside "
                "the worker, and start workers with multiprocessing.get_context('spawn')"
            )

    def close(self) -> None:
        """Frees the OpenGL context; the renderer cannot be used any more."""
        _open.discard(self)
        self._renderer.close()


def _read_nearest_mipmap(context: Any) -> None:
    """Sets the filter of all textures of a mujoco.MjrContext, which must be current."""
    import mujoco
    from OpenGL import GL

    for texture, kind in zip(context.texture[: context.ntexture], context.textureType):
        flat = kind == int(mujoco.mjtTexture.mjTEXTURE_2D)
        target = GL.GL_TEXTURE_2D if flat else GL.GL_TEXTURE_CUBE_MAP
        GL.glBindTexture(target, int(texture))
        GL.glTexParameteri(target, GL.GL_TEXTURE_MIN_FILTER, GL.GL_LINEAR_MIPMAP_NEAREST)


def require_rendering() -> str:
    """Sets `MUJOCO_GL` to a platform that works without a display, EGL before OSMesa, and returns its name.

    A platform that the user has set stays if its library is there. Software OpenGL gets one thread per process
    (`LP_NUM_THREADS`): several processes with several threads each would wait for one another.

    Raises:
        UserError: no OpenGL library is installed; names the packages.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in ("glfw", "glx"):
        return wanted
    for platform in [wanted] if wanted in _LIBRARIES else _LIBRARIES:
        if _loadable(platform):
            _select(platform)
            return platform
    raise UserError(f"MUJOCO_GL={wanted}, and {MISSING}" if wanted in _LIBRARIES else MISSING)


def _loadable(platform: str) -> bool:
    short, soname = _LIBRARIES[platform]
    for candidate in (soname, ctypes.util.find_library(short)):
        with contextlib.suppress(OSError):
            if candidate and ctypes.CDLL(candidate):
                return True
    return False


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
