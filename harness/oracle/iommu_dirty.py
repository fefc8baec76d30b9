# SPDX-License-Identifier: Apache-2.0
"""Judge of IOMMU_HWPT_GET_DIRTY_BITMAP: follows the mappings, writes and reports of one program.

Pure: it sees the program and its trace.  Writes are those of the mock (`IOMMU_TEST_OP_DIRTY`) and of traffic
engines (`written`).  Pages are bits of Python integers, one for each `GRANULE` bytes of a mapping.

There are two sets for each mapping, because the IOMMU chooses the size of its page table entries: an entry
may be larger than a page, and a report that clears part of it clears all of it.  `should` has the pages that
were written and not reported since; `must` has those of them that no such report can have cleared.
"""

from __future__ import annotations

import zlib
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.oracle.judgement import Judgement
from harness.uapi import iommufd

__all__ = ["GRANULE", "HwptDirtyJudge", "bits_of", "bytes_of", "folded", "judge_hwpt_dirty"]

GRANULE = 2048
"""Bytes: the smallest page of any IOMMU here (the mock's)."""
_PAGE = 4096
_OFF, _ON = 0, iommufd.IOMMU_HWPT_DIRTY_TRACKING_ENABLE
_NO_CLEAR = iommufd.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
_MAX_BITS = 1 << 27

Record = Mapping[str, Any]


def bytes_of(content: Any) -> bytes:
    """The bytes of a buffer; `content` is in the form that the operation `iommu` takes and returns."""
    if isinstance(content, int):
        return bytes(content)
    if content.startswith("z:"):
        return zlib.decompressobj().decompress(b64decode(content[2:]), _MAX_BITS // 8)
    return bytes.fromhex(content)


def bits_of(content: Any) -> int:
    """The bitmap in a buffer, as an integer."""
    return 0 if isinstance(content, int) else int.from_bytes(bytes_of(content), "little")


def folded(bits: int, factor: int) -> int:
    """One bit for each `factor` bits, set if any of them is set."""
    if factor == 1 or not bits:
        return bits
    text = format(bits, "b")[::-1]
    return int(
        "".join("1" if "1" in text[i : i + factor] else "0" for i in range(0, len(text), factor))[::-1], 2
    )


@dataclass
class _Pages:
    """Dirty pages of one mapping in one page table."""

    must: int = 0
    should: int = 0
    since: str = "DIRTY-121"
    """The clause that says that a page in neither set is clean."""
    unknown: bool = False
    """A report failed or was not seen: it is not known what it cleared."""
    shown: int = 0
    """Pages of `must` that were in the report `asked`, and that nothing has cleared since."""
    asked: tuple[int, int, int] = (0, 0, 0)
    """Iova, length and page size of the last report with NO_CLEAR."""
    kept: bool = False
    """A report with NO_CLEAR has been made since the last write."""
    others_cleared: bool = False
    fresh_mapping: bool = False
    """Mapped while tracking was on."""


@dataclass
class _Table:
    """One page table."""

    ioas: int
    tracked: bool = False
    pages: dict[int, _Pages] = field(default_factory=dict)


@dataclass
class _Space:
    """One IOAS: mappings by their first IOVA."""

    lengths: dict[int, int] = field(default_factory=dict)
    small: bool = False
    """IOMMU_OPTION_HUGE_PAGES is 0: no entry is larger than a page."""


class HwptDirtyJudge:
    """Follows one program; call `step` for each operation in order."""

    def __init__(self, out: Judgement) -> None:
        self.out = out
        self.spaces: dict[int, _Space] = {}
        self.tables: dict[int, _Table] = {}
        self._shifted, self._asked = False, (0, 0, 0)
        """The report now judged: whether its bitmap starts at an offset; its iova, length and page size."""

    def step(self, index: int, name: str, args: Mapping[str, Any], record: Record) -> None:
        """Judge one operation of the program by its trace record."""
        if record.get("skipped"):
            return
        if name == "ioas_alloc" and not record["errno"]:
            self.spaces[record["ioas"]] = _Space()
        if name != "iommu":
            return
        command, done = str(args["cmd"]), not record["errno"]
        handler = {
            "IOMMU_IOAS_ALLOC": self._ioas, "IOMMU_IOAS_MAP": self._map, "IOMMU_IOAS_MAP_FILE": self._map,
            "IOMMU_IOAS_COPY": self._copied, "IOMMU_IOAS_UNMAP": self._unmap, "IOMMU_OPTION": self._option,
            "IOMMU_HWPT_ALLOC": self._hwpt, "IOMMU_HWPT_SET_DIRTY_TRACKING": self._tracking,
            "IOMMU_TEST_OP_DIRTY": self._mock_writes,
        }.get(command)  # fmt: skip
        if handler is not None and done:
            handler(args, record)
        if command == "IOMMU_HWPT_GET_DIRTY_BITMAP":
            self._report(index, args, record)

    # -- what there is
    def _ioas(self, _args: Mapping[str, Any], record: Record) -> None:
        self.spaces[record["out_ioas_id"]] = _Space()

    def _option(self, args: Mapping[str, Any], record: Record) -> None:
        chosen = args.get("set", {})
        space = self.spaces.get(record["object_id"])
        asked = (chosen.get("option_id"), chosen.get("op", 0))
        if space is not None and asked == (iommufd.IOMMU_OPTION_HUGE_PAGES, iommufd.IOMMU_OPTION_OP_SET):
            space.small = record["val64"] == 0 and not space.lengths

    def _map(self, _args: Mapping[str, Any], record: Record) -> None:
        self._mapped(record["ioas_id"], record["iova"], record["length"])

    def _copied(self, _args: Mapping[str, Any], record: Record) -> None:
        self._mapped(record["dst_ioas_id"], record["dst_iova"], record["length"])

    def _mapped(self, ioas: int, iova: int, length: int) -> None:
        space = self.spaces.get(ioas)
        if space is None:
            return
        space.lengths[iova] = length
        for table in self.tables.values():
            if table.ioas == ioas:
                table.pages[iova] = _Pages(since="DIRTY-123", fresh_mapping=table.tracked)

    def _unmap(self, args: Mapping[str, Any], record: Record) -> None:
        space = self.spaces.get(record["ioas_id"])
        if space is None:
            return
        # The kernel has overwritten the requested length with the number of bytes unmapped.
        first, asked = record["iova"], int(args.get("set", {}).get("length", 0))
        for iova in [i for i, n in space.lengths.items() if first <= i and i + n <= first + asked]:
            del space.lengths[iova]
            for table in self.tables.values():
                if table.ioas == record["ioas_id"]:
                    table.pages.pop(iova, None)

    def _hwpt(self, args: Mapping[str, Any], record: Record) -> None:
        space = self.spaces.get(record["pt_id"])
        if space is not None and record["flags"] & iommufd.IOMMU_HWPT_ALLOC_DIRTY_TRACKING:
            pages = {iova: _Pages() for iova in space.lengths}
            self.tables[record["out_hwpt_id"]] = _Table(record["pt_id"], pages=pages)

    def _tracking(self, _args: Mapping[str, Any], record: Record) -> None:
        table = self.tables.get(record["hwpt_id"])
        if table is None:
            return
        table.tracked = record["flags"] == _ON
        for pages in table.pages.values():
            pages.must = pages.should = pages.shown = 0
            pages.kept = pages.others_cleared = pages.fresh_mapping = False
            # Nothing is promised about dirty bits after tracking is switched off.
            pages.unknown, pages.since = not table.tracked, "DIRTY-121"

    # -- writes
    def _mock_writes(self, args: Mapping[str, Any], record: Record) -> None:
        bits, step, at = bits_of(args["bufs"]["uptr"]), record["page_size"], record["iova"]
        count = min(record["length"] // step, bits.bit_length()) if step else 0
        for number in _set_bits(bits & ((1 << count) - 1)):
            self.written(record["id"], at + number * step, 1)

    def written(self, hwpt: int, iova: int, length: int) -> None:
        """Note that a device attached to page table `hwpt` wrote `length` bytes at `iova`."""
        table = self.tables.get(hwpt)
        if table is None or not table.tracked:
            return
        for first, size in self.spaces[table.ioas].lengths.items():
            low, high = max(first, iova), min(first + size, iova + length)
            if low >= high:
                continue
            pages = table.pages[first]
            new = _mask(low - first, high - low)
            pages.must |= new
            pages.should |= new
            pages.kept = pages.others_cleared = False

    # -- reports
    def _report(self, index: int, args: Mapping[str, Any], record: Record) -> None:
        table = self.tables.get(record["hwpt_id"])
        iova, length, size = record["iova"], record["length"], record["page_size"]
        if table is None:
            return
        sound = size >= GRANULE and not size & (size - 1) and not iova % size and not length % size and length
        if record["errno"] or not table.tracked or not sound or "buf_data" not in record:
            if record["errno"] == 0 or record["errno"] not in _REFUSED_BEFORE:
                self._forget(table, iova, length)
            return
        count = length // size
        self._shifted, self._asked = bool(args.get("at", {}).get("data")), (iova, length, size)
        before, after = bits_of(args["bufs"]["data"]), bits_of(record["buf_data"])
        check = self.out.check
        check(
            "DIRTY-116",
            not before & ~after,
            index,
            "bits that were set stay set",
            "a bit was cleared",
        )
        stray = (after & ~before) >> count
        check(
            "DIRTY-117",
            record["guard"] and not stray,
            index,
            "nothing is written but the bits of the range",
            "bits beyond the range were set" if stray else "bytes around the bitmap were written",
        )
        self._compare(index, table, iova, length, size, after & ((1 << count) - 1), before)
        if not record["flags"] & _NO_CLEAR:
            self._cleared(table, iova, length)
        else:
            self._seen(table, iova, length, size, after & ~before)  # bits that the caller had set say nothing

    def _compare(
        self, index: int, table: _Table, iova: int, length: int, size: int, shown: int, preset: int
    ) -> None:
        space, grid = self.spaces[table.ioas], (iova, size)
        behind_a_hole, at = False, iova
        seen = shared = 0
        inside: list[tuple[int, _Pages, int]] = []
        for first in sorted(space.lengths):
            low, high = max(first, iova), min(first + space.lengths[first], iova + length)
            if low >= high:
                continue
            behind_a_hole = behind_a_hole or low > at
            at = high
            pages, window = table.pages[first], _mask(low - first, high - low)
            bits = _on_grid(window, first, grid)
            shared |= seen & bits  # a bit that stands for parts of several mappings
            seen |= bits
            inside.append((first, pages, bits))
            if not pages.unknown:
                self._missing(index, pages, window, first, grid, shown, behind_a_hole)
        new = shown & ~preset
        for first, pages, bits in inside:
            if not pages.unknown:
                self._needless(index, space, pages, first, grid, new & bits & ~shared)
        self.out.check(
            "DIRTY-111",
            not new & ~seen,
            index,
            "no bit where nothing is mapped",
            "a bit is set",
        )

    def _missing(
        self, index: int, pages: _Pages, window: int, first: int, grid: tuple[int, int], shown: int,
        behind_a_hole: bool,
    ) -> None:  # fmt: skip
        """Check that every written page is reported; a missing page breaks the rule this report tests."""
        check, words = self.out.check, ("every page that was written is reported", "pages are missing")
        expected = _on_grid(pages.must & window, first, grid)
        lost = expected & ~shown
        if expected:
            blamed = False
            for clause, broken in self._contexts(pages, window, first, grid, (expected, lost), behind_a_hole):
                blamed = not check(clause, not broken, index, *words) or blamed
            check("DIRTY-110", not lost or blamed, index, *words)
        beside = _on_grid(pages.should & ~pages.must & window, first, grid)
        if beside:
            check("DIRTY-115", not beside & ~shown, index, *words)

    def _contexts(
        self, pages: _Pages, window: int, first: int, grid: tuple[int, int], bits: tuple[int, int],
        behind_a_hole: bool,
    ) -> Iterator[tuple[str, bool]]:  # fmt: skip
        """Yield the rules that this report tests on the mapping, and whether each explains the lost pages."""
        expected, lost = bits
        again = pages.asked == self._asked
        everything = lost == expected
        known = again and bool(lost & _on_grid(pages.shown & window, first, grid))
        if behind_a_hole:
            yield "DIRTY-126", everything
        elif self._shifted and again:
            yield "DIRTY-118", known
        elif pages.kept and again:
            yield "DIRTY-113", known
        elif pages.others_cleared:
            yield "DIRTY-114", known or (everything and expected.bit_count() > 2)
        elif pages.fresh_mapping:
            yield "DIRTY-122", everything and expected.bit_count() > 2
        if grid[1] > _PAGE:
            yield "DIRTY-119", known or everything

    def _needless(
        self, index: int, space: _Space, pages: _Pages, first: int, grid: tuple[int, int], mine: int
    ) -> None:
        """Check that no page is reported that was not written, as far as the unknown entry size allows."""
        if not pages.should:
            self.out.check(
                pages.since,
                not mine,
                index,
                "nothing is dirty in a mapping that was not written since",
                "pages are reported",
            )
        elif space.small:
            extra = mine & ~_on_grid(_widened(pages.should), first, grid)
            self.out.check(
                "DIRTY-111",
                not extra,
                index,
                "only pages that were written, as no entry is larger than a page",
                "others are reported",
            )

    def _seen(self, table: _Table, iova: int, length: int, size: int, shown: int) -> None:
        """Remember the pages in a report with NO_CLEAR."""
        for first, extent in self.spaces[table.ioas].lengths.items():
            if first < iova + length and iova < first + extent:
                pages = table.pages[first]
                fine = _spread(shown, size // GRANULE)
                distance = (first - iova) // GRANULE
                pages.shown = pages.must & (fine >> distance if distance >= 0 else fine << -distance)
                pages.kept, pages.asked = bool(pages.shown), (iova, length, size)
                pages.fresh_mapping = pages.others_cleared = False

    def _cleared(self, table: _Table, iova: int, length: int) -> None:
        space = self.spaces[table.ioas]
        for first, size in space.lengths.items():
            pages = table.pages[first]
            low, high = max(first, iova), min(first + size, iova + length)
            if low >= high:
                pages.others_cleared = pages.others_cleared or bool(pages.must)
                continue
            window = _mask(low - first, high - low)
            pages.should &= ~window
            pages.shown = 0
            # An entry is cleared as a whole: pages next to the range may be cleared with it.
            pages.must &= ~_widened(window) if space.small else 0
            pages.since, pages.kept, pages.fresh_mapping = "DIRTY-112", False, False
            if (low, high) == (first, first + size):
                pages.unknown = False

    def _forget(self, table: _Table, iova: int, length: int) -> None:
        """Forget what is known of the range: a report failed or was not seen, and may have cleared pages."""
        for first, size in self.spaces[table.ioas].lengths.items():
            if first < iova + length and iova < first + size:
                table.pages[first].unknown = True


_REFUSED_BEFORE = frozenset({2, 22, 75, 95})
"""ENOENT, EINVAL, EOVERFLOW, EOPNOTSUPP: the kernel checks arguments before it clears anything."""


def _mask(offset: int, length: int) -> int:
    first, last = offset // GRANULE, (offset + length - 1) // GRANULE
    return ((1 << (last - first + 1)) - 1) << first


def _widened(bits: int) -> int:
    """`bits`, rounded out to whole 4 KiB pages."""
    even = int.from_bytes(b"\x55" * ((bits.bit_length() + 15) // 8 + 1), "little")
    pairs = (bits | bits >> 1) & even
    return pairs | pairs << 1


def _on_grid(bits: int, first: int, grid: tuple[int, int]) -> int:
    """Granules of a mapping at `first`, as bits of a report with `grid` = (iova, page size)."""
    iova, size = grid
    distance = (first - iova) // GRANULE
    moved = bits << distance if distance >= 0 else bits >> -distance
    return folded(moved, size // GRANULE)


def _spread(bits: int, factor: int) -> int:
    """The inverse of `folded`: `factor` bits for each bit."""
    if factor == 1 or not bits:
        return bits
    return int("".join(bit * factor for bit in format(bits, "b")), 2)


def _set_bits(bits: int) -> list[int]:
    text = format(bits, "b")[::-1]
    found, at = [], text.find("1")
    while at >= 0:
        found.append(at)
        at = text.find("1", at + 1)
    return found


def judge_hwpt_dirty(ops: Sequence[Sequence[Any]], records: Mapping[int, Record], out: Judgement) -> None:
    """Judge the reports among one thread's operations."""
    judge = HwptDirtyJudge(out)
    for index, (name, args) in enumerate(ops):
        if index in records:
            judge.step(index, name, args, records[index])
