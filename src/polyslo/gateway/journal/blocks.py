"""How a journal's bytes are framed: blocks with checksums, each written whole, so that damage is found and bounded.

    file    = MAGIC, block ...
    block   = kind u8, stored bytes u64, raw bytes u64, CRC-32 of what is stored u32, CRC-32 of the fields before u32,
              then what is stored: the payload, deflated (zlib)

The fields have a checksum of their own: a length that was damaged would else look like a file that was cut off.
Little-endian. Source: ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

from polyslo.errors import InputError

MAGIC = b"polyslo journal\n"
HEAD, STATE, RECORDS = 1, 2, 3  # kinds of blocks
_FIELDS = Struct("<BQQI")
_CHECK = Struct("<I")
FIELD_BYTES = _FIELDS.size + _CHECK.size
MOST_RAW_BYTES = 1 << 34  # of a block; more is damage
_LEVEL = 1  # of zlib: half the bytes of level 0's lead at a tenth of the time of the best


class DamagedError(InputError):
    """A block is not what was written; what stands before it is good."""


class CutOffError(InputError):
    """The file ends within a block: what wrote it was killed, or the disk was full."""


def encode_block(kind: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Return a block's bytes."""
    stored = zlib.compress(payload, _LEVEL)
    fields = _FIELDS.pack(kind, len(stored), len(payload), zlib.crc32(stored))
    return fields + _CHECK.pack(zlib.crc32(fields)) + stored


def read_blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, payload) of each block, the file at its start.

    Raises `InputError` for a file that is no journal, `CutOffError` and `DamagedError` where the good part ends.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise InputError("not a journal of polyslo: it does not begin as one; name a file that [journal] wrote")
    while True:
        at = file.tell()
        fields = file.read(FIELD_BYTES)
        if not fields:
            return
        yield _read_block(file, fields, at)


def _read_block(file: BinaryIO, fields: bytes, at: int) -> tuple[int, bytes]:
    if len(fields) < FIELD_BYTES:
        raise CutOffError(f"cut off at byte {at:,}")
    (check,) = _CHECK.unpack_from(fields, _FIELDS.size)
    kind, stored_bytes, raw_bytes, stored_check = _FIELDS.unpack_from(fields)
    if zlib.crc32(fields[: _FIELDS.size]) != check or raw_bytes > MOST_RAW_BYTES:
        raise DamagedError(f"damaged at byte {at:,}: the block's fields don't have their checksum")
    stored = _read_up_to(file, stored_bytes)
    if len(stored) < stored_bytes:
        raise CutOffError(f"cut off at byte {at:,}")
    if zlib.crc32(stored) != stored_check:
        raise DamagedError(f"damaged in the block at byte {at:,}: it does not have its checksum")
    return kind, _inflate(stored, raw_bytes, at)


def _read_up_to(file: BinaryIO, num_bytes: int) -> bytes:
    """Read in pieces: what a file claims to hold is not allocated before it is there."""
    pieces, left = [], num_bytes
    while left > 0 and (piece := file.read(min(left, 1 << 24))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _inflate(stored: bytes, raw_bytes: int, at: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        payload = inflater.decompress(stored, raw_bytes + 1)
    except zlib.error as error:
        raise DamagedError(f"damaged in the block at byte {at:,}: {error}") from error
    if len(payload) != raw_bytes:
        raise DamagedError(f"damaged in the block at byte {at:,}: expected {raw_bytes:,} bytes, got {len(payload):,}")
    return payload
