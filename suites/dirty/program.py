# SPDX-License-Identifier: Apache-2.0
"""Builds programs about device DMA logging: START, REPORT, STOP."""

from __future__ import annotations

from typing import Any

from fixtures.subject import Subject
from fixtures.traffic_script import FILL, MEM, TrafficScript, engine_of
from harness.program.pages import PAGE, bitmap_bytes

__all__ = ["FILL", "MEM", "LoggedScript", "engine_of"]


class LoggedScript(TrafficScript):
    """A program that starts without a log; `missing` is the clause that an unreported page breaks."""

    def __init__(self, subject: Subject, missing: str = "DIRTY-030", **options: Any) -> None:
        super().__init__(subject, **options)
        self.missing, self.threaded = missing, False

    def begin_log(self) -> None:
        """Append ending a log that may have been left running."""
        self.op("dma_logging_stop", fd="d")

    def end_log(self) -> None:
        """Append STOP."""
        self.stop()

    def finish(self) -> LoggedScript:
        """Append the end of the traffic and of the log; returns the program."""
        self.end_traffic()
        return self

    def start(self, *ranges: tuple[int, int], page_size: int = PAGE, **more: Any) -> int:
        """Append START of ranges (iova, length); by default the memory."""
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
        """Append a REPORT, by default of the memory, with a bitmap of the size that is needed.

        A check of the memory comes first: a page that the device has not written need not be reported.
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
        """The arguments of a REPORT, for another thread of the program."""
        length = self.bytes if length is None else length
        args: dict[str, Any] = {
            "fd": "d", "iova": self.base if iova is None else iova, "length": length, "page_size": page_size,
            "bitmap_bytes": bitmap_bytes(length, page_size),
        }  # fmt: skip
        return args | {k: v for k, v in (("off", off), ("preset", preset)) if v is not None}

    def to_json(self) -> dict[str, Any]:
        """The program as data, with the clause that a missing page breaks."""
        program = {**super().to_json(), "missing": self.missing}
        return {**program, "judge": "log"} if self.threaded else program
