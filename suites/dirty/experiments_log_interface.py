# SPDX-License-Identifier: Apache-2.0
"""Experiments on the interface of device DMA logging: what is refused and what accepted; without traffic."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from errno import EFAULT

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.pages import PAGE
from harness.program.script import FEATURE_GET, FEATURE_PROBE, FEATURE_SET, Script, succeeded
from harness.spec.arcs import SAVING_GROUP, S, State
from harness.uapi import vfio
from suites.dirty.program import LoggedScript

_START, _STOP = vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
_REPORT = vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
_MOST_RANGES = PAGE // 16
_NOBODYS_ADDRESS = 0x1000
_GIB = 1 << 30


def _report_refused(s: LoggedScript, clause: str, before: int) -> None:
    """Claim that REPORT is refused, if it was refused at `before`; otherwise nothing follows from it."""
    refused = [(before, "errno", "!=", 0)]
    s.is_refused(clause, s.report(), expected="REPORT is refused: no log is kept").when(*refused)


@experiment("DIRTY-001", needs=("dma_logging_any",), traffic=True)
def the_three_features_come_together(subject: Subject) -> Iterator[Script]:
    """Verify: a device that declares one of START, STOP and REPORT declares all three."""
    s = Script(fresh=False)
    has = [
        s.op("feature", fd="d", flags=FEATURE_PROBE | way | feature)
        for feature, way in ((_START, FEATURE_SET), (_STOP, FEATURE_SET), (_REPORT, FEATURE_GET))
    ]
    for one in has:
        for other in has:
            if one != other:
                s.succeeds("DIRTY-001", other, "declared too").when(succeeded(one))
    yield s


@experiment("DIRTY-002", "DIRTY-005", needs=("dma_logging",), traffic=True)
def methods_that_a_feature_lacks_are_refused(subject: Subject) -> Iterator[Script]:
    """Verify: GET of START and STOP, and SET of REPORT, are refused, with PROBE and without."""
    s = LoggedScript(subject)
    for feature, way in ((_START, FEATURE_GET), (_STOP, FEATURE_GET), (_REPORT, FEATURE_SET)):
        index = s.op("feature", fd="d", flags=FEATURE_PROBE | way | feature)
        s.is_refused("DIRTY-002", index, expected="PROBE is refused")
        index = s.op("feature", fd="d", flags=way | feature, payload="00" * 32)
        s.is_refused("DIRTY-005", index, expected="the request is refused")
    yield s.finish()


@experiment("DIRTY-003", needs=("dma_logging",), traffic=True)
def probe_changes_nothing_of_the_log(subject: Subject) -> Iterator[Script]:
    """Verify: PROBE of START starts no log, of STOP ends none, of REPORT clears nothing."""
    s = LoggedScript(subject, "DIRTY-003")
    before = s.report()
    s.op("feature", fd="d", flags=FEATURE_PROBE | FEATURE_SET | _START)
    _report_refused(s, "DIRTY-003", before)
    started = s.start()
    if s.traffic is not None:
        s.write_pages([3])
    s.op("feature", fd="d", flags=FEATURE_PROBE | FEATURE_SET | _STOP)
    s.op("feature", fd="d", flags=FEATURE_PROBE | FEATURE_GET | _REPORT)
    index = s.report()
    s.succeeds("DIRTY-003", index, "the log is still kept").when(succeeded(started))
    yield s.finish()


@experiment("DIRTY-004", "DIRTY-006", needs=("dma_logging",), traffic=True)
def the_size_of_the_argument_is_respected(subject: Subject) -> Iterator[Script]:
    """Verify: an argsz that is too small is refused, one larger than needed is accepted."""
    s = LoggedScript(subject)
    s.op("mmap", out="ranges", n=PAGE)
    s.op("mem_write", mem="ranges", hex=struct.pack("=QQ", s.base, s.bytes).hex())
    s.op("mmap", out="bitmap", n=PAGE)
    control = struct.pack("=QIIQ", PAGE, 1, 0, 0).hex()
    for size in (0, 8, 23):
        index = s.op(
            "feature", fd="d", flags=FEATURE_SET | _START, payload=control, argsz=8 + size,
            ptrs=[[16, "ranges", 0]],
        )  # fmt: skip
        s.is_refused("DIRTY-004", index, expected="START is refused: argsz does not hold the data")
    larger = s.op(
        "feature", fd="d", flags=FEATURE_SET | _START, payload=control, argsz=48, ptrs=[[16, "ranges", 0]]
    )
    s.succeeds("DIRTY-006", larger, "START succeeds")
    ask = struct.pack("=QQQQ", s.base, s.bytes, PAGE, 0).hex()
    for size in (0, 31):
        index = s.op(
            "feature", fd="d", flags=FEATURE_GET | _REPORT, payload=ask, argsz=8 + size,
            ptrs=[[24, "bitmap", 0]],
        )  # fmt: skip
        s.is_refused("DIRTY-004", index, expected="REPORT is refused: argsz does not hold the data")
    index = s.op(
        "feature", fd="d", flags=FEATURE_GET | _REPORT, payload=ask, argsz=64, ptrs=[[24, "bitmap", 0]]
    )
    s.succeeds("DIRTY-006", index, "REPORT succeeds").when(succeeded(larger))
    index = s.op("feature", fd="d", flags=FEATURE_SET | _STOP, payload="00" * 16, argsz=24)
    s.succeeds("DIRTY-006", index, "STOP succeeds").when(succeeded(larger))
    yield s.finish()


@experiment(
    "DIRTY-010", "DIRTY-039", "DIRTY-040", "DIRTY-042", "DIRTY-061", needs=("dma_logging",), traffic=True,
)  # fmt: skip
def a_log_is_started_asked_and_stopped_again_and_again(subject: Subject) -> Iterator[Script]:
    """Verify: REPORT works only between START and STOP, and START works again after STOP."""
    s = LoggedScript(subject)
    s.report()
    for turn in range(5):
        started = s.start()
        if turn:
            s.succeeds("DIRTY-042", started, "START after STOP succeeds")
        s.report()
        s.report(s.at(3), 2 * PAGE)
        s.stop()
        s.report()
    yield s.finish()


@experiment("DIRTY-011", "DIRTY-021", needs=("dma_logging",), traffic=True)
def a_page_of_the_kernel_full_of_ranges_is_accepted(subject: Subject) -> Iterator[Script]:
    """Steps: as many ranges as fit in a page, then one more, which may be refused."""
    s = LoggedScript(subject)
    for count in (2, 17, _MOST_RANGES):
        s.start(*[(s.base + 2 * n * PAGE, PAGE) for n in range(count)])
        s.stop()
    s.start(*[(s.base + 2 * n * PAGE, PAGE) for n in range(_MOST_RANGES + 1)])
    _still_usable(s)
    yield s.finish()


def _still_usable(s: LoggedScript) -> None:
    """Claim that stop, start, report and stop work, whatever the last START did."""
    s.stop()
    started = s.start()
    s.succeeds("DIRTY-021", started, "START succeeds afterwards")
    asked = s.report()
    s.succeeds("DIRTY-021", asked, "REPORT succeeds afterwards")
    ended = s.stop()
    s.succeeds("DIRTY-021", ended, "STOP succeeds afterwards")


@experiment("DIRTY-012", "DIRTY-013", needs=("dma_logging",), traffic=True)
def another_start_in_the_meantime_is_refused(subject: Subject) -> Iterator[Script]:
    """Steps: START again with the same ranges, with others, and after a report."""
    s = LoggedScript(subject, "DIRTY-013")
    s.start()
    if s.traffic is not None:
        s.write_pages([1, 5])
    s.start()
    s.start((s.base + s.bytes, PAGE))
    s.report()
    if s.traffic is not None:
        s.write_pages([7])
    s.start((s.base, 2 * PAGE))
    s.report()
    s.stop()
    yield s.finish()


@experiment(
    "DIRTY-014", "DIRTY-017", "DIRTY-018", "DIRTY-019", "DIRTY-020", "DIRTY-022", needs=("dma_logging",),
    traffic=True,
)  # fmt: skip
def a_start_that_fails_leaves_no_log(subject: Subject) -> Iterator[Script]:
    """Verify: after each refused START no log is kept, and another START succeeds."""
    page, top = PAGE, 1 << 64
    one = LoggedScript(subject).base
    cases: list[tuple[str, list[tuple[int, int]], int, dict[str, int]]] = [
        ("DIRTY-017", [(one, 4 * page), (one + 2 * page, 4 * page)], page, {}),
        ("DIRTY-017", [(one, 4 * page), (one, 4 * page)], page, {}),
        ("DIRTY-018", [(one + page // 2, page)], page, {}),
        ("DIRTY-018", [(one, page + 512)], page, {}),
        ("DIRTY-018", [(one + page, 16 * page)], 2 * page, {}),
        ("DIRTY-019", [(top - page, 2 * page)], page, {}),
        ("DIRTY-019", [(one, page), (top - 2 * page, top - page)], page, {}),
        ("DIRTY-020", [(one, page)], page, {"num_ranges": 0}),
    ]
    for clause, ranges, size, more in cases:
        s = LoggedScript(subject)
        before = s.report()
        index = s.start(*ranges, page_size=size, **more)
        s.is_refused(clause, index, expected="START is refused")
        refused = [(index, "errno", "!=", 0)]
        neither = [*refused, (before, "errno", "!=", 0)]
        asked = s.report()
        s.is_refused("DIRTY-014", asked, expected="REPORT is refused: no log is kept").when(*neither)
        again = s.start()
        s.succeeds("DIRTY-014", again, "another START succeeds").when(*refused)
        yield s.finish()
    s = LoggedScript(subject)
    before = s.report()
    control = struct.pack("=QIIQ", PAGE, 1, 0, _NOBODYS_ADDRESS).hex()
    index = s.op("feature", fd="d", flags=FEATURE_SET | _START, payload=control)
    s.is_refused("DIRTY-022", index, EFAULT, expected="START is refused with EFAULT")
    _report_refused(s, "DIRTY-014", before)
    again = s.start()
    s.succeeds("DIRTY-014", again, "another START succeeds")
    yield s.finish()


@experiment("DIRTY-015", "DIRTY-016", needs=("dma_logging",), traffic=True)
def hints_of_any_size_are_taken(subject: Subject) -> Iterator[Script]:
    """Verify: START succeeds with any page size; the device need not use that size."""
    for size in (4096, 8192, 65536, 1 << 21, _GIB):
        s = LoggedScript(subject, base=_GIB if subject.capabilities.get("engine") != "edu" else 1 << 24)
        base = -(-s.base // size) * size
        index = s.start((base, max(size, 1 << 21)), page_size=size)
        s.succeeds("DIRTY-015", index, "START succeeds")
        yield s.finish()


@experiment("DIRTY-014", "DIRTY-021", needs=("dma_logging",), traffic=True)
def requests_nobody_foresaw_do_no_harm(subject: Subject) -> Iterator[Script]:
    """Steps: START with empty ranges, odd page sizes and reserved bits.  Verify: the log works afterwards."""
    for ranges, size, more in (
        ([(0, 0)], PAGE, {}),
        ([(PAGE, 0), (PAGE, 0)], PAGE, {}),
        ([(0, PAGE)], 0, {}),
        ([(0, PAGE)], 3, {}),
        ([(0, PAGE)], 1, {}),
        ([(0, 1 << 63)], PAGE, {}),
        ([(0, (1 << 64) - PAGE)], PAGE, {}),
        ([(1 << 63, (1 << 63) - PAGE)], PAGE, {}),
        ([(0, 1 << 63)], 1 << 63, {}),
        ([(0, PAGE)], PAGE, {"reserved": 0xFFFFFFFF}),
        ([(0, PAGE)], PAGE, {"num_ranges": 0xFFFFFFFF}),
    ):
        s = LoggedScript(subject)
        before = s.report()
        started = s.start(*ranges, page_size=size, **more)
        asked = s.report(ranges[0][0], PAGE)
        refused = [(n, "errno", "!=", 0) for n in (started, before)]
        s.is_refused("DIRTY-014", asked, expected="REPORT is refused: no log is kept").when(*refused)
        _still_usable(s)
        yield s.finish()


@experiment("DIRTY-021", "DIRTY-050", "DIRTY-051", needs=("dma_logging",), traffic=True)
def reports_nobody_foresaw_are_refused_or_harmless(subject: Subject) -> Iterator[Script]:
    """Steps: REPORT with odd page sizes, ranges past 2^64, and an empty range."""
    s = LoggedScript(subject)
    s.start()
    for size in (0, 3, 4095, 4097, 12288):
        index = s.op(
            "dma_logging_report", fd="d", iova=s.base, length=s.bytes, page_size=size, bitmap_bytes=512
        )
        s.is_refused("DIRTY-050", index, expected=f"REPORT in pages of {size} bytes is refused")
    for iova, length in (((1 << 64) - PAGE, 2 * PAGE), (s.base, (1 << 64) - PAGE)):
        index = s.op(
            "dma_logging_report", fd="d", iova=iova, length=length, page_size=1 << 62, bitmap_bytes=512
        )
        s.is_refused("DIRTY-051", index, expected="REPORT past 2^64 is refused")
    s.op("dma_logging_report", fd="d", iova=s.base, length=0, page_size=PAGE, bitmap_bytes=512)
    _still_usable(s)
    yield s.finish()


@experiment("DIRTY-039", "DIRTY-059", needs=("dma_logging",), traffic=True)
def stop_and_report_without_a_log_do_no_harm(subject: Subject) -> Iterator[Script]:
    """Verify: START succeeds after STOP and REPORT without a log, whatever those returned."""
    s = LoggedScript(subject)
    for _ in range(3):
        s.stop()
        s.report()
    started = s.start()
    s.succeeds("DIRTY-059", started, "START succeeds")
    for _ in range(2):
        s.stop()
    started = s.start()
    s.succeeds("DIRTY-059", started, "START succeeds")
    yield s.finish()


@experiment("DIRTY-033", "DIRTY-035", needs=("dma_logging",), traffic=True)
def the_callers_bits_stay(subject: Subject) -> Iterator[Script]:
    """Verify: bits set in the bitmap before a report stay set, and nothing beside the bitmap is written."""
    s = LoggedScript(subject)
    s.start()
    for preset in ("ff" * 8, "55" * 8, "01" + "00" * 6 + "80"):
        s.report(preset=preset)
        if s.traffic is not None:
            s.write_pages([subject.rng.randrange(64)])
            s.report(preset=preset)
    yield s.finish()


def _reach(s: LoggedScript, state: State) -> None:
    """Append the SET that takes the device from RUNNING to a state, and a GET."""
    if state != S.RUNNING:
        out = s.slot()
        s.op("set_state", fd="d", state=int(state), out=out)
        s.op("get_state", fd="d")


@experiment("DIRTY-048", "DIRTY-049", needs=("dma_logging",), traffic=True)
def the_log_works_in_every_state(subject: Subject) -> Iterator[Script]:
    """Verify: START, REPORT and STOP work in every migration state: the two are independent."""
    if not subject.has("migration"):
        return
    for state in subject.states:
        if not subject.has("reset") and state in (*SAVING_GROUP, S.RESUMING):
            continue
        s = LoggedScript(subject)
        _reach(s, state)
        started = s.start()
        s.succeeds("DIRTY-049", started, f"START succeeds in {state.name}")
        begun = [(started, "errno", "==", 0)]
        asked = s.report()
        s.succeeds("DIRTY-048", asked, f"REPORT succeeds in {state.name}").when(*begun)
        ended = s.stop()
        s.succeeds("DIRTY-049", ended, f"STOP succeeds in {state.name}").when(*begun)
        yield s.finish()


@experiment("DIRTY-048", needs=("dma_logging", "migration"), traffic=True)
def one_log_lasts_through_all_states(subject: Subject) -> Iterator[Script]:
    """Steps: START in RUNNING, then every arc of a migration, each with a REPORT.  Verify: all succeed.

    A log that an arc ends loses pages; this shows it without an engine that could write them.
    """
    ways: list[Sequence[State]] = [(S.STOP, S.STOP_COPY, S.STOP, S.RUNNING)]
    if subject.has("p2p"):
        ways.append((S.RUNNING_P2P, S.STOP, S.STOP_COPY, S.STOP, S.RUNNING_P2P, S.RUNNING))
    if subject.has("pre_copy"):
        ways.append((S.PRE_COPY, S.STOP_COPY, S.STOP, S.RUNNING))
    for way in ways:
        s = LoggedScript(subject)
        conditions = [succeeded(s.start())]
        for state in way:
            s.op("set_state", fd="d", state=int(state), out=s.slot())
            conditions.append(succeeded(s.last_set()))
            s.op("get_state", fd="d")
            asked = s.report()
            s.succeeds("DIRTY-048", asked, f"REPORT succeeds in {state.name}").when(*conditions)
        s.stop()
        yield s.finish()


@experiment("DIRTY-047", needs=("dma_logging",), own_open=True, traffic=True)
def the_next_user_finds_no_log(subject: Subject) -> Iterator[Script]:
    """Steps: close the device with a log started, open it again.  Verify: START succeeds."""
    s = Script(fresh=False)
    for turn in range(2):
        _open(s)
        if not turn:
            s.op("dma_logging_stop", fd="d")
        _ask(s)
        index = s.op("dma_logging_start", fd="d", page_size=PAGE, ranges=[[0, 16 * PAGE]])
        s.succeeds("DIRTY-047", index, "START on a device just opened succeeds")
        if turn:
            s.op("dma_logging_stop", fd="d")
        s.op("close", fd="d")
        s.op("close", fd="i")
    yield s


@experiment("DIRTY-040", "DIRTY-042", needs=("dma_logging",), own_open=True, traffic=True)
def stop_ends_the_log_of_this_user(subject: Subject) -> Iterator[Script]:
    """Opens the device itself, so that no earlier program has an influence."""
    s = Script(fresh=False)
    _open(s)
    _ask(s)
    first = s.op("dma_logging_start", fd="d", page_size=PAGE, ranges=[[0, 16 * PAGE]])
    s.op("dma_logging_stop", fd="d")
    _ask(s)
    again = s.op("dma_logging_start", fd="d", page_size=PAGE, ranges=[[0, 16 * PAGE]])
    s.succeeds("DIRTY-042", again, "START after STOP succeeds").when(succeeded(first))
    s.op("dma_logging_stop", fd="d")
    yield s


def _ask(s: Script) -> None:
    s.op("dma_logging_report", fd="d", iova=0, length=16 * PAGE, page_size=PAGE, bitmap_bytes=8)


def _open(s: Script) -> None:
    s.op("open_iommufd", out="i")
    s.op("ioas_alloc", fd="i", out="ioas")
    s.op("open_cdev", dev="dev0", out="d")
    s.op("bind", fd="d", iommufd="i")
    s.op("attach", fd="d", pt="ioas")
