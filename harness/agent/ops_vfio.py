# SPDX-License-Identifier: Apache-2.0
"""Operations on VFIO devices: open, bind, features, migration state, regions, interrupts.

Every function takes the context and the validated arguments and returns the record's result fields, or None.
An OSError becomes `ret: -1` with its errno; if the kernel writes something back on failure too, the function
catches the OSError itself and returns both.
"""

from __future__ import annotations

import ctypes
import errno
import os
from fcntl import F_GETFD, FD_CLOEXEC, fcntl, ioctl

from harness.uapi import vfio
from harness.uapi.layout import s32, u64

from .digest import sha256_hex
from .failure import Failure
from .features import DataSizeRequest, FdRequest
from .slots import Context

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS", "raw_ioctl", "region_offset"]

_FEATURE = vfio.VFIO_DEVICE_FEATURE
_SET_STATE = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
_GET_STATE = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
_NO_FD_YET = -2
_MAX_INFO_BYTES = 1 << 20


def raw_ioctl(fd: int, number: int, buffer: bytearray | ctypes.Structure) -> tuple[int, int]:
    """Make an ioctl on a buffer or struct, which then holds what the kernel wrote; return (ret, errno)."""
    try:
        return ioctl(fd, number, buffer, True), 0
    except OSError as e:
        return -1, e.errno or errno.EIO


def patch_pointers(ctx: Context, buffer: bytearray, base: int, ptrs: list[Any]) -> None:
    """Write mapping addresses into `buffer`; each of `ptrs` is [offset from base, mem slot, offset in it]."""
    for item in ptrs:
        if not (
            isinstance(item, list)
            and len(item) == 3
            and isinstance(item[0], int)
            and isinstance(item[2], int)
        ):
            raise Failure("usage", "ptrs: %r is not [offset, slot, offset in the mapping]" % (item,))
        at, name, off = item
        if at < 0 or base + at + 8 > len(buffer) or off < 0:
            raise Failure(
                "usage", "ptrs: offset %r is outside the payload of %d bytes" % (at, len(buffer) - base)
            )
        buffer[base + at : base + at + 8] = bytes(u64(ctx.maps[name].at(off, 0)))


def _open(path: str, flags: list[str] | None) -> int:
    number = 0
    for flag in flags if flags is not None else ["O_RDWR", "O_CLOEXEC"]:
        value = getattr(os, flag, None) if flag.startswith("O_") else None
        if value is None:
            raise Failure("usage", "flags: %r is not an open flag such as O_RDWR" % flag)
        number |= value
    fd = os.open(path, number)
    if not number & os.O_CLOEXEC:
        os.set_inheritable(fd, True)  # Python adds O_CLOEXEC by itself
    return fd


def open_path(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.put_fd(a["out"], _open(a["path"], a.get("flags", ["O_RDONLY"])))


def _device_path(ctx: Context, a: dict[str, Any], key: str) -> str:
    path = ctx.device(a["dev"]).get(key)
    if not path:  # this device has none: the same answer as a node that is absent
        raise OSError(errno.ENOENT, "device %s has no %s" % (a["dev"], key))
    return str(path)


def open_cdev(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.put_fd(a["out"], _open(_device_path(ctx, a, "cdev"), a.get("flags")))


def open_group(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.put_fd(a["out"], _open(_device_path(ctx, a, "group"), a.get("flags")))


def bind(ctx: Context, a: dict[str, Any]) -> Any:
    # 16 bytes are the struct before token_uuid_ptr was added, which every kernel accepts.
    token = bytes.fromhex(a.get("token", ""))
    size, flags = (24, vfio.VFIO_DEVICE_BIND_FLAG_TOKEN) if token else (16, 0)
    uuid = ctypes.create_string_buffer(token, 16)
    request = vfio.vfio_device_bind_iommufd(
        argsz=a.get("argsz", size), flags=a.get("flags", flags), iommufd=ctx.fds[a["iommufd"]],
        token_uuid_ptr=ctypes.addressof(uuid) if token else 0,
    )  # fmt: skip
    buffer = _with_room(request, request.argsz)
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_BIND_IOMMUFD, buffer)
    devid = vfio.vfio_device_bind_iommufd.from_buffer(buffer).out_devid
    if not error and "out" in a:
        ctx.ints[a["out"]] = devid
    return {"ret": ret, "errno": error, "devid": devid}


def attach(ctx: Context, a: dict[str, Any]) -> Any:
    size = a.get("argsz", 16 if "pasid" in a else 12)
    request = vfio.vfio_device_attach_iommufd_pt(
        argsz=size, flags=a.get("flags", 0), pt_id=ctx.number(a["pt"]), pasid=a.get("pasid", 0)
    )
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, request)
    return {"ret": ret, "errno": error, "pt": request.pt_id}


def detach(ctx: Context, a: dict[str, Any]) -> Any:
    size = a.get("argsz", 12 if "pasid" in a else 8)
    request = vfio.vfio_device_detach_iommufd_pt(argsz=size, flags=a.get("flags", 0), pasid=a.get("pasid", 0))
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, request)
    return {"ret": ret, "errno": error}


def _info(ctx: Context, a: dict[str, Any], number: int, cls: Any, wants_caps: bool) -> dict[str, Any]:
    """Call GET_*_INFO, and again with the size the kernel names unless the program gave `argsz`."""
    fd = ctx.fds[a["fd"]]
    size = ctypes.sizeof(cls)
    argsz = a.get("argsz", size)
    buffer = _info_buffer(cls, argsz, a)
    ret, error = raw_ioctl(fd, number, buffer)
    needed = cls.from_buffer(buffer).argsz
    if not error and "argsz" not in a and wants_caps and size < needed <= _MAX_INFO_BYTES:
        buffer = _info_buffer(cls, needed, a)
        ret, error = raw_ioctl(fd, number, buffer)
    info = cls.from_buffer_copy(bytes(buffer))
    fields = {name: getattr(info, name) for name, _ in cls._fields_}
    fields.update(ret=ret, errno=error)
    if wants_caps:
        fields["caps_hex"] = bytes(buffer[size:]).hex() if fields["cap_offset"] else ""
    return fields


def _info_buffer(cls: Any, argsz: int, a: dict[str, Any]) -> bytearray:
    request = cls(argsz=argsz)
    if "index" in a:
        request.index = a["index"]
    return _with_room(request, argsz)


def _with_room(request: ctypes.Structure, argsz: int) -> bytearray:
    """Return the struct and zeroed room behind it, for a kernel that reads or writes all of `argsz`."""
    return bytearray(request) + bytearray(max(0, min(argsz, _MAX_INFO_BYTES) - ctypes.sizeof(request)))


def device_info(ctx: Context, a: dict[str, Any]) -> Any:
    return _info(ctx, a, vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info, True)


def region_info(ctx: Context, a: dict[str, Any]) -> Any:
    return _info(ctx, a, vfio.VFIO_DEVICE_GET_REGION_INFO, vfio.vfio_region_info, True)


def irq_info(ctx: Context, a: dict[str, Any]) -> Any:
    return _info(ctx, a, vfio.VFIO_DEVICE_GET_IRQ_INFO, vfio.vfio_irq_info, False)


def set_irqs(ctx: Context, a: dict[str, Any]) -> Any:
    data = bytes.fromhex(a.get("hex", ""))
    if "fds" in a:
        data = b"".join(bytes(s32(ctx.fds[name])) for name in a["fds"])
    head = vfio.vfio_irq_set(
        argsz=a.get("argsz", 20 + len(data)), flags=a["flags"], index=a["index"], start=a["start"],
        count=a["count"],
    )  # fmt: skip
    # A program may lie about argsz and count: zeroed room behind keeps the kernel inside this buffer.
    buffer = bytearray(head) + data + bytearray(1024)
    return {"ret": ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_SET_IRQS, buffer, True)}


def feature(ctx: Context, a: dict[str, Any]) -> Any:
    payload = bytes.fromhex(a.get("payload", ""))
    argsz = a.get("argsz", 8 + len(payload))
    buffer = bytearray(vfio.vfio_device_feature(argsz=argsz, flags=a["flags"])) + payload
    if "ptrs" in a:
        patch_pointers(ctx, buffer, 8, a["ptrs"])
    buffer += bytearray(max(0, min(argsz, _MAX_INFO_BYTES) - len(buffer)))
    ret, error = raw_ioctl(ctx.fds[a["fd"]], _FEATURE, buffer)
    return {
        "ret": ret, "errno": error, "flags": vfio.vfio_device_feature.from_buffer(buffer).flags,
        "payload": bytes(buffer[8 : 8 + len(payload)]).hex(),
    }  # fmt: skip


def feature_fd(ctx: Context, a: dict[str, Any]) -> Any:
    """Call a feature whose data is an fd and four zero bytes."""
    request = FdRequest(argsz=16, flags=a["flags"], wakeup_eventfd=ctx.fds[a["eventfd"]])
    ioctl(ctx.fds[a["fd"]], _FEATURE, request, True)


def feature_new_fd(ctx: Context, a: dict[str, Any]) -> Any:
    """Call a feature whose result is a new fd."""
    payload = bytes.fromhex(a["payload"])
    buffer = bytearray(vfio.vfio_device_feature(argsz=8 + len(payload), flags=a["flags"])) + payload
    ctx.slots.put_fd(a["out"], ioctl(ctx.fds[a["fd"]], _FEATURE, buffer, True))


def ioeventfd(ctx: Context, a: dict[str, Any]) -> Any:
    request = vfio.vfio_device_ioeventfd(
        argsz=a.get("argsz", 32), flags=a["flags"], offset=a["off"], data=a["value"],
        fd=ctx.fds[a["eventfd"]],
    )  # fmt: skip
    ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_IOEVENTFD, request, True)


def set_state(ctx: Context, a: dict[str, Any]) -> Any:
    fd = ctx.fds[a["fd"]]
    fd_in = a.get("fd_in", _NO_FD_YET)
    request = ctx.request
    request.argsz, request.flags = a.get("argsz", 16), _SET_STATE
    request.device_state, request.data_fd = a["state"], fd_in
    error = 0
    try:
        ioctl(fd, _FEATURE, request, True)
    except OSError as e:
        error = e.errno or errno.EIO
    state, number = request.device_state, request.data_fd
    rec = {"ret": -1 if error else 0, "errno": error, "state": state, "data_fd": -1, "cloexec": False}
    if number == -1 or (error and number == fd_in):
        return rec
    mode = -1
    if number >= 0 and number != fd_in and number not in ctx.fds.values():
        try:
            mode = fcntl(number, F_GETFD)
        except OSError:
            mode = -1
    if mode < 0:  # neither -1 nor a new open fd: the kernel broke the contract, so show the number
        rec["data_fd"] = -2
        rec["raw_fd"] = number
        return rec
    rec["data_fd"] = 1
    rec["cloexec"] = bool(mode & FD_CLOEXEC)
    ctx.slots.put_fd(a.get("out"), number)
    return rec


def get_state(ctx: Context, a: dict[str, Any]) -> Any:
    request = ctx.request
    request.argsz, request.flags = a.get("argsz", 16), _GET_STATE
    request.device_state, request.data_fd = 0xFFFFFFFF, _NO_FD_YET
    ioctl(ctx.fds[a["fd"]], _FEATURE, request, True)
    return {"state": request.device_state, "data_fd": request.data_fd}


def data_size(ctx: Context, a: dict[str, Any]) -> Any:
    wanted = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
    request = DataSizeRequest(argsz=16, flags=wanted)
    ioctl(ctx.fds[a["fd"]], _FEATURE, request, True)
    return {"size": request.stop_copy_length}


def precopy_info(ctx: Context, a: dict[str, Any]) -> Any:
    info = vfio.vfio_precopy_info(argsz=a.get("argsz", 24), flags=a.get("flags", 0))
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_MIG_GET_PRECOPY_INFO, info)
    return {
        "ret": ret, "errno": error, "flags": info.flags, "initial_bytes": info.initial_bytes,
        "dirty_bytes": info.dirty_bytes,
    }  # fmt: skip


def reset(ctx: Context, a: dict[str, Any]) -> Any:
    ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_RESET)


def hot_reset_info(ctx: Context, a: dict[str, Any]) -> Any:
    head, entry = ctypes.sizeof(vfio.vfio_pci_hot_reset_info), vfio.vfio_pci_dependent_device
    argsz = a.get("argsz", head + ctypes.sizeof(entry) * 256)
    # More room than argsz says, so that a list that is too long is noticed.
    buffer = bytearray(vfio.vfio_pci_hot_reset_info(argsz=argsz)) + bytearray(min(argsz, _MAX_INFO_BYTES))
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer)
    info = vfio.vfio_pci_hot_reset_info.from_buffer(buffer)
    devices = []
    for n in range(0 if error else min(info.count, (len(buffer) - head) // ctypes.sizeof(entry))):
        one = entry.from_buffer(buffer, head + ctypes.sizeof(entry) * n)
        number = s32(one.devid).value  # VFIO_PCI_DEVID_NOT_OWNED is -1
        devices.append([number, "%04x:%02x:%02x.%d" % (one.segment, one.bus, one.devfn >> 3, one.devfn & 7)])
    return {"ret": ret, "errno": error, "flags": info.flags, "count": info.count, "devices": devices}


def hot_reset(ctx: Context, a: dict[str, Any]) -> Any:
    fds = [ctx.fds[name] for name in a["fds"]]
    head = vfio.vfio_pci_hot_reset(
        argsz=a.get("argsz", 12 + 4 * len(fds)), flags=a.get("flags", 0), count=len(fds)
    )
    buffer = bytearray(head) + bytes((s32 * len(fds))(*fds)) + bytearray(64)
    ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_PCI_HOT_RESET, buffer, True)


def debugfs_state(ctx: Context, a: dict[str, Any]) -> Any:
    base = ctx.device(a["dev"]).get("debugfs")
    if not base:
        raise OSError(errno.ENOENT, "no debugfs")
    with open(os.path.join(base, "migration/state"), encoding="ascii", errors="replace") as file:
        return {"text": file.read(4096).strip()}


def raw(ctx: Context, a: dict[str, Any]) -> Any:
    """Make any ioctl: on the buffer `buf` if there is one, else with the number `arg`."""
    fd = ctx.fds[a["fd"]]
    if "buf" not in a:
        argument = a.get("arg", 0)
        if not -(1 << 31) <= argument < 1 << 32:
            raise Failure("usage", "ioctl: arg=%d is not a number of 32 bits" % argument)
        return {"ret": ioctl(fd, a["nr"], argument)}
    data = bytes.fromhex(a["buf"])
    buffer = bytearray(data)
    if "ptrs" in a:
        patch_pointers(ctx, buffer, 0, a["ptrs"])
    buffer += bytearray(max(0, 4096 - len(buffer)))  # a size field that lies stays inside this buffer
    ret, error = raw_ioctl(fd, a["nr"], buffer)
    return {"ret": ret, "errno": error, "buf": bytes(buffer[: len(data)]).hex()}


def region_offset(fd: int, region: int) -> int:
    """Return the offset of `region` on the device fd, in bytes; OSError if the kernel refuses."""
    info = vfio.vfio_region_info(argsz=32, index=region)
    ioctl(fd, vfio.VFIO_DEVICE_GET_REGION_INFO, info, True)
    return int(info.offset)


def _pread(fd: int, count: int, at: int, width: int) -> bytes:
    if not width:
        return os.pread(fd, count, at)
    parts = []
    for off in range(0, count, width):
        part = os.pread(fd, min(width, count - off), at + off)
        parts.append(part)
        if len(part) < min(width, count - off):
            break
    return b"".join(parts)


def region_read(ctx: Context, a: dict[str, Any]) -> Any:
    fd = ctx.fds[a["fd"]]
    data = _pread(fd, a["n"], region_offset(fd, a["region"]) + a["off"], a.get("width", 0))
    return {"ret": len(data), "n": len(data), "hex": data.hex()}


def region_write(ctx: Context, a: dict[str, Any]) -> Any:
    fd = ctx.fds[a["fd"]]
    data = bytes.fromhex(a["hex"])
    at = region_offset(fd, a["region"]) + a["off"]
    width = a.get("width") or max(1, len(data))
    done = 0
    while done < len(data):
        wrote = os.pwrite(fd, data[done : done + width], at + done)
        done += wrote
        if wrote < width:
            break
    return {"ret": done, "n": done}


def fingerprint(ctx: Context, a: dict[str, Any]) -> Any:
    fd = ctx.fds[a["fd"]]
    parts = []
    for item in a["regions"]:
        if not (
            isinstance(item, list) and len(item) == 4 and all(isinstance(v, int) and v >= 0 for v in item)
        ):
            raise Failure("usage", "fingerprint: %r is not [region, offset, bytes, width]" % (item,))
        region, off, count, width = item
        parts.append(_pread(fd, min(count, _MAX_INFO_BYTES), region_offset(fd, region) + off, width))
    data = b"".join(parts)
    return {"sha256": sha256_hex(data), "hex": data[:4096].hex(), "n": len(data)}


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "open": open_path, "open_cdev": open_cdev, "open_group": open_group, "bind": bind, "attach": attach,
    "detach": detach, "device_info": device_info, "region_info": region_info, "irq_info": irq_info,
    "set_irqs": set_irqs, "feature": feature, "set_state": set_state, "get_state": get_state,
    "data_size": data_size, "precopy_info": precopy_info, "reset": reset,
    "feature_fd": feature_fd, "feature_new_fd": feature_new_fd, "ioeventfd": ioeventfd,
    "hot_reset_info": hot_reset_info, "hot_reset": hot_reset, "debugfs_state": debugfs_state,
    "ioctl": raw, "region_read": region_read, "region_write": region_write, "fingerprint": fingerprint,
}  # fmt: skip
