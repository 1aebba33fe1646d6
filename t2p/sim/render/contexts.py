"""OpenGL contexts without a window, made straight from the system's libEGL or libOSMesa.

MuJoCo's own modules for this choose by environment variables, read once at import, and set some themselves; here a
context is made by calling the library (ctypes), and the environment stays as it is. MuJoCo finds the functions of
OpenGL through whichever of the two libraries is visible to the whole process, once: hence one kind per process, and
hence a library becomes visible (RTLD_GLOBAL) only after it has proved that it can make a context.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any, Protocol

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32

# Names as in the Khronos registry (EGL 1.5, EGL_EXT_platform_device) and Mesa's GL/osmesa.h.
_EGL_PLATFORM_DEVICE = 0x313F
_EGL_OPENGL_API = 0x30A2
_EGL_CONFIG = (
    *(0x3024, 8, 0x3023, 8, 0x3022, 8, 0x3021, 8),  # red, green, blue, alpha
    *(0x3025, 24, 0x3026, 8),  # depth, stencil
    *(0x3033, 0x0001, 0x3040, 0x0008),  # surface type: pbuffer; renderable type: OpenGL
    0x3038,  # end of list
)
_MAX_DEVICES = 32
_OSMESA_RGBA, _GL_UNSIGNED_BYTE = 0x1908, 0x1401
_REMEDIES = {
    "libEGL.so.1": "install a graphics driver with EGL, or Mesa's: apt install libegl1 libegl-mesa0",
    "libOSMesa.so.8": "apt install libosmesa6",
}
_LOOKUPS = {"egl": "eglGetProcAddress", "osmesa": "OSMesaGetProcAddress"}


class ContextError(RuntimeError):
    """No context can be made; the message says why."""


class Context(Protocol):
    """An OpenGL context. Calls of OpenGL go to the context that is current in the calling thread."""

    def make_current(self) -> None: ...

    def free(self) -> None: ...


def make_context(name: str) -> Context:
    """A new context, not yet current. name: "egl" or "osmesa". ContextError where it cannot be had."""
    return _EglContext() if name == "egl" else _OsmesaContext()


def _load(*names: str) -> ctypes.CDLL:
    """The first of the shared libraries that is there, visible to this module only."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ContextError(f"the system has no {names[0]} ({_REMEDIES[names[0]]})")


def _refuse_company(other: str) -> None:
    """ContextError where the process already sees the other of the two libraries."""
    if hasattr(ctypes.CDLL(None), _LOOKUPS[other]):
        raise ContextError(f"this process already draws with {other}, and MuJoCo can use only one of the two")


def _publish(library: ctypes.CDLL) -> None:
    """Lets the whole process (MuJoCo) see a library that is already loaded."""
    ctypes.CDLL(library._name, mode=ctypes.RTLD_GLOBAL)


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


@functools.cache
def _egl() -> tuple[ctypes.CDLL, int]:
    """(libEGL, its display on the first device that works); MUJOCO_EGL_DEVICE_ID names one device, as in MuJoCo."""
    library = _load("libEGL.so.1", "libEGL.so")
    _refuse_company("osmesa")
    _bind(library, "eglBindAPI", _INT, ctypes.c_uint32)
    _bind(library, "eglInitialize", _INT, _POINTER, _POINTER, _POINTER)
    _bind(library, "eglChooseConfig", _INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
    _bind(library, "eglCreateContext", _POINTER, _POINTER, _POINTER, _POINTER, _POINTER)
    _bind(library, "eglMakeCurrent", _INT, _POINTER, _POINTER, _POINTER, _POINTER)
    _bind(library, "eglDestroyContext", _INT, _POINTER, _POINTER)
    display_of = _egl_extension(library, "eglGetPlatformDisplayEXT", _POINTER, ctypes.c_uint32, _POINTER, _POINTER)
    for device in _egl_devices(library):
        display = display_of(_EGL_PLATFORM_DEVICE, device, None)
        if display and library.eglInitialize(display, None, None):
            return library, display
    raise ContextError(f"libEGL is there, but it can open no device ({_REMEDIES['libEGL.so.1']})")


def _egl_extension(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    address = _bind(library, "eglGetProcAddress", _POINTER, ctypes.c_char_p)(name.encode())
    if not address:
        raise ContextError(f"libEGL lacks {name}: it cannot draw without a window")
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _egl_devices(library: ctypes.CDLL) -> list[int]:
    query = _egl_extension(library, "eglQueryDevicesEXT", _INT, _INT, _POINTER, _POINTER)
    devices, count = (_POINTER * _MAX_DEVICES)(), _INT()
    if not query(_MAX_DEVICES, devices, ctypes.byref(count)) or count.value < 1:
        raise ContextError(f"libEGL is there, but knows no device ({_REMEDIES['libEGL.so.1']})")
    found = [device for device in devices[: count.value] if device]
    wanted = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if wanted is None:
        return found
    if not wanted.isdigit() or int(wanted) >= len(found):
        raise ContextError(f"MUJOCO_EGL_DEVICE_ID is {wanted!r}; EGL's devices here are 0 to {len(found) - 1}")
    return [found[int(wanted)]]


class _EglContext:
    """Draws into framebuffer objects only, so it needs no surface."""

    def __init__(self) -> None:
        self._library, self._display = _egl()
        config, count = _POINTER(), _INT()
        attributes = (_INT * len(_EGL_CONFIG))(*_EGL_CONFIG)
        chosen = self._library.eglChooseConfig(self._display, attributes, ctypes.byref(config), 1, ctypes.byref(count))
        if not chosen or count.value < 1:
            raise ContextError("EGL offers no framebuffer for OpenGL with 24 bits of depth")
        self._library.eglBindAPI(_EGL_OPENGL_API)
        self._context = self._library.eglCreateContext(self._display, config, None, None)
        if not self._context:
            raise ContextError("EGL refused to make an OpenGL context")
        _publish(self._library)

    def make_current(self) -> None:
        if not self._library.eglMakeCurrent(self._display, None, None, self._context):
            raise ContextError("EGL refused to make its context current: is it in use in another thread?")

    def free(self) -> None:
        self._library.eglMakeCurrent(self._display, None, None, None)
        self._library.eglDestroyContext(self._display, self._context)


class _OsmesaContext:
    """Wants a picture of its own to draw to, which stays empty: MuJoCo draws into a framebuffer object."""

    _SIDE = 16

    def __init__(self) -> None:
        self._library = _load("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
        _refuse_company("egl")
        create = _bind(self._library, "OSMesaCreateContextExt", _POINTER, _INT, _INT, _INT, _INT, _POINTER)
        _bind(self._library, "OSMesaMakeCurrent", ctypes.c_ubyte, _POINTER, _POINTER, _INT, _INT, _INT)
        _bind(self._library, "OSMesaDestroyContext", None, _POINTER)
        self._context = create(_OSMESA_RGBA, 24, 8, 0, None)
        if not self._context:
            raise ContextError("OSMesa refused to make an OpenGL context")
        self._buffer = (ctypes.c_ubyte * (4 * self._SIDE**2))()
        _publish(self._library)

    def make_current(self) -> None:
        side = self._SIDE
        if not self._library.OSMesaMakeCurrent(self._context, self._buffer, _GL_UNSIGNED_BYTE, side, side):
            raise ContextError("OSMesa refused to make its context current")

    def free(self) -> None:
        self._library.OSMesaDestroyContext(self._context)
