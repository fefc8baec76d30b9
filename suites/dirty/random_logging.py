# SPDX-License-Identifier: Apache-2.0
"""Random programs about device DMA logging: one thread from a seed, and several threads."""

from __future__ import annotations

from typing import Any

from fixtures.subject import Subject
from harness.program.pages import PAGE
from harness.spec.arcs import S
from suites.dirty.program import LoggedScript

__all__ = ["random_program", "reports_beside_dma", "reports_beside_reports"]

_PAGES = 160
_OPERATIONS = 24
_OPERATIONS_SLOW = 8
Op = tuple[str, dict[str, Any]]


def random_program(subject: Subject) -> LoggedScript:
    """Writes, reports of random parts, page sizes and bitmaps, state changes, and restarts of the log."""
    rng = subject.rng
    s = LoggedScript(subject, pages=_PAGES)
    assert s.traffic is not None
    reach, gifts = s.traffic.engine.reach, s.traffic.engine.gifts
    cuts = sorted(rng.sample(range(_PAGES + 1), 2 * rng.choice((1, 1, 1, 2, 5))))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=True))
    s.start(*[(s.at(a), (b - a) * PAGE) for a, b in rng.sample(ranges, len(ranges))])
    state = S.RUNNING
    for _ in range(_OPERATIONS if s.quick else _OPERATIONS_SLOW):
        s.single = rng.random() < 0.2  # how often memory is looked at
        choice = rng.random()
        if choice < 0.5:
            if state != S.RUNNING:
                s.set(S.RUNNING)
                state = S.RUNNING
            a, b = rng.choice(ranges)
            page = rng.randrange(max(0, a - 2), min(_PAGES, b + 2))
            room = (_PAGES - page) * PAGE
            if "bytes" in gifts and rng.random() < 0.6:
                off = rng.randrange(PAGE)
                length = rng.randint(1, min(reach.max_bytes, room - off, 5 * PAGE))
            else:
                off, length = 0, s.block
            count, stride = 1, 0
            if "strided" in gifts and rng.random() < 0.3:
                stride = rng.choice((PAGE, 2 * PAGE, 5000, 64))
                count = rng.randint(1, max(1, min(300, (room - off - length) // stride)))
            s.traffic.write(s.at(page) + off, length, rng.getrandbits(31), count=count, stride=stride)
        elif choice < 0.9:
            a, b = rng.choice(ranges)
            first = rng.randrange(a, b)
            last = rng.randint(first + 1, b)
            size = rng.choice((PAGE, PAGE, PAGE, 2 * PAGE, 16 * PAGE, 1 << 20))
            preset = rng.randbytes(8).hex() if rng.random() < 0.1 else None
            s.report(s.at(first), (last - first) * PAGE, size, off=rng.choice((0, 8, 4088)), preset=preset)
        elif choice < 0.97 and subject.has("migration"):
            new = rng.choice([x for x in subject.states if x != S.RESUMING])
            s.set(new)
            state = new
            if new in (S.STOP_COPY, S.PRE_COPY, S.PRE_COPY_P2P) or new != S.RUNNING:
                s.set(S.RUNNING)
                state = S.RUNNING
        elif rng.random() < 0.5:
            s.stop()
            s.start(*[(s.at(a), (b - a) * PAGE) for a, b in ranges])
    for a, b in ranges:
        s.report(s.at(a), (b - a) * PAGE)
        s.report(s.at(a), (b - a) * PAGE)
    s.finish()
    return s


def _meet(s: LoggedScript, name: str, parties: int) -> None:
    s.op("barrier", name=name, parties=parties)


def _around(ops: list[Op], parties: int) -> list[Op]:
    return [
        ("barrier", {"name": "go", "parties": parties}), *ops,
        ("barrier", {"name": "over", "parties": parties}),
    ]  # fmt: skip


def reports_beside_dma(subject: Subject) -> LoggedScript:
    """One thread writes while the other reports; a last report follows when both are done."""
    rng = subject.rng
    s = LoggedScript(subject, "DIRTY-055")
    s.threaded = True
    assert s.traffic is not None
    pages = [rng.randrange(s.pages) for _ in range(40 if s.quick else 3)]
    writes: list[Op] = [("dma", s.traffic.command("write", s.at(p), s.block, p + 1)) for p in pages]
    s.start()
    _meet(s, "go", 2)
    for _ in range(30 if s.quick else 20):
        s.report()
        if not s.quick:
            s.op("sleep", ms=10)
    _meet(s, "over", 2)
    s.report()
    s.report()
    s.finish()
    s.thread("device", _around(writes, 2))
    return s


def reports_beside_reports(subject: Subject) -> LoggedScript:
    """Two threads report the same range at once: each written page is in one of the bitmaps."""
    s = LoggedScript(subject, "DIRTY-056")
    s.threaded = True
    s.start()
    s.write_pages([subject.rng.randrange(s.pages) for _ in range(12 if s.quick else 2)])
    _meet(s, "go", 2)
    for _ in range(3):
        s.report()
    _meet(s, "over", 2)
    s.report()
    s.finish()
    s.thread("other", _around([("dma_logging_report", s.report_args())] * 3, 2))
    return s
