# SPDX-License-Identifier: Apache-2.0
"""Experiments on reset, ioeventfds, low power, and device memory exported as a dma-buf."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import FEATURE_GET, FEATURE_PROBE, FEATURE_SET
from harness.uapi import vfio
from suites.dev.program import CONFIG, INTX, Bench, le

_COMMAND, _MEMORY = 0x04, 0x0002
_LOW_ENTRY, _LOW_EXIT = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT
_LOW_WAKEUP = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
_DMA_BUF = vfio.VFIO_DEVICE_FEATURE_DMA_BUF
_TYPE32 = vfio.VFIO_DEVICE_IOEVENTFD_32
_CLOSED_FD = 1_000_000
_PAGE = 4096


@experiment("DEV-100", "DEV-101", own_open=True)
def reset_is_what_the_flag_says(subject: Subject) -> Iterator[Bench]:
    b = Bench(subject)
    b.op("device_info", fd="d")
    reset = b.op("reset", fd="d")
    if subject.has("reset_flag"):
        b.succeeds("DEV-100", reset, "it declares VFIO_DEVICE_FLAGS_RESET")
    else:
        b.is_refused("DEV-100", reset, expected="it does not declare VFIO_DEVICE_FLAGS_RESET")
    b.alive("DEV-101", "after a reset")
    if subject.has("pci_api"):
        data = bytes.fromhex(subject.capabilities["config"])
        b.equals("DEV-101", b.config(0, 4), "hex", data[:4].hex(), "the same ids as before")
        b.eventfd("e")
        if subject.has("irq_intx"):
            b.succeeds("DEV-101", b.trigger_fds(INTX, 0, ["e"]), "INTx can be enabled after a reset")
            b.op("reset", fd="d")
            b.disable(INTX)
    if subject.has("scratch"):
        scratch = subject.capabilities["scratch"]
        b.write(CONFIG, _COMMAND, _MEMORY, 2)
        b.write(scratch["region"], scratch["off"], 0x01010101)
        i = b.read(scratch["region"], scratch["off"])
        value = 0x01010101 & scratch.get("mask", 0xFFFFFFFF)
        kept = ~value if scratch["inverted"] else value
        b.equals("DEV-101", i, "hex", le(kept, 4), "registers keep their values after a reset")
    yield b


def _ioeventfd(
    b: Bench, offset: int, value: int, fd: str | int, flags: int = _TYPE32, argsz: int = 32
) -> int:
    """Append VFIO_DEVICE_IOEVENTFD; returns the index."""
    return b.op("ioeventfd", fd="d", off=offset, value=value, eventfd=fd, flags=flags, argsz=argsz)


@experiment("DEV-105", "DEV-106", "DEV-109", own_open=True)
def an_ioeventfd_writes_when_it_is_signalled(subject: Subject) -> Iterator[Bench]:
    if not (subject.has("ioeventfd") and subject.has("scratch")):
        return
    scratch = subject.capabilities["scratch"]
    region = next(r for r in subject.capabilities["regions"] if r["index"] == scratch["region"])
    at, mask = int(region["offset"]) + int(scratch["off"]), int(scratch.get("mask", 0xFFFFFFFF))
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    values = [0x00110022 & mask, 0x0ABC0DEF & mask, 0x00010001 & mask]
    for n, value in enumerate(values):
        b.eventfd(f"e{n}")
        b.succeeds("DEV-105", _ioeventfd(b, at, value, f"e{n}"), f"an ioeventfd for {value:#x}")
    b.is_refused(
        "DEV-109", _ioeventfd(b, at, values[0], "e1"), expected="the same write is registered already"
    )
    for n, value in enumerate(values):
        b.write(scratch["region"], scratch["off"], 0)
        b.op("eventfd_write", fd=f"e{n}")
        b.op("sleep", ms=3)
        i = b.read(scratch["region"], scratch["off"])
        b.equals(
            "DEV-105", i, "hex", le(~value if scratch["inverted"] else value, 4), f"{value:#x} was written"
        )
    b.write(CONFIG, _COMMAND, 0, 2)
    b.op("eventfd_write", fd="e0")
    b.op("sleep", ms=3)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.succeeds("DEV-106", _ioeventfd(b, at, values[0], -1), "-1 takes it away")
    b.write(scratch["region"], scratch["off"], 0)
    b.op("eventfd_write", fd="e0")
    b.op("sleep", ms=3)
    i = b.read(scratch["region"], scratch["off"])
    b.equals("DEV-106", i, "hex", le(~0 if scratch["inverted"] else 0, 4), "nothing was written any more")
    b.is_refused("DEV-109", _ioeventfd(b, at, values[0], -1), expected="it was taken away before")
    b.op("close", fd="e1")
    b.op("reset", fd="d")
    yield b


@experiment("DEV-107", "DEV-108", "DEV-109", own_open=True)
def ioeventfd_checks_its_struct(subject: Subject) -> Iterator[Bench]:
    if not subject.has("ioeventfd"):
        return
    regions = {int(r["index"]): r for r in subject.capabilities["regions"]}
    bar = next(n for n in range(6) if regions.get(n, {}).get("size", 0) >= 4)
    at, size = int(regions[bar]["offset"]), int(regions[bar]["size"])
    b = Bench(subject)
    b.eventfd("e")
    b.op("open", path="/dev/null", out="null")
    for flags in (0, 3, 5, 12, 15, 16, 0x80000000, _TYPE32 | 16):
        b.is_refused("DEV-107", _ioeventfd(b, at, 1, "e", flags), expected=f"flags {flags:#x}")
    for argsz in (0, 8, 16, 24, 27):
        b.is_refused("DEV-107", _ioeventfd(b, at, 1, "e", argsz=argsz), expected=f"argsz {argsz}")
    for offset, words in ((at + size, "behind the region"), (at + size - 2, "across its end"),
                          (int(regions[CONFIG]["offset"]), "in the configuration space"),
                          (1 << 60, "where no region is")):  # fmt: skip
        b.is_refused("DEV-108", _ioeventfd(b, offset, 1, "e"), expected=words)
    if msix := int(subject.capabilities.get("pci_msix") or 0):
        table = struct.unpack_from("<I", bytes.fromhex(subject.capabilities["config"]), msix + 4)[0]
        place = int(regions[table & 7]["offset"]) + (table & ~7)
        b.is_refused("DEV-108", _ioeventfd(b, place, 1, "e"), expected="in the table of MSI-X")
        b.is_refused("DEV-108", _ioeventfd(b, place + 4, 1, "e"), expected="in the table of MSI-X")
    for fd in (-1, -2, _CLOSED_FD, "null"):
        b.is_refused(
            "DEV-109", _ioeventfd(b, at, 0x55, fd), expected=f"{fd} is no eventfd, and none is there"
        )
    for n, flags in enumerate((1, 2, 4, 8)):
        _ioeventfd(b, at, n, "e", flags)
        _ioeventfd(b, at, n, -1, flags)
    b.alive("DEV-107", "after all that")
    yield b


@experiment("DEV-115", "DEV-116", "DEV-117", own_open=True)
def low_power_lets_the_device_be_used(subject: Subject) -> Iterator[Bench]:
    if not subject.has("low_power"):
        return
    low = [(_LOW_ENTRY, ""), (_LOW_WAKEUP, "wake")]
    for feature, payload in low:
        b = Bench(subject)
        memory = int(subject.capabilities.get("mmap_region") or 0) - 1
        b.write(CONFIG, _COMMAND, _MEMORY, 2)
        b.eventfd("wake")
        b.eventfd("irq")
        if subject.has("irq_intx"):
            b.trigger_fds(INTX, 0, ["irq"])
        if memory >= 0:
            b.op("mmap", fd="d", region=memory, n=_PAGE, out="m")
            b.succeeds("DEV-116", b.op("mem_read", mem="m", n=4, width=4), "the mapping works at first")
        for known in (_LOW_ENTRY, _LOW_WAKEUP, _LOW_EXIT):
            flags = FEATURE_PROBE | FEATURE_SET | known
            b.succeeds("DEV-115", b.op("feature", fd="d", flags=flags), f"PROBE of feature {known}")
        for bad in (_CLOSED_FD, -1):
            flags = FEATURE_SET | _LOW_WAKEUP
            i = b.op("feature", fd="d", flags=flags, payload=le(bad, 4) + "00" * 4)
            b.is_refused("DEV-117", i, expected=f"{bad} is no eventfd")
        if payload:
            i = b.op("feature_fd", fd="d", flags=FEATURE_SET | feature, eventfd=payload)
            b.succeeds("DEV-117", i, "LOW_POWER_ENTRY_WITH_WAKEUP succeeds")
        else:
            i = b.op("feature", fd="d", flags=FEATURE_SET | feature)
            b.succeeds("DEV-115", i, "LOW_POWER_ENTRY succeeds")
        if memory >= 0 and not payload:
            # With a wake-up, returning from the call may have ended low power already.
            b.is_refused(
                "DEV-116", b.op("mem_read", mem="m", n=4, width=4), expected="the mapping gives no access"
            )
        b.op("sleep", ms=20)
        b.alive("DEV-115", "in low power")
        b.succeeds("DEV-115", b.config(0, 4), "the configuration space can be read in low power")
        b.succeeds(
            "DEV-115", b.op("feature", fd="d", flags=FEATURE_SET | _LOW_EXIT), "LOW_POWER_EXIT succeeds"
        )
        b.succeeds(
            "DEV-115", b.op("feature", fd="d", flags=FEATURE_SET | _LOW_EXIT), "a second EXIT succeeds"
        )
        b.op("eventfd_read", fd="wake")
        if memory >= 0:
            b.succeeds("DEV-116", b.op("mem_read", mem="m", n=4, width=4), "the mapping works again")
        if not payload:  # closed in low power
            b.op("feature", fd="d", flags=FEATURE_SET | feature)
        yield b


@experiment("DEV-120", "DEV-121", own_open=True)
def memory_can_be_exported(subject: Subject) -> Iterator[Bench]:
    if not subject.has("dma_buf_region"):
        return
    index = int(subject.capabilities["dma_buf_region"]) - 1
    size = next(int(r["size"]) for r in subject.capabilities["regions"] if r["index"] == index)
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)

    def export(
        region: int, ranges: list[tuple[int, int]], flags: int = 0, open_flags: int = 0o2000002
    ) -> int:
        payload = struct.pack("=IIII", region, open_flags, flags, len(ranges))
        payload += b"".join(struct.pack("=QQ", *r) for r in ranges)
        return b.op(
            "feature_new_fd", fd="d", flags=FEATURE_GET | _DMA_BUF, payload=payload.hex(), out=b.slot("x")
        )

    good = export(index, [(0, _PAGE)])
    b.succeeds("DEV-120", good, "a page of the region")
    if size >= 4 * _PAGE:
        b.succeeds("DEV-120", export(index, [(0, _PAGE), (2 * _PAGE, 2 * _PAGE)]), "two ranges")
    b.succeeds("DEV-120", export(index, [(0, size // _PAGE * _PAGE)]), "the whole region")
    for ranges, words in (
        ([], "no range"), ([(0, 0)], "an empty range"), ([(1, _PAGE)], "an offset that is not aligned"),
        ([(0, 100)], "a length that is not aligned"), ([(size, _PAGE)], "behind the region"),
        ([(0, size + _PAGE)], "longer than the region"), ([((1 << 64) - _PAGE, 2 * _PAGE)], "around the end"),
    ):  # fmt: skip
        b.is_refused("DEV-121", export(index, ranges), expected=words)
    b.is_refused("DEV-121", export(index, [(0, _PAGE)], flags=1), expected="flags")
    for region in (6, 7, 100, 0xFFFFFFFF):
        b.is_refused("DEV-121", export(region, [(0, _PAGE)]), expected=f"region {region}")
    b.write(CONFIG, _COMMAND, 0, 2)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    if subject.has("reset"):
        b.op("reset", fd="d")
    b.alive("DEV-120", "with its memory exported")
    b.op("close", fd="d")
    yield b
