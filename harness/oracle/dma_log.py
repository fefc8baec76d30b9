# SPDX-License-Identifier: Apache-2.0
"""Judge of device DMA logging: compares its reports with what the traffic engines wrote.

Pure: it sees only the program and its trace.  Each page inside the ranges of a START is in one of four
states:

* *written* and not reported since: it must be in the next report;
* it *may* have been written, by a command that is under way or that failed: nothing follows from that;
* *clean*: it was reported, and nothing can have written it since;
* unknown.

Sets of pages are integers (`harness.program.pages`).  The field `missing` of a program names the clause that
a missing page breaks; the default is DIRTY-030.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.oracle.dma_log_range import (
    FARTHEST,
    LoggedRange,
    View,
    join,
    mark_shared,
    must_be_taken,
    place,
)
from harness.oracle.judgement import Judgement
from harness.oracle.migration_rules import errno_name
from harness.program.pages import PAGE, bitmap_of, expand, fold, from_bytes, pages_of, span

__all__ = ["judge_dirty"]

Record = Mapping[str, Any]
_ENDING = frozenset(("setup", "write", "read", "wait", "stop"))
"""Effects of commands that are over when their operation returns with `done`."""
_OPS = frozenset(("dma_logging_start", "dma_logging_stop", "dma_logging_report"))
_INDEX, _PROBE = 0xFFFF, 1 << 18
_CHANGING = (6, 7)
"""VFIO_DEVICE_FEATURE_DMA_LOGGING_START and STOP."""
_END = 1 << 64
LogState = Literal["unknown", "off", "on", "maybe"]
"""`maybe`: there was a reset after START, which may have ended the log."""


@dataclass(frozen=True)
class _Report:
    """A successful report: its start and end time, and the pages that it reported, by number of the range."""

    begun: int
    ended: int
    pages: Mapping[int, int]


class _DirtyJudge:
    def __init__(self, program: Mapping[str, Any], out: Judgement) -> None:
        self.out = out
        self.missing = str(program.get("missing") or "DIRTY-030")
        self.state: LogState = "unknown"
        self.why_off = "DIRTY-039"
        self.refuses = False
        """Whether a REPORT without a log was refused in this program."""
        self.started = 0
        self.grain = 1
        """Size of a page of the log, in pages of 4 KiB."""
        self.ranges: list[LoggedRange] = []
        self.reports: list[_Report] = []
        self.active: list[tuple[int, Mapping[str, Any]]] = []
        """Commands under way: (start time, effect); a command of `start` runs until `stop`."""
        self.old: list[tuple[int, int]] = []
        """(base, pages) that earlier logs may still have held when they ended."""
        self.maps: dict[str, list[tuple[int, int, int]]] = {}
        """Memory slot -> [(iova, offset in the slot, length in bytes)]."""
        self.fills: dict[str, int] = {}
        self.beside: Sequence[tuple[int, int]] = ()
        """Start and end time of each report of the program."""
        self.flights: Sequence[tuple[int, int, Mapping[str, Any]]] = ()
        """Start time, end time and effect of each command; only filled for programs with several threads."""
        self.threaded = len(program["threads"]) > 1
        self.effects: list[Mapping[str, Any]] = [
            args["effect"]
            for thread in program["threads"]
            for name, args in thread["ops"]
            if name == "dma" and "iova" in args.get("effect", {})
        ]
        self.done: dict[int, int] = {}
        """Number of a range -> its pages that commands wrote since the memory was filled."""

    def step(self, name: str, args: Mapping[str, Any], rec: Record, index: int) -> None:
        """Judge one operation; call it in the order in which the operations ended."""
        if rec.get("skipped"):
            return
        handler = getattr(self, f"_op_{name}", None)
        if handler is not None:
            handler(args, rec, int(rec["t0"]), int(rec["t0"]) + int(rec["dt"]), index)

    # -- START and STOP
    def _op_dma_logging_start(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        error = int(rec["errno"])
        if self.state == "on":
            self.out.check("DIRTY-012", error != 0, i, "a second START is refused", "it succeeded")
            if not error:
                self._begin(a, rec, t1)
            return
        if error:
            if self.state == "maybe":
                self.state = "on"  # the refusal says that a log is kept
            elif self.state == "off":
                if must_be_taken(a):
                    clause = "DIRTY-010" if len(a["ranges"]) == 1 else "DIRTY-011"
                    self.out.check(
                        clause, False, i, f"START of {len(a['ranges'])} ranges succeeds", errno_name(error)
                    )
                self.why_off = "DIRTY-014"
            return
        if must_be_taken(a):
            self.out.check("DIRTY-010" if len(a["ranges"]) == 1 else "DIRTY-011", True, i, "", "")
        size = int(rec.get("page_size", 0))
        power = size > 0 and size & (size - 1) == 0
        self.out.check("DIRTY-016", power, i, "a power of two written back as page_size", str(size))
        self._begin(a, rec, t1)

    def _begin(self, a: Mapping[str, Any], rec: Record, now: int) -> None:
        size = int(rec.get("page_size", 0))
        self.grain = max(1, size // PAGE) if size & (size - 1) == 0 else 1
        self.state, self.started = "on", now
        self.ranges = []
        for iova, length in a["ranges"]:
            base = -(-iova // PAGE) * PAGE  # a page that lies partly outside the range is not judged
            if iova + length > base:
                self.ranges.append(LoggedRange(base, (iova + length - base) // PAGE))
        mark_shared(self.ranges, self.grain)
        for known in self.ranges:
            for base, pages in self.old:
                shift = (base - known.base) // PAGE
                if shift > FARTHEST:
                    continue
                bits = pages << shift if shift >= 0 else pages >> -shift
                known.stale |= bits & span(0, min(known.pages, bits.bit_length()))
            touched = known.stale | join(self._grains(known, known.of(e)) for e in self.effects)
            known.limit = touched.bit_length()
            for _, effect in self.active:
                self._may_touch(known, known.of(effect))
        self.reports, self.done = [], {}

    def _op_dma_logging_stop(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        if self.state == "on":
            if not self.out.check(
                "DIRTY-040", rec["errno"] == 0, i, "STOP of a log succeeds", errno_name(int(rec["errno"]))
            ):
                return
            self.why_off = "DIRTY-040"
        elif self.state != "off":
            self.why_off = "DIRTY-039"
        self._off()

    def _off(self) -> None:
        self.old += [(known.base, known.touched) for known in self.ranges if known.touched]
        self.state, self.ranges, self.reports = "off", [], []

    def _op_reset(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        if rec["errno"]:
            return
        if self.state == "on":
            self.state = "maybe"
        for known in self.ranges:
            known.clean = 0
        self.active = []

    def _op_bind(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        if rec["errno"] == 0:
            self._off()
            self.why_off = "DIRTY-047"
            self.active = []

    def _op_close(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        if a["fd"] == "d":
            self.state = "unknown"  # until it is opened again

    def _op_feature(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        flags = int(a["flags"])
        if not rec["errno"] and not flags & _PROBE and flags & _INDEX in _CHANGING:
            self.state = "unknown"  # a raw request: only the program's claims know what it asked for

    # -- what the device wrote
    def _may_touch(self, known: LoggedRange, pages: int) -> None:
        """Note that these pages may have been written: no page in the same page of the log is clean now."""
        wide = self._grains(known, pages)
        known.touched |= wide
        known.clean &= ~wide

    def _grains(self, known: LoggedRange, pages: int) -> int:
        if self.grain == 1 or not pages:
            return pages
        off = known.base // PAGE % self.grain
        end = min(known.pages + off, (pages << off).bit_length() + self.grain)
        return expand(fold(pages << off, self.grain), self.grain, end) >> off

    def _op_dma(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        effect = a.get("effect") or {}
        what, done = effect.get("do"), rec["errno"] == 0 and bool(rec.get("done"))
        if what == "read":
            for known in self.ranges:
                known.read |= self._grains(known, known.of(effect))
        elif what in ("begin", "start"):
            self.active.append((t0, effect))
            for known in self.ranges:
                self._may_touch(known, known.of(effect))
        elif what == "write":
            self._wrote(effect, done, t0, t1, i)
        elif what in ("wait", "stop") and done:
            over = "begin" if what == "wait" else "start"
            for begun, known_effect in [x for x in self.active if x[1]["do"] == over]:
                # How far an endless write came is not known here; memory shows it (`mem_dirty`).
                self._wrote(known_effect, over == "begin", begun, t1, i)
            self.active = [x for x in self.active if x[1]["do"] != over]

    def _wrote(self, effect: Mapping[str, Any], done: bool, t0: int, t1: int, i: int) -> None:
        """Note blocks written between t0 and t1; without `done` they may or may not have been written."""
        if self.state not in ("on", "maybe"):
            return
        for number, known in enumerate(self.ranges):
            pages = known.of(effect)
            if not pages:
                continue
            self._may_touch(known, pages)
            if not done:
                known.unsure |= pages
            elif t0 >= self.started:
                known.recent.append((t1, pages))
                if t0 >= max(self.fills.values(), default=t0):  # otherwise the fill may have overwritten it
                    self.done[number] = self.done.get(number, 0) | pages
                for report in self.reports:
                    if report.ended > t0:  # it overlapped the write, and may have reported the page
                        if pages & report.pages.get(number, 0):
                            self.out.check(self.missing, True, i, "", "")
                        pages &= ~report.pages.get(number, 0)
                known.fresh.append((t1, pages))

    # -- what memory shows
    def _op_ioas_map(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        if rec["errno"] == 0:
            self.maps.setdefault(str(a["mem"]), []).append(
                (int(rec["iova"]), int(a.get("off", 0)), int(a["n"]))
            )

    def _op_mem_fill(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        self.fills[str(a["mem"])] = t0
        self.done = {}

    def _op_mem_dirty(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        """Count pages whose contents differ from the fill as written, if a command may have written them."""
        mem = str(a["mem"])
        filled, places = self.fills.get(mem), self.maps.get(mem, [])
        unclear = self.active or len(places) != 1 or int(a.get("page", PAGE)) != PAGE or rec.get("more")
        if rec["errno"] or filled is None or unclear or self.threaded:
            return  # with other threads, the write behind a change may still be under way
        iova, off, length = places[0]
        start = iova - off + int(a.get("off", 0))
        for number, known in enumerate(self.ranges):
            changed = 0
            for at, count in rec.get("ranges", ()):
                changed |= pages_of(known.base, known.pages, start + at * PAGE, count * PAGE)
            here = pages_of(known.base, known.pages, iova, length)
            # A command was `done` but memory did not change: do not trust the engine for these pages.
            if untrue := self.done.get(number, 0) & here & ~changed:
                self.out.figures["commands_failed"] += 1
                known.written &= ~untrue
                known.fresh = [(when, p & ~untrue) for when, p in known.fresh]
                known.unsure |= untrue
            if filled < self.started:
                continue  # some changes may be older than the log
            changed &= known.touched
            for report in self.reports:
                if report.ended > filled:
                    changed &= ~report.pages.get(number, 0)
            known.fresh.append((t1, changed))

    # -- REPORT
    def _op_dma_logging_report(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        error = int(rec["errno"])
        if self.state == "off":
            # Blame the operation before only if this device has refused a REPORT without a log.
            clause = self.why_off if error or self.refuses else "DIRTY-039"
            self.out.check(clause, error != 0, i, "REPORT is refused: no log is kept", "it succeeded")
            self.refuses = self.refuses or error != 0
        if "guard" in rec:
            self.out.check(
                "DIRTY-035",
                bool(rec["guard"]),
                i,
                "no byte outside the bitmap is written",
                "some are changed",
            )
        iova, length, size = int(a["iova"]), int(a["length"]), int(a["page_size"])
        sane = size >= PAGE and size & (size - 1) == 0 and length > 0 and iova + length <= _END
        if error:
            self._refused(sane and self._inside(iova, length), error, i)
        elif sane and self.state in ("on", "maybe"):
            if self.state == "maybe":
                self.out.check("DIRTY-046", True, i, "", "")
            self.state = "on"
            if iova % PAGE == 0:
                self._judge_report(a, rec, t0, t1, i)

    def _refused(self, inside: bool, error: int, i: int) -> None:
        if self.state == "maybe":
            self.out.check("DIRTY-046", True, i, "", "")
            self._off()
            self.why_off = "DIRTY-039"
        elif self.state == "on":
            if inside:
                self.out.check("DIRTY-061", False, i, "REPORT inside the ranges succeeds", errno_name(error))
            for known in self.ranges:  # after an error the contents of the log are unknown
                known.written, known.fresh, known.clean = 0, [], 0

    def _inside(self, iova: int, length: int) -> bool:
        at = iova
        for known in sorted(self.ranges, key=lambda r: r.base):
            if known.base <= at < known.base + known.pages * PAGE:
                at = known.base + known.pages * PAGE
        return at >= iova + length

    def _judge_report(self, a: Mapping[str, Any], rec: Record, t0: int, t1: int, i: int) -> None:
        iova, size = int(a["iova"]), int(a["page_size"])
        bits = -(-int(a["length"]) // size)
        data = bitmap_of(rec)
        after, preset = from_bytes(data), from_bytes(bytes.fromhex(a.get("preset", ""))[: len(data)])
        self.out.check("DIRTY-061", True, i, "", "")
        if preset:
            lost = preset & ~after
            self.out.check(
                "DIRTY-033",
                not lost,
                i,
                "every bit set by the caller stays",
                f"bits are cleared [{lost.bit_count()}]",
            )
        inside = after & span(0, bits)
        outside = (after ^ inside) & ~preset
        self.out.check(
            "DIRTY-034", not outside, i, "no bit beyond the range", f"bits are set [{outside.bit_count()}]"
        )
        got = inside & ~preset
        alone = not any(t0 < end and begun < t1 for begun, end in self.beside if (begun, end) != (t0, t1))
        under_way = [e for _, e in self.active]
        under_way += [e for begun, end, e in self.flights if begun < t1 < end]
        want = clean = unclean = touched = unsure = stale = read = 0
        reported: dict[int, int] = {}
        for number, known in enumerate(self.ranges):
            view = View(known, iova, int(a["length"]), size)
            known.written |= join(p for when, p in known.fresh if when <= t0)
            known.fresh = [(when, p) for when, p in known.fresh if when > t0]
            want |= view.bits(known.written)
            clean |= view.bits(known.clean)
            unclean |= view.bits(known.touched & ~known.clean)
            touched |= view.bits(known.touched)
            stale |= view.bits(known.stale)
            read |= view.bits(known.read)
            seen = reported[number] = view.pages(inside)
            window = view.window()
            missed = known.written & window & ~seen
            if (known.written & seen and not alone) or any(p & seen for _, p in known.fresh):
                self.out.check(self.missing, True, i, "", "")
            known.written &= ~window
            busy = join(self._grains(known, known.of(e)) for e in under_way)
            unclean |= view.bits(busy)
            known.recent = [(when, p) for when, p in known.recent if when > t0]
            later = self._grains(known, join(p for _, p in known.fresh + known.recent))
            unsure |= view.bits(known.unsure | busy | later)
            known.fresh = [(when, p & ~seen) for when, p in known.fresh]
            if alone:
                known.clean |= view.whole(self.grain) & known.touched & ~known.shared & ~busy & ~later
                known.unsure &= ~window
            elif missed:  # the report beside this one may have it; if not, the next one must
                known.fresh.append((t1, missed))
        self.reports.append(_Report(t0, t1, reported))
        wanted = want if alone else 0
        self._check_bits(
            i,
            iova,
            size,
            wanted,
            got,
            inside,
            clean & ~unclean if alone else 0,
            stale & ~touched,
            read & ~touched,
        )
        if wanted and not unsure and not preset:
            self.out.figures["dirty_written"] += want.bit_count()
            self.out.figures["dirty_reported"] += got.bit_count()

    def _check_bits(
        self,
        i: int,
        iova: int,
        size: int,
        want: int,
        got: int,
        inside: int,
        clean: int,
        stale: int,
        read: int,
    ) -> None:
        missing = want & ~inside
        count = f"{missing.bit_count()} of {want.bit_count()}"
        if want:
            self.out.check(
                self.missing,
                not missing,
                i,
                "every page that was written is reported",
                f"pages are missing [{count}, {place(missing, iova, size)}]",
            )
        for clause, unwanted, expected in (
            ("DIRTY-031", clean, "no page that was reported and not written since"),
            ("DIRTY-041", stale, "no page of a log that has ended"),
            ("DIRTY-054", read, "no page that was only read"),
        ):
            if unwanted:
                wrong = got & unwanted
                self.out.check(
                    clause,
                    not wrong,
                    i,
                    expected,
                    f"there are such pages [{wrong.bit_count()}, {place(wrong, iova, size)}]",
                )


def judge_dirty(program: Mapping[str, Any], trace: Sequence[Record], out: Judgement) -> None:
    """Judge the DMA log in one run of a program.

    In every program, with or without a log, engine commands that failed are counted in
    `out.figures["commands_failed"]`.  The caller must then give no verdict, unless a clause explains the
    failure.
    """
    ops = {t["name"]: t["ops"] for t in program["threads"]}
    names = {op[0] for listed in ops.values() for op in listed}
    if "dma" in names:
        for rec in trace:
            effect = ops[rec["t"]][rec["i"]][1].get("effect", {}) if rec["op"] == "dma" else {}
            if effect.get("do") in _ENDING and not rec.get("done"):
                out.figures["commands_failed"] += 1
    if not names & _OPS:
        return
    main = program["threads"][0]["name"]
    judge = _DirtyJudge(program, out)
    times = [(int(r["t0"]), int(r["t0"]) + int(r["dt"]), r) for r in trace]
    judge.beside = [(begun, end) for begun, end, r in times if r["op"] == "dma_logging_report"]
    if judge.threaded:
        effects = ((b, e, ops[r["t"]][r["i"]][1].get("effect", {})) for b, e, r in times if r["op"] == "dma")
        judge.flights = [(begun, end, effect) for begun, end, effect in effects if "iova" in effect]
    for rec in sorted(trace, key=lambda r: (int(r["t0"]) + int(r["dt"]), int(r["i"]))):
        name, args = ops[rec["t"]][rec["i"]]
        judge.step(name, args, rec, int(rec["i"]) if rec["t"] == main else 0)
