# SPDX-License-Identifier: Apache-2.0
"""Operations on iommufd, the legacy container, and device dirty page logging."""

from __future__ import annotations

import base64
import ctypes
import os
import zlib
from fcntl import ioctl

from harness.uapi import iommufd, vfio
from harness.uapi.layout import s32

from .failure import Failure
from .ops_vfio import raw_ioctl
from .slots import Context

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS"]

_MAP_RW = iommufd.IOMMU_IOAS_MAP_WRITEABLE | iommufd.IOMMU_IOAS_MAP_READABLE
_PAGE = 4096
_PLAIN_BYTES = 1024  # a bitmap up to this long is plain hex in the trace
_DMA_RW = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE


def _call(fd: int, number: int, request: Any) -> tuple[int, int, Any]:
    """Make an ioctl on a struct; return (ret, errno, the struct as the kernel left it)."""
    ret, error = raw_ioctl(fd, number, request)
    return ret, error, request


def _with_size(cls: Any, **fields: Any) -> Any:
    return cls(size=ctypes.sizeof(cls), **fields)


def open_iommufd(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.put_fd(a["out"], os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC))


def open_container(ctx: Context, a: dict[str, Any]) -> Any:
    ctx.slots.put_fd(a["out"], os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC))


def ioas_alloc(ctx: Context, a: dict[str, Any]) -> Any:
    request = _with_size(iommufd.iommu_ioas_alloc, flags=a.get("flags", 0))
    ret, error, answer = _call(ctx.fds[a["fd"]], iommufd.IOMMU_IOAS_ALLOC, request)
    if not error and "out" in a:
        ctx.ints[a["out"]] = answer.out_ioas_id
    return {"ret": ret, "errno": error, "ioas": answer.out_ioas_id}


def ioas_map(ctx: Context, a: dict[str, Any]) -> Any:
    flags = a.get("flags", _MAP_RW | (iommufd.IOMMU_IOAS_MAP_FIXED_IOVA if "iova" in a else 0))
    request = _with_size(
        iommufd.iommu_ioas_map, flags=flags, ioas_id=ctx.number(a["ioas"]),
        user_va=ctx.maps[a["mem"]].at(a.get("off", 0), 0), length=a["n"], iova=a.get("iova", 0),
    )  # fmt: skip
    ret, error, answer = _call(ctx.fds[a["fd"]], iommufd.IOMMU_IOAS_MAP, request)
    if not error and "out" in a:
        ctx.ints[a["out"]] = answer.iova
    return {"ret": ret, "errno": error, "iova": answer.iova}


def ioas_unmap(ctx: Context, a: dict[str, Any]) -> Any:
    request = _with_size(
        iommufd.iommu_ioas_unmap, ioas_id=ctx.number(a["ioas"]), iova=a["iova"], length=a["n"]
    )
    ret, error, answer = _call(ctx.fds[a["fd"]], iommufd.IOMMU_IOAS_UNMAP, request)
    return {"ret": ret, "errno": error, "length": answer.length}


def hwpt_alloc(ctx: Context, a: dict[str, Any]) -> Any:
    request = _with_size(
        iommufd.iommu_hwpt_alloc, flags=a.get("flags", 0), dev_id=ctx.number(a["devid"]),
        pt_id=ctx.number(a["pt"]),
    )  # fmt: skip
    ret, error, answer = _call(ctx.fds[a["fd"]], iommufd.IOMMU_HWPT_ALLOC, request)
    if not error and "out" in a:
        ctx.ints[a["out"]] = answer.out_hwpt_id
    return {"ret": ret, "errno": error, "hwpt": answer.out_hwpt_id}


def destroy(ctx: Context, a: dict[str, Any]) -> Any:
    request = _with_size(iommufd.iommu_destroy, id=ctx.number(a["id"]))
    ret, error, _ = _call(ctx.fds[a["fd"]], iommufd.IOMMU_DESTROY, request)
    return {"ret": ret, "errno": error}


def group_status(ctx: Context, a: dict[str, Any]) -> Any:
    request = vfio.vfio_group_status(argsz=a.get("argsz", 8))
    ret, error, answer = _call(ctx.fds[a["fd"]], vfio.VFIO_GROUP_GET_STATUS, request)
    return {"ret": ret, "errno": error, "flags": answer.flags}


def group_set_container(ctx: Context, a: dict[str, Any]) -> Any:
    ioctl(ctx.fds[a["fd"]], vfio.VFIO_GROUP_SET_CONTAINER, s32(ctx.fds[a["container"]]))


def group_unset_container(ctx: Context, a: dict[str, Any]) -> Any:
    ioctl(ctx.fds[a["fd"]], vfio.VFIO_GROUP_UNSET_CONTAINER)


def group_get_device_fd(ctx: Context, a: dict[str, Any]) -> Any:
    name = a.get("name")
    if name is None:
        if "dev" not in a:
            raise Failure("usage", "group_get_device_fd needs dev or name")
        device = ctx.device(a["dev"])
        # A group knows a device by its sysfs name: a BDF or a UUID.
        name = (
            device.get("device_name") or os.path.basename(device.get("debugfs") or "") or device.get("name")
        )
    if not isinstance(name, str):
        raise Failure("usage", "devices.%s has no device_name" % a.get("dev"))
    fd = ioctl(ctx.fds[a["fd"]], vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"), True)
    ctx.slots.put_fd(a["out"], fd)


def container_set_iommu(ctx: Context, a: dict[str, Any]) -> Any:
    return {"ret": ioctl(ctx.fds[a["fd"]], vfio.VFIO_SET_IOMMU, a["type"])}


def check_extension(ctx: Context, a: dict[str, Any]) -> Any:
    return {"ret": ioctl(ctx.fds[a["fd"]], vfio.VFIO_CHECK_EXTENSION, a["ext"])}


def api_version(ctx: Context, a: dict[str, Any]) -> Any:
    return {"ret": ioctl(ctx.fds[a["fd"]], vfio.VFIO_GET_API_VERSION)}


def dma_map(ctx: Context, a: dict[str, Any]) -> Any:
    request = vfio.vfio_iommu_type1_dma_map(
        argsz=32, flags=a.get("flags", _DMA_RW), vaddr=ctx.maps[a["mem"]].at(a.get("off", 0), 0),
        iova=a["iova"], size=a["n"],
    )  # fmt: skip
    ret, error, _ = _call(ctx.fds[a["fd"]], vfio.VFIO_IOMMU_MAP_DMA, request)
    return {"ret": ret, "errno": error}


def dma_unmap(ctx: Context, a: dict[str, Any]) -> Any:
    request = vfio.vfio_iommu_type1_dma_unmap(argsz=24, flags=a.get("flags", 0), iova=a["iova"], size=a["n"])
    ret, error, answer = _call(ctx.fds[a["fd"]], vfio.VFIO_IOMMU_UNMAP_DMA, request)
    return {"ret": ret, "errno": error, "length": answer.size}


def _feature(ctx: Context, a: dict[str, Any], flags: int, payload: Any) -> tuple[int, int, bytes]:
    """Call VFIO_DEVICE_FEATURE; return (ret, errno, payload as the kernel left it)."""
    body = bytes(payload)
    buffer = bytearray(vfio.vfio_device_feature(argsz=8 + len(body), flags=flags)) + body
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_FEATURE, buffer)
    return ret, error, bytes(buffer[8:])


def dma_logging_start(ctx: Context, a: dict[str, Any]) -> Any:
    ranges = a["ranges"]
    for item in ranges:
        if not (isinstance(item, list) and len(item) == 2 and all(isinstance(v, int) for v in item)):
            raise Failure("usage", "dma_logging_start: ranges: %r is not [iova, length]" % (item,))
    # A program may claim more ranges than it gives: leave room for what the kernel reads before it refuses.
    room = max(len(ranges), min(a.get("num_ranges", 0), 65536), 1)
    array = (vfio.vfio_device_feature_dma_logging_range * room)()
    for index, (iova, length) in enumerate(ranges):
        array[index].iova, array[index].length = iova, length
    control = vfio.vfio_device_feature_dma_logging_control(
        page_size=a["page_size"], num_ranges=a.get("num_ranges", len(ranges)), ranges=ctypes.addressof(array)
    )
    setattr(control, "__reserved", a.get("reserved", 0))
    flags = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
    ret, error, answer = _feature(ctx, a, flags, control)
    return {"ret": ret, "errno": error, "page_size": type(control).from_buffer_copy(answer).page_size}


def dma_logging_stop(ctx: Context, a: dict[str, Any]) -> Any:
    ret, error, _ = _feature(
        ctx, a, vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, b""
    )
    return {"ret": ret, "errno": error}


def dma_logging_report(ctx: Context, a: dict[str, Any]) -> Any:
    """Get the dirty bitmap into a page-aligned buffer that `preset` fills first and `off` misaligns.

    `bitmap` is the whole buffer afterwards, in hex; a large one is `zbitmap`, zlib in base64.  `guard` says
    whether at least 64 bytes on each side were left alone.  The 64 bytes after the buffer are 0, so that
    any bit set there is noticed.
    """
    size, off = a["bitmap_bytes"], a.get("off", 0)
    room = bytearray(b"\xa5") * (_PAGE + 64 + off + size + 64)
    array = (ctypes.c_uint8 * len(room)).from_buffer(room)
    start = (ctypes.addressof(array) + 64 + _PAGE - 1) // _PAGE * _PAGE - ctypes.addressof(array) + off
    preset = bytes.fromhex(a.get("preset", ""))[:size]
    room[start : start + size + 64] = preset + bytes(size - len(preset) + 64)
    request = vfio.vfio_device_feature_dma_logging_report(
        iova=a["iova"], length=a["length"], page_size=a["page_size"],
        bitmap=ctypes.addressof(array) + start,
    )  # fmt: skip
    flags = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
    ret, error, _ = _feature(ctx, a, flags, request)
    data = bytes(array)
    behind = bytes(64) + b"\xa5" * (len(data) - start - size - 64)
    guard = data[:start] == b"\xa5" * start and data[start + size :] == behind
    answer = {"ret": ret, "errno": error, "guard": guard}
    bitmap = data[start : start + size]
    if size <= _PLAIN_BYTES:
        return {**answer, "bitmap": bitmap.hex()}
    return {**answer, "zbitmap": base64.b64encode(zlib.compress(bitmap, 1)).decode("ascii")}


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "open_iommufd": open_iommufd, "open_container": open_container, "ioas_alloc": ioas_alloc,
    "ioas_map": ioas_map, "ioas_unmap": ioas_unmap, "hwpt_alloc": hwpt_alloc, "destroy": destroy,
    "group_status": group_status, "group_set_container": group_set_container,
    "group_unset_container": group_unset_container, "group_get_device_fd": group_get_device_fd,
    "container_set_iommu": container_set_iommu, "check_extension": check_extension,
    "api_version": api_version, "dma_map": dma_map, "dma_unmap": dma_unmap,
    "dma_logging_start": dma_logging_start, "dma_logging_stop": dma_logging_stop,
    "dma_logging_report": dma_logging_report,
}  # fmt: skip
