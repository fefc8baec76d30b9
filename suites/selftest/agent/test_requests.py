# SPDX-License-Identifier: Apache-2.0
"""What the operations hand to the kernel, byte for byte."""

from __future__ import annotations

import struct

import pytest

from harness.agent import ops_dma, ops_gfx, ops_vfio, perform
from harness.agent.features import DataSizeRequest, FdRequest, StateRequest
from harness.agent.slots import Context, Mapping, Slots

FD, OTHER = 100, 101
ADDRESS = 0x7000_0000

REQUESTS = [
    ("attach", {"fd": "d", "pt": 5, "pasid": 9, "flags": 1}, struct.pack("=IIII", 16, 1, 5, 9)),
    ("bind", {"fd": "d", "iommufd": "i"}, struct.pack("=IIiIQ", 16, 0, OTHER, 0, 0)),
    ("bind", {"fd": "d", "iommufd": -1, "argsz": 40}, struct.pack("=IIiIQ16x", 40, 0, -1, 0, 0)),
    ("data_size", {"fd": "d"}, struct.pack("=IIQ", 16, 1 << 16 | 9, 0)),
    ("detach", {"fd": "d"}, struct.pack("=III", 8, 0, 0)),
    ("dma_map", {"fd": "d", "mem": "m", "off": 16, "n": 2, "iova": 3},
     struct.pack("=IIQQQ", 32, 3, ADDRESS + 16, 3, 2)),
    ("dma_unmap", {"fd": "d", "iova": 3, "n": 2}, struct.pack("=IIQQ", 24, 0, 3, 2)),
    ("feature", {"fd": "d", "flags": 1 << 31, "payload": "0102", "argsz": 12},
     struct.pack("=II", 12, 1 << 31) + b"\1\2\0\0"),
    ("feature", {"fd": "d", "flags": 1, "payload": "ff" * 12, "ptrs": [[3, "m", 4]]},
     struct.pack("=II3sQs", 20, 1, b"\xff" * 3, ADDRESS + 4, b"\xff")),
    ("feature_fd", {"fd": "d", "flags": 4, "eventfd": "i"}, struct.pack("=IIiI", 16, 4, OTHER, 0)),
    ("get_state", {"fd": "d"}, struct.pack("=IIIi", 16, 1 << 16 | 2, 0xFFFFFFFF, -2)),
    ("gfx_dmabuf", {"fd": "d", "id": 7, "out": "x"}, struct.pack("=I", 7)),
    ("group_set_container", {"fd": "d", "container": "i"}, struct.pack("=i", OTHER)),
    ("hot_reset", {"fd": "d", "fds": ["i", -1]}, struct.pack("=IIIii64x", 20, 0, 2, OTHER, -1)),
    ("hot_reset_info", {"fd": "d", "argsz": 20}, struct.pack("=III20x", 20, 0, 0)),
    ("ioeventfd", {"fd": "d", "off": 1, "value": 1 << 63, "eventfd": -1, "flags": 8},
     struct.pack("=IIQQiI", 32, 8, 1, 1 << 63, -1, 0)),
    ("precopy_info", {"fd": "d"}, struct.pack("=IIQQ", 24, 0, 0, 0)),
    ("region_info", {"fd": "d", "index": 7, "argsz": 40}, struct.pack("=IIIIQQ8x", 40, 0, 7, 0, 0, 0)),
    ("set_irqs", {"fd": "d", "index": 2, "start": 3, "count": 2, "flags": 36, "fds": ["i", -1]},
     struct.pack("=IIIIIii1024x", 28, 36, 2, 3, 2, OTHER, -1)),
    ("set_state", {"fd": "d", "state": 3}, struct.pack("=IIIi", 16, 1 << 17 | 2, 3, -2)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "wanted"), REQUESTS, ids=[r[0] for r in REQUESTS])
def test_a_request_is_what_the_kernel_takes(name, args, wanted, monkeypatch):
    """Steps: perform an operation with ioctl() replaced. Verify: fd and bytes are the kernel struct's."""
    seen = []

    def ioctl(fd, number, request, mutate=True):
        seen.append((fd, bytes(memoryview(request).cast("B"))))
        return 0

    for module in (ops_vfio, ops_dma, ops_gfx):
        monkeypatch.setattr(module, "ioctl", ioctl, raising=False)
    slots = Slots()
    slots.fds.update(d=FD, i=OTHER)
    slots.maps["m"] = Mapping(ADDRESS, 4096, ADDRESS, 4096)
    record = perform.perform(Context(slots, {}, 1 << 62, None), [name, args])
    assert record["errno"] == 0
    assert seen == [(FD, wanted)]


def test_features_lie_behind_their_head():
    assert bytes(StateRequest(argsz=1, flags=2, device_state=3, data_fd=-4)) == struct.pack(
        "=IIIi", 1, 2, 3, -4
    )
    assert bytes(DataSizeRequest(argsz=1, flags=2, stop_copy_length=3)) == struct.pack("=IIQ", 1, 2, 3)
    assert bytes(FdRequest(argsz=1, flags=2, wakeup_eventfd=-3)) == struct.pack("=IIiI", 1, 2, -3, 0)


def test_what_a_hot_reset_takes_along_is_read_from_the_answer(monkeypatch):
    """Verify: a device that is not owned has id -1; no more devices are read than the buffer holds."""
    entries = struct.pack("=iHBB", -1, 0, 4, 0x21) + struct.pack("=iHBB", 7, 1, 0, 0)

    def ioctl(fd, number, buffer, mutate):
        buffer[4:12] = struct.pack("=II", 3, 5)
        buffer[12:28] = entries
        return 0

    monkeypatch.setattr(ops_vfio, "ioctl", ioctl)
    slots = Slots()
    slots.fds.update(d=FD)
    record = ops_vfio.hot_reset_info(Context(slots, {}, 1 << 62, None), {"fd": "d", "argsz": 16})
    assert (record["flags"], record["count"]) == (3, 5)
    assert record["devices"] == [[-1, "0000:04:04.1"], [7, "0001:00:00.0"]]
