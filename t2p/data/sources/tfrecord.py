"""TFRecord files without TensorFlow: u64 length, its checksum, the data, its checksum; checksums are masked CRC-32C."""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path

import numpy as np

_HEADER, _FOOTER = 12, 4
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed


def offsets(path: Path) -> list[int]:
    """Where each record begins. Reads only the headers; raises ValueError if the last record is cut off."""
    found, position, end = [], 0, os.path.getsize(path)
    with open(path, "rb") as f:
        while position < end:
            f.seek(position)
            found.append(position)
            position += _HEADER + _length(f.read(_HEADER), path, position) + _FOOTER
    if position != end:
        raise ValueError(f"{path.name} is cut off: record {len(found) - 1} needs {position - end} more bytes")
    return found


def read(path: Path, offset: int) -> bytes:
    """The record that begins at `offset`. Raises ValueError if its checksum is wrong."""
    with open(path, "rb") as f:
        f.seek(offset)
        length = _length(f.read(_HEADER), path, offset)
        data, footer = f.read(length), f.read(_FOOTER)
    if len(footer) < _FOOTER or struct.unpack("<I", footer)[0] != masked_crc32c(data):
        raise ValueError(f"{path.name} is damaged: the record at byte {offset} does not match its checksum")
    return data


def _length(header: bytes, path: Path, offset: int) -> int:
    if len(header) < _HEADER or struct.unpack("<I", header[8:])[0] != masked_crc32c(header[:8]):
        raise ValueError(f"{path.name} is damaged or no TFRecord file: no record header at byte {offset}")
    return struct.unpack("<Q", header[:8])[0]


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4).

    The register is linear over GF(2), so long data are cut into 2^k lanes that NumPy advances together; two
    neighbours are joined by advancing the left one over as many zero bytes as the right one is long.
    """
    if len(data) < 256:
        return _serial(data)
    levels = int(np.log2(len(data)) / 2)
    width = -(-len(data) >> levels)
    padded = np.zeros(width << levels, np.uint8)  # zeros in front leave an empty register empty
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[-len(data) : len(padded) - len(data) + 4] ^= 0xFF  # the register's first value, all ones
    lanes, table = np.zeros(1 << levels, np.uint32), _table()
    for column in np.ascontiguousarray(padded.reshape(1 << levels, width).T):
        lanes = table[(lanes ^ column) & 0xFF] ^ (lanes >> 8)
    advance = _zero_bytes(width)
    for _ in range(levels):
        lanes = _apply(advance, lanes[0::2]) ^ lanes[1::2]
        advance = _apply(advance, advance)
    return int(lanes[0]) ^ 0xFFFFFFFF


def _serial(data: bytes) -> int:
    register, table = 0xFFFFFFFF, _table()
    for byte in data:
        register = int(table[(register ^ byte) & 0xFF]) ^ register >> 8
    return register ^ 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    """[256]: what each byte leaves in an empty register."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


def _apply(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A 32x32 matrix over GF(2), given by its columns [32], times each register."""
    bits = registers[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(np.where(bits, matrix, np.uint32(0)), axis=1)


def _zero_bytes(count: int) -> np.ndarray:
    """Columns [32] of the matrix that advances a register over `count` zero bytes (by repeated squaring)."""
    one = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    result, step = one, _table()[one & 0xFF] ^ (one >> 8)
    while count:
        if count & 1:
            result = _apply(step, result)
        step, count = _apply(step, step), count >> 1
    return result
