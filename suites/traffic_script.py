# SPDX-License-Identifier: Apache-2.0
"""Programs with memory that the device can reach, and traffic from its engine."""

from __future__ import annotations

from collections.abc import Sequence

from harness.dirty_pages import PAGE
from harness.engines import Engine, Traffic, load_engine
from harness.script import Script
from harness.spec.fsm import State
from suites.mig.subject import Subject

__all__ = ["FILL", "MEM", "TrafficScript", "engine_of"]

MEM = "mem"
"""The slot of the memory that is mapped."""
FILL = 0xA5
"""What the memory holds before the device writes."""
_BASE = 0x0100_0000
_ALL = (1 << 64) - 1
_SOON_MS = 5000


def engine_of(subject: Subject) -> Engine | None:
    """The traffic engine of the device, None where it has none."""
    name = str(subject.capabilities.get("engine") or "")
    return load_engine(name) if name else None


class TrafficScript(Script):
    """A program that begins in RUNNING with `pages` pages of memory mapped, and traffic if it has an engine.

    `base` is the IOVA of the memory: by default 16 MiB, which every engine reaches.  With `own` the program
    opens the device itself.
    """

    def __init__(self, subject: Subject, *, pages: int = 64, base: int = _BASE, own: bool = False) -> None:
        super().__init__(fresh=False)
        if own:
            self.op("open_iommufd", out="i")
            self.op("ioas_alloc", fd="i", out="ioas")
            self.op("open_cdev", dev="dev0", out="d")
            self.op("bind", fd="d", iommufd="i")
            self.op("attach", fd="d", pt="ioas")
        self.pages, self.base = pages, base
        self.engine = engine_of(subject)
        if subject.has("reset"):
            self.op("reset", fd="d")
        elif subject.has("migration"):
            self.op("set_state", fd="d", state=int(State.RUNNING))
        if subject.has("migration"):
            self.op("get_state", fd="d")
        self.begin_log()
        self.op("ioas_unmap", fd="i", ioas="ioas", iova=0, n=_ALL)  # what a program that failed left there
        self.single = True
        """Whether the memory has one IOVA only: then a change of it tells which page was written."""
        self.traffic: Traffic | None = None
        if self.engine is not None:
            self.op("mmap", out=MEM, n=pages * PAGE, align=PAGE)
            self.map(base)
            self.fill()
            self.traffic = self.engine.traffic(self)

    def begin_log(self) -> None:
        """Append what a log needs at the program's begin."""

    @property
    def quick(self) -> bool:
        """Whether the engine is fast enough for many commands."""
        return self.engine is not None and self.engine.cost_ms < 20

    @property
    def bytes(self) -> int:
        """Length of the memory."""
        return self.pages * PAGE

    @property
    def block(self) -> int:
        """Bytes of a block that lies in one page: a page, or as much of it as the engine can write."""
        return min(PAGE, self.engine.reach.max_bytes) if self.engine is not None else PAGE

    def map(self, iova: int, *, off: int = 0, n: int | None = None) -> int:
        """Append a mapping of the memory at an IOVA."""
        self.single = iova == self.base
        return self.op("ioas_map", fd="i", ioas="ioas", mem=MEM, off=off, n=n or self.bytes, iova=iova)

    def fill(self) -> int:
        """Append the filling of the memory: what differs afterwards, the device wrote."""
        return self.op("mem_fill", mem=MEM, value=FILL)

    def seen(self) -> int:
        """Append a look at which pages of the memory were written."""
        return self.op("mem_dirty", mem=MEM, value=FILL)

    def changed(self, page: int, timeout_ms: int = _SOON_MS) -> int:
        """Append a wait until the device has written the first byte of a page; `done` says whether it did."""
        return self.op(
            "mem_poll", mem=MEM, off=page * PAGE, width=1, mask=0xFF, value=FILL, timeout_ms=timeout_ms,
            differs=True,
        )  # fmt: skip

    def at(self, page: int) -> int:
        """The IOVA of a page of the memory."""
        return self.base + page * PAGE

    def write_pages(self, pages: Sequence[int]) -> None:
        """Append a write to each of these pages of the memory."""
        assert self.traffic is not None
        for page in pages:
            self.traffic.write(self.at(page), self.block, seed=page + 1)

    def end_log(self) -> None:
        """Append what ends a log."""

    def end_traffic(self) -> None:
        """Append the end of the traffic, and of the mapping."""
        if self.traffic is not None:
            self.traffic.finish()
        self.end_log()
        if self.engine is not None:
            self.op("ioas_unmap", fd="i", ioas="ioas", iova=0, n=_ALL)
