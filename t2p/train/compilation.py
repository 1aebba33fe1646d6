"""Compiling: programs kept in the workdir, so that a restart does not compile again, and memory given back."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache as cache

from t2p.io import PathLike, is_remote
from t2p.train.logging import say

_SETTING = "jax_compilation_cache_dir"


@contextmanager
def kept_programs(workdir: PathLike, wanted: bool = True) -> Iterator[None]:
    """Inside, compiled programs are read from and written to workdir/xla, unless JAX has such a folder already
    (JAX_COMPILATION_CACHE_DIR). What lies there is run as code: a local folder is made for this user alone, and one
    that others can write to is not used."""
    folder = epath.Path(workdir) / "xla" / _machine()
    if not wanted or getattr(jax.config, _SETTING) or not (is_remote(workdir) or _private(Path(str(folder)))):
        yield
        return
    _use(str(folder))
    try:
        yield
    finally:
        _use(None)


def lean(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiled, and the memory that compiling took given back: XLA frees hundreds of MiB in pieces that glibc would
    keep for more of their kind, beside the arrays that are to come."""
    compiled = lowered.compile()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return compiled


def _use(folder: str | None) -> None:
    cache.reset_cache()  # it keeps the folder that it was first used with
    jax.config.update(_SETTING, folder)


def _private(folder: Path) -> bool:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    for path in (folder.parent, folder):
        found = path.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            say(f"WARNING: {path} can be written to by others: compiled programs are not kept (chmod go-w {path})")
            return False
    return True


def _machine() -> str:
    """The devices that programs are compiled for. A CPU's come with its instruction set: those of another CPU would
    crash, and JAX does not tell them apart."""
    backend = jax.default_backend()
    if backend != "cpu":
        return backend
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return "cpu-" + hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]
