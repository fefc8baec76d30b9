# SPDX-License-Identifier: Apache-2.0
"""Figures of size: a long stream, and many pages, on the reference device."""

from __future__ import annotations

import struct
import time
from typing import Any

from fixtures.connect import HostConnection
from fixtures.rig import Rig
from harness.commands.bench.figures import Figure, send
from harness.errors import LabError
from harness.oracle.judge import judge
from harness.program.pages import PAGE, bitmap_of, from_bytes
from harness.program.script import Script
from suites.dirty.program import LoggedScript

__all__ = ["STREAM_BYTES", "dirty_figures", "stream_figures"]

STREAM_BYTES = 256 << 20
_BALLAST = 0xA0
"""Register of the reference device (fixtures/reference/mdev/README.md): bytes of payload in its stream."""
PAGES, REPORT_BYTES = 1_000_000, 64 << 30
_PART_PAGES, _FAR, _MARKS = 8192, 1 << 32, 64
_DEADLINE_S = 900.0
_PIECES = (1, 4095, 65536, 1 << 20, 777_777, 16)


def stream_figures(rig: Rig, size: int = STREAM_BYTES) -> list[Figure]:
    """Save a stream of `size` bytes, restore it in other pieces, save again: digests only come here."""
    rig.subject("bench")
    held = rig.connection
    assert isinstance(held, HostConnection)
    script = Script(limits={"max_bytes": 2 * size})
    script.op("region_write", fd="d", region=0, off=_BALLAST, hex=struct.pack("<I", size - (64 << 10)).hex())
    saved = script.save("stream", chunks=[1 << 20])
    script.op("reset", fd="d")
    script.op("get_state", fd="d")
    written, _ = script.restore("stream", chunks=_PIECES)
    resaved = script.save(chunks=_PIECES[::-1])
    program = script.to_json()
    begun = time.monotonic()
    result = send(held, program, _DEADLINE_S)
    taken = time.monotonic() - begun
    trace = {int(record["i"]): record for record in result.trace}
    found = judge(rig.capabilities, {**program, "keep": ["d"]}, result.trace).violations
    if result.hung or found:
        raise LabError(f"the long stream did not pass: {found[0].observed if found else result.hung}")
    same = _same(trace, saved, written, resaved)
    return [
        Figure("stream saved, re-segmented, restored", trace[saved]["n"] / (1 << 20) if same else 0,
               size >> 20, "MiB", detail=f"{taken:.0f} s, {trace[written]['writes']} writes"),
    ]  # fmt: skip


def dirty_figures(rig: Rig, pages: int = PAGES, length: int = REPORT_BYTES) -> list[Figure]:
    """`pages` pages written, reported and checked; one report of `length` bytes of addresses, checked.

    The memory of the lab is smaller than that: a part of it is mapped at many addresses.
    """
    script = LoggedScript(rig.subject("bench"), pages=_PART_PAGES)
    parts = 1 + -(-pages // _PART_PAGES)
    for part in range(1, parts):
        script.map(_FAR + part * script.bytes)
    assert script.traffic is not None
    script.start((script.base, script.bytes), (_FAR, parts * script.bytes))
    for part in range(1, parts):
        script.traffic.write(_FAR + part * script.bytes, PAGE, seed=part, count=_PART_PAGES, stride=PAGE)
    exact = script.report(_FAR, parts * script.bytes)
    script.stop()
    script.start((0, length))
    for step in range(1, _MARKS):
        script.traffic.write(_FAR + (1 + step % (parts - 1)) * script.bytes, script.block, seed=step)
    whole = script.report(0, length)
    program = script.finish().to_json()
    held = rig.connection
    assert isinstance(held, HostConnection)
    result = send(held, program, _DEADLINE_S)
    begun = time.monotonic()
    verdict = judge(rig.capabilities, {**program, "keep": ["d", "i", "ioas"]}, result.trace)
    taken = time.monotonic() - begun
    trace = {int(record["i"]): record for record in result.trace}
    if result.hung or verdict.violations or trace[exact]["errno"] or trace[whole]["errno"]:
        wrong = verdict.violations[0].observed if verdict.violations else result.hung or "REPORT failed"
        raise LabError(f"the large reports did not pass: {wrong}")
    seen = [from_bytes(bitmap_of(trace[i])).bit_count() for i in (exact, whole)]
    return [
        Figure("dirty pages checked", seen[0], pages, "pages", detail=f"judged in {taken:.2f} s"),
        Figure("one report", length / (1 << 30) if seen[1] else 0, 64, "GiB",
               detail=f"{seen[1]} pages dirty, bitmap of {len(bitmap_of(trace[whole])) >> 10} KiB"),
    ]  # fmt: skip


def _same(trace: dict[int, Any], saved: int, written: int, resaved: int) -> bool:
    """Whether all was written and the second stream is the first."""
    return bool(
        trace[saved]["end"] == "eof"
        and trace[written]["n"] == trace[saved]["n"]
        and trace[resaved]["sha256"] == trace[saved]["sha256"]
    )
