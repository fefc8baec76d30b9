# SPDX-License-Identifier: Apache-2.0
"""DEV-140 to DEV-153: a correct display breaks no clause, and each wrong one is caught."""

from __future__ import annotations

import errno
from collections.abc import Generator
from typing import Any

import pytest

from fixtures.experiment import experiments_in
from fixtures.subject import Subject
from harness.oracle.judge import _judge_claims
from harness.oracle.judgement import Judgement
from harness.profiles import load_profile
from harness.uapi import vfio
from suites.dev import experiments_gfx

PROBE, DMABUF, REGION = (
    vfio.VFIO_GFX_PLANE_TYPE_PROBE, vfio.VFIO_GFX_PLANE_TYPE_DMABUF, vfio.VFIO_GFX_PLANE_TYPE_REGION,
)  # fmt: skip
EDID, EDID_OFFSET, EDID_MAX = 9, 2048, 1024
ON = {
    "region": 2, "width": 640, "height": 480, "off": [[0x508, 0]], "writes": [[0x502, 640], [0x508, 0x41]],
}  # fmt: skip
CAPABILITIES: dict[str, Any] = {
    "gfx": True, "gfx_dmabuf": True, "plane_on": ON, "frame_buffer": 1, "gfx_edid": EDID + 1,
    "edid_offset": EDID_OFFSET, "edid_max_size": EDID_MAX,
    "regions": [{"index": 0, "size": 1 << 22}, {"index": 2, "size": 4096}, {"index": EDID, "size": 4096}],
}  # fmt: skip
IN_REGION = {
    **CAPABILITIES,
    "gfx_dmabuf": False,
    "gfx_region": True,
    "plane_on": None,
    "gfx_edid": 0,
    "plane_region": 1,
}
READ_ONLY = (0, 4, 12, 16)


class Display:
    """What the operations of the experiments return on a device; `bad` names what is wrong with it."""

    def __init__(self, kind: int, bad: str) -> None:
        self.kind, self.bad = kind, bad
        self.on, self.asked = kind == REGION, 0
        self.memory, self.edid = bytearray(4096), bytearray(4096)
        fields = (EDID_OFFSET, EDID_MAX, 0, 800, 600, 2)
        self.edid[:24] = b"".join(value.to_bytes(4, "little") for value in fields)
        if bad == "edid outside":
            self.edid[0:4] = (4000).to_bytes(4, "little")

    def gfx_plane(self, flags: int, plane: int, argsz: int = 64, **_: Any) -> dict[str, Any]:
        none = dict.fromkeys(("drm_format", "width", "height", "stride", "size"), 0)
        none |= {"x_hot": 0xFFFFFFFF, "y_hot": 0xFFFFFFFF, "region_index": 0, "errno": 0}
        if argsz < 60 and self.bad != "any argsz":
            return {**none, "errno": errno.EINVAL}
        if flags & PROBE and flags != PROBE | self.kind:
            wrong = errno.ENOTTY if self.bad == "odd probe" else errno.EINVAL
            return {**none, "errno": 0 if self.bad == "any flags" else wrong}
        if flags not in (self.kind, PROBE | self.kind) and self.bad != "any flags":
            return {**none, "errno": errno.EINVAL}
        if not self.on or plane != 1:
            return {**none, "errno": errno.EINVAL} if self.bad == "no disabled planes" else none
        self.asked += 1
        if self.bad == "first question" and self.asked == 1:
            return {**none, "errno": errno.ENOMEM}
        size = 1 << 23 if self.bad == "larger than its region" else 640 * 480 * 4
        hot = 0 if self.bad == "a hotspot" else 0xFFFFFFFF
        region = 0 if self.kind == REGION else 17
        width = 320 if self.bad == "half the width" else 640
        return {
            "drm_format": 0x34325258, "width": width, "height": 480, "stride": 2560, "size": size,
            "x_hot": hot, "y_hot": hot, "region_index": region, "errno": 0,
        }  # fmt: skip

    def gfx_dmabuf(self, id: int | str, **_: Any) -> dict[str, Any]:
        known = id == "id" or self.bad == "any id"
        return {"errno": 0 if known and self.bad != "no dma-buf" else errno.ENOENT}

    def region_info(self, index: int) -> dict[str, Any]:
        gone = self.bad == "no such region"
        return {"errno": errno.EINVAL if gone else 0, "size": 1 << 22}

    def region_write(self, region: int, off: int, hex: str, **_: Any) -> dict[str, Any]:
        data = bytes.fromhex(hex)
        if region == 2 and off == 0x508:
            self.on = data[0] & 1 == 1
        if region != EDID or (off in READ_ONLY and self.bad != "all can be written"):
            return {}
        if off == 8 and int.from_bytes(data, "little") > EDID_MAX and self.bad != "any size":
            return {}
        if not (off == EDID_OFFSET and self.bad == "blob is lost"):
            self.edid[off : off + len(data)] = data
        return {}

    def region_read(self, region: int, off: int, n: int, **_: Any) -> dict[str, Any]:
        return {"hex": bytes(self.edid[off : off + n]).hex()}

    def region_poll(self, region: int, off: int, **_: Any) -> dict[str, Any]:
        return {"value": int.from_bytes(self.edid[off : off + 4], "little")}

    def mem_write(self, mem: str, off: int, hex: str) -> dict[str, Any]:
        data = bytes.fromhex(hex)
        if not (self.bad == "a copy" and off == 256):
            self.memory[off : off + len(data)] = data
        return {}

    def mem_read(self, mem: str, off: int, n: int) -> dict[str, Any]:
        return {"hex": bytes(self.memory[off : off + n]).hex()}


def _following(programs: Any, verdict: Judgement) -> Any:
    """The next program, which may depend on the verdict on the one before."""
    try:
        return programs.send(verdict) if isinstance(programs, Generator) else next(programs, None)
    except StopIteration:
        return None


def verdict_on(kind: int, bad: str) -> Judgement:
    """All experiments on such a device."""
    verdict = Judgement()
    for experiment in experiments_in(experiments_gfx):
        subject = Subject.of(CAPABILITIES if kind == DMABUF else IN_REGION, load_profile("generic"), 1)
        programs: Any = experiment(subject)
        bench = next(programs, None)
        while bench is not None:
            program, display = bench.to_json(), Display(kind, bad)
            records: dict[tuple[str | None, int], Any] = {}
            for i, (name, args) in enumerate(program["threads"][0]["ops"]):
                act: Any = getattr(display, name, lambda **_: {})
                found = act(**{k: v for k, v in args.items() if k != "fd"})
                records[None, i] = {"t": "main", "i": i, "op": name, "ret": 0, "errno": 0, **found}
            _judge_claims(program, records, verdict)
            bench = _following(programs, verdict)
    return verdict


@pytest.mark.parametrize("kind", [DMABUF, REGION])
def test_a_display_that_keeps_the_text_breaks_nothing(kind: int) -> None:
    assert verdict_on(kind, "").violations == []


def test_every_clause_is_tried() -> None:
    tried = set(verdict_on(DMABUF, "").checked) | set(verdict_on(REGION, "").checked)
    assert tried == {f"DEV-{n}" for n in (*range(140, 149), *range(150, 154))}


@pytest.mark.parametrize(
    "kind, bad, clause",
    [
        (DMABUF, "odd probe", "DEV-140"), (DMABUF, "any flags", "DEV-141"), (REGION, "any flags", "DEV-141"),
        (DMABUF, "any argsz", "DEV-142"), (DMABUF, "no disabled planes", "DEV-143"),
        (DMABUF, "first question", "DEV-143"), (DMABUF, "half the width", "DEV-143"),
        (REGION, "larger than its region", "DEV-144"), (REGION, "no such region", "DEV-144"),
        (REGION, "a hotspot", "DEV-145"), (DMABUF, "no dma-buf", "DEV-146"), (DMABUF, "any id", "DEV-147"),
        (DMABUF, "a copy", "DEV-148"), (DMABUF, "edid outside", "DEV-150"),
        (DMABUF, "blob is lost", "DEV-151"), (DMABUF, "all can be written", "DEV-152"),
        (DMABUF, "any size", "DEV-153"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_caught(kind: int, bad: str, clause: str) -> None:
    assert clause in {violation.clause for violation in verdict_on(kind, bad).violations}
