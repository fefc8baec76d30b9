# SPDX-License-Identifier: Apache-2.0
"""A device with a display: planes, frame buffers in a region or as a dma-buf, and the monitor's EDID.

Plane types are those of include/drm/drm_plane.h, enum drm_plane_type.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.oracle.judgement import Judgement
from harness.program.script import succeeded
from harness.uapi import vfio
from suites.dev.program import Bench, le

_PROBE = vfio.VFIO_GFX_PLANE_TYPE_PROBE
_KINDS = {
    "gfx_dmabuf": vfio.VFIO_GFX_PLANE_TYPE_DMABUF, "gfx_region": vfio.VFIO_GFX_PLANE_TYPE_REGION,
}  # fmt: skip
_OVERLAY, _PRIMARY, _CURSOR = 0, 1, 2
_INFO_BYTES = 60  # struct vfio_device_gfx_plane_info up to region_index
_NO_HOTSPOT = 0xFFFFFFFF
_PAGE = 4096
_EDID_OFFSET, _EDID_MAX, _EDID_SIZE, _MAX_XRES, _MAX_YRES, _LINK_STATE, _EDID_HEAD = 0, 4, 8, 12, 16, 20, 24
_UP, _DOWN = vfio.VFIO_DEVICE_GFX_LINK_STATE_UP, vfio.VFIO_DEVICE_GFX_LINK_STATE_DOWN
_BLOCK = 128  # of an EDID: VESA E-EDID Standard, section 2


def _kinds(subject: Subject) -> list[int]:
    return [kind for key, kind in _KINDS.items() if subject.has(key)]


def _plane(b: Bench, flags: int, plane: int = _PRIMARY, **more: Any) -> int:
    return b.op("gfx_plane", fd="d", flags=flags, plane=plane, **more)


def _switch(b: Bench, on: bool) -> None:
    """Show a frame buffer, or none, on a device whose registers for that are known."""
    known = b.subject.capabilities["plane_on"]
    for off, value in known["writes"] if on else known["off"]:
        b.write(known["region"], off, value, 2)


@experiment("DEV-140", "DEV-141", "DEV-142", own_open=True)
def planes_are_asked_for_by_type(subject: Subject) -> Iterator[Bench]:
    kinds = _kinds(subject)
    if not kinds:
        return
    b = Bench(subject)
    for kind in _KINDS.values():
        i = _plane(b, _PROBE | kind)
        b.is_one_of("DEV-140", i, "errno", [0, errno.EINVAL], f"type {kind:#x} is there or EINVAL")
    both = sum(_KINDS.values())
    for flags in (0, both, _PROBE | both, 8, 8 | kinds[0], 8 | _PROBE | kinds[0], 1 << 31 | kinds[0]):
        b.is_refused("DEV-141", _plane(b, flags), errno.EINVAL, expected=f"EINVAL for flags {flags:#x}")
    for argsz in (0, 8, _INFO_BYTES - 1):
        b.is_refused("DEV-142", _plane(b, kinds[0], argsz=argsz), expected=f"argsz {argsz}")
    b.alive("DEV-142", "afterwards")
    yield b


@experiment("DEV-143", "DEV-144", "DEV-145", own_open=True)
def a_plane_is_described_or_disabled(subject: Subject) -> Iterator[Bench]:
    for kind in _kinds(subject):
        b = Bench(subject)
        for plane in (_PRIMARY, _OVERLAY, _CURSOR):
            i = _described(b, kind, plane)
            index = int(subject.capabilities.get("plane_region") or 0) - 1
            if index >= 0 and plane == _PRIMARY and kind == vfio.VFIO_GFX_PLANE_TYPE_REGION:
                region = b.op("region_info", fd="d", index=index)
                here = [(i, "errno", "==", 0), (i, "region_index", "==", index)]
                b.succeeds("DEV-144", region, f"there is region {index}, which the plane names").when(*here)
                b.at_least("DEV-144", region, "size", b.ref(i, "size"), "it holds the plane").when(*here)
        yield b
        if subject.has("plane_on"):
            known = subject.capabilities["plane_on"]
            b = Bench(subject)
            _switch(b, True)
            for _ in range(2):
                i = _described(b, kind, _PRIMARY)
                for field in ("width", "height"):
                    b.equals("DEV-143", i, field, known[field], "what was set").when(succeeded(i))
            _switch(b, False)
            i = _described(b, kind, _PRIMARY)
            b.equals("DEV-143", i, "drm_format", 0, "no plane: disabled").when(succeeded(i))
            yield b


def _described(b: Bench, kind: int, plane: int) -> int:
    """Ask for a plane and claim what holds for every answer; returns the index."""
    i = _plane(b, kind, plane)
    b.succeeds("DEV-143", i, f"plane {plane}, also where it is disabled")
    disabled = [(i, "errno", "==", 0), (i, "drm_format", "==", 0)]
    shown = [(i, "errno", "==", 0), (i, "drm_format", "!=", 0)]
    for field in ("size", "width", "height"):
        b.equals("DEV-143", i, field, 0, f"no {field}: it is disabled").when(*disabled)
        b.exceeds("DEV-143", i, field, 0, f"a {field}").when(*shown)
    b.at_least("DEV-143", i, "stride", b.ref(i, "width"), "a line holds its pixels").when(*shown)
    if plane != _CURSOR:
        for field in ("x_hot", "y_hot"):
            b.equals("DEV-145", i, field, _NO_HOTSPOT, "no hotspot").when(*shown)
    return i


@experiment("DEV-146", "DEV-147", "DEV-148", own_open=True)
def a_frame_buffer_is_given_as_a_dma_buf(subject: Subject) -> Generator[Bench, Judgement, None]:
    if not (subject.has("gfx_dmabuf") and subject.has("plane_on")):
        return
    kind = vfio.VFIO_GFX_PLANE_TYPE_DMABUF
    data = subject.rng.randbytes(64).hex()
    b = Bench(subject)
    _switch(b, True)
    b.op("mmap", fd="d", region=b.subject.capabilities["frame_buffer"] - 1, off=0, n=_PAGE, out="fb")
    b.op("mem_write", mem="fb", off=64, hex=data)
    _plane(b, kind)  # where the first query fails (DEV-143), the second may work
    i = _plane(b, kind, out="id")
    given = (i, "errno", "==", 0)
    b.succeeds("DEV-146", b.op("gfx_dmabuf", fd="d", id="id", out="x"), "an fd for the plane's id").when(
        given
    )
    for number in (0xFFFFFFFF, 0x7FFFFFF0):
        none = b.op("gfx_dmabuf", fd="d", id=number, out=b.slot("x"))
        b.is_refused("DEV-147", none, expected=f"id {number:#x}").when((i, "region_index", "!=", number))
    mapped = b.op("mmap", fd="x", off=0, n=_PAGE, out="shown", prot=["READ"])
    seen = [given, (mapped, "errno", "==", 0)]  # no rule says that every dma-buf can be mapped
    before = b.op("mem_read", mem="shown", off=64, n=64)
    b.equals("DEV-148", before, "hex", data, "what the frame buffer held before").when(*seen)
    b.op("mem_write", mem="fb", off=256, hex=data)
    later = b.op("mem_read", mem="shown", off=256, n=64)
    b.equals("DEV-148", later, "hex", data, "what is written to the frame buffer").when(*seen)
    _switch(b, False)
    # Close the device first: the dma-buf is then the last user of the frame buffer, and must still work.
    b.op("munmap", mem="fb")
    b.op("close", fd="d")
    b.op("mem_read", mem="shown", off=64, n=64)
    b.op("munmap", mem="shown")
    b.op("close", fd="x")
    verdict = yield b
    if not verdict.checked["DEV-148"]:
        subject.undecided["DEV-148"] = "no dma-buf was given, or it cannot be mapped"
    # Each call gives a new fd; closing one must not affect the other.
    b = Bench(subject)
    _switch(b, True)
    _plane(b, kind)
    given = (_plane(b, kind, out="id"), "errno", "==", 0)
    for name in ("x", "y"):
        b.succeeds("DEV-146", b.op("gfx_dmabuf", fd="d", id="id", out=name), "an fd for the plane's id").when(
            given
        )
    for name in ("x", "y"):
        b.succeeds("DEV-146", b.op("close", fd=name), "the fd is closed").when(given)
    _switch(b, False)
    yield b


def _edid(serial: int) -> bytes:
    """A valid EDID 1.4 of one block without any mode: the device may check it."""
    head = bytes.fromhex("00ffffffffffff00") + b"\x58\xc3\x01\x00"
    body = head + serial.to_bytes(4, "little") + bytes((1, 30, 1, 4))
    body += bytes(_BLOCK - 1 - len(body))
    return body + bytes((-sum(body) & 0xFF,))


@experiment("DEV-150", "DEV-151", "DEV-152", "DEV-153", own_open=True)
def the_monitor_is_what_the_user_writes(subject: Subject) -> Iterator[Bench]:
    if not subject.has("gfx_edid"):
        return
    region = int(subject.capabilities["gfx_edid"]) - 1
    size = next(int(r["size"]) for r in subject.capabilities["regions"] if r["index"] == region)
    offset, most = subject.capabilities["edid_offset"], subject.capabilities["edid_max_size"]
    b = Bench(subject)

    def number(off: int) -> int:
        return b.op("region_poll", fd="d", region=region, off=off, width=4, mask=0, value=0, timeout_ms=1)

    i = number(_EDID_OFFSET)
    b.at_least("DEV-150", i, "value", _EDID_HEAD, "behind the fields")
    b.at_most("DEV-150", i, "value", size - most, f"{most} bytes at it lie in the region")
    b.at_least("DEV-150", number(_EDID_MAX), "value", _BLOCK, "room for one block")
    if offset < _EDID_HEAD or most < _BLOCK or offset + most > size:
        yield b
        return
    for off in (_EDID_OFFSET, _EDID_MAX, _MAX_XRES, _MAX_YRES):
        before = b.read(region, off)
        for value in (0, 0xFFFFFFFF, 0x12345678):
            b.write(region, off, value)
            after = b.read(region, off)
            b.equals("DEV-152", after, "hex", b.ref(before, "hex"), f"the field at {off} is read-only")
    blob = _edid(subject.rng.getrandbits(32))
    b.write(region, _LINK_STATE, _DOWN)
    b.equals("DEV-151", b.read(region, _LINK_STATE), "hex", le(_DOWN, 4), "the link is down")
    b.op("region_write", fd="d", region=region, off=offset, hex=blob.hex(), width=4)
    b.write(region, _EDID_SIZE, _BLOCK)
    b.write(region, _LINK_STATE, _UP)
    b.equals("DEV-151", b.read(region, _LINK_STATE), "hex", le(_UP, 4), "the link is up")
    b.equals("DEV-151", b.read(region, _EDID_SIZE), "hex", le(_BLOCK, 4), "the size that was written")
    i = b.op("region_read", fd="d", region=region, off=offset, n=_BLOCK, width=4)
    b.equals("DEV-151", i, "hex", blob.hex(), "the blob that was written")
    b.write(region, _LINK_STATE, _DOWN)
    for value in (most + 1, most + 0x10000, 0xFFFFFFFF):
        b.write(region, _EDID_SIZE, value)
        i = number(_EDID_SIZE)
        b.at_most("DEV-153", i, "value", most, f"no size of {value:#x}, when {most:#x} is the most")
    b.write(region, _EDID_SIZE, 0)
    yield b
