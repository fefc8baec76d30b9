# SPDX-License-Identifier: Apache-2.0
"""Figures of size: a long stream, and many pages, on the reference device."""

from __future__ import annotations

import struct
import time
from typing import Any

from fixtures.connect import HostConnection
from fixtures.rig import Rig
from harness.bench.figures import Figure
from harness.errors import LabError
from harness.oracle import judge
from harness.script import Script

__all__ = ["STREAM_BYTES", "stream_figures"]

STREAM_BYTES = 256 << 20
_BALLAST = 0xA0
"""Register of the reference device (fixtures/reference/mdev/README.md): bytes of payload in its stream."""
_DEADLINE_S = 900.0
_PIECES = (1, 4095, 65536, 1 << 20, 777_777, 16)


def stream_figures(rig: Rig, size: int = STREAM_BYTES) -> list[Figure]:
    """Save a stream of `size` bytes, restore it in other pieces, save again: digests only come here."""
    rig.subject("bench")
    held = rig.connection
    assert isinstance(held, HostConnection)
    script = Script()
    script.op("region_write", fd="d", region=0, off=_BALLAST, hex=struct.pack("<I", size - (64 << 10)).hex())
    saved = script.save("stream", chunks=[1 << 20], max_bytes=2 * size)
    script.op("reset", fd="d")
    script.op("get_state", fd="d")
    written, _ = script.restore("stream", chunks=_PIECES)
    resaved = script.save("", chunks=_PIECES[::-1], max_bytes=2 * size)
    program = script.to_json()
    for name, args in program["threads"][0]["ops"]:
        if name == "read_all" and args["keep"] == "":
            del args["keep"]  # its digest is enough
    begun = time.monotonic()
    result = held.agent.run(
        {"devices": {"dev0": dict(held.device)}, "session": "main", "keep": ["d", "i", "ioas"],
         "deadline_ms": int(_DEADLINE_S * 1000), "threads": program["threads"]},
        deadline_s=_DEADLINE_S + 30,
    )  # fmt: skip
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


def _same(trace: dict[int, Any], saved: int, written: int, resaved: int) -> bool:
    """Whether all was written and the second stream is the first."""
    return bool(
        trace[saved]["end"] == "eof"
        and trace[written]["n"] == trace[saved]["n"]
        and trace[resaved]["sha256"] == trace[saved]["sha256"]
    )
