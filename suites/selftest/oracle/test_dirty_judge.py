# SPDX-License-Identifier: Apache-2.0
"""The judge of device DMA logging on traces made by hand: what runs at once, and what proves nothing."""

from __future__ import annotations

from typing import Any

from harness.oracle.dma_log import judge_dirty
from harness.oracle.judgement import Judgement
from harness.program.pages import PAGE

BASE = 1 << 24
REPORT = {"fd": "d", "iova": BASE, "length": 8 * PAGE, "page_size": PAGE, "bitmap_bytes": 8}
Op = tuple[str, str, dict[str, Any], int, int, dict[str, Any]]
START = {"fd": "d", "page_size": PAGE, "ranges": [[BASE, 8 * PAGE]]}


def write(page: int, do: str = "write") -> dict[str, Any]:
    effect = {"do": do, "iova": BASE + page * PAGE, "length": PAGE, "count": 1, "stride": 0, "seed": 1}
    return {"fd": "d", "steps": [], "effect": effect}


def judged(*ops: Op, **program: Any) -> Judgement:
    """Operations as (thread, name, arguments, begin, end, record) in the order of each thread."""
    threads: dict[str, list[Any]] = {"main": []}
    trace = []
    for thread, name, args, begin, end, record in ops:
        listed = threads.setdefault(thread, [])
        rec = {"t": thread, "i": len(listed), "op": name, "errno": 0, "t0": begin, "dt": end - begin}
        trace.append({**rec, **record})
        listed.append([name, args])
    out = Judgement()
    judge_dirty({"threads": [{"name": n, "ops": o} for n, o in threads.items()], **program}, trace, out)
    return out


def report(begin: int, end: int, bits: int, thread: str = "main", **record: Any) -> Op:
    return (
        thread, "dma_logging_report", REPORT, begin, end,
        {"bitmap": bits.to_bytes(8, "little").hex(), "guard": True, **record},
    )  # fmt: skip


STOP: Op = ("main", "dma_logging_stop", {"fd": "d"}, 0, 1, {})
STARTED: Op = ("main", "dma_logging_start", START, 2, 3, {"page_size": PAGE})
WROTE: Op = ("main", "dma", write(3), 4, 5, {"done": True})


def clauses(found: Judgement) -> set[str]:
    return {v.clause for v in found.violations}


def test_a_page_in_either_of_two_reports_at_once_is_found() -> None:
    for first, second in ((8, 0), (0, 8), (8, 8)):
        both = (report(10, 20, first), report(11, 21, second, "other"))
        found = judged(STOP, STARTED, WROTE, *both, report(30, 31, 0), missing="DIRTY-056")
        assert not found.violations
        assert found.checked["DIRTY-056"]


def test_a_page_in_neither_of_two_reports_at_once_is_missing() -> None:
    both = (report(10, 20, 0), report(11, 21, 0, "other"))
    found = judged(STOP, STARTED, WROTE, *both, report(30, 31, 0), missing="DIRTY-056")
    assert clauses(found) == {"DIRTY-056"}


def test_a_write_beside_a_report_is_in_it_or_in_the_next() -> None:
    beside = ("other", "dma", write(3), 8, 15, {"done": True})
    for now, later, expected in ((8, 0, set()), (0, 8, set()), (0, 0, {"DIRTY-055"}), (8, 8, set())):
        found = judged(STOP, STARTED, report(10, 12, now), beside, report(30, 31, later), missing="DIRTY-055")
        assert clauses(found) == expected


def test_a_write_beside_two_reports_may_be_in_a_third() -> None:
    """The page may be reported for an earlier write; this write may have come after both reports."""
    beside = ("other", "dma", write(3), 8, 25, {"done": True})
    reports = (report(10, 12, 8), report(20, 30, 0), report(40, 41, 8))
    found = judged(STOP, STARTED, WROTE, *reports[:1], beside, *reports[1:], missing="DIRTY-055")
    assert not found.violations
    again = judged(STOP, STARTED, WROTE, *reports[:1], beside, *reports[1:], report(50, 51, 8))
    assert clauses(again) == {"DIRTY-031"}


def test_a_command_that_did_not_end_well_proves_nothing() -> None:
    undone = ("main", "dma", write(3), 4, 5, {"done": False})
    for bits in (0, 8):
        found = judged(STOP, STARTED, undone, report(10, 11, bits), report(12, 13, bits))
        assert "DIRTY-030" not in clauses(found)
        assert found.figures["commands_failed"] == 1


def test_what_memory_does_not_show_need_not_be_reported() -> None:
    mapped = ("main", "ioas_map", {"mem": "m", "n": 8 * PAGE}, 0, 1, {"iova": BASE})
    filled: Op = ("main", "mem_fill", {"mem": "m", "value": 165}, 3, 4, {})
    seen = ("main", "mem_dirty", {"mem": "m", "value": 165}, 6, 7, {"ranges": [], "more": False})
    found = judged(STOP, mapped, STARTED, filled, WROTE, seen, report(10, 11, 0))
    assert not found.violations
    assert found.figures["commands_failed"] == 1


def test_endless_writes_that_memory_shows_must_be_reported() -> None:
    mapped = ("main", "ioas_map", {"mem": "m", "n": 8 * PAGE}, 0, 1, {"iova": BASE})
    begun = ("main", "dma", write(3, "start"), 4, 5, {"done": True})
    early = report(6, 7, 8)
    filled: Op = ("main", "mem_fill", {"mem": "m", "value": 165}, 8, 9, {})
    ended = ("main", "dma", {"fd": "d", "steps": [], "effect": {"do": "stop"}}, 10, 11, {"done": True})
    seen = ("main", "mem_dirty", {"mem": "m", "value": 165}, 12, 13, {"ranges": [[3, 1]], "more": False})
    for bits, expected in ((8, set()), (0, {"DIRTY-055"})):
        found = judged(
            STOP, mapped, STARTED, begun, early, filled, ended, seen, report(14, 15, bits),
            missing="DIRTY-055",
        )  # fmt: skip
        assert clauses(found) == expected


def test_a_page_reported_twice_without_a_write_between_is_found() -> None:
    found = judged(STOP, STARTED, WROTE, report(10, 11, 8), report(12, 13, 8))
    assert clauses(found) == {"DIRTY-031"}


def test_a_report_that_fails_leaves_nothing_to_ask_for() -> None:
    failed = report(10, 11, 0, errno=5)
    found = judged(STOP, STARTED, WROTE, failed, report(12, 13, 0))
    assert clauses(found) == {"DIRTY-061"}


def test_numbers_nobody_can_hold_are_no_matter() -> None:
    huge = {**START, "ranges": [[0, (1 << 64) - PAGE]]}
    wide = {**REPORT, "iova": 0, "length": (1 << 64) - PAGE, "page_size": 1 << 63}
    asked = ("main", "dma_logging_report", wide, 10, 11, {"bitmap": "01" + "00" * 7, "guard": True})
    found = judged(STOP, ("main", "dma_logging_start", huge, 2, 3, {"page_size": PAGE}), WROTE, asked)
    assert not found.violations
    assert found.checked["DIRTY-030"] == 1


def test_ranges_as_large_as_the_address_space_take_no_memory() -> None:
    all_of_it = {**START, "ranges": [[0, (1 << 64) - PAGE]]}
    far = {**write(0), "effect": {**write(0)["effect"], "iova": 1 << 62}}
    begun = ("main", "dma_logging_start", all_of_it, 10, 11, {"page_size": PAGE})
    at_top = ("main", "dma_logging_start", {**START, "ranges": [[1 << 63, PAGE]]}, 2, 3, {"page_size": PAGE})
    top = {**write(0), "effect": {**write(0)["effect"], "iova": 1 << 63}}
    found = judged(
        STOP, at_top, ("main", "dma", top, 4, 5, {"done": True}), ("main", "dma_logging_stop", {}, 6, 7, {}),
        begun, ("main", "dma", far, 12, 13, {"done": True}), report(14, 15, 0),
    )  # fmt: skip
    assert not found.violations


def test_a_page_of_the_log_with_two_ranges_in_it_need_not_be_cleared() -> None:
    """A log of 64 KiB pages: clearing what one range's report told would lose the other range's writes."""
    one = [BASE, 8 * PAGE]
    for beside, expected in (
        ([BASE + 12 * PAGE, PAGE], set()),
        ([BASE - PAGE, PAGE], {"DIRTY-031"}),
        ([BASE + 16 * PAGE, PAGE], {"DIRTY-031"}),
    ):
        start = {**START, "ranges": [one, beside]}
        started = ("main", "dma_logging_start", start, 2, 3, {"page_size": 16 * PAGE})
        found = judged(STOP, started, WROTE, report(10, 11, 0xFF), report(20, 21, 0xFF))
        assert clauses(found) == expected


def test_ranges_far_apart_share_nothing_and_take_no_memory() -> None:
    ranges = [[0, 1 << 62], [1 << 62, 1 << 62], [(1 << 63) + PAGE, PAGE], [(1 << 63) + 3 * PAGE, PAGE]]
    started = ("main", "dma_logging_start", {**START, "ranges": ranges}, 2, 3, {"page_size": 1 << 30})
    assert not judged(STOP, started, WROTE, report(10, 11, 0xFF)).violations
