# SPDX-License-Identifier: Apache-2.0
"""One operation for every ioctl of iommufd, of its lab-only test interface and of the type1 container.

`iommu` fills the kernel's struct by field names, so that a program is easy to read and a test of bad
arguments can set any field: `set` takes numbers and integer slots, `fds` descriptors, `mems` addresses of
mappings, `bufs` contents of buffers that live for the call.  Buffers lie between guard bytes, and the record
says whether the kernel left the guards alone.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import zlib
from base64 import b64decode, b64encode

from harness.uapi import iommufd, iommufd_test, vfio
from harness.uapi.layout import u32, u64

from .failure import Failure
from .ops_vfio import raw_ioctl
from .slots import Context
from .validation import MAX_IO_BYTES

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["COMMANDS", "OPS"]

_GUARD = 0xA5
_PAGE = mmap.PAGESIZE
_PLAIN_BYTES = 4096  # larger buffers are compressed on the wire
_COMMON = frozenset(["t", "i", "op", "ret", "errno", "t0", "dt"])
_MAX_TAIL = 1 << 16


def _flat(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    """Return a type1 struct with the fields of its flexible tail written out."""
    return type(name, (ctypes.Structure,), {"_fields_": [("argsz", u32), ("flags", u32), *fields]})


_bitmap = (("pgsize", u64), ("bitmap_size", u64), ("data", u64))
_TYPE1: dict[str, Any] = {
    "VFIO_IOMMU_GET_INFO": vfio.vfio_iommu_type1_info,
    "VFIO_IOMMU_MAP_DMA": vfio.vfio_iommu_type1_dma_map,
    "VFIO_IOMMU_UNMAP_DMA": _flat("unmap_bitmap", ("iova", u64), ("size", u64), *_bitmap),
    "VFIO_IOMMU_DIRTY_PAGES": _flat("dirty_bitmap", ("iova", u64), ("size", u64), *_bitmap),
}
_STRUCTS = {
    "IOMMU_GET_HW_INFO": "iommu_hw_info",
    "IOMMU_FAULT_QUEUE_ALLOC": "iommu_fault_alloc",
}


def _commands() -> dict[str, tuple[int, Any, int]]:
    """Name -> (ioctl number, struct, number of the test operation or 0)."""
    found: dict[str, tuple[int, Any, int]] = {}
    for name, number in iommufd.IOCTLS["iommufd"].items():
        found[name] = (number, getattr(iommufd, _STRUCTS.get(name, name.lower())), 0)
    for name, (operation, struct) in iommufd_test.TEST_OPS.items():
        found[name] = (iommufd_test.IOMMU_TEST_CMD, struct, operation)
    for name, struct in _TYPE1.items():
        found[name] = (vfio.IOCTLS["container"][name], struct, 0)
    return found


COMMANDS = _commands()
"""What `cmd` of the operation `iommu` may be."""


class _Buffer:
    """Memory for one pointer of a struct, guarded on both sides up to whole pages."""

    def __init__(self, content: Any, offset: int) -> None:
        data = _content(content)
        if not 0 <= offset < _PAGE:
            raise Failure("usage", "iommu: at: %r is not an offset within a page" % offset)
        self.start, self.length = _PAGE + offset, len(data)
        total = 2 * _PAGE + (offset + len(data) + _PAGE - 1) // _PAGE * _PAGE
        self._map = mmap.mmap(-1, total)
        self._map.write(bytes([_GUARD]) * total)
        self._map[self.start : self.start + self.length] = data
        self._view = (ctypes.c_uint8 * total).from_buffer(self._map)
        self.address = ctypes.addressof(self._view) + self.start

    def read(self) -> tuple[bytes, bool]:
        """Return the content and whether the guards are intact; the memory is freed."""
        everything = self._map[:]
        del self._view
        self._map.close()
        end = self.start + self.length
        around = everything[: self.start] + everything[end:]
        return everything[self.start : end], around == bytes([_GUARD]) * len(around)


def _content(content: Any) -> bytes:
    """Return the bytes that `"hex"`, `"z:base64 of zlib"` or a number (of zero bytes) stands for."""
    try:
        if isinstance(content, int) and not isinstance(content, bool):
            if not 0 <= content <= MAX_IO_BYTES:
                raise ValueError
            return bytes(content)
        if content.startswith("z:"):
            decoder = zlib.decompressobj()
            data = decoder.decompress(b64decode(content[2:]), MAX_IO_BYTES)
            if not decoder.eof:
                raise ValueError
            return data
        return bytes.fromhex(content)
    except (ValueError, AttributeError, zlib.error):
        raise Failure("usage", "iommu: bufs: %.60r is not hex, z:BASE64 or a number of bytes" % (content,))


def _wire(data: bytes) -> str:
    return data.hex() if len(data) <= _PLAIN_BYTES else "z:" + b64encode(zlib.compress(data, 1)).decode()


def _names(struct: Any) -> list[str]:
    names = []
    for name, kind in struct._fields_:
        if isinstance(kind, type) and issubclass(kind, ctypes.Union):
            names += [inner[0] for inner in kind._fields_]
        elif isinstance(kind, type) and issubclass(kind, ctypes.Array):
            continue
        else:
            names.append(name)
    return names


def _assign(request: Any, known: list[str], name: str, value: Any) -> None:
    if name not in known:
        raise Failure("usage", "iommu: %r is not a field; valid are %s" % (name, ", ".join(known)))
    if not isinstance(value, int) or isinstance(value, bool):
        raise Failure("usage", "iommu: %s=%.60r is not a number" % (name, value))
    setattr(request, name, value)  # ctypes keeps the low bits, as a C assignment does


def _place(ctx: Context, value: Any) -> int:
    """Return the address of `[mem slot, offset]`."""
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], int) and value[1] >= 0):
        raise Failure("usage", "iommu: mems: %.60r is not [slot, offset]" % (value,))
    return int(ctx.maps[value[0]].at(value[1], 0))


def _filled(ctx: Context, a: dict[str, Any], buffers: dict[str, _Buffer]) -> tuple[int, Any, list[str]]:
    command = COMMANDS.get(a["cmd"])
    if command is None:
        raise Failure("usage", "iommu: cmd=%.60r is not one of %s" % (a["cmd"], ", ".join(sorted(COMMANDS))))
    number, struct, operation = command
    request, known = struct(), _names(struct)
    setattr(request, known[0], ctypes.sizeof(struct))  # size or argsz
    if operation:
        request.op = operation
    for name, value in a.get("mems", {}).items():
        _assign(request, known, name, _place(ctx, value))
    for name, value in a.get("fds", {}).items():
        _assign(request, known, name, ctx.fds[value])
    for name, content in a.get("bufs", {}).items():
        buffers[name] = _Buffer(content, a.get("at", {}).get(name, 0))
        _assign(request, known, name, buffers[name].address)
    for name, value in a.get("set", {}).items():  # last, so that a test can spoil any field
        _assign(request, known, name, ctx.number(value))
    return number, request, known


def iommu(ctx: Context, a: dict[str, Any]) -> Any:
    """Make one ioctl; return the struct's fields as the kernel left them, `buf_FIELD` per buffer, `guard`."""
    buffers: dict[str, _Buffer] = {}
    number, request, known = _filled(ctx, a, buffers)
    raw = bytearray(request)
    size = getattr(request, known[0])
    # If the struct claims to be longer, make it so: only the claim is tested, not the memory behind it.
    tail = max(0, min(int(size), _MAX_TAIL) - len(raw))
    extra = bytes.fromhex(a.get("tail", ""))[:tail]
    raw += extra + bytes(tail - len(extra))
    raw += bytes(16)  # a struct that claims to be shorter keeps its length
    injected = None
    if "nth" in a:
        ret, error, injected = _short_of_memory(ctx.fds[a["fd"]], number, raw, a["nth"])
    else:
        ret, error = raw_ioctl(ctx.fds[a["fd"]], number, raw)
    answer = type(request).from_buffer_copy(bytes(raw[: len(bytearray(request))]))
    record: dict[str, Any] = {"ret": ret, "errno": error}
    if injected is not None:
        record["injected"] = injected
    for name in known:
        if not name.startswith("_"):
            record[name + "_" * (name in _COMMON)] = getattr(answer, name)
    if tail and not a["cmd"].startswith("IOMMU_"):
        record["tail"] = bytes(raw[ctypes.sizeof(type(request)) : size]).hex()
    for name in list(buffers):
        if name in a.get("set", {}):
            buffers[name].read()
            del buffers[name]
    results = {name: buffer.read() for name, buffer in buffers.items()}
    if results:
        record.update(("buf_" + name, _wire(data)) for name, (data, _) in results.items())
        record["guard"] = all(intact for _, intact in results.values())
    if not error:
        _keep(ctx, a, record)
    return record


def _short_of_memory(fd: int, number: int, raw: bytearray, nth: int) -> tuple[int, int, bool]:
    """Make the ioctl with its n-th allocation failing (fail-nth); the last value says whether one failed."""
    knob = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(knob, b"%d" % nth, 0)
        try:
            ret, error = raw_ioctl(fd, number, raw)
            left = os.pread(knob, 20, 0)
        finally:
            os.pwrite(knob, b"0", 0)
    finally:
        os.close(knob)
    return ret, error, left.strip() in (b"", b"0")


def _keep(ctx: Context, a: dict[str, Any], record: dict[str, Any]) -> None:
    for slot, name in a.get("outs", {}).items():
        field, _, part = name.partition("[")
        value = record[field]
        if part:  # of a buffer: "buf_data_uptr[8:16]"
            first, _, last = part.rstrip("]").partition(":")
            value = int.from_bytes(_content(value)[int(first) : int(last)], "little")
        ctx.ints[slot] = value
    for slot, name in a.get("out_fds", {}).items():
        ctx.slots.put_fd(slot, record[name])


def pinned_memory(ctx: Context, a: dict[str, Any]) -> Any:
    """Memory that the process has locked and pinned, in KiB: VmLck and VmPin of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return {"locked_kib": int(fields["VmLck"].split()[0]), "pinned_kib": int(fields["VmPin"].split()[0])}


def rlimit_memlock(ctx: Context, a: dict[str, Any]) -> Any:
    """Set the soft RLIMIT_MEMLOCK of this process, in bytes; return the old one (-1: unlimited)."""
    import resource  # slow to import, and seldom needed

    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (a["bytes"], hard))
    return {"was": soft}


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "iommu": iommu, "pinned_memory": pinned_memory, "rlimit_memlock": rlimit_memlock,
}  # fmt: skip
