# SPDX-License-Identifier: Apache-2.0
"""The engine of QEMU's edu device (QEMU: docs/specs/edu), plain or mediated by a variant driver.

It copies between its own buffer of 4 KiB and memory, at IOVAs below 2^28 (it silently clamps higher ones); a
copy takes about 100 ms.  It writes the contents of its buffer, so the seed is not used.  No copy includes the
buffer's last byte: QEMU up to 8 treats that as out of bounds and exits, together with the host that runs in
it (hw_error() in hw/misc/edu.c, seen with 7.2.22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.engines import DmaReach, Engine, Probe, Traffic, u32

__all__ = ["ENGINE"]

_BAR, _CONFIG = 0, 7
_ID, _IRQ_RAISE, _IRQ_STATUS, _IRQ_ACK = 0x00, 0x60, 0x24, 0x64
_SRC, _DST, _COUNT, _CMD = 0x80, 0x88, 0x90, 0x98
_RUN, _TO_MEMORY = 1, 2
_BUFFER = 0x40000
_COMMAND, _MEMORY_AND_MASTER = 4, 0x0006
_TIMEOUT_MS = 5000


class _EduTraffic(Traffic):
    def prepare(self) -> None:
        self.script.op(
            "region_write", fd="d", region=_CONFIG, off=_COMMAND,
            hex=_MEMORY_AND_MASTER.to_bytes(2, "little").hex(),
        )  # fmt: skip

    def steps(self, what: str, args: Mapping[str, Any]) -> list[list[Any]]:
        idle = ["wait", _BAR, _CMD, 4, _RUN, 0, _TIMEOUT_MS]
        if what == "wait":
            return [idle]
        if what == "interrupt":
            # MSI is edge triggered: acknowledge what is pending first, so that each call sends one interrupt.
            return [u32(_BAR, _IRQ_ACK, 0xFFFFFFFF), u32(_BAR, _IRQ_RAISE, 1)]
        if what in ("write", "begin", "read"):
            out = what != "read"
            copy = [
                idle,
                u32(_BAR, _SRC, _BUFFER if out else args["iova"]),
                u32(_BAR, _DST, args["iova"] if out else _BUFFER),
                u32(_BAR, _COUNT, args["length"]),
                u32(_BAR, _CMD, _RUN | (_TO_MEMORY if out else 0)),
            ]
            return copy if what == "begin" else [*copy, idle]
        return super().steps(what, args)


ENGINE = Engine(
    "edu",
    DmaReach(0, (1 << 28) - 1, 1, 4095),
    frozenset(("read", "begin", "interrupt", "p2p-all", "bytes")),
    _EduTraffic,
    probes=(Probe(_BAR, _ID, 0x0000FFFF, 0x00ED),),
    pci_id=0x11E81234,
    cost_ms=105.0,
)
_EduTraffic.engine = ENGINE
