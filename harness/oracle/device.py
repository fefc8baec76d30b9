# SPDX-License-Identifier: Apache-2.0
"""Judge of chapter DEV: the rules for every device, region and IRQ info, whichever program asked."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.oracle.judgement import Judgement
from harness.uapi import vfio

__all__ = ["judge_device"]

Record = Mapping[str, Any]

_BUSES = tuple(1 << n for n in (1, 2, 3, 4, 5, 6, 8))
"""VFIO_DEVICE_FLAGS_PCI, _PLATFORM, _AMBA, _CCW, _AP, _FSL_MC, _CDX"""
_DEVICE_FLAGS = sum(_BUSES) | vfio.VFIO_DEVICE_FLAGS_RESET | vfio.VFIO_DEVICE_FLAGS_CAPS
_REGION_FLAGS, _REGION_CAPS = 0xF, vfio.VFIO_REGION_INFO_FLAG_CAPS
_IRQ_FLAGS, _MASKABLE, _AUTOMASKED = 0xF, 2, 4
_PCI_REGIONS = 9
_PAGE = 4096


def judge_device(program: Mapping[str, Any], trace: Sequence[Record], out: Judgement) -> None:
    """Check the infos in `trace`; count checks and record violations in `out`."""
    ops = program["threads"][0]["ops"]
    rules: dict[str, Callable[[Record, int, Judgement], None]] = {
        "device_info": _device, "region_info": _region, "irq_info": _irq,
    }  # fmt: skip
    for record in trace:
        index = int(record["i"])
        rule = rules.get(record["op"])
        # A program that sets argsz tests something else, and claims itself what must come back.
        if rule and not record["errno"] and not record.get("skipped") and "argsz" not in ops[index][1]:
            rule(record, index, out)


def _device(record: Record, index: int, out: Judgement) -> None:
    flags = int(record["flags"])
    one = sum(bool(flags & bus) for bus in _BUSES) == 1
    out.check("DEV-003", one and not flags & ~_DEVICE_FLAGS, index, "one bus, defined flags", f"{flags:#x}")
    if flags & vfio.VFIO_DEVICE_FLAGS_PCI:
        count = int(record["num_regions"])
        out.check("DEV-004", count >= _PCI_REGIONS, index, "at least 9 regions", f"{count} regions")
    _chain(record, bool(flags & vfio.VFIO_DEVICE_FLAGS_CAPS), 24, index, out)


def _region(record: Record, index: int, out: Judgement) -> None:
    flags, size = int(record["flags"]), int(record["size"])
    ok = not flags & ~_REGION_FLAGS
    out.check("DEV-013", ok, index, "defined flags", f"flags {flags:#x}")
    for cap_id, data in _chain(record, bool(flags & _REGION_CAPS), 32, index, out):
        if cap_id == vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
            _sparse(data, size, index, out)


def _irq(record: Record, index: int, out: Judgement) -> None:
    flags = int(record["flags"])
    ok = not flags & ~_IRQ_FLAGS and (not flags & _AUTOMASKED or bool(flags & _MASKABLE))
    out.check("DEV-063", ok, index, "defined flags, AUTOMASKED only with MASKABLE", f"flags {flags:#x}")


def _chain(record: Record, flagged: bool, head: int, index: int, out: Judgement) -> list[tuple[int, bytes]]:
    """Check that the chain ends inside the buffer; return (id, bytes from its header on) per capability."""
    data, at = bytes.fromhex(record["caps_hex"]), int(record["cap_offset"])
    found: list[tuple[int, bytes]] = []
    wrong = "" if flagged == bool(at) else f"CAPS {'set' if flagged else 'clear'}, cap_offset {at}"
    seen: set[int] = set()
    while at and not wrong:
        if at < head or at + 8 > head + len(data) or at in seen:
            wrong = f"a capability at {at} of {head + len(data)} bytes"
            break
        seen.add(at)
        cap_id, _, following = struct.unpack_from("=HHI", data, at - head)
        found.append((cap_id, data[at - head :]))
        at = following
    out.check("DEV-005", not wrong, index, "a chain exactly with CAPS, inside the buffer", wrong or "a chain")
    return found


def _sparse(data: bytes, size: int, index: int, out: Judgement) -> None:
    count = struct.unpack_from("=I", data, 8)[0] if len(data) >= 16 else 0
    room = max(0, (len(data) - 16) // 16)
    areas = sorted(struct.unpack_from("=QQ", data, 16 + 16 * n) for n in range(min(count, room)))
    inside = all(o % _PAGE == 0 and n % _PAGE == 0 and n > 0 and o + n <= size for o, n in areas)
    apart = all(a[0] + a[1] <= b[0] for a, b in itertools.pairwise(areas))
    out.check("DEV-017", count <= room and inside and apart, index, "areas inside the region, aligned, apart",
              f"{count} areas {areas[:4]} in {size} bytes")  # fmt: skip
