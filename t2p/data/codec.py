"""Bytes of one record <-> arrays and images. Nothing is unpickled, and every size is checked before it is believed.

Arrays are msgpack maps {dtype (little-endian), shape, data}; booleans that matter for size are bit-packed.
Frames are JPEG (quality 95, full colour resolution) or PNG (lossless).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgpack
import numpy as np
import simplejpeg
from PIL import Image

ImageCodec = Literal["jpeg", "png"]
IMAGE_CODECS: tuple[str, ...] = ("jpeg", "png")
JPEG_QUALITY = 95
PNG_LEVEL = 3  # a third of the time of the default level for a few per cent of size

_DTYPE = re.compile(r"<[iuf][248]|\|[iu]1|\|b1")


class CodecError(ValueError):
    """Bytes that do not hold what they should."""


def pack(value: Mapping[str, Any]) -> bytes:
    """A map of strings, numbers, lists, bytes and packed arrays -> msgpack bytes."""
    return msgpack.packb(value, use_bin_type=True)


def unpack(data: bytes) -> dict[str, Any]:
    """The inverse of `pack`; anything but a map with string keys is a CodecError."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as e:  # msgpack raises a different class for each way in which bytes can be wrong
        raise CodecError(f"not a msgpack record ({type(e).__name__}: {e})") from e
    if not isinstance(value, dict):
        raise CodecError(f"expected a map, found {type(value).__name__}")
    return value


def pack_array(array: np.ndarray) -> dict[str, Any]:
    """A boolean, integer or floating array -> {dtype, shape, data}, little-endian, C order."""
    array = np.asarray(array)
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if not _DTYPE.fullmatch(little.dtype.str):
        raise CodecError(f"arrays of dtype {array.dtype} are not stored; use bool, int, uint or float")
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": little.tobytes()}


def unpack_array(value: Any) -> np.ndarray:
    """The inverse of `pack_array`; the result is read-only and shares the record's memory."""
    dtype, shape, data = (_entry(value, key, kind) for key, kind in (("dtype", str), ("shape", list), ("data", bytes)))
    if not _DTYPE.fullmatch(dtype):
        raise CodecError(f"unknown dtype {dtype!r}")
    size = _count(shape) * np.dtype(dtype).itemsize
    if size != len(data):
        raise CodecError(f"array {dtype} {shape} needs {size} bytes, the record holds {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def pack_bits(flags: np.ndarray) -> dict[str, Any]:
    """A bool array -> {shape, bits}, eight flags in a byte."""
    flags = np.asarray(flags)
    if flags.dtype != bool:
        raise CodecError(f"expected a bool array, got {flags.dtype}")
    return {"shape": list(flags.shape), "bits": np.packbits(flags).tobytes()}


def unpack_bits(value: Any) -> np.ndarray:
    """The inverse of `pack_bits`."""
    shape, bits = _entry(value, "shape", list), _entry(value, "bits", bytes)
    count = _count(shape)
    if len(bits) != -(-count // 8):
        raise CodecError(f"flags {shape} need {-(-count // 8)} bytes, the record holds {len(bits)}")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).view(bool).reshape(shape)


def encode_image(image: np.ndarray, codec: ImageCodec) -> bytes:
    """uint8 [H, W, 3] -> the bytes of a JPEG or PNG file."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise CodecError(f"expected a uint8 [H, W, 3] image, got {image.dtype} {list(image.shape)}")
    if codec == "jpeg":
        image = np.ascontiguousarray(image)
        return simplejpeg.encode_jpeg(image, JPEG_QUALITY, colorspace="RGB", colorsubsampling="444", fastdct=False)
    if codec == "png":
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG", compress_level=PNG_LEVEL)
        return out.getvalue()
    raise CodecError(f"unknown image codec {codec!r}; expected one of {', '.join(IMAGE_CODECS)}")


def decode_image(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The bytes of a JPEG or PNG -> uint8 [H, W, 3]. The header must say `size` = (H, W) before pixels are decoded."""
    try:
        image = _decode_jpeg(data, size) if data[:2] == b"\xff\xd8" else _decode_png(data, size)
    except CodecError:
        raise
    except Exception as e:  # each library raises its own classes
        raise CodecError(f"cannot decode the image ({type(e).__name__}: {e})") from e
    return image


def _decode_jpeg(data: bytes, size: tuple[int, int]) -> np.ndarray:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    _expect_size((height, width), size)
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)


def _decode_png(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _expect_size((image.height, image.width), size)
        if image.mode != "RGB":
            raise CodecError(f"expected an RGB image, found mode {image.mode}")
        return np.array(image)


def _expect_size(found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != tuple(size):
        raise CodecError(f"the image is {found[0]} x {found[1]} pixels, expected {size[0]} x {size[1]}")


def _entry(value: Any, key: str, kind: type) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise CodecError(f"expected {key!r} as {kind.__name__}, found {type(found).__name__}")
    return found


def _count(shape: list) -> int:
    if not all(type(n) is int and n >= 0 for n in shape):
        raise CodecError(f"bad shape {shape}")
    return math.prod(shape)
