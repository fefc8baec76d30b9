# SPDX-License-Identifier: Apache-2.0
"""Operations of devices with a display: query a plane, and get its frame buffer as a dma-buf."""

from __future__ import annotations

import ctypes
from fcntl import ioctl

from harness.uapi import vfio
from harness.uapi.layout import u32

from .ops_vfio import raw_ioctl
from .slots import Context

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS"]

_INFO = vfio.vfio_device_gfx_plane_info
_FIELDS = ("drm_format", "width", "height", "stride", "size", "x_hot", "y_hot", "region_index")


def gfx_plane(ctx: Context, a: dict[str, Any]) -> Any:
    """Call QUERY_GFX_PLANE; the id of a dma-buf goes into the integer slot `out`."""
    info = _INFO(argsz=a.get("argsz", ctypes.sizeof(_INFO)), flags=a["flags"], drm_plane_type=a["plane"])
    ret, error = raw_ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_QUERY_GFX_PLANE, info)
    if "out" in a and not error:
        ctx.ints[a["out"]] = info.dmabuf_id
    return {"ret": ret, "errno": error, **{name: getattr(info, name) for name in _FIELDS}}


def gfx_dmabuf(ctx: Context, a: dict[str, Any]) -> Any:
    """Call GET_GFX_DMABUF; slot `out` gets a new fd for the frame buffer with this id."""
    number = u32(ctx.number(a["id"]))
    ctx.slots.put_fd(a["out"], ioctl(ctx.fds[a["fd"]], vfio.VFIO_DEVICE_GET_GFX_DMABUF, number, True))


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {"gfx_plane": gfx_plane, "gfx_dmabuf": gfx_dmabuf}
