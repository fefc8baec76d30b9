# SPDX-License-Identifier: Apache-2.0
"""Experiments on the configuration space: fixed and virtualised registers, and bits that disable things."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.probes.device import capability_offsets
from suites.dev.program import CONFIG, Bench, le

_COMMAND, _STATUS, _CAP_POINTER, _LINE, _PIN = 0x04, 0x06, 0x34, 0x3C, 0x3D
_IO, _MEMORY, _MASTER, _INTX_OFF = 1, 2, 4, 0x400
_BAR0, _BARS = 0x10, 6
_MEM64 = 4
_ALL_ONES = 0xFFFFFFFF
_D3HOT = 3


@experiment("DEV-040", "DEV-054", own_open=True)
def what_is_fixed_cannot_be_written(subject: Subject) -> Iterator[Bench]:
    if not subject.has("pci_api"):
        return
    b = Bench(subject)
    for off, n, what in ((0, 2, "vendor"), (2, 2, "device"), (8, 1, "revision"), (9, 1, "interface"),
                         (10, 2, "class"), (14, 1, "header type")):  # fmt: skip
        before = b.config(off, n)
        for value in (0, _ALL_ONES, 0x5A5A5A5A):
            b.write(CONFIG, off, value, n)
            after = b.config(off, n)
            b.equals("DEV-040", after, "hex", b.ref(before, "hex"), f"the same {what} as before")
    for value in (0x0A, 0xFF, 0):
        b.write(CONFIG, _LINE, value, 1)
        b.equals("DEV-054", b.config(_LINE, 1), "hex", le(value, 1), f"interrupt line {value}")
    yield b


@experiment("DEV-041", "DEV-042", "DEV-043", "DEV-055", own_open=True)
def address_registers_tell_the_size_of_their_region(subject: Subject) -> Iterator[Bench]:
    if not subject.has("pci_api"):
        return
    sizes = {int(r["index"]): int(r["size"]) for r in subject.capabilities["regions"]}
    data = bytes.fromhex(subject.capabilities["config"])
    b = Bench(subject)
    skip = -1
    for n in range(_BARS):
        if n == skip:
            continue
        off, size = _BAR0 + 4 * n, sizes.get(n, 0)
        old = struct.unpack_from("<I", data, off)[0]
        b.write(CONFIG, off, _ALL_ONES)
        i = b.config(off)
        if not size:
            b.equals("DEV-042", i, "hex", le(0, 4), f"0, for region {n} is empty")
            continue
        low = 3 if old & 1 else 15
        kind = old & low
        wide = not old & 1 and bool(kind & _MEM64)
        mask = ~(size - 1) & ((1 << 64) - 1)
        wanted = le((mask & ~low & _ALL_ONES) | kind, 4)
        if old & 1:  # the upper half of an I/O address is optional
            short = le((mask & ~low & 0xFFFF) | kind, 4)
            b.is_one_of("DEV-041", i, "hex", [wanted, short], f"the size {size:#x} of region {n}")
        else:
            b.equals("DEV-041", i, "hex", wanted, f"the size {size:#x} of region {n}")
        if wide:
            skip = n + 1
            b.write(CONFIG, off + 4, _ALL_ONES)
            i = b.config(off + 4)
            b.equals("DEV-041", i, "hex", le(mask >> 32, 4), f"the upper half of {size:#x}")
        address = (0x40000000 & mask & _ALL_ONES) | kind if not old & 1 else (0xC000 & mask) | kind
        b.write(CONFIG, off, address)
        b.equals("DEV-043", b.config(off), "hex", le(address, 4), f"the address {address:#x}")
        b.write(CONFIG, off, old)
        if wide:
            b.write(CONFIG, off + 4, struct.unpack_from("<I", data, off + 4)[0])
    b.alive("DEV-055", "after its address registers were written")
    yield b


@experiment("DEV-044", "DEV-045", own_open=True)
def the_command_register_switches(subject: Subject) -> Iterator[Bench]:
    if not subject.has("pci_api"):
        return
    b = Bench(subject)
    bits = _MEMORY | _MASTER | (_INTX_OFF if subject.has("irq_intx") else 0)
    for value in (bits, 0, _MASTER, _MEMORY, bits):
        b.write(CONFIG, _COMMAND, value, 2)
        i = b.config(_COMMAND, 2)
        b.is_one_of("DEV-044", i, "hex", _commands(value, bits), f"bits {value:#x} of {bits:#x}")
    yield b
    memory = _memory_region(subject)
    if not subject.has("physical_function") or memory is None:
        return
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.succeeds("DEV-045", b.read(memory, 0), "memory gives data while it is enabled")
    if subject.capabilities.get("mmap_region") == memory + 1:
        b.op("mmap", fd="d", region=memory, n=4096, out="m")
        b.succeeds(
            "DEV-045", b.op("mem_read", mem="m", n=4, width=4), "the mapping works while it is enabled"
        )
    b.write(CONFIG, _COMMAND, 0, 2)
    b.at_most("DEV-045", b.read(memory, 0), "ret", 0, "no data while memory is disabled")
    b.at_most("DEV-045", b.write(memory, 0, 0), "ret", 0, "nothing is taken while memory is disabled")
    if subject.capabilities.get("mmap_region") == memory + 1:
        b.is_refused(
            "DEV-045",
            b.op("mem_read", mem="m", n=4, width=4),
            expected="the mapping faults while it is disabled",
        )
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    b.succeeds("DEV-045", b.read(memory, 0), "memory gives data when it is enabled again")
    if subject.capabilities.get("mmap_region") == memory + 1:
        b.succeeds(
            "DEV-045", b.op("mem_read", mem="m", n=4, width=4), "the mapping works when it is enabled again"
        )
    yield b


def _commands(value: int, bits: int) -> list[str]:
    """Every content of the command register whose `bits` are those of `value`."""
    free = [1 << n for n in range(11) if not bits & 1 << n]
    found = [value & bits]
    for bit in free:
        found += [v | bit for v in found]
    return [le(v, 2) for v in found]


def _memory_region(subject: Subject) -> int | None:
    data = bytes.fromhex(subject.capabilities["config"])
    for region in subject.capabilities["regions"]:
        n = int(region["index"])
        if n < _BARS and region["size"] >= 4 and not data[_BAR0 + 4 * n] & 1:
            return n
    return None


@experiment("DEV-046", "DEV-047", "DEV-049", "DEV-050", "DEV-051", own_open=True)
def lists_of_capabilities_end(subject: Subject) -> Iterator[Bench]:
    if not subject.has("pci_api"):
        return
    caps = subject.capabilities
    data = bytes.fromhex(caps["config"])
    b = Bench(subject)
    whole = b.op("region_read", fd="d", region=CONFIG, off=0, n=64)
    b.succeeds("DEV-046", whole, "the header can be read")
    has_list = bool(data[_STATUS] & 0x10)
    seen: list[int] = []
    at, ok = data[_CAP_POINTER] if has_list else 0, True
    while at and ok:
        ok = 0x40 <= at <= 0xFC and at % 4 == 0 and at not in seen and data[at] not in (0, 0xFF)
        seen.append(at)
        if ok:
            i = b.config(at, 2)
            follows = 0x40 <= data[at + 1] <= 0xFC or data[at + 1] == 0
            expected = data[at : at + 2].hex() if follows else "a pointer to 0 or 0x40..0xfc"
            b.equals("DEV-046", i, "hex", expected, f"a capability at {at:#x} and where the next is")
            at = data[at + 1]
    first = b.config(_CAP_POINTER, 1)
    (b.equals if ok else b.differs)(
        "DEV-046", first, "hex", le(data[_CAP_POINTER], 1), "a list that ends, each capability in its place"
    )
    if not has_list:
        b.equals("DEV-046", b.config(_CAP_POINTER, 1), "hex", "00", "no pointer without a list")
    pin = b.config(_PIN, 1)
    wanted = [le(v, 1) for v in (1, 2, 3, 4)] if caps.get("irq_intx") else ["00"]
    b.is_one_of("DEV-049", pin, "hex", wanted, f"a pin exactly with {caps.get('irq_intx', 0)} INTx")
    if at := int(caps.get("pci_msi") or 0):
        b.is_one_of(
            "DEV-050",
            b.config(at + 2, 2),
            "hex",
            _msi_controls(int(caps["irq_msi"])),
            f"{caps['irq_msi']} vectors",
        )
    if at := int(caps.get("pci_msix") or 0):
        low = int(caps["irq_msix"]) - 1
        b.is_one_of(
            "DEV-051",
            b.config(at + 2, 2),
            "hex",
            [le(low | h << 14, 2) for h in range(4)],
            f"{caps['irq_msix']} vectors",
        )
    if caps.get("pci_extended"):
        _extended(b, data)
    yield b


def _msi_controls(count: int) -> list[str]:
    """Contents of MSI's message control that announce `count` vectors, or the next power of two."""
    log = max(0, count - 1).bit_length()
    return [le((v & ~0x0E) | log << 1, 2) for v in range(0x200)]


def _extended(b: Bench, data: bytes) -> None:
    at, seen, ok = 0x100, set[int](), True
    while at and ok:
        head = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else 0
        ok = 0x100 <= at <= 0xFFC and at % 4 == 0 and at not in seen
        seen.add(at)
        if ok:
            i = b.config(at, 4)
            b.equals("DEV-047", i, "hex", le(head, 4), f"an extended capability at {at:#x}")
            at = head >> 20
    first = b.config(0x100, 4)
    (b.equals if ok else b.differs)("DEV-047", first, "hex", data[0x100:0x104].hex(), "a list that ends")


@experiment("DEV-048", own_open=True)
def widths_of_reads_agree(subject: Subject) -> Iterator[Bench]:
    if not subject.has("pci_api"):
        return
    size = len(subject.capabilities["config"]) // 2
    b = Bench(subject)
    places = [*range(0, 0x40, 4), *(subject.rng.randrange(0x40, size, 4) for _ in range(24))]
    for off in places:
        before = b.config(off, 4)
        halves = [b.config(off + n, 2) for n in (0, 2)]
        single = [b.config(off + n, 1) for n in range(4)]
        odd = b.op("region_read", fd="d", region=CONFIG, off=off + 1, n=min(6, size - off - 1))
        b.succeeds("DEV-048", odd, "a read at an odd place succeeds")
        after = b.config(off, 4)
        stable = [(before, "hex", "==", b.ref(after, "hex"))]
        data = bytes.fromhex(subject.capabilities["config"])[off : off + 4]
        known = [*stable, (before, "hex", "==", data.hex())]
        for n, i in enumerate(halves):
            b.equals("DEV-048", i, "hex", data[2 * n : 2 * n + 2].hex(), f"two bytes at {off:#x}").when(
                *known
            )
        for n, i in enumerate(single):
            b.equals("DEV-048", i, "hex", data[n : n + 1].hex(), f"a byte at {off:#x}").when(*known)
    yield b


@experiment("DEV-052", own_open=True)
def power_states_come_back(subject: Subject) -> Iterator[Bench]:
    at = int(subject.capabilities.get("pci_pm") or 0)
    memory = _memory_region(subject) if at else None
    if not at or memory is None or not subject.has("vfio_pci"):
        return
    b = Bench(subject)
    b.write(CONFIG, _COMMAND, _MEMORY | _MASTER, 2)
    before = b.read(memory, 0)
    b.write(CONFIG, at + 4, _D3HOT, 2)
    low = b.config(at + 4, 1)
    b.is_one_of("DEV-052", low, "hex", [le(v, 1) for v in range(3, 256, 4)], "D3hot is reached")
    b.at_most("DEV-052", b.read(memory, 0), "ret", 0, "no data in D3hot")
    b.write(CONFIG, at + 4, 0, 2)
    b.is_one_of("DEV-052", b.config(at + 4, 1), "hex", [le(v, 1) for v in range(0, 256, 4)], "D0 is back")
    b.write(CONFIG, _COMMAND, _MEMORY | _MASTER, 2)
    b.equals("DEV-052", b.read(memory, 0), "hex", b.ref(before, "hex"), "the same data as before")
    for state in (1, 2, 0):
        b.write(CONFIG, at + 4, state, 2)
    b.alive("DEV-052", "after all power states")
    yield b


@experiment("DEV-053", own_open=True)
def a_function_level_reset_can_be_asked_for(subject: Subject) -> Iterator[Bench]:
    at = int(subject.capabilities.get("pci_flr") or 0)
    if not at or not subject.has("vfio_pci"):
        return
    b = Bench(subject)
    control = b.config(at + 8, 2)
    b.succeeds("DEV-053", b.write(CONFIG, at + 8, 0x8000, 2), "the write succeeds")
    b.succeeds("DEV-053", control, "the register can be read")
    b.alive("DEV-053", "after a function level reset")
    b.write(CONFIG, _COMMAND, _MEMORY, 2)
    memory = _memory_region(subject)
    if memory is not None:
        b.succeeds("DEV-053", b.read(memory, 0), "memory gives data after a function level reset")
    yield b


@experiment("DEV-055", own_open=True)
def any_write_leaves_the_device_to_its_user(subject: Subject) -> Iterator[Bench]:
    """Steps: write random values all over the configuration space.  Verify: the device still answers."""
    if not subject.has("pci_api"):
        return
    data = bytes.fromhex(subject.capabilities["config"])
    kept = sorted(capability_offsets(data).values())
    for _ in range(3):
        b = Bench(subject)
        places = [*range(0, 0x40, 4), *(at + n for at in kept for n in (0, 2, 4, 8, 12)),
                  *(subject.rng.randrange(0x40, len(data), 4) for _ in range(40))]  # fmt: skip
        subject.rng.shuffle(places)
        for off in places:
            if off + 4 > len(data):
                continue
            n = subject.rng.choice((1, 2, 4))
            value = subject.rng.choice((0, _ALL_ONES, subject.rng.getrandbits(32)))
            b.write(CONFIG, off, value, n)
        b.alive("DEV-055", "after writes all over its configuration space")
        if subject.has("reset"):
            b.succeeds("DEV-055", b.op("reset", fd="d"), "it can be reset")
        yield b
        b = Bench(subject)
        b.equals("DEV-055", b.config(0, 4), "hex", data[:4].hex(), "the same device for the next user")
        yield b
