# SPDX-License-Identifier: Apache-2.0
"""The device's own DMA through an address space: what it may reach, and what it must no longer reach.

A device behind a real IOMMU is never told to write where nothing is mapped: the report of that IOMMU fault
would look like a fault of the device itself.
"""

from __future__ import annotations

from collections.abc import Callable

from fixtures.subject import Subject
from harness.engines import load_engine
from suites.iom.program import FIRST, PAGE, Core

__all__ = ["traffic_program"]

_FILL, _OTHER = 0x5A, 0x33
_WATCH_MS = 20


def traffic_program(
    core: Core, subject: Subject, mapped: str, unmapped: str, map_: Callable[[int, int, int], int],
    unmap: Callable[[int, int], int], map_own: Callable[[str, int, int], object],
) -> Core:  # fmt: skip
    """Append writes of the device `d` before and after an unmap.

    `map_(iova, length, offset in m)` and `unmap(iova, length)` append a map and an unmap.  `map_own(slot,
    length, iova)` maps what the engine needs for itself.  `mapped` and `unmapped` are the clauses.
    """
    script, engine = core.script, load_engine(str(subject.capabilities["engine"]))
    core.memory(pages=4)
    length = max(min(2048, engine.reach.max_bytes), engine.reach.min_bytes)

    def seen() -> int:
        return script.op("mem_dirty", mem="m", value=_FILL)

    def fill(value: int = _FILL) -> None:
        script.op("mem_fill", mem="m", value=value)

    map_(FIRST, PAGE, PAGE)
    map_(FIRST + PAGE, PAGE, 3 * PAGE)
    traffic = engine.traffic(script, map_own, unmap)
    if engine.can("read"):
        # Some engines write what they read last: make that differ from the fill value.
        fill(_OTHER)
        traffic.read(FIRST, length)
    ways = (False, True) if engine.can("pinned") else (False,)
    for pinned in ways:
        for iova, place in ((FIRST, 1), (FIRST + PAGE, 3)):
            fill()
            done = traffic.write(iova, length, 0x1000 + place, pinned=pinned)
            script.equals(mapped, seen(), "ranges", [[place, 1]], "the page that is mapped there").when(
                (done, "done", "==", True)
            )
    if subject.has("emulated_iommu"):
        if engine.can("endless"):
            traffic.start(FIRST, length, 5)
        unmap(FIRST, PAGE)
        fill()
        if engine.can("endless"):
            script.op("sleep", ms=_WATCH_MS)
            script.equals(unmapped, seen(), "pages", 0, "no page is written any more")
            traffic.stop()
        traffic.write(FIRST, length, 6)
        script.equals(unmapped, seen(), "pages", 0, "no page is written")
    if subject.has("emulated_iommu") and engine.can("pinned"):
        # Pinned pages can be unmapped: the driver is asked to unpin them.
        traffic.write(FIRST + PAGE, length, 7, pinned=True)
        gone = unmap(FIRST + PAGE, PAGE)
        script.succeeds(unmapped, gone, "pinned pages can be unmapped")
        fill()
        traffic.write(FIRST + PAGE, length, 8, pinned=True)
        script.equals(unmapped, seen(), "pages", 0, "no page is written that was pinned")
    traffic.finish()
    return core
