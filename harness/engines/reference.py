# SPDX-License-Identifier: Apache-2.0
"""The engine of the reference device (fixtures/reference/mdev, register file in its README)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.engines import DmaReach, Engine, Probe, Traffic, u32, u64

__all__ = ["ENGINE"]

_BAR = 0
_ID, _FEATURES = 0x00, 0x08
_IOVA, _LEN, _COUNT, _STRIDE, _SEED, _CMD, _DELAY, _STATUS = 0x40, 0x48, 0x4C, 0x50, 0x58, 0x5C, 0x60, 0x64
_IRQ_RAISE, _IRQ_PERIOD = 0x80, 0x8C
_WRITE, _READ, _ENDLESS, _STOP, _P2P, _DEFERRED, _PINNED = 1, 2, 3, 4, 1 << 8, 1 << 10, 1 << 11
_BUSY, _OVER, _DONE = 1, 2, 2
"""STATUS: 0 idle, 1 busy, 2 done, 3 fault; bit 1 is set when the command is over, the value 2 is success."""
_TIMEOUT_MS = 5000


class _ReferenceTraffic(Traffic):
    def steps(self, what: str, args: Mapping[str, Any]) -> list[list[Any]]:
        well = [
            ["wait", _BAR, _STATUS, 4, _OVER, _OVER, _TIMEOUT_MS],
            ["wait", _BAR, _STATUS, 4, 0xFFFFFFFF, _DONE, 0],
        ]
        if what == "stop":
            return [u32(_BAR, _CMD, _STOP), ["wait", _BAR, _STATUS, 4, _BUSY, 0, _TIMEOUT_MS]]
        if what == "wait":
            return well
        if what == "interrupt":
            return [u32(_BAR, _IRQ_RAISE, 0)]
        if what == "timer":
            return [u32(_BAR, _IRQ_PERIOD, args["period_ms"])]
        place = [
            *u64(_BAR, _IOVA, args["iova"]), u32(_BAR, _LEN, args["length"]),
            u32(_BAR, _COUNT, args["count"]), *u64(_BAR, _STRIDE, args["stride"]),
            u32(_BAR, _SEED, args["seed"]), u32(_BAR, _DELAY, args.get("delay_ms", 0)),
        ]  # fmt: skip
        mark = (_P2P if args.get("p2p") else 0) | (_PINNED if args.get("pinned") else 0)
        if what == "begin":
            later = (
                _DEFERRED if args.get("delay_ms") else 0
            )  # without it the write is over at once, if it may run
            return [*place, u32(_BAR, _CMD, _WRITE | later | mark)]
        if what == "start":
            return [*place, u32(_BAR, _CMD, _ENDLESS | mark)]
        if what in ("write", "read"):
            return [*place, u32(_BAR, _CMD, (_WRITE if what == "write" else _READ) | mark), *well]
        return super().steps(what, args)


ENGINE = Engine(
    "vfiocert_ref",
    DmaReach(0, (1 << 64) - 1, 1, 1 << 20, 1 << 20),
    frozenset(("read", "endless", "begin", "strided", "interrupt", "timer", "p2p-marked", "bytes", "pinned")),
    _ReferenceTraffic,
    probes=(Probe(_BAR, _ID, 0xFFFFFFFF, 0x54434656), Probe(_BAR, _FEATURES, 1, 1)),
    irq_index=2,  # MSI-X
)
_ReferenceTraffic.engine = ENGINE
