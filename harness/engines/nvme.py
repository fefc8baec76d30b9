# SPDX-License-Identifier: Apache-2.0
"""The engine that every NVMe controller has: IDENTIFY on its admin queue writes 4 KiB to any IOVA.

NVM Express Base Specification: controller registers (CAP, CC, CSTS, AQA, ASQ, ACQ), IDENTIFY (opcode 06h).
Nothing on the drive is read or written.  The queues live in two pages that the program maps at `_QUEUES`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from harness.engines import DmaReach, Engine, Probe, Step, Traffic, Wake, u32, u64
from harness.profiles import Mutation, RegionWrite, StateRegion

__all__ = ["ENGINE"]

_BAR, _CONFIG = 0, 7
_CAP_HIGH, _CC, _CSTS, _AQA, _ASQ, _ACQ, _DOORBELL = 0x04, 0x14, 0x1C, 0x24, 0x28, 0x30, 0x1000
_ENTRIES = 32
_ENABLE = 1 | 6 << 16 | 4 << 20  # entries of 64 bytes to submit, of 16 for completions
_IDENTIFY, _CNS_CONTROLLER = 0x06, 1
_QUEUES = 0x7F00_0000
# While it is disabled these are registers like any other; CC is not: it says that it is disabled.
_STATE = (StateRegion(_BAR, _AQA, 0x14, 4),)
_MUTATE = (
    Mutation("queue-sizes", (RegionWrite(_BAR, _AQA, bytes.fromhex("1f000f00")),)),
    Mutation("submission-queue", (RegionWrite(_BAR, _ASQ, bytes.fromhex("00305a5a")),)),
    Mutation("completion-queue", (RegionWrite(_BAR, _ACQ, bytes.fromhex("0050c33c")),)),
)
_MEM = "nvmequeues"
_READY_MS, _COMMAND_MS = 30_000, 3_000
_DEAD_MS, _ALIVE_MS = 100, 10_000


def _start(queues: int) -> list[Step]:
    """Disable the controller, set its admin queues, and enable it."""
    size = _ENTRIES - 1
    return [
        u32(_BAR, _CC, 0), ["wait", _BAR, _CSTS, 4, 1, 0, _READY_MS],
        u32(_BAR, _AQA, size << 16 | size), *u64(_BAR, _ASQ, queues), *u64(_BAR, _ACQ, queues + 4096),
        u32(_BAR, _CC, _ENABLE),
    ]  # fmt: skip


class _NvmeTraffic(Traffic):
    _sent = 0

    def prepare(self) -> None:
        s = self.script
        s.op("mmap", out=_MEM, n=8192, align=4096)
        self._map(_MEM, 8192, _QUEUES)
        s.op("region_write", fd="d", region=_CONFIG, off=4, hex=(0x0006).to_bytes(2, "little").hex())
        steps = [*_start(_QUEUES), ["wait", _BAR, _CSTS, 4, 3, 1, _READY_MS]]
        s.op("dma", fd="d", steps=steps, effect={"do": "setup"})

    def finish(self) -> None:
        steps = [u32(_BAR, _CC, 0), ["wait", _BAR, _CSTS, 4, 1, 0, _READY_MS]]
        self.script.op("dma", fd="d", steps=steps, effect={"do": "setup"})
        self._unmap(_QUEUES, 8192)

    def steps(self, what: str, args: Mapping[str, Any]) -> list[list[Any]]:
        if what != "write":
            return super().steps(what, args)
        number, self._sent = self._sent, self._sent + 1
        place, phase, cid = number % _ENTRIES, 1 - number // _ENTRIES % 2, number & 0xFFFF
        entry = struct.pack(
            "<IIQQQQIIQQ", cid << 16 | _IDENTIFY, 0, 0, 0, args["iova"], 0, _CNS_CONTROLLER, 0, 0, 0
        )
        done = 4096 + 16 * place + 12  # last word of the completion: command id, phase, status
        after = (place + 1) % _ENTRIES
        return [
            ["wait", _BAR, _CSTS, 4, 3, 1, 0],  # one that is not ready would be waited for in vain
            ["mem", _MEM, 64 * place, entry.hex()],
            u32(_BAR, _DOORBELL, after),
            ["memwait", _MEM, done, 4, 0x1FFFF, phase << 16 | cid, _COMMAND_MS],
            u32(_BAR, _DOORBELL + 4, after),
            ["memwait", _MEM, done, 4, 0xFFFE0000, 0, 0],
        ]


ENGINE = Engine(
    "nvme",
    # IDENTIFY always writes a whole page; tests must not use the pages of the queues.
    DmaReach(0, _QUEUES - 1, 4096, 4096, min_bytes=4096),
    frozenset(),
    _NvmeTraffic,
    probes=(Probe(_BAR, _CAP_HIGH, 0xF, 0),),  # doorbells without gaps (CAP.DSTRD is 0), as in every drive
    pci_class=0x010802,
    cost_ms=2.0,
    # A virtual function is offline until its drive is told otherwise (Virtualization Management): enabled, it
    # shows CSTS.CFS.  Without a doorbell no queue is looked at.
    wake=Wake(
        begin=tuple(_start(_QUEUES)),
        dead=["wait", _BAR, _CSTS, 4, 2, 2, _DEAD_MS],
        alive=["wait", _BAR, _CSTS, 4, 3, 1, _ALIVE_MS],
        end=(u32(_BAR, _CC, 0),),
    ),
    state_regions=_STATE,
    mutate=_MUTATE,
)
_NvmeTraffic.engine = ENGINE
