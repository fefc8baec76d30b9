# SPDX-License-Identifier: Apache-2.0
"""Experiments on the content of the device DMA log, compared with what a traffic engine wrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.pages import PAGE
from harness.program.script import Script
from harness.spec.arcs import PRE_COPY_STATES, S, State
from suites.dirty.program import FILL, MEM, LoggedScript, engine_of

_GIB = 1 << 30


def _some(subject: Subject, s: LoggedScript, quick: int, slow: int, pages: int | None = None) -> list[int]:
    """Random pages of the memory, with the first and the last; fewer for a slow engine."""
    last = (pages or s.pages) - 1
    count = min(quick if s.quick else slow, last + 1)
    return [0, last, *subject.rng.sample(range(1, last), max(0, count - 2))][: max(1, count)]


@experiment("DIRTY-030", "DIRTY-031", "DIRTY-034", "DIRTY-035", needs=("dma_logging", "engine"), traffic=True)
def what_was_written_is_reported_once(subject: Subject) -> Iterator[Script]:
    """Steps: write random pages, report twice.  Verify: the first report has them all, the second none."""
    s = LoggedScript(subject, pages=96)
    assert s.traffic is not None
    s.start()
    s.write_pages(_some(subject, s, 20, 4, pages=64))
    s.traffic.write(s.at(70), min(9 * PAGE, s.traffic.engine.reach.max_bytes))
    s.report()
    s.report()
    s.stop()
    yield s.finish()


@experiment("DIRTY-031", "DIRTY-058", needs=("dma_logging", "engine"), traffic=True)
def a_page_written_again_is_reported_again(subject: Subject) -> Iterator[Script]:
    """Steps: write pages, report, write some of them again, report."""
    s = LoggedScript(subject, "DIRTY-058")
    pages = _some(subject, s, 8, 2)
    s.start()
    for turn in range(3):
        s.write_pages(pages[: len(pages) - turn])
        s.report()
    s.report()
    yield s.finish()


@experiment("DIRTY-031", "DIRTY-032", "DIRTY-034", needs=("dma_logging", "engine"), traffic=True)
def a_report_takes_its_range_and_nothing_else(subject: Subject) -> Iterator[Script]:
    """Steps: report the log in pieces, in random order, some twice.  Verify: each page is reported once."""
    s = LoggedScript(subject, "DIRTY-032", pages=128)
    pages = _some(subject, s, 30, 4)
    s.start()
    s.write_pages(pages)
    cuts = sorted({0, 1, 127, 128, *subject.rng.sample(range(2, 127), 6)})
    pieces = list(itertools.pairwise(cuts))
    subject.rng.shuffle(pieces)
    for a, b in pieces:
        s.report(s.at(a), (b - a) * PAGE)
        if subject.rng.random() < 0.3:
            s.report(s.at(a), (b - a) * PAGE)
    s.report()
    yield s.finish()


@experiment("DIRTY-032", needs=("dma_logging", "engine"), traffic=True)
def the_neighbour_of_a_report_stays_dirty(subject: Subject) -> Iterator[Script]:
    """Steps: write pages 62 to 66, report one of them, then those beside it."""
    s = LoggedScript(subject, "DIRTY-032", pages=128)
    s.start()
    s.write_pages((62, 63, 64, 65, 66) if s.quick else (63, 64, 65))
    for page in (64, 63, 65):
        s.report(s.at(page), PAGE)
    s.report()
    yield s.finish()


@experiment("DIRTY-031", "DIRTY-036", "DIRTY-037", needs=("dma_logging", "engine"), traffic=True)
def reports_in_other_page_sizes(subject: Subject) -> Iterator[Script]:
    """Verify: with a larger page size a bit covers every log page in it; smaller sizes work too."""
    for log_size, sizes, clause in (
        (PAGE, (8192, 16384, 65536, 1 << 20), "DIRTY-036"),
        (65536, (PAGE, 8192, 32768), "DIRTY-037"),
    ):
        s = LoggedScript(subject, clause, pages=1024)
        s.start(page_size=log_size)
        for size in sizes:
            s.write_pages(_some(subject, s, 6, 1))
            s.report(page_size=size)
            if s.quick:
                s.report(page_size=size)
        yield s.finish()


@experiment("DIRTY-036", needs=("dma_logging", "engine"), traffic=True)
def a_report_that_begins_inside_a_larger_page(subject: Subject) -> Iterator[Script]:
    """Verify: bits are counted from the report's IOVA, which need not be aligned to its page size."""
    s = LoggedScript(subject, "DIRTY-036", pages=256)
    s.start()
    for first, size in ((3, 16384), (1, 65536), (5, 8192)):
        s.write_pages([first, first + 1, 200] if s.quick else [first])
        s.report(s.at(first), (256 - first) * PAGE, size)
    s.report()
    yield s.finish()


@experiment("DIRTY-035", "DIRTY-038", needs=("dma_logging", "engine"), traffic=True)
def the_bitmap_may_lie_anywhere(subject: Subject) -> Iterator[Script]:
    """Steps: report into bitmaps at many offsets in a page of the caller's memory, and across its end."""
    s = LoggedScript(subject, "DIRTY-038", pages=256)
    s.start()
    for off in (0, 8, 2048, PAGE - 8, PAGE - 16, PAGE - 24) if s.quick else (PAGE - 8, 16):
        s.write_pages([0, 63, 64, 65, 127, 128, 255] if s.quick else [63, 64])
        s.report(off=off)
    yield s.finish()


@experiment("DIRTY-030", "DIRTY-041", needs=("dma_logging", "engine"), traffic=True)
def the_log_begins_empty(subject: Subject) -> Iterator[Script]:
    """Verify: a new log holds nothing of an earlier log, nor of writes made while no log was kept."""
    s = LoggedScript(subject)
    s.start()
    s.write_pages([1, 2])
    s.stop()
    s.start()
    s.report()
    s.write_pages([4])
    s.report()
    yield s.finish()


@experiment("DIRTY-043", "DIRTY-060", needs=("dma_logging", "engine"), traffic=True)
def every_one_of_many_ranges_is_logged(subject: Subject) -> Iterator[Script]:
    """Steps: adjacent ranges, ranges with gaps, unordered, far apart; reports within and across ranges."""
    s = LoggedScript(subject, "DIRTY-043", pages=128)
    pieces = [(0, 1), (1, 2), (3, 1), (8, 8), (16, 16), (40, 1), (64, 32), (127, 1)]
    subject.rng.shuffle(pieces)
    s.start(*[(s.at(a), n * PAGE) for a, n in pieces])
    s.write_pages([a for a, _ in pieces] + [a + n - 1 for a, n in pieces] if s.quick else [3, 31])
    s.write_pages([5, 100] if s.quick else [5])  # outside every range: not logged, and no harm to the others
    for a, n in pieces[:4]:
        s.report(s.at(a), n * PAGE)
    for a, n in pieces[4:]:
        s.report(s.at(a), n * PAGE)
    s.report(s.at(0), 3 * PAGE)
    yield s.finish()
    reach = s.engine.reach if s.engine else None
    if reach is None:
        return
    far = [base for base in (1 << 20, 1 << 27, 1 << 32, 1 << 40, 1 << 47) if base + PAGE * 4 <= reach.highest]
    s = LoggedScript(subject, "DIRTY-043", pages=4, base=far[0])
    for base in far[1:]:
        s.map(base)
    s.start(*[(base, 4 * PAGE) for base in far])
    assert s.traffic is not None
    for base in far:
        s.traffic.write(base + PAGE, s.block)
    for base in reversed(far):
        s.report(base, 4 * PAGE)
    yield s.finish()


@experiment("DIRTY-060", needs=("dma_logging", "engine"), traffic=True)
def dma_outside_the_ranges_disturbs_nothing(subject: Subject) -> Iterator[Script]:
    """Steps: the device writes before, between, after and inside the ranges."""
    s = LoggedScript(subject, "DIRTY-060", pages=64)
    s.start((s.at(8), 8 * PAGE), (s.at(32), 8 * PAGE))
    inside, outside = [8, 15, 32, 39], [0, 7, 16, 31, 40, 63]
    s.write_pages(inside if s.quick else inside[:2])
    s.write_pages(outside if s.quick else outside[1:3])
    s.report(s.at(8), 8 * PAGE)
    s.report(s.at(32), 8 * PAGE)
    yield s.finish()


@experiment("DIRTY-044", needs=("dma_logging", "engine"), traffic=True)
def writes_that_begin_and_end_inside_a_page(subject: Subject) -> Iterator[Script]:
    """Verify: each page that a write touches is dirty, however few bytes of it were written."""
    engine = engine_of(subject)
    if engine is None or not engine.can("bytes"):
        return
    s = LoggedScript(subject, "DIRTY-044")
    assert s.traffic is not None
    s.start()
    cases = [
        (4092, 8),
        (4000, 200),
        (2048, 4096),
        (4095, 2),
        (0, 4),
        (4092, 4),
        (100, 64),
        (1, 4095),
        (1, 4096),
    ]
    longer = [(4092, 3 * PAGE + 8), (PAGE // 2, 7 * PAGE), (4095, 4098)]
    fits = [c for c in (*cases, *longer) if c[1] <= engine.reach.max_bytes]
    for number, (at, length) in enumerate(fits if s.quick else fits[:3]):
        s.traffic.write(s.at(5 * number % 48) + at, length, seed=number + 7)
        s.report()
    yield s.finish()


@experiment("DIRTY-030", "DIRTY-060", needs=("dma_logging", "engine"), traffic=True)
def the_edges_of_a_range_are_inside_it(subject: Subject) -> Iterator[Script]:
    """Steps: write across the first and the last boundary of a range.  Verify: both edge pages are dirty."""
    engine = engine_of(subject)
    if engine is None or not engine.can("bytes"):
        return
    s = LoggedScript(subject)
    assert s.traffic is not None
    s.start((s.at(10), 20 * PAGE))
    s.traffic.write(s.at(10) - 8, 16)
    s.traffic.write(s.at(30) - 8, 16)
    s.report(s.at(10), 20 * PAGE)
    yield s.finish()


@experiment("DIRTY-045", "DIRTY-048", needs=("dma_logging", "engine"), traffic=True)
def the_log_outlives_changes_of_the_state(subject: Subject) -> Iterator[Script]:
    """Steps: write, change the state, report there, return to RUNNING, report.  Verify: nothing is lost."""
    if not subject.has("migration"):
        return
    ways: list[Sequence[State]] = [(S.STOP,), (S.STOP, S.RUNNING), (S.STOP_COPY,), (S.STOP_COPY, S.RUNNING)]
    if subject.has("p2p"):
        ways += [(S.RUNNING_P2P,), (S.RUNNING_P2P, S.RUNNING)]
    if subject.has("pre_copy"):
        ways += [(S.PRE_COPY,), (S.PRE_COPY, S.RUNNING), (S.PRE_COPY, S.STOP_COPY)]
    for way in ways:
        s = LoggedScript(subject, "DIRTY-045")
        s.start()
        s.write_pages([1, 40] if s.quick else [1])
        for state in way:
            s.set(state)
        asked = s.report()
        s.succeeds("DIRTY-048", asked, f"REPORT succeeds in {way[-1].name}")
        if way[-1] not in (S.RUNNING, *PRE_COPY_STATES):
            s.set(S.RUNNING)
        s.write_pages([2])
        s.report()
        yield s.finish()


@experiment("DIRTY-045", "DIRTY-058", needs=("dma_logging", "engine"), traffic=True)
def pages_written_in_pre_copy_are_reported(subject: Subject) -> Iterator[Script]:
    """Steps: as in a migration, report in rounds in PRE_COPY (or RUNNING), and last in STOP_COPY."""
    if not subject.has("migration"):
        return
    s = LoggedScript(subject, "DIRTY-045")
    s.start()
    if subject.has("pre_copy"):
        s.set(S.PRE_COPY)
    for _ in range(3 if s.quick else 2):
        s.write_pages(_some(subject, s, 6, 1))
        s.report()
    s.write_pages(_some(subject, s, 3, 1))
    s.set(S.STOP_COPY)
    s.report()
    s.report()
    yield s.finish()


@experiment("DIRTY-046", needs=("dma_logging", "engine"), traffic=True)
def a_reset_ends_the_log_or_keeps_it_whole(subject: Subject) -> Iterator[Script]:
    """Verify: after a reset REPORT fails, or still has what was written before the reset."""
    if not subject.has("reset"):
        return
    for state in (S.RUNNING, S.STOP) if subject.has("migration") else (S.RUNNING,):
        s = LoggedScript(subject, "DIRTY-046")
        s.start()
        s.write_pages([3, 9] if s.quick else [3])
        if state != S.RUNNING:
            s.set(state)
        s.op("reset", fd="d")
        if subject.has("migration"):
            s.op("get_state", fd="d")
        s.report()
        s.stop()
        s.start()
        s.report()
        yield s.finish()


@experiment("DIRTY-053", needs=("dma_logging", "engine"), traffic=True)
def a_report_beyond_the_ranges_is_refused_or_complete(subject: Subject) -> Iterator[Script]:
    """Steps: report a range that begins before the logged one, ends after it, or both."""
    for before, after in ((4, 0), (0, 4), (4, 4)):
        s = LoggedScript(subject, "DIRTY-053")
        s.start((s.at(16), 16 * PAGE))
        s.write_pages([16, 31] if s.quick else [16])
        s.report(s.at(16 - before), (16 + before + after) * PAGE)
        yield s.finish()


@experiment("DIRTY-054", needs=("dma_logging", "engine"), traffic=True)
def pages_that_are_only_read_stay_clean(subject: Subject) -> Iterator[Script]:
    """Steps: the device reads some pages and writes others.  Verify: the read pages are clean."""
    engine = engine_of(subject)
    if engine is None or not engine.can("read"):
        return
    s = LoggedScript(subject)
    assert s.traffic is not None
    s.op("mem_fill", mem=MEM, value=FILL ^ 0xFF)  # an engine may write what it has read
    s.start()
    s.traffic.read(s.at(5), s.block)
    s.traffic.read(s.at(6), 64)
    s.fill()
    s.write_pages([40])
    s.report()
    yield s.finish()


@experiment("DIRTY-031", "DIRTY-057", needs=("dma_logging", "engine"), traffic=True)
def a_large_range_is_reported_in_every_part(subject: Subject) -> Iterator[Script]:
    """Steps: log 64 GiB in 4 KiB pages (a 2 MiB bitmap); write pages at both ends and between."""
    engine = engine_of(subject)
    if engine is None:
        return
    base = 1 << 20
    if engine.reach.highest < 64 * _GIB:
        subject.notes.append(
            f"{subject.device_id}: its engine ({engine.name}) reaches IOVAs up to {engine.reach.highest:#x}: "
            "ranges are narrowed to that"
        )
    most = min(64 * _GIB, (engine.reach.highest + 1 - base) // (1 << 24) * (1 << 24))
    s = LoggedScript(subject, "DIRTY-057", pages=16, base=base)
    places = [base, base + most // 2, base + most - s.bytes]
    places += [
        base + subject.rng.randrange(1, most // s.bytes - 1) * s.bytes for _ in range(5 if s.quick else 0)
    ]
    for place in sorted(set(places[1:])):
        s.map(place)
    s.start((base, most))
    assert s.traffic is not None
    for place in places:
        s.traffic.write(place + subject.rng.randrange(16) * PAGE, s.block)
    s.report(base, most)
    s.report(base, most)
    yield s.finish()


@experiment("DIRTY-030", "DIRTY-057", needs=("dma_logging", "engine"), traffic=True)
def a_million_pages_are_written_and_reported(subject: Subject) -> Iterator[Script]:
    """Steps: write a few bytes in every page of 1 GiB (one memory, mapped repeatedly), then every third."""
    engine = engine_of(subject)
    if engine is None or not engine.can("strided"):
        return
    base, piece, times = 1 << 32, 4 << 20, 256
    s = LoggedScript(subject, "DIRTY-057", pages=piece // PAGE, base=base)
    for n in range(1, times):
        s.map(base + n * piece)
    total = times * piece
    s.start((base, total))
    assert s.traffic is not None
    for stride in (PAGE, 3 * PAGE):
        s.traffic.write(base + 100, 4, count=total // stride, stride=stride)
        s.report(base, total)
    s.report(base, total)
    yield s.finish()


@experiment("DIRTY-055", needs=("dma_logging", "engine"), traffic=True)
def work_under_way_is_in_a_later_report(subject: Subject) -> Iterator[Script]:
    """Steps: start a write, report while it is under way, and again when it is done.

    What memory shows to be written after the early reports must be in a later report.
    """
    engine = engine_of(subject)
    if engine is None or not engine.can("begin"):
        return
    s = LoggedScript(subject, "DIRTY-055")
    assert s.traffic is not None
    s.start()
    for turn in range(4 if s.quick else 2):
        s.traffic.begin(s.at(4 * turn), s.block, delay_ms=subject.rng.choice((1, 5, 20)))
        for _ in range(3):
            s.report()
        s.fill()
        s.traffic.wait()
        s.seen()
        s.report()
    s.report()
    yield s.finish()


@experiment("DIRTY-030", needs=("dma_logging", "engine"), traffic=True)
def registers_that_can_be_mapped_are_no_way_past_the_log(subject: Subject) -> Iterator[Script]:
    """Verify: a write that was started through mapped registers, where mapping is allowed, is logged too."""
    engine = engine_of(subject)
    if engine is None or not engine.can("begin"):
        return
    s = LoggedScript(subject)
    assert s.traffic is not None
    s.start()
    steps = s.traffic.command("begin", s.at(5), s.block)["steps"]
    registers = [step[1:] for step in steps if step[0] == "reg"]
    if len({region for region, _, _ in registers}) != 1 or any(off + 8 > PAGE for _, off, _ in registers):
        return
    s.op("mmap", out="registers", fd="d", region=registers[0][0], n=PAGE)
    for _, off, data in registers:
        s.op("mem_write", mem="registers", off=off, hex=data, width=4)
    s.op("sleep", ms=5 + int(1.6 * engine.cost_ms))
    seen = s.seen()
    report = s.report()
    expected = "a bit for the page that memory shows to be written"
    s.differs("DIRTY-030", report, "bitmap", "00" * 8, expected).when((seen, "pages", "!=", 0))
    yield s.finish()


@experiment("DIRTY-055", needs=("dma_logging", "engine"), traffic=True)
def endless_traffic_is_in_the_last_report(subject: Subject) -> Iterator[Script]:
    """Steps: report while the device writes without end.  Verify: each page that memory shows is reported."""
    engine = engine_of(subject)
    if engine is None or not engine.can("endless"):
        return
    s = LoggedScript(subject, "DIRTY-055")
    assert s.traffic is not None
    s.start()
    s.traffic.start(s.at(2), 8 * PAGE)
    s.op("mem_poll", mem=MEM, off=2 * PAGE, width=1, mask=0xFF, value=0xA5, timeout_ms=5000, differs=True)
    for _ in range(6):
        s.report()
        s.fill()
        s.op("sleep", ms=4)
    s.report()
    s.fill()
    s.op("mem_poll", mem=MEM, off=2 * PAGE, width=1, mask=0xFF, value=0xA5, timeout_ms=5000, differs=True)
    s.traffic.stop()
    s.seen()
    s.report()
    s.report()
    yield s.finish()
