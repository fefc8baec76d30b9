# SPDX-License-Identifier: Apache-2.0
"""Operations of traffic engines: start DMA on a device, wait for it, and find the pages that changed.

`dma` makes all accesses of one device command: a program cannot be cut in the middle of a command, and a
command costs one record.  Its argument `effect` is for the judges of the trace; it is not used here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time

from .failure import Failure
from .ops_vfio import region_offset
from .slots import Context, libc

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS"]

_CHUNK_BYTES = 1 << 16
_MAX_RANGES = 65536
_WIDTHS = (1, 2, 4, 8)
_FIRST_PAUSE_S = 0.00005
_LONGEST_PAUSE_S = 0.005
_memcmp = libc.memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]


def _until(ctx: Context, get: Callable[[], int], mask: int, value: int, timeout_ms: int) -> tuple[bool, int]:
    """Call `get` until its result has `value` under `mask`; return (whether it had, the last result).

    Give up after `timeout_ms`, or shortly before the program's own deadline.
    """
    end = time.monotonic() + min(timeout_ms / 1000.0, max(0.0, ctx.remaining_s() - 0.2))
    pause = _FIRST_PAUSE_S
    while True:
        seen = get()
        if seen & mask == value:
            return True, seen
        if time.monotonic() >= end:
            return False, seen
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def _unpack(width: int, data: bytes) -> int:
    if len(data) < width:
        raise OSError(errno.EIO, "short read")
    return int.from_bytes(data, sys.byteorder)


def _width(width: int) -> int:
    if width not in _WIDTHS:
        raise Failure("usage", "width=%r is not 1, 2, 4 or 8" % (width,))
    return width


def _region_getter(fd: int, at: int, width: int) -> Callable[[], int]:
    return lambda: _unpack(width, os.pread(fd, width, at))


def _mem_getter(ctx: Context, mem: str, off: int, width: int) -> Callable[[], int]:
    address = ctx.maps[mem].at(off, width)
    return lambda: _unpack(width, ctypes.string_at(address, width))


def region_poll(ctx: Context, a: dict[str, Any]) -> Any:
    """Read a register until it has `value` under `mask`; `done` says whether it had in time."""
    fd, width = ctx.fds[a["fd"]], _width(a["width"])
    get = _region_getter(fd, region_offset(fd, a["region"]) + a["off"], width)
    done, seen = _until(ctx, get, a["mask"], a["value"], a["timeout_ms"])
    return {"done": done, "value": seen}


def mem_poll(ctx: Context, a: dict[str, Any]) -> Any:
    """Like `region_poll`, on memory that the device writes; with `not`, until it is no longer `value`."""
    width = _width(a["width"])
    get = _mem_getter(ctx, a["mem"], a.get("off", 0), width)
    if a.get("differs"):
        inner, mask, value = get, a["mask"], a["value"]
        done, _ = _until(ctx, lambda: int(inner() & mask != value), 1, 1, a["timeout_ms"])
        return {"done": done, "value": inner()}
    done, seen = _until(ctx, get, a["mask"], a["value"], a["timeout_ms"])
    return {"done": done, "value": seen}


def mem_fill(ctx: Context, a: dict[str, Any]) -> Any:
    """Fill memory with one byte value, so that `mem_dirty` can find what the device wrote."""
    mapping = ctx.maps[a["mem"]]
    count = a.get("n", mapping.length - a.get("off", 0))
    ctypes.memset(mapping.at(a.get("off", 0), count), a["value"] & 0xFF, count)
    return {"n": count}


def mem_dirty(ctx: Context, a: dict[str, Any]) -> Any:
    """Find the pages that differ from the fill `value`: `pages` is how many, `ranges` [first page, count].

    Pages are counted from `off`.  `more` says that there are too many ranges to list.
    """
    mapping, page = ctx.maps[a["mem"]], a.get("page", 4096)
    off = a.get("off", 0)
    count = a.get("n", mapping.length - off)
    if page <= 0 or count % page:
        raise Failure("usage", "mem_dirty: n=%d is no multiple of page=%d" % (count, page))
    address = mapping.at(off, count)
    step = max(page, _CHUNK_BYTES // page * page)
    clean = bytes([a["value"] & 0xFF]) * min(step, count)
    ranges: list[list[int]] = []
    pages = 0
    for start in range(0, count, step):
        size = min(step, count - start)
        if not _memcmp(address + start, clean, size):
            continue
        for at in range(start, start + size, page):
            if _memcmp(address + at, clean, page):
                pages += 1
                if ranges and sum(ranges[-1]) == at // page:
                    ranges[-1][1] += 1
                else:
                    ranges.append([at // page, 1])
    return {"pages": pages, "ranges": ranges[:_MAX_RANGES], "more": len(ranges) > _MAX_RANGES}


def dma(ctx: Context, a: dict[str, Any]) -> Any:
    """Make a device do DMA: do `steps` in order; `done` says whether every wait among them succeeded.

    Steps: ["reg", region, off, hex], ["mem", slot, off, hex], ["wait", region, off, width, mask, value,
    timeout_ms], ["memwait", slot, off, width, mask, value, timeout_ms], ["get", region, off, width].
    `value` is what the last wait saw, `values` what each get read.  If an access fails, its errno is the
    operation's.
    """
    fd = ctx.fds[a["fd"]]
    bases: dict[int, int] = {}
    last, values = 0, []
    for step in a["steps"]:
        try:
            kind, where, off = step[0], step[1], step[2]
            if kind in ("reg", "wait", "get") and where not in bases:
                bases[where] = region_offset(fd, where)
            if kind == "reg":
                data = bytes.fromhex(step[3])
                if os.pwrite(fd, data, bases[where] + off) != len(data):
                    raise OSError(errno.EIO, "short write")
            elif kind == "mem":
                data = bytes.fromhex(step[3])
                ctypes.memmove(ctx.maps[where].at(off, len(data)), data, len(data))
            elif kind == "get":
                values.append(_region_getter(fd, bases[where] + off, _width(step[3]))())
            elif kind in ("wait", "memwait"):
                width, mask, value, timeout_ms = _width(step[3]), step[4], step[5], step[6]
                get = (
                    _region_getter(fd, bases[where] + off, width)
                    if kind == "wait"
                    else _mem_getter(ctx, where, off, width)
                )
                done, last = _until(ctx, get, mask, value, timeout_ms)
                if not done:
                    return {"done": False, "value": last, "values": values}
            else:
                raise Failure("usage", "dma: steps: %r is not reg, mem, wait, memwait or get" % (kind,))
        except (TypeError, ValueError, IndexError, KeyError):
            raise Failure("usage", "dma: steps: %r is malformed" % (step,)) from None
    return {"done": True, "value": last, "values": values}


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "region_poll": region_poll, "mem_poll": mem_poll, "mem_fill": mem_fill, "mem_dirty": mem_dirty,
    "dma": dma,
}  # fmt: skip
