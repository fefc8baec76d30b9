# SPDX-License-Identifier: Apache-2.0
"""State of the pages of a logged range, and how a report maps to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.program.pages import PAGE, expand, first, fold, pages_of, span

__all__ = ["FARTHEST", "LoggedRange", "View", "join", "mark_shared", "must_be_taken", "place"]

_CORE_MAX_RANGES = PAGE // 16
_ANY_DRIVER = 64 << 30
"""Bytes that every driver must be able to log; a device may be unable to log more."""
_END = 1 << 64
FARTHEST = 1 << 26
"""Pages from the start of a range that are followed (256 GiB); pages after them are not."""


@dataclass
class LoggedRange:
    """State of the pages of one range of a START; page 0 is the one at `base`."""

    base: int
    pages: int
    written: int = 0
    fresh: list[tuple[int, int]] = field(default_factory=list)
    """Writes that have ended: (end time, pages); the next report begun later moves them to `written`."""
    recent: list[tuple[int, int]] = field(default_factory=list)
    """Like `fresh`, but keeps pages that a concurrent report had: the write may have come after it."""
    touched: int = 0
    """Every page that may have been written since START, rounded out to whole pages of the log."""
    clean: int = 0
    unsure: int = 0
    """Pages of commands that failed or whose end is not known: they do not count for the precision."""
    read: int = 0
    stale: int = 0
    """Pages that an earlier log held when it ended."""
    shared: int = 0
    """Pages that lie in one page of the log with pages of another range: a report of this range need not
    clear them, for it would clear the other's, too."""
    limit: int = 0
    """Nothing in the program touches pages from here on; it keeps the sets of a 2^63 byte range small."""

    def of(self, effect: Mapping[str, Any]) -> int:
        """The pages of this range that the blocks of an effect touch, up to `FARTHEST`."""
        pages, count = min(self.pages, FARTHEST), int(effect.get("count", 1))
        place = (int(effect["iova"]), int(effect["length"]), count, int(effect.get("stride", 0)))
        return pages_of(self.base, pages, *place)


class View:
    """A report mapped to one range: page p of the range is page p + `shift` of the report."""

    def __init__(self, known: LoggedRange, iova: int, length: int, size: int) -> None:
        self.factor = size // PAGE
        self.shift = (known.base - iova) // PAGE
        self.known = known
        self.limit = known.limit
        self.start = max(0, -self.shift)
        self.end = max(self.start, min(known.pages, -(-length // PAGE) - self.shift, self.limit))

    def window(self) -> int:
        """The pages of the range that the report covers."""
        return span(self.start, self.end)

    def whole(self, grain: int) -> int:
        """The same, without pages of the log (`grain` pages each) that the report covers only in part."""
        off = self.known.base // PAGE % grain
        start = -(-(self.start + off) // grain) * grain - off if self.start else 0
        end = self.end
        if end < min(self.known.pages, self.limit):
            end = (end + off) // grain * grain - off
        return span(start, end)

    def bits(self, pages: int) -> int:
        """The bits of the report that stand for these pages of the range."""
        inside = pages & self.window()
        return fold(inside << self.shift if self.shift >= 0 else inside >> -self.shift, self.factor)

    def pages(self, bits: int) -> int:
        """The pages of the range for which the report has one of these bits."""
        if self.end <= self.start:
            return 0
        wide = expand(bits, self.factor, self.end + self.shift)
        return (wide >> self.shift if self.shift >= 0 else wide << -self.shift) & self.window()


def mark_shared(ranges: Iterable[LoggedRange], grain: int) -> None:
    """Note in each range which of its pages share a page of the log (`grain` pages) with another range."""
    ordered = sorted((r for r in ranges if r.pages), key=lambda known: known.base)
    for before, after in itertools.pairwise(ordered):
        first_before, first_after = before.base // PAGE, after.base // PAGE
        edge = first_after // grain * grain
        begin = max(0, edge - first_before)
        if first_before + before.pages > edge and begin <= FARTHEST:
            before.shared |= span(begin, before.pages)
            after.shared |= span(0, min(after.pages, edge + grain - first_after))


def join(sets: Iterable[int]) -> int:
    result = 0
    for pages in sets:
        result |= pages
    return result


def place(bits: int, iova: int, size: int) -> str:
    """The place of the first of these bits of a report, as text; '' if there is none."""
    if not bits:
        return ""
    return f"first at iova {iova + first(bits) * size:#x}, pages of {size} bytes"


def must_be_taken(a: Mapping[str, Any]) -> bool:
    """Whether START must accept the request: aligned, disjoint ranges that fit into one kernel page."""
    size, ranges = int(a["page_size"]), [(int(s), int(n)) for s, n in a["ranges"]]
    count = int(a.get("num_ranges", len(ranges)))
    if (
        size <= 0
        or size & (size - 1)
        or a.get("reserved")
        or not 0 < count == len(ranges) <= _CORE_MAX_RANGES
    ):
        return False
    if any(s % size or n % size or not n or s + n >= _END for s, n in ranges):
        return False
    if sum(n for _, n in ranges) > _ANY_DRIVER:
        return False
    ordered = sorted(ranges)
    return all(s + n <= after for (s, n), (after, _) in itertools.pairwise(ordered))
