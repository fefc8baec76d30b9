# SPDX-License-Identifier: Apache-2.0
"""Programs about device DMA logging: memory that the device can reach, traffic, START, REPORT, STOP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.dirty_pages import PAGE, bitmap_bytes
from harness.engines import Engine, Traffic, load_engine
from harness.script import Script
from harness.spec.fsm import State
from suites.mig.subject import Subject

__all__ = ["FILL", "MEM", "LoggedScript", "engine_of"]

MEM = "mem"
"""The slot of the memory that is mapped."""
FILL = 0xA5
"""What the memory holds before the device writes."""
_BASE = 0x0100_0000
_ALL = (1 << 64) - 1


def engine_of(subject: Subject) -> Engine | None:
    """The traffic engine of the device, None where it has none."""
    name = str(subject.capabilities.get("engine") or "")
    return load_engine(name) if name else None


class LoggedScript(Script):
    """A program that begins with no log kept, `pages` pages of memory mapped, and traffic where there is an
    engine.

    `missing` is the clause that a page which is not reported breaks.  `base` is the IOVA of the memory: by
    default 16 MiB, which every engine reaches.
    """

    def __init__(
        self, subject: Subject, missing: str = "DIRTY-030", *, pages: int = 64, base: int = _BASE
    ) -> None:
        super().__init__(fresh=False)
        self.missing, self.pages, self.base, self.threaded = missing, pages, base, False
        self.single = True
        """Whether the memory has one IOVA only: then a change of it tells which page was written."""
        self.engine = engine_of(subject)
        if subject.has("reset"):
            self.op("reset", fd="d")
        elif subject.has("migration"):
            self.op("set_state", fd="d", state=int(State.RUNNING))
        if subject.has("migration"):
            self.op("get_state", fd="d")
        self.op("dma_logging_stop", fd="d")
        self.op("ioas_unmap", fd="i", ioas="ioas", iova=0, n=_ALL)  # what a program that failed left there
        self.traffic: Traffic | None = None
        if self.engine is not None:
            self.op("mmap", out=MEM, n=pages * PAGE, align=PAGE)
            self.map(base)
            self.fill()
            self.traffic = self.engine.traffic(self)

    @property
    def quick(self) -> bool:
        """Whether the engine is fast enough for many commands."""
        return self.engine is not None and self.engine.cost_ms < 20

    @property
    def bytes(self) -> int:
        """Length of the memory."""
        return self.pages * PAGE

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

    def start(self, *ranges: tuple[int, int], page_size: int = PAGE, **more: Any) -> int:
        """Append START of ranges (iova, length); by default one, the memory."""
        listed = [list(r) for r in ranges or ((self.base, self.bytes),)]
        return self.op("dma_logging_start", fd="d", page_size=page_size, ranges=listed, **more)

    def stop(self) -> int:
        """Append STOP."""
        return self.op("dma_logging_stop", fd="d")

    def report(
        self,
        iova: int | None = None,
        length: int | None = None,
        page_size: int = PAGE,
        *,
        off: int | None = None,
        preset: str | None = None,
    ) -> int:
        """Append a REPORT, by default of the memory; the bitmap is as long as it needs to be.

        Before it comes a look at the memory: what a device did not write it need not report.
        """
        if self.traffic is not None and self.single and not self.threaded:
            self.seen()
        return self.op("dma_logging_report", **self.report_args(iova, length, page_size, off, preset))

    def report_args(
        self,
        iova: int | None = None,
        length: int | None = None,
        page_size: int = PAGE,
        off: int | None = None,
        preset: str | None = None,
    ) -> dict[str, Any]:
        """Arguments of a REPORT, for a thread beside."""
        length = self.bytes if length is None else length
        args: dict[str, Any] = {
            "fd": "d", "iova": self.base if iova is None else iova, "length": length, "page_size": page_size,
            "bitmap_bytes": bitmap_bytes(length, page_size),
        }  # fmt: skip
        return args | {k: v for k, v in (("off", off), ("preset", preset)) if v is not None}

    def at(self, page: int) -> int:
        """The IOVA of a page of the memory."""
        return self.base + page * PAGE

    @property
    def block(self) -> int:
        """Bytes of a block that lies in one page: a page, or as much of it as the engine can write."""
        return min(PAGE, self.engine.reach.max_bytes) if self.engine is not None else PAGE

    def write_pages(self, pages: Sequence[int]) -> None:
        """Append a write to each of these pages of the memory."""
        assert self.traffic is not None
        for page in pages:
            self.traffic.write(self.at(page), self.block, seed=page + 1)

    def finish(self) -> LoggedScript:
        """Append the end: no traffic, no log, nothing mapped.  Gives itself."""
        if self.traffic is not None:
            self.traffic.finish()
        self.stop()
        if self.engine is not None:
            self.op("ioas_unmap", fd="i", ioas="ioas", iova=0, n=_ALL)
        return self

    def to_json(self) -> dict[str, Any]:
        """The program as data, with the clause that a missing page breaks."""
        program = {**super().to_json(), "missing": self.missing}
        return {**program, "judge": "log"} if self.threaded else program
