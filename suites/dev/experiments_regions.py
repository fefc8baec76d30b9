# SPDX-License-Identifier: Apache-2.0
"""Experiments on device info and regions: what they report, and that read, write and mmap match it."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import Any

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.oracle.judgement import Judgement
from harness.uapi import vfio
from suites.dev.program import CONFIG, Bench, le

_PAGE = 4096
_READ, _WRITE = vfio.VFIO_REGION_INFO_FLAG_READ, vfio.VFIO_REGION_INFO_FLAG_WRITE
_MMAP = vfio.VFIO_REGION_INFO_FLAG_MMAP
_VGA = vfio.VFIO_PCI_VGA_REGION_INDEX
_FAR = (1, 2, 7, 0x100, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_SHIFT = 40


@experiment(
    "DEV-001", "DEV-002", "DEV-003", "DEV-004", "DEV-005", "DEV-010", "DEV-011", "DEV-012", "DEV-013",
    "DEV-016", "DEV-017", "DEV-060", "DEV-061", "DEV-062", "DEV-063", own_open=True,
)  # fmt: skip
def infos_check_their_structs(subject: Subject) -> Iterator[Bench]:
    caps = subject.capabilities
    b = Bench(subject)
    b.succeeds("DEV-001", b.op("device_info", fd="d"), "GET_INFO succeeds")
    for argsz in (16, 20, 24, 64, 4096):
        b.succeeds(
            "DEV-001", b.op("device_info", fd="d", argsz=argsz), f"GET_INFO with argsz {argsz} succeeds"
        )
    for argsz in (0, 4, 8, 12, 15):
        b.is_refused(
            "DEV-002", b.op("device_info", fd="d", argsz=argsz), expected=f"GET_INFO with argsz {argsz} fails"
        )
    regions, irqs = int(caps["num_regions"]), int(caps["num_irqs"])
    known = {int(r["index"]): r for r in caps["regions"]}
    for index in range(min(regions, 32)):
        i = b.op("region_info", fd="d", index=index)
        if caps.get("pci_api") and index <= CONFIG:
            b.succeeds("DEV-010", i, f"GET_REGION_INFO of index {index} succeeds")
        if index in known:
            for field in ("size", "offset", "flags"):
                b.equals("DEV-016", i, field, known[index][field], f"the same {field} as before")
    for far in _FAR:
        i = b.op("region_info", fd="d", index=min(regions - 1 + far, 0xFFFFFFFF))
        b.is_refused("DEV-011", i, expected=f"there is no region {regions - 1 + far}")
        i = b.op("irq_info", fd="d", index=min(irqs - 1 + far, 0xFFFFFFFF))
        b.is_refused("DEV-061", i, expected=f"there is no interrupt index {irqs - 1 + far}")
    shown = int(subject.capabilities.get("plane_region") or 0) - 1
    if shown >= regions:
        b.is_refused(
            "DEV-011", b.op("region_info", fd="d", index=shown), expected=f"there is no region {shown}"
        )
    for argsz in (0, 8, 16, 31):
        b.is_refused(
            "DEV-012",
            b.op("region_info", fd="d", index=0, argsz=argsz),
            expected=f"argsz {argsz} is too short",
        )
    for argsz in (0, 8, 15):
        b.is_refused(
            "DEV-062", b.op("irq_info", fd="d", index=0, argsz=argsz), expected=f"argsz {argsz} is too short"
        )
    for index in range(min(irqs, 32)):
        i = b.op("irq_info", fd="d", index=index)
        if caps.get("pci_api") and index < 3:
            b.succeeds("DEV-060", i, f"GET_IRQ_INFO of index {index} succeeds")
    yield b


@experiment("DEV-005", "DEV-006", "DEV-013", "DEV-016", "DEV-017", own_open=True)
def infos_are_the_same_after_use(subject: Subject) -> Iterator[Bench]:
    b = Bench(subject)
    if subject.has("reset"):
        b.op("reset", fd="d")
    for region in b.regions:
        i = b.op("region_info", fd="d", index=region["index"])
        for field in ("size", "offset", "flags", "caps_hex"):
            b.equals("DEV-016", i, field, region[field], f"the same {field} as before")
        if region.get("caps_hex"):
            needed = 32 + len(region["caps_hex"]) // 2
            for argsz in (32, needed - 1):
                i = b.op("region_info", fd="d", index=region["index"], argsz=argsz)
                b.succeeds("DEV-006", i, f"argsz {argsz} is no error")
                b.equals("DEV-006", i, "cap_offset", 0, "no chain")
                b.equals("DEV-006", i, "argsz", needed, f"argsz {needed} is said to be needed")
                b.equals("DEV-006", i, "flags", region["flags"], "the flags all the same")
    for irq in subject.capabilities.get("irqs") or ():
        i = b.op("irq_info", fd="d", index=irq["index"])
        for field in ("count", "flags"):
            b.equals("DEV-016", i, field, irq[field], f"the same {field} as before")
    yield b


@experiment("DEV-014", "DEV-015", "DEV-026", own_open=True)
def regions_lie_apart(subject: Subject) -> Iterator[Bench]:
    b = Bench(subject)
    end, last = 0, -1
    for region in sorted((r for r in b.regions if r["size"]), key=lambda r: int(r["offset"])):
        i = b.op("region_info", fd="d", index=region["index"])
        b.at_least("DEV-014", i, "offset", end, f"region {region['index']} begins behind region {last}")
        end, last = int(region["offset"]) + int(region["size"]), int(region["index"])
    if subject.has("pci_api"):
        i = b.op("region_info", fd="d", index=CONFIG)
        b.is_one_of("DEV-015", i, "size", [256, 4096], "256 or 4096 bytes")
        b.is_one_of("DEV-015", i, "flags", [3, 7, 11, 15], "READ and WRITE")
    for region in b.regions:
        if region["size"] and not region["flags"] & _WRITE:
            i = b.op("pwrite", fd="d", off=region["offset"], hex="00000000")
            b.is_refused("DEV-026", i, expected=f"region {region['index']} has no WRITE flag")
    yield b


@experiment("DEV-025", "DEV-028", "DEV-029", "DEV-030", "DEV-031", own_open=True)
def accesses_stay_inside_their_region(subject: Subject) -> Generator[Bench, Judgement, None]:
    """Steps: read behind each region, then far away, then write there.  Verify: no data, nothing taken.

    The order protects the host: a driver that gives access behind its buffers is found by the first reads,
    and the later accesses could make it crash the host.
    """
    b = Bench(subject)
    for region in reversed(b.regions):  # the configuration space first: an access behind it matters most
        index, size, offset, flags = (int(region[k]) for k in ("index", "size", "offset", "flags"))
        if index == _VGA:
            continue
        if not size and _overlays(b, offset):
            continue
        if not size:
            _no_data(b, "DEV-030", offset, "from an empty region")
            continue
        if flags & _READ and _quiet(subject, index):
            width = 4 if size >= 4 else 1
            i = b.read(index, 0, width)
            b.equals("DEV-025", i, "n", width, f"{width} bytes from region {index}")
            if _nobodys(b, offset + size):  # else it is in the next region
                i = b.op("pread", fd="d", off=offset + size - min(size, 2), n=4)
                b.at_most("DEV-028", i, "ret", min(size, 2), "no more than is left of the region")
        for beyond in (0, 4):
            if _nobodys(b, offset + size + beyond):
                _no_data(b, "DEV-028", offset + size + beyond, "from behind a region")
    if (yield b).violations:
        _not_tried(subject, "a read just behind a region gave data")
        return
    b = Bench(subject)
    for clause, off, words in _far_places(b):
        _no_data(b, clause, off, words)
    if (yield b).violations:
        _not_tried(subject, "a read far outside the regions gave data")
        return
    b = Bench(subject)
    for region in b.regions:
        index, size, offset = (int(region[k]) for k in ("index", "size", "offset"))
        if index == _VGA:
            continue
        if not size and _overlays(b, offset):
            continue
        if not size:
            _takes_none(b, "DEV-030", offset, "by an empty region")
        elif _nobodys(b, offset + size):
            _takes_none(b, "DEV-029", offset + size, "behind a region")
    for clause, off, words in _far_places(b):
        _takes_none(b, "DEV-029" if clause == "DEV-028" else clause, off, words)
    yield b


def _not_tried(subject: Subject, why: str) -> None:
    for clause in ("DEV-029", "DEV-031"):
        subject.undecided[clause] = f"not tried, since it could crash the host: {why}"


def _no_data(b: Bench, clause: str, off: int, words: str) -> None:
    b.at_most(clause, b.op("pread", fd="d", off=off, n=4), "ret", 0, f"no data {words}")


def _takes_none(b: Bench, clause: str, off: int, words: str) -> None:
    i = b.op("pwrite", fd="d", off=off, hex="00000000")
    b.at_most(clause, i, "ret", 0, f"nothing is taken {words}")


def _far_places(b: Bench) -> Iterator[tuple[str, int, str]]:
    """(clause, offset, words) of places far behind a region, and of places outside all regions."""
    for region in b.regions:
        index, size, offset = (int(region[k]) for k in ("index", "size", "offset"))
        for beyond in (1 << 20, (1 << _SHIFT) - size - 8):
            if size and index != _VGA and _nobodys(b, offset + size + beyond):
                yield "DEV-028", offset + size + beyond, "from behind a region"
    count = int(b.subject.capabilities["num_regions"])
    for far in (count << _SHIFT, (count + 5) << _SHIFT, 1 << 62, (1 << 63) - 4096):
        if _nobodys(b, far):
            yield "DEV-031", far, f"at {far:#x}"


def _overlays(b: Bench, off: int) -> bool:
    """Whether another region covers these bytes: an empty region may have any offset (in mdpy 0)."""
    return any(r["offset"] < off + 4 and off < r["offset"] + r["size"] for r in b.regions)


def _nobodys(b: Bench, off: int) -> bool:
    return all(not r["offset"] <= off < r["offset"] + max(1, r["size"]) and
               not r["offset"] < off + 4 <= r["offset"] + r["size"] for r in b.regions)  # fmt: skip


def _quiet(subject: Subject, index: int) -> bool:
    """Whether reading the ends of the region has no side effect that this chapter would have to undo."""
    return not (subject.has("uart") and index < 6)


@experiment("DEV-018", "DEV-019", "DEV-020", own_open=True)
def what_can_be_mapped_is_what_the_region_says(subject: Subject) -> Iterator[Bench]:
    b = Bench(subject)
    for region in b.regions:
        index, size, flags = (int(region[k]) for k in ("index", "size", "flags"))
        if not flags & _MMAP:
            i = b.op("mmap", fd="d", off=region["offset"], n=_PAGE, out=f"none{index}")
            b.is_refused("DEV-019", i, expected=f"region {index} has no MMAP flag")
            continue
        for number, (off, length) in enumerate(_areas(region)):
            i = b.op("mmap", fd="d", region=index, off=off, n=min(length, 1 << 20), out=f"m{index}_{number}")
            b.succeeds("DEV-018", i, f"{length} bytes at {off:#x} of region {index} can be mapped")
        for off, length in ((-(-size // _PAGE) * _PAGE, _PAGE), (0, -(-size // _PAGE) * _PAGE + _PAGE)):
            if length <= 1 << 25:
                i = b.op("mmap", fd="d", region=index, off=off, n=length, out=f"far{index}")
                b.is_refused(
                    "DEV-020", i, expected=f"{length} bytes at {off:#x} of the {size} of region {index}"
                )
    yield b


def _areas(region: dict[str, Any]) -> list[tuple[int, int]]:
    """The parts of a region that can be mapped: its sparse areas, or all of it."""
    caps = bytes.fromhex(region.get("caps_hex") or "")
    if len(caps) >= 16 and struct.unpack_from("=H", caps)[0] == 1:
        room = (len(caps) - 16) // 16
        count = min(struct.unpack_from("=I", caps, 8)[0], room)
        return [struct.unpack_from("=QQ", caps, 16 + 16 * n) for n in range(count)]
    return [(0, int(region["size"]))] if region["size"] >= _PAGE else []


@experiment("DEV-032", "DEV-033", own_open=True)
def read_write_and_mmap_agree(subject: Subject) -> Iterator[Bench]:
    scratch = subject.capabilities.get("scratch")
    b = Bench(subject)
    b.write(CONFIG, 4, 0x0006, 2)
    for region in b.regions:
        if not region["flags"] & _MMAP or region["index"] >= 6:
            continue
        index = int(region["index"])
        for number, (off, length) in enumerate(_areas(region)[:2]):
            b.op("mmap", fd="d", region=index, off=off, n=min(length, _PAGE), out=f"m{index}_{number}")
            for at in (0, 8):
                before = b.read(index, off + at)
                mapped = b.op("mem_read", mem=f"m{index}_{number}", off=at, n=4, width=4)
                after = b.read(index, off + at)
                b.equals("DEV-032", mapped, "hex", b.ref(before, "hex"), "the same through the mapping").when(
                    (before, "hex", "==", b.ref(after, "hex"))
                )
        if _is_memory(subject, index):
            _writes_agree(b, index, region)
    if scratch:
        for value in (0x12345678, 0, 0xA5A5A5A5, subject.rng.getrandbits(32)):
            _keeps(b, scratch, value)
    yield b


def _is_memory(subject: Subject, index: int) -> bool:
    """Whether the region is plain memory: state RAM of the reference device, or a frame buffer."""
    state_ram = subject.capabilities.get("engine") == "vfiocert_ref" and index == 2
    return state_ram or subject.capabilities.get("frame_buffer") == index + 1


def _writes_agree(b: Bench, index: int, region: dict[str, Any]) -> None:
    for number, (off, _) in enumerate(_areas(region)[:1]):
        data = b.subject.rng.randbytes(64).hex()
        b.op("mem_write", mem=f"m{index}_{number}", off=64, hex=data)
        i = b.op("region_read", fd="d", region=index, off=off + 64, n=64)
        b.equals("DEV-032", i, "hex", data, "what was written through the mapping is read")
        data = b.subject.rng.randbytes(64).hex()
        b.op("region_write", fd="d", region=index, off=off + 128, hex=data)
        i = b.op("mem_read", mem=f"m{index}_{number}", off=128, n=64)
        b.equals("DEV-032", i, "hex", data, "what was written is read through the mapping")


def _keeps(b: Bench, scratch: dict[str, Any], value: int) -> None:
    value &= scratch.get("mask", 0xFFFFFFFF)
    b.write(scratch["region"], scratch["off"], value)
    i = b.read(scratch["region"], scratch["off"])
    kept = ~value if scratch["inverted"] else value
    b.equals("DEV-033", i, "hex", le(kept, 4), f"{value:#x} is kept")


@experiment("DEV-034", own_open=True)
def an_empty_receiver_gives_the_same_whatever_was_done_before(subject: Subject) -> Iterator[Bench]:
    """Steps: read the empty receiver of a 16550 after other reads.  Verify: it always returns the same value.

    Register 0 is the receiver; bit 0 of register 5 says whether it holds data.  The value of an empty
    receiver is not specified, but it must be the device's own and not left over from another call.
    """
    if not subject.has("uart"):
        return
    b = Bench(subject)
    b.write(0, 2, 0x07, 1)
    for _ in range(70):
        b.read(0, 0, 1)
    status = b.read(0, 5, 1)
    places = {int(r["index"]): int(r["offset"]) for r in b.regions}
    for n in (1, 2, 4):
        first = b.op("pread", fd="d", off=places[0], n=n)
        for number in range(8):
            # First read something else, whose value could be left over.
            b.op("pread", fd="d", off=places[CONFIG] + 4 * number, n=n)
            again = b.op("pread", fd="d", off=places[0], n=n)
            b.equals(
                "DEV-034", again, "hex", b.ref(first, "hex"), "what the empty receiver gave before"
            ).when((status, "hex", "in", [le(v, 1) for v in range(0, 256, 2)]))
    yield b
