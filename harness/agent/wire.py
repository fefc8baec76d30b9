# SPDX-License-Identifier: Apache-2.0
"""Frames on a pipe: 4-byte big-endian length, then UTF-8 JSON."""

from __future__ import annotations

import json
import os
import struct

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MAX_FRAME_BYTES", "EndOfStream", "decode", "encode", "read_exact", "read_frame", "write_all"]

MAX_FRAME_BYTES = 64 << 20

_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)


class EndOfStream(Exception):
    """The peer closed the stream; `partial_bytes` is how many bytes of an unfinished frame had arrived."""

    def __init__(self, partial_bytes: int) -> None:
        super().__init__("end of stream after %d bytes of a frame" % partial_bytes)
        self.partial_bytes = partial_bytes


def encode(message: Any) -> bytes:
    """Return `message` as one frame; ValueError when it would be larger than `MAX_FRAME_BYTES`."""
    body = _encoder.encode(message).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError("frame of %d bytes is larger than the %d allowed" % (len(body), MAX_FRAME_BYTES))
    return struct.pack(">I", len(body)) + body


def decode(body: bytes) -> Any:
    """Return the JSON value in a frame's body; ValueError when it is not JSON."""
    return json.loads(body.decode("utf-8"))


def read_exact(fd: int, count: int) -> bytes:
    """Read exactly `count` bytes from `fd`; `EndOfStream` when it ends earlier."""
    data = os.read(fd, count)
    if len(data) == count:
        return data
    parts = [data]
    have = len(data)
    while data and have < count:
        data = os.read(fd, min(count - have, 1 << 20))
        parts.append(data)
        have += len(data)
    if have < count:
        raise EndOfStream(have)
    return b"".join(parts)


def read_frame(fd: int) -> bytes:
    """Read one frame's body from `fd`; ValueError when it is too long, `EndOfStream` at the end."""
    (length,) = struct.unpack(">I", read_exact(fd, 4))
    if length > MAX_FRAME_BYTES:
        raise ValueError("frame length %d is larger than the %d allowed" % (length, MAX_FRAME_BYTES))
    return read_exact(fd, length)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`, however short the single writes are."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
