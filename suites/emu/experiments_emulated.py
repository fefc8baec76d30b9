# SPDX-License-Identifier: Apache-2.0
"""Experiments on devices with an emulated IOMMU; each program opens the device itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.engines import load_engine
from harness.program.script import Script, succeeded
from harness.uapi import vfio

__all__ = ["CAP_SYS_RAWIO", "everything_but", "opened"]

TAINT = "/proc/sys/kernel/tainted"
CAP_SYS_RAWIO = 17  # include/uapi/linux/capability.h
_TYPE1V2, _NOIOMMU = vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_NOIOMMU_IOMMU
_PAGE, _FILL = 4096, 0x5A
_IOVA = 0x0200_0000
_RANGES = 64


def everything_but(*kept: int) -> list[int]:
    """All capabilities except these."""
    return [number for number in range(41) if number not in kept]


def opened(script: Script, *, attach: bool = True) -> dict[str, int]:
    """Append opening, binding and attaching the device; returns the indices by operation."""
    found = {
        "open_iommufd": script.op("open_iommufd", out="i"),
        "ioas_alloc": script.op("ioas_alloc", fd="i", out="ioas"),
        "open_cdev": script.op("open_cdev", dev="dev0", out="d"),
        "bind": script.op("bind", fd="d", iommufd="i", out="devid"),
    }
    if attach:
        found["attach"] = script.op("attach", fd="d", pt="ioas")
    return found


@experiment("EMU-001", "EMU-002", "EMU-003", "EMU-004", "EMU-005", own_open=True)
def an_emulated_device_binds_and_attaches_without_an_iommu(subject: Subject) -> Iterator[Script]:
    script = Script(fresh=False)
    before = script.op("read_text", path=TAINT)
    made = opened(script, attach=False)
    script.succeeds("EMU-001", made["bind"], "BIND succeeds")
    script.exceeds("EMU-001", made["bind"], "devid", 0, "a device id").when(succeeded(made["bind"]))
    wide = _ranges(script)
    attach = script.op("attach", fd="d", pt="ioas")
    script.succeeds("EMU-002", attach, "ATTACH succeeds")
    script.equals("EMU-002", attach, "pt", script.ref(made["ioas_alloc"], "ioas"), "the id of the IOAS").when(
        succeeded(attach)
    )
    now = _ranges(script)
    for field in ("num_iovas", "buf_allowed_iovas"):
        script.equals("EMU-003", now, field, script.ref(wide, field), f"{field} as before the attach").when(
            succeeded(wide)
        )
    table = script.op("hwpt_alloc", fd="i", devid="devid", pt="ioas")
    script.is_refused("EMU-004", table, expected="an error")
    script.op("close", fd="d")
    script.op("close", fd="i")
    after = script.op("read_text", path=TAINT)
    script.equals("EMU-005", after, "text", script.ref(before, "text"), "the taint of before")
    yield script


def _ranges(script: Script) -> int:
    """Append IOVA_RANGES of the IOAS, up to 64 ranges.  (Its alignment may grow, since pages are pinned.)"""
    return script.op(
        "iommu", fd="i", cmd="IOMMU_IOAS_IOVA_RANGES", set={"ioas_id": "ioas", "num_iovas": _RANGES},
        bufs={"allowed_iovas": 16 * _RANGES},
    )  # fmt: skip


@experiment("EMU-007", own_open=True)
def a_container_of_an_emulated_device_is_an_ordinary_one(subject: Subject) -> Iterator[Script]:
    script = Script(fresh=False)
    script.op("open_group", dev="dev0", out="g")
    script.op("open_container", out="c")
    joined = script.op("group_set_container", fd="g", container="c")
    here = [(joined, "errno", "==", 0)]
    offered = script.op("check_extension", fd="c", ext=_NOIOMMU)
    script.equals("EMU-007", offered, "ret", 0, "VFIO_NOIOMMU_IOMMU is not offered").when(*here)
    refused = script.op("container_set_iommu", fd="c", type=_NOIOMMU)
    script.is_refused("EMU-007", refused, expected="VFIO_NOIOMMU_IOMMU is refused").when(*here)
    taken = script.op("container_set_iommu", fd="c", type=_TYPE1V2)
    script.succeeds("EMU-007", taken, "type1v2 is taken").when(*here)
    given = script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
    script.succeeds("EMU-007", given, "the device").when(*here)
    yield script


@experiment("EMU-008", own_open=True)
def an_emulated_device_needs_no_privilege(subject: Subject) -> Iterator[Script]:
    script = Script(fresh=False)
    script.op("fork", actor="p")
    dropped = script.op("act", actor="p", do=["drop_capability", {"caps": everything_but()}])
    steps: Sequence[tuple[str, dict[str, str]]] = (
        ("open_iommufd", {"out": "i"}),
        ("ioas_alloc", {"fd": "i", "out": "ioas"}),
        ("open_cdev", {"dev": "dev0", "out": "d"}),
        ("bind", {"fd": "d", "iommufd": "i"}),
        ("attach", {"fd": "d", "pt": "ioas"}),
        ("device_info", {"fd": "d"}),
    )
    for name, args in steps:
        index = script.op("act", actor="p", do=[name, args])
        script.succeeds("EMU-008", index, f"{name} succeeds").when(succeeded(dropped))
    script.op("exit", actor="p")
    script.op("wait", actor="p", timeout_ms=5000)
    yield script


@experiment("EMU-009", own_open=True)
def regions_work_without_an_address_space(subject: Subject) -> Iterator[Script]:
    """Steps: make two changes before ATTACH, the same two after.  Verify: the device shows the same."""
    quiet = [m for n, m in enumerate(subject.mutations) if not (subject.drains and subject.drains[n])]
    if not subject.state_regions or len(quiet) < 2:
        return
    script = Script(fresh=False)
    opened(script, attach=False)

    def shown(mutation: Sequence[tuple[int, int, str]]) -> int:
        for region, offset, data in mutation:
            script.op("region_write", fd="d", region=region, off=offset, hex=data)
        index = subject.fingerprint(script)
        assert index is not None
        return index

    # The first round does not count: a device may keep an earlier user's writes, even over a reset.
    _, _, first, second = (shown(mutation) for mutation in (*quiet[:2], *quiet[:2]))
    attach = script.op("attach", fd="d", pt="ioas")
    third, fourth = shown(quiet[0]), shown(quiet[1])
    differ = [(attach, "errno", "==", 0), (third, "sha256", "!=", script.ref(fourth, "sha256"))]
    for before, after in ((first, third), (second, fourth)):
        script.succeeds("EMU-009", before, "regions can be read")
        script.equals(
            "EMU-009", before, "sha256", script.ref(after, "sha256"), "what it shows once attached"
        ).when(*differ)
    yield script


class _Memory(Script):
    """A program with two memories and traffic; the device is attached to an IOAS that maps the first."""

    def __init__(self, subject: Subject, *, pinned: bool = False) -> None:
        super().__init__(fresh=False)
        self.pinned = pinned
        opened(self)
        if subject.has("reset"):
            self.op("reset", fd="d")
        for mem in ("one", "two"):
            self.op("mmap", out=mem, n=_PAGE, align=_PAGE)
            self.op("mem_fill", mem=mem, value=_FILL)
        self.mapped("one")
        self.traffic = load_engine(str(subject.capabilities["engine"])).traffic(self)
        self.wrote = self.write(0x1000)
        self.seen = self.changed("one")

    def write(self, seed: int) -> int:
        """Make the device write to the memory."""
        return self.traffic.write(_IOVA, 64, seed, pinned=self.pinned)

    @property
    def works(self) -> list[tuple[int, str, str, object]]:
        """Terms: the engine wrote as told while the memory was mapped.  Otherwise nothing is proven."""
        return [(self.wrote, "done", "==", True), (self.seen, "pages", "==", 1)]

    def mapped(self, mem: str, ioas: str = "ioas") -> int:
        """Map a memory at the IOVA."""
        return self.op("ioas_map", fd="i", ioas=ioas, mem=mem, n=_PAGE, iova=_IOVA)

    def unmapped(self, ioas: str = "ioas") -> int:
        """Unmap the IOVA."""
        return self.op("ioas_unmap", fd="i", ioas=ioas, iova=_IOVA, n=_PAGE)

    def changed(self, mem: str) -> int:
        """Count the pages of a memory that differ from its fill value."""
        return self.op("mem_dirty", mem=mem, value=_FILL)

    def refill(self) -> None:
        """Fill both memories as at the start."""
        for mem in ("one", "two"):
            self.op("mem_fill", mem=mem, value=_FILL)

    def untouched(self, clause: str, mem: str) -> None:
        """Claim that the device has not written to a memory."""
        self.equals(clause, self.changed(mem), "pages", 0, f"memory {mem} untouched").when(*self.works)


def _memories(subject: Subject) -> Iterator[_Memory]:
    """A program for each way in which the driver accesses memory: by copying, and by pinning pages."""
    if not subject.has("engine"):
        return
    yield _Memory(subject)
    if subject.has("engine_pinned"):
        yield _Memory(subject, pinned=True)


@experiment("EMU-010", "EMU-011", "EMU-012", own_open=True)
def unmapped_memory_is_out_of_reach(subject: Subject) -> Iterator[Script]:
    for script in _memories(subject):
        kept = script.changed("one")
        unmap = script.unmapped()
        script.succeeds("EMU-010", unmap, "UNMAP succeeds").when(*script.works)
        still = script.changed("one")
        script.equals("EMU-010", still, "pages", script.ref(kept, "pages"), "what was written").when(
            *script.works
        )
        script.refill()
        script.write(0x2000)
        script.untouched("EMU-011", "one")
        again = script.mapped("two")
        script.op("reset", fd="d")
        script.traffic.prepare()
        wrote = script.write(0x3000)
        there = [*script.works, (again, "errno", "==", 0), (wrote, "done", "==", True)]
        script.equals("EMU-012", script.changed("two"), "pages", 1, "the write in the new memory").when(
            *there
        )
        script.untouched("EMU-012", "one")
        yield script


@experiment("EMU-013", own_open=True)
def a_detached_device_reaches_nothing(subject: Subject) -> Iterator[Script]:
    for script in _memories(subject):
        script.refill()
        script.op("detach", fd="d")
        script.write(0x2000)
        script.untouched("EMU-013", "one")
        yield script


@experiment("EMU-014", own_open=True)
def another_address_space_replaces_the_first(subject: Subject) -> Iterator[Script]:
    for script in _memories(subject):
        script.op("ioas_alloc", fd="i", out="other")
        script.mapped("two", "other")
        script.refill()
        moved = script.op("attach", fd="d", pt="other")
        wrote = script.write(0x2000)
        there = [*script.works, (moved, "errno", "==", 0), (wrote, "done", "==", True)]
        script.equals("EMU-014", script.changed("two"), "pages", 1, "the write in the new space").when(*there)
        script.equals("EMU-014", script.changed("one"), "pages", 0, "memory one untouched").when(*there)
        yield script
