# SPDX-License-Identifier: Apache-2.0
"""Operations on memory of the agent: mmap of fds, anonymous memory for DMA, reads and writes of both.

A revoked or absent mapping raises SIGBUS, which kills Python.  So memory is copied through a pipe, where the
kernel answers EFAULT instead, and accesses of a given width are made in a child process.
"""

from __future__ import annotations

import ctypes
import errno
import mmap as mmap_module
import os
import sys

from .digest import sha256_hex
from .failure import Failure
from .ops_vfio import region_offset
from .slots import Context, Mapping, libc, libc_error

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS"]

_PIPE_BYTES = 4096  # never more than a pipe holds without a reader
_PROT = {"READ": 1, "WRITE": 2, "EXEC": 4}
_FLAGS = {
    "SHARED": 1, "PRIVATE": 2, "ANONYMOUS": 0x20, "NORESERVE": 0x4000, "POPULATE": 0x8000, "HUGETLB": 0x40000,
}  # fmt: skip
_WIDTHS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


def _bits(names: list[str], table: dict[str, int], what: str) -> int:
    value = 0
    for name in names:
        if name not in table:
            raise Failure("usage", "mmap: %s: %r is not one of %s" % (what, name, ", ".join(table)))
        value |= table[name]
    return value


def mmap(ctx: Context, a: dict[str, Any]) -> Any:
    count = a["n"]
    fd = ctx.fds[a["fd"]] if "fd" in a else -1
    off = ctx.ints[a["off_from"]] if "off_from" in a else a.get("off", 0)
    off += region_offset(fd, a["region"]) if "region" in a else 0
    prot = _bits(a.get("prot", ["READ", "WRITE"]), _PROT, "prot")
    # Shared even without a file, so that writes by a child (accesses of a given width) are seen here.
    flags = _bits(a.get("flags", ["SHARED"] if "fd" in a else ["SHARED", "ANONYMOUS"]), _FLAGS, "flags")
    align = a.get("align", 0)
    if align & (align - 1):
        raise Failure("usage", "mmap: align=%d is not a power of two" % align)
    total = count + (align if "fd" not in a else 0)
    base = libc.mmap(None, total, prot, flags, fd, off if off < 1 << 63 else off - (1 << 64))
    if base is None or base == ctypes.c_void_p(-1).value:
        raise libc_error()
    address = (base + align - 1) & ~(align - 1) if align and "fd" not in a else base
    old = ctx.maps.pop(a["out"], None)
    if old is not None:
        libc.munmap(old.base, old.total)
    ctx.maps[a["out"]] = Mapping(address, count, base, total)
    return {"aligned": address % (align or mmap_module.PAGESIZE) == 0}


def munmap(ctx: Context, a: dict[str, Any]) -> Any:
    mapping = ctx.maps[a["mem"]]
    del ctx.maps[a["mem"]]
    if libc.munmap(mapping.base, mapping.total):
        raise libc_error()


def ioctl_readonly(ctx: Context, a: dict[str, Any]) -> Any:
    """Make an ioctl on a struct that the kernel can read but not write; `fds` puts descriptors into it."""
    data = bytearray.fromhex(a["buf"])
    for item in a.get("fds", []):
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], int)):
            raise Failure("usage", "ioctl_readonly: fds: %r is not [offset, slot]" % (item,))
        if not 0 <= item[0] <= len(data) - 4:
            raise Failure("usage", "ioctl_readonly: offset %d is outside the struct" % item[0])
        data[item[0] : item[0] + 4] = ctx.fds[item[1]].to_bytes(4, sys.byteorder, signed=True)
    size = -(-max(1, len(data)) // mmap_module.PAGESIZE) * mmap_module.PAGESIZE
    base = libc.mmap(None, size, 3, _FLAGS["PRIVATE"] | _FLAGS["ANONYMOUS"], -1, 0)
    if base is None or base == ctypes.c_void_p(-1).value:
        raise libc_error()
    try:
        ctypes.memmove(base, bytes(data), len(data))
        if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), _PROT["READ"]):
            raise libc_error()
        fd, number = ctypes.c_int(ctx.fds[a["fd"]]), ctypes.c_ulong(a["nr"])
        if libc.ioctl(fd, number, ctypes.c_void_p(base)) < 0:
            raise libc_error()
    finally:
        libc.munmap(base, size)


def memfd(ctx: Context, a: dict[str, Any]) -> Any:
    fd = libc.memfd_create(b"vfiocert", 1)
    if fd < 0:
        raise libc_error()
    ctx.slots.put_fd(a["out"], fd)
    os.ftruncate(fd, a.get("size", 0))


def _copy_out(address: int, count: int) -> bytes:
    reader, writer = os.pipe()
    try:
        parts = []
        for off in range(0, count, _PIPE_BYTES):
            size = min(_PIPE_BYTES, count - off)
            wrote = libc.write(writer, address + off, size)
            if wrote < 0:
                raise libc_error()
            parts.append(os.read(reader, wrote))
            if wrote < size:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return b"".join(parts)
    finally:
        os.close(reader)
        os.close(writer)


def _copy_in(address: int, data: bytes) -> None:
    reader, writer = os.pipe()
    try:
        for off in range(0, len(data), _PIPE_BYTES):
            part = data[off : off + _PIPE_BYTES]
            os.write(writer, part)
            done = libc.read(reader, address + off, len(part))
            if done < 0:
                raise libc_error()
            if done < len(part):
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    finally:
        os.close(reader)
        os.close(writer)


def _in_child(width: int, address: int, count: int, data: bytes | None) -> bytes:
    """Read (data None) or write in units of `width` bytes in a child; EFAULT if a SIGBUS kills it."""
    unit = _WIDTHS.get(width)
    if unit is None or count % width:
        raise Failure(
            "usage", "width=%d is not 1, 2, 4 or 8, or %d bytes are no multiple of it" % (width, count)
        )
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            out = b""
            for off in range(0, count, width):
                cell = unit.from_address(address + off)
                if data is None:
                    out += bytes(cell)
                else:
                    cell.value = int.from_bytes(data[off : off + width], sys.byteorder)
            os.write(writer, out)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        parts = []
        while True:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            parts.append(part)
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if status != 0:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return b"".join(parts)


def mem_read(ctx: Context, a: dict[str, Any]) -> Any:
    address, width = ctx.maps[a["mem"]].at(a.get("off", 0), a["n"]), a.get("width", 0)
    data = _in_child(width, address, a["n"], None) if width else _copy_out(address, a["n"])
    return {
        "ret": len(data),
        "n": len(data),
        "hex": data[:65536].hex(),
        "sha256": sha256_hex(data),
    }


def mem_write(ctx: Context, a: dict[str, Any]) -> Any:
    data = bytes.fromhex(a["hex"])
    address = ctx.maps[a["mem"]].at(a.get("off", 0), len(data))
    if a.get("width"):
        _in_child(a["width"], address, len(data), data)
    else:
        _copy_in(address, data)
    return {"ret": len(data), "n": len(data)}


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "mmap": mmap, "munmap": munmap, "memfd": memfd,
    "ioctl_readonly": ioctl_readonly, "mem_read": mem_read, "mem_write": mem_write,
}  # fmt: skip
