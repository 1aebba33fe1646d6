"""Files: atomic writes, JSON, remote paths (local or any that etils.epath knows, such as gs://), foreign weights.

A file written here either holds everything or is not there: bytes go to a neighbour first and are renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import re
import shutil
import tempfile
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from etils import epath

PathLike = str | os.PathLike


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what was given, what was expected, what to do."""


def is_remote(path: PathLike) -> bool:
    """True for gs://, s3:// and the like."""
    return "://" in os.fspath(path)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a whole file or none: a neighbour is written, synced and renamed over `path`."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        if is_remote(path):
            partial.write_bytes(data)
        else:
            with open(partial, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: PathLike, value: Any) -> None:
    """Writes JSON with sorted keys, so that equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: PathLike) -> Any:
    """Reads JSON; a file that is not JSON is a ValueError that names it."""
    text = epath.Path(path).read_text()
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is not valid JSON ({e}); was its writing cut off?") from e


def read_json_lines(path: PathLike) -> list[dict[str, Any]]:
    """The objects of a log, one per line, [] without a file; lines cut off while being written are left out."""
    file, found = epath.Path(path), []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def publish(local: PathLike, path: PathLike) -> None:
    """Moves a finished local file to `path` (local or remote) so that it appears there whole."""
    if is_remote(path):
        target = epath.Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
        epath.Path(local).copy(partial)
        partial.replace(target)
        os.unlink(local)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(local, "rb") as f:
        os.fsync(f.fileno())
    shutil.move(local, path)  # one rename where both lie on one file system


def local_copy(path: PathLike, cache: PathLike | None = None) -> Path:
    """A local path with the content of `path`: itself, or a copy in `cache` named by path, size and time."""
    if not is_remote(path):
        return Path(path)
    source = epath.Path(path)
    stat = source.stat()
    key = hashlib.sha256(f"{path}|{stat.length}|{stat.mtime}".encode()).hexdigest()[:24]
    folder = Path(cache) if cache else Path(tempfile.gettempdir()) / f"t2p-cache-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"{key}-{source.name}"
    if not target.exists():
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        source.copy(partial)
        os.replace(partial, target)
    return target


def cache_folder() -> Path:
    """t2p/ in the user's cache directory (XDG): $XDG_CACHE_HOME if that is an absolute path, else ~/.cache."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "t2p"


# Reading weights that others wrote. Nothing below runs code from a file: pickles are read by an unpickler that
# knows a short list of names and has its own harmless stand-in for each.

_TORCH_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}
# Where training scripts put the weights in a checkpoint that holds more than weights.
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "params")
ByteOrder = Literal["<", ">"]


class _Global:
    """What a pickle gets for a name of the allow-list: callable, and closed to the BUILD instruction."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]):
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __setstate__(self, state: Any) -> None:
        raise UserError("the pickle tries to change a class")


class _Dtype:
    """Stands in for a NumPy dtype of plain numbers, or of Python objects."""

    def __init__(self, spec: Any, *_: Any):
        if not isinstance(spec, str) or not re.fullmatch(r"[<>|=]?([fiubc]\d+|b1|\?|O8?|[US]\d+)", spec):
            raise UserError(f"array type {spec!r} is not read; expected plain numbers")
        self.value = np.dtype(spec)

    def __setstate__(self, state: tuple) -> None:
        if any(part is not None for part in state[2:5]):
            raise UserError("structured arrays are not read; expected plain numbers")
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for a NumPy array; `value` is the array once its state has been read."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> np.ndarray:
    if dtype.value.hasobject:
        flat = np.empty(len(data), object)
        flat[:] = list(data)
    else:
        flat = np.frombuffer(data, dtype.value)
    if flat.size != math.prod(shape) or min(shape, default=0) < 0:
        raise UserError(f"an array of shape {shape} holds {flat.size} elements; was the file cut off?")
    return flat.reshape(shape, order=order)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise UserError(f"the pickle asks for the codec {encoding!r}; only latin1 is allowed")
    return text.encode("latin1")


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2: a strided view of a storage, which must lie inside it."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise UserError(f"a tensor has storage offset {offset}, size {size}, strides {stride}")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.size:
        raise UserError(f"a tensor of size {size} reaches beyond its storage of {storage.size} elements")
    strides = [s * storage.itemsize for s in stride]
    start = storage[offset:] if math.prod(size) else storage[:0]
    return np.lib.stride_tricks.as_strided(start, size, strides, writeable=False)


def _allowed() -> dict[str, Callable[..., Any]]:
    names: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": OrderedDict,
        "_codecs.encode": _latin1,
        "numpy.dtype": _Dtype,
        "numpy.ndarray": _Array,
        "torch.Size": tuple,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch.device": lambda *args: args,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = lambda *_: _Array()
        names[f"{core}.multiarray.scalar"] = lambda dtype, data: _array(data, dtype, ())[()]
        names[f"{core}.numeric._frombuffer"] = _array
    for builtins in ("builtins", "__builtin__"):
        names |= {f"{builtins}.{kind.__name__}": kind for kind in (set, frozenset, complex)}
        names[f"{builtins}.bytes"] = lambda: b""  # how protocol 2 writes empty data
    for name, dtype in _TORCH_DTYPES.items():
        names[f"torch.{name}"] = names[f"torch.storage.{name}"] = lambda dtype=dtype: dtype
    return names


class _Unpickler(pickle.Unpickler):
    """Refuses every name that is not on the allow-list; `storage(key, dtype, count)` reads a torch storage."""

    def __init__(self, stream: BinaryIO, storage: Callable[[str, str, int], np.ndarray] | None = None):
        super().__init__(stream)
        self._storage = storage
        self._allowed = _allowed()

    def find_class(self, module: str, name: str) -> _Global:
        """A stand-in for module.name, or UserError."""
        call = self._allowed.get(f"{module}.{name}")
        if call is None:
            raise UserError(
                f"it asks for {module}.{name}, which is not among the names that a file of arrays needs. Files can "
                "run code when they are unpickled, so it is not read. If you trust it, load it with the program "
                "that wrote it and save the arrays alone, e.g. as .npz or .safetensors"
            )
        return _Global(call)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A torch storage: pid = ("storage", type, key, device, number of elements)."""
        if self._storage is None or not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise UserError(f"it refers to {pid!r} outside the pickle")
        _, kind, key, _, count = pid
        dtype = kind() if isinstance(kind, _Global) else None
        if not isinstance(dtype, str):
            raise UserError("a tensor's storage has an unknown type")
        return self._storage(str(key), dtype, int(count))


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Arrays for stand-ins, through all containers; what is shared stays shared."""
    if id(value) in seen:
        return seen[id(value)]
    result = value
    if isinstance(value, _Array):
        result = _plain(value.value, seen)
    elif isinstance(value, _Dtype):
        result = value.value
    elif isinstance(value, dict):
        result = {key: _plain(v, seen) for key, v in dict.items(value)}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_plain(v, seen) for v in value)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        result = np.empty(value.shape, object)
        result.reshape(-1)[:] = [_plain(v, seen) for v in value.reshape(-1)]
    elif isinstance(value, _Global):
        raise UserError("it holds a class instead of arrays")
    seen[id(value)] = result
    return result


def _unpickle(stream: BinaryIO, path: PathLike, storage: Callable[..., np.ndarray] | None = None) -> Any:
    try:
        return _plain(_Unpickler(stream, storage).load(), {})
    except UserError as e:
        raise UserError(f"{path} is refused: {e}.") from e
    except Exception as e:  # a damaged pickle can raise anything
        raise UserError(f"{path} is not a whole pickle of arrays ({type(e).__name__}: {e})") from e


def load_npy_pickle(path: PathLike) -> dict:
    """The dict in an .npy file that np.save wrote (the container of TAPIR's published weights), nested as stored.

    Read by an unpickler that is restricted to arrays and containers; anything else is a UserError."""
    with open(local_copy(path), "rb") as f:
        try:
            version = np.lib.format.read_magic(f)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(f)
        except ValueError as e:
            raise UserError(f"{path} is not an .npy file ({e})") from e
        value = _unpickle(f, path) if dtype.hasobject and shape == () else None
    if not isinstance(value, np.ndarray) or not isinstance(value.item(), dict):
        raise UserError(f"{path} holds no dict of arrays but {dtype} of shape {shape}; expected a saved dict")
    return value.item()


def load_torch_zip(path: PathLike) -> Any:
    """What torch.save wrote to `path` (.pt, .pth, .ckpt), tensors as read-only NumPy arrays; without PyTorch.

    bfloat16 tensors become float32, which holds them exactly. The pickle inside is read by an unpickler that is
    restricted to tensors, arrays and containers; other content and PyTorch's format before 1.6 are a UserError."""
    local = local_copy(path)
    if not zipfile.is_zipfile(local):
        with open(local, "rb") as f:
            cut = f.read(2) == b"PK"
        raise UserError(
            f"{path} is a zip archive that was cut off; copy it again"
            if cut
            else f"{path} is not a zip archive as torch.save has written since PyTorch 1.6. If it is an older "
            "checkpoint, save it again: torch.save(torch.load(path, weights_only=True), path)"
        )
    with zipfile.ZipFile(local) as archive:
        return _read_torch(archive, path)


def _read_torch(archive: zipfile.ZipFile, path: PathLike) -> Any:
    names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(names) != 1:
        raise UserError(f"{path} is a zip archive without the data.pkl that torch.save writes")
    root = names[0].split("/")[0]
    order: ByteOrder = ">" if _member(archive, f"{root}/byteorder", b"little") == b"big" else "<"
    storages: dict[str, np.ndarray] = {}

    def storage(key: str, dtype: str, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = _storage_array(_member(archive, f"{root}/data/{key}"), dtype, count, order)
        return storages[key]

    try:
        return _unpickle(io.BytesIO(_member(archive, names[0])), path, storage)
    except zipfile.BadZipFile as e:
        raise UserError(f"{path} is damaged: {e}") from e


def _member(archive: zipfile.ZipFile, name: str, default: bytes | None = None) -> bytes:
    if name not in archive.NameToInfo:
        if default is None:
            raise UserError(f"the archive has no member {name}")
        return default
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # torch stores; a compressed one may be a bomb
        raise UserError(f"the archive's member {name} is compressed, which torch.save never does")
    return archive.read(name)


def _storage_array(data: bytes, dtype: str, count: int, order: ByteOrder) -> np.ndarray:
    kind = np.dtype("u2" if dtype == "bfloat16" else dtype).newbyteorder(order)
    if len(data) < count * kind.itemsize:
        raise UserError(f"a storage of {count} {dtype} elements has only {len(data)} bytes")
    values = np.frombuffer(data, kind, count)
    if dtype == "bfloat16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def load_arrays(path: PathLike) -> dict[str, np.ndarray]:
    """All arrays of a weights file, flat, nested names joined by "/".

    Reads .npz, .npy (a saved dict), .safetensors, and .pt, .pth, .ckpt, .bin (zip archives by torch.save). Of a
    training checkpoint only the weights are taken: the part under the first of state_dict, model_state_dict,
    model, params that holds arrays. Numbers, strings and None beside the arrays are left out. UserError for
    anything else."""
    suffix = Path(os.fspath(path)).suffix
    readers = {".npz": _load_npz, ".npy": load_npy_pickle, ".safetensors": _load_safetensors}
    readers |= dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), load_torch_zip)
    if suffix not in readers:
        raise UserError(f"{path}: cannot read {suffix or 'a file without suffix'}; expected {', '.join(readers)}")
    arrays = _flat(_weights(readers[suffix](path)))
    if not arrays:
        raise UserError(f"{path} holds no arrays")
    return arrays


def _weights(tree: Any) -> Any:
    for key in _WEIGHT_KEYS:
        if isinstance(tree, dict) and isinstance(tree.get(key), dict) and _flat(tree[key]):
            return tree[key]
    return tree


def _flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, np.ndarray):
        return {} if tree.dtype.hasobject else {prefix: tree}
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {}
    arrays: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        arrays |= _flat(value, f"{prefix}/{key}" if prefix else str(key))
    return arrays


def _load_npz(path: PathLike) -> dict[str, np.ndarray]:
    try:
        with np.load(local_copy(path), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is not a whole .npz of plain arrays ({e})") from e


def _load_safetensors(path: PathLike) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(local_copy(path))
    except SafetensorError as e:
        raise UserError(f"{path} is not a whole .safetensors file ({e})") from e
