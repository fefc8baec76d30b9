# SPDX-License-Identifier: Apache-2.0
"""One model of an I/O address space for all backends: iommufd's IOAS, type1, type1v2, compatibility mode.

Pure: it follows the maps, unmaps and copies of one program and checks the result of each.  Every legal
request must succeed: a backend that refuses too much fails as well.  Reads and writes through the mock's
access object are compared with the contents of the mapped memory.

What a backend may decide by itself (usable IOVAs, their alignment) is taken from its own answer to
IOMMU_IOAS_IOVA_RANGES or VFIO_IOMMU_GET_INFO, and forgotten when a device is attached or detached.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.oracle.capability_chain import capability_chain, iova_ranges
from harness.oracle.iommu_dirty import bytes_of
from harness.oracle.judgement import Judgement
from harness.spec.address_rules import COMPAT, COMPAT_V1, NATIVE, TYPE1, TYPE1V2, AddressRules
from harness.uapi import iommufd, iommufd_test, vfio

__all__ = ["AddressSpaces", "judge_address_spaces"]

Record = Mapping[str, Any]
Args = Mapping[str, Any]
_TOP = 1 << 64
_FIXED = iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
_RW = iommufd.IOMMU_IOAS_MAP_WRITEABLE | iommufd.IOMMU_IOAS_MAP_READABLE
_UNMAP_ALL = vfio.VFIO_DMA_UNMAP_FLAG_ALL


@dataclass
class _Area:
    """One mapping; `source` is (memory or file slot, offset in it), None if its contents are not tracked."""

    length: int
    flags: int
    source: tuple[str, int] | None
    doubtful: bool = False
    """A refused operation may have removed it."""


@dataclass
class _Space:
    """One address space."""

    rules: AddressRules
    areas: dict[int, _Area] = field(default_factory=dict)
    ranges: list[tuple[int, int]] | None = None
    alignment: int = 0

    def within(self, iova: int, length: int) -> list[int]:
        """First IOVAs of the mappings that overlap the range, in ascending order."""
        return sorted(i for i, a in self.areas.items() if i < iova + length and iova < i + a.length)


class AddressSpaces:
    """Follows one program; call `step` for each operation in order."""

    def __init__(self, out: Judgement) -> None:
        self.out = out
        self._spaces: dict[tuple[str, int], _Space] = {}
        self._kinds: dict[str, AddressRules] = {}
        self._compat: dict[str, int] = {}
        self._cutting: set[str] = set()
        """Iommufds set to VFIO_TYPE1_IOMMU: an unmap may split a mapping there."""
        self._access: dict[str, tuple[str, int]] = {}
        self._memory: dict[str, bytearray] = {}
        self._files: dict[str, str] = {}
        self._handlers: dict[str, Callable[[int, Args, Record], None]] = {
            "IOMMU_IOAS_ALLOC": self._alloc, "IOMMU_IOAS_MAP": self._map, "IOMMU_IOAS_MAP_FILE": self._map,
            "IOMMU_IOAS_COPY": self._copy, "IOMMU_IOAS_UNMAP": self._unmap,
            "IOMMU_IOAS_IOVA_RANGES": self._ranges, "IOMMU_VFIO_IOAS": self._compat_ioas,
            "VFIO_IOMMU_MAP_DMA": self._legacy_map, "VFIO_IOMMU_UNMAP_DMA": self._legacy_unmap,
            "VFIO_IOMMU_GET_INFO": self._info, "IOMMU_TEST_OP_CREATE_ACCESS": self._created_access,
            "IOMMU_TEST_OP_ACCESS_RW": self._access_rw, "IOMMU_TEST_OP_ADD_RESERVED": self._narrowed,
            "IOMMU_TEST_OP_MOCK_DOMAIN": self._narrowed, "IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS": self._narrowed,
            "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE": self._narrowed, "IOMMU_HWPT_ALLOC": self._narrowed,
            "IOMMU_TEST_OP_ACCESS_REPLACE_IOAS": self._replaced_access, "IOMMU_DESTROY": self._narrowed,
            "IOMMU_HW_QUEUE_ALLOC": self._locked,
        }  # fmt: skip

    def step(self, index: int, name: str, args: Args, record: Record) -> None:
        """Check one operation of the program against its trace record."""
        if record.get("skipped"):
            return
        if name == "act":
            name, args = _in_its_process(str(args["actor"]), args["do"])
        if name == "iommu":
            handler = self._handlers.get(args["cmd"])
            if handler is not None:
                handler(index, args, record)
            return
        if record["errno"]:
            return
        if name == "ioas_alloc":
            self._spaces[args["fd"], record["ioas"]] = _Space(NATIVE)
        elif name == "container_set_iommu":
            first = args["type"] == vfio.VFIO_TYPE1_IOMMU
            if args["fd"] not in self._compat:
                self._spaces[args["fd"], 0] = _Space(TYPE1 if first else TYPE1V2)
            elif first:
                self._cutting.add(args["fd"])
        elif name in ("mmap", "mem_write", "pwrite", "memfd"):
            self._memory_op(name, args)
        elif name in ("attach", "detach"):
            for space in self._spaces.values():
                space.ranges = None

    # -- memory
    def _memory_op(self, name: str, args: Args) -> None:
        if name == "mmap":
            if "fd" in args:
                self._files[args["out"]] = args["fd"]  # a view of the file
            else:
                self._memory[args["out"]] = bytearray(args["n"])
        elif name == "memfd":
            self._memory[args["out"]] = bytearray(args.get("size", 0))
        elif name == "pwrite":
            self._store(args["fd"], args["off"], bytes.fromhex(args.get("hex", "")))
        else:
            self._store(args["mem"], args.get("off", 0), bytes.fromhex(args["hex"]))

    def _store(self, slot: str, offset: int, data: bytes) -> None:
        held = self._memory.get(self._files.get(slot, slot))
        if held is not None:
            held[offset : offset + len(data)] = data

    # -- spaces
    def _alloc(self, _index: int, args: Args, record: Record) -> None:
        if not record["errno"]:
            self._spaces[args["fd"], record["out_ioas_id"]] = _Space(NATIVE)

    def _narrowed(self, _index: int, _args: Args, _record: Record) -> None:
        for space in self._spaces.values():
            space.ranges = None

    def _locked(self, _index: int, _args: Args, record: Record) -> None:
        """A hardware queue keeps some memory mapped; the model does not know which, or for how long."""
        for space in () if record["errno"] else self._spaces.values():
            for area in space.areas.values():
                area.doubtful = True

    def _ranges(self, _index: int, args: Args, record: Record) -> None:
        space = self._spaces.get((args["fd"], record["ioas_id"]))
        if space is None or record["errno"] or "buf_allowed_iovas" not in record:
            return
        data = bytes_of(record["buf_allowed_iovas"])
        pairs = [int.from_bytes(data[i : i + 8], "little") for i in range(0, 16 * record["num_iovas"], 8)]
        space.ranges = list(zip(pairs[::2], pairs[1::2], strict=True))
        space.alignment = record["out_iova_alignment"]

    def _compat_ioas(self, _index: int, args: Args, record: Record) -> None:
        operation = args.get("set", {}).get("op", 0)
        if record["errno"] or operation == iommufd.IOMMU_VFIO_IOAS_GET:
            return
        self._compat[args["fd"]] = record["ioas_id"] if operation == iommufd.IOMMU_VFIO_IOAS_SET else 0

    def _legacy(self, args: Args) -> tuple[_Space | None, AddressRules]:
        slot = args["fd"]
        if slot in self._compat:
            rules = COMPAT_V1 if slot in self._cutting else COMPAT
            return self._spaces.get((slot, self._compat[slot])), rules
        space = self._spaces.get((slot, 0))
        return space, space.rules if space else TYPE1V2

    def _info(self, index: int, args: Args, record: Record) -> None:
        space, rules = self._legacy(args)
        if space is None or record["errno"] or not record["flags"] & vfio.VFIO_IOMMU_INFO_PGSIZES:
            return
        sizes = record["iova_pgsizes"]
        space.alignment = sizes & -sizes
        if record["flags"] & vfio.VFIO_IOMMU_INFO_CAPS and not record["cap_offset"]:
            return  # the buffer was too small for the capabilities
        tail = bytes.fromhex(record.get("tail", ""))
        chain = capability_chain(tail, record["cap_offset"])
        clause = "LEG-013" if rules.name.startswith("type1") else "LEG-088"
        self.out.check(
            clause, chain is not None, index, "a chain within the buffer, each id once", "it is not"
        )
        if chain is None:
            return
        space.ranges = iova_ranges(chain)
        migration = chain.get(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION)
        if migration is not None:
            logged, largest = (int.from_bytes(migration[i : i + 8], "little") for i in (16, 24))
            good = len(migration) >= 32 and bool(logged & space.alignment) and largest > 0
            self.out.check(
                "LEG-015", good, index, "the smallest page size, and a size of bitmaps", "it says neither"
            )

    # -- maps
    def _map(self, index: int, args: Args, record: Record) -> None:
        space = self._spaces.get((args["fd"], record["ioas_id"]))
        if space is None or record["flags"] & ~(_FIXED | _RW):
            return
        source = _source(args)
        if args["cmd"] == "IOMMU_IOAS_MAP_FILE" and (source is None or source[0] not in self._memory):
            if not record["errno"]:
                space.areas[record["iova"]] = _Area(record["length"], record["flags"], None)
            return  # this model does not check which files can be mapped
        offset = source[1] if source else 0
        self._mapped(
            index, space, space.rules, args, record, record["length"], record["flags"], source, offset
        )

    def _legacy_map(self, index: int, args: Args, record: Record) -> None:
        space, rules = self._legacy(args)
        flags = record["flags"]
        if space is None or flags & ~3 or record["argsz"] < 32:
            return
        native = (_FIXED | (flags & 1) << 2 | (flags & 2)) & (_FIXED | _RW)
        source = _source(args)
        self._mapped(
            index, space, rules, args, record, record["size"], native, source, source[1] if source else 0
        )

    def _mapped(
        self, index: int, space: _Space, rules: AddressRules, args: Args, record: Record, length: int,
        flags: int,
        source: tuple[str, int] | None, offset: int,
    ) -> None:  # fmt: skip
        iova, done = record["iova"], not record["errno"]
        asked = _number(args, "iova")
        if asked < 0:
            asked = iova
        if not flags & _FIXED:
            self._placed(index, space, rules, record, length)
            if done:
                space.areas[iova] = _Area(length, flags, source)
            return
        clause, why = self._must_refuse(space, rules, asked, length, flags, offset)
        touched = space.within(asked, length)
        if clause:
            if not all(space.areas[i].doubtful for i in touched) or not touched:
                self.out.check(clause, not done, index, f"the map is refused: {why}", "it succeeds")
        elif clause is not None and source is not None:
            observed = errnos.errorcode.get(record["errno"], str(record["errno"]))
            self.out.check(rules.map, done and iova == asked, index, "the map succeeds", observed)
        if done:
            for doubted in touched:
                space.areas.pop(doubted)
            space.areas[iova] = _Area(length, flags, source)

    def _must_refuse(
        self, space: _Space, rules: AddressRules, iova: int, length: int, flags: int, offset: int
    ) -> tuple[str | None, str]:
        """The clause that forbids a map at a fixed address, and why; '' if none does, None if unknown."""
        if length and iova + length > _TOP:
            return rules.overflow, "its range ends beyond 2^64"
        if not length:
            return rules.empty, "it is empty"
        if not flags & _RW:
            return rules.empty, "it is neither readable nor writable"
        if space.within(iova, length):
            return rules.overlap, "something is mapped there"
        if space.ranges is None or not space.alignment:
            return None, ""
        if (iova | length | offset) & (space.alignment - 1):
            return rules.misaligned, f"it is not aligned to {space.alignment}"
        if not any(first <= iova and iova + length - 1 <= last for first, last in space.ranges):
            return rules.outside, "it lies outside the ranges that the IOMMU can map"
        return "", ""

    def _placed(self, index: int, space: _Space, rules: AddressRules, record: Record, length: int) -> None:
        """Check a map whose address the kernel chose."""
        if record["errno"]:
            return  # only the kernel knows whether there is room; experiments claim it where it is certain
        iova = record["iova"]
        taken = [i for i in space.within(iova, length) if not space.areas[i].doubtful]
        good = not taken and iova + length <= _TOP
        if space.ranges is not None:
            good = good and any(a <= iova and iova + length - 1 <= b for a, b in space.ranges)
            good = good and not iova & (space.alignment - 1)
        self.out.check(
            rules.placed, good, index, "an unused address within the ranges is chosen", f"{iova:#x} is not"
        )

    # -- copies
    def _copy(self, index: int, args: Args, record: Record) -> None:
        source = self._spaces.get((args["fd"], record["src_ioas_id"]))
        target = self._spaces.get((args["fd"], record["dst_ioas_id"]))
        length, done = record["length"], not record["errno"]
        if source is None or target is None or record["flags"] & ~(_FIXED | _RW) or not length:
            return
        first = record["src_iova"]
        area = source.areas.get(first)
        touched = source.within(first, length)
        if not touched:
            self.out.check("IOM-051", not done, index, "the copy of nothing is refused", "it succeeds")
        elif area is not None and area.length == length and not area.doubtful:
            sound = bool(record["flags"] & _RW) and (
                area.flags & iommufd.IOMMU_IOAS_MAP_WRITEABLE
                or not record["flags"] & iommufd.IOMMU_IOAS_MAP_WRITEABLE
            )
            if sound:
                rules = AddressRules(**{**NATIVE.__dict__, "map": "IOM-050"})
                moved = {"set": {"iova": args.get("set", {}).get("dst_iova", 0)}}
                record = {**record, "iova": record["dst_iova"]}
                offset = area.source[1] if area.source else 0
                flags = record["flags"]
                self._mapped(index, target, rules, moved, record, length, flags, area.source, offset)
                return
        if done:
            self._cloned(source, target, record)

    def _cloned(self, source: _Space, target: _Space, record: Record) -> None:
        """Follow a copy that is not exactly one mapping: it makes one for each mapping that it overlaps."""
        first, length = record["src_iova"], record["length"]
        for iova in source.within(first, length):
            area = source.areas[iova]
            low, high = max(iova, first), min(iova + area.length, first + length)
            place = (area.source[0], area.source[1] + low - iova) if area.source else None
            target.areas[record["dst_iova"] + low - first] = _Area(
                high - low, record["flags"], place, area.doubtful
            )

    # -- unmaps
    def _unmap(self, index: int, args: Args, record: Record) -> None:
        space = self._spaces.get((args["fd"], record["ioas_id"]))
        asked = _number(args, "length")
        if space is None:
            return
        everything = record["iova"] == 0 and asked == _TOP - 1
        self._unmapped(index, space, space.rules, record, asked, record["length"], everything)

    def _legacy_unmap(self, index: int, args: Args, record: Record) -> None:
        space, rules = self._legacy(args)
        flags = record["flags"]
        if space is None or flags & ~_UNMAP_ALL or record["argsz"] < 24:
            return
        asked = _number(args, "size")
        if space.alignment and (asked | record["iova"]) & (space.alignment - 1):
            return
        everything = bool(flags & _UNMAP_ALL)
        if everything and (asked or record["iova"]):
            self.out.check(
                "LEG-033",
                bool(record["errno"]),
                index,
                "with FLAG_ALL, iova and size must be 0",
                "it succeeds",
            )
            return
        self._unmapped(index, space, rules, record, asked, record["size"], everything)

    def _unmapped(
        self,
        index: int,
        space: _Space,
        rules: AddressRules,
        record: Record,
        asked: int,
        told: int,
        everything: bool,
    ) -> None:
        first, done = (0, not record["errno"]) if everything else (record["iova"], not record["errno"])
        length = _TOP if everything else asked
        if first + length > _TOP or not length:
            self.out.check(
                rules.overflow if length else rules.empty, not done, index, "it is refused", "it succeeds"
            )
            return
        touched = space.within(first, length)
        certain = not any(space.areas[i].doubtful for i in touched)
        cut = [i for i in touched if i < first or i + space.areas[i].length > first + length]
        if cut:
            if certain and rules.splits is None:
                self.out.check(
                    rules.split, not done, index, "a mapping cannot be split or cut", "it succeeds"
                )
            # The text does not say what a refused unmap does to the mappings that it covers whole.
            for iova in touched:
                held = space.areas[iova]
                held.doubtful = held.doubtful or done or rules.splits is not None or iova not in cut
        elif certain and (space.alignment or rules is NATIVE):
            self._removed(index, space, rules, touched, record, told, everything)
        if done and not cut:
            for iova in touched:
                del space.areas[iova]

    def _removed(
        self, index: int, space: _Space, rules: AddressRules, touched: Sequence[int], record: Record,
        told: int,
        everything: bool,
    ) -> None:  # fmt: skip
        """Check an unmap that covers only whole mappings, or nothing."""
        done, total = not record["errno"], sum(space.areas[i].length for i in touched)
        if not touched and not everything:
            if rules.nothing_is_enoent:
                good = record["errno"] == errnos.ENOENT
                self.out.check(
                    "IOM-043", good, index, "unmapping nothing is ENOENT", f"errno {record['errno']}"
                )
            elif not record["iova"] & (space.alignment - 1):
                good = not done or told == 0
                self.out.check(rules.unmap, good, index, "nothing is unmapped", f"{told} bytes")
            return
        good = done and told == total % _TOP
        clause = rules.unmap_all if everything else rules.unmap
        observed = f"errno {record['errno']}" if not done else f"{told} bytes were"
        self.out.check(
            clause, good, index, "all mappings of the range are unmapped, and their bytes told", observed
        )

    # -- the mock's access
    def _created_access(self, _index: int, args: Args, record: Record) -> None:
        for slot in args.get("out_fds", {}):
            if not record["errno"]:
                self._access[slot] = (args["fd"], record["id"])

    def _replaced_access(self, _index: int, args: Args, record: Record) -> None:
        slot = args.get("fds", {}).get("id")
        if slot in self._access and not record["errno"]:
            self._access[slot] = (args["fd"], record["ioas_id"])

    def _access_rw(self, index: int, args: Args, record: Record) -> None:
        space = self._spaces.get(self._access.get(args.get("fds", {}).get("id", ""), ("", 0)))
        iova, length, done = record["iova"], record["length"], not record["errno"]
        if space is None or not length or iova + length > _TOP or "buf_uptr" not in record:
            return
        touched = space.within(iova, length)
        if any(space.areas[i].doubtful for i in touched):
            return
        covered = sum(min(i + space.areas[i].length, iova + length) - max(i, iova) for i in touched)
        if covered < length:
            self.out.check("IOM-044", not done, index, "what is not mapped cannot be accessed", "it succeeds")
            return
        writes = bool(record["flags"] & iommufd_test.MOCK_ACCESS_RW_WRITE)
        needed = iommufd.IOMMU_IOAS_MAP_WRITEABLE if writes else iommufd.IOMMU_IOAS_MAP_READABLE
        if not all(space.areas[i].flags & needed for i in touched):
            self.out.check("IOM-038", not done, index, "the mapping does not allow it", "it succeeds")
            return
        data = bytes_of(record["buf_uptr"])
        expected = b"".join(self._held(space, i, iova, length) or b"?" for i in touched)
        if writes and done:
            self._written(space, touched, iova, data)
        good = done and (writes or len(expected) != length or data == expected)
        observed = "other bytes are read" if done else f"errno {record['errno']}"
        self.out.check("IOM-037", good, index, "the mapped memory is accessed", observed)

    def _held(self, space: _Space, area: int, iova: int, length: int) -> bytes | None:
        found = space.areas[area].source
        held = self._memory.get(self._files.get(found[0], found[0])) if found else None
        if found is None or held is None:
            return None
        low, high = max(area, iova), min(area + space.areas[area].length, iova + length)
        return bytes(held[found[1] + low - area : found[1] + high - area])

    def _written(self, space: _Space, touched: Sequence[int], iova: int, data: bytes) -> None:
        for area in touched:
            found, extent = space.areas[area].source, space.areas[area].length
            low, high = max(area, iova), min(area + extent, iova + len(data))
            if found is not None:
                self._store(found[0], found[1] + low - area, data[low - iova : high - iova])


def _in_its_process(actor: str, operation: Sequence[Any]) -> tuple[str, Args]:
    """Give an operation of another process its own names for memory: it has its own address space."""
    name, args = operation[0], dict(operation[1])
    if "mems" in args:
        args["mems"] = {field: [f"{actor}:{slot}", off] for field, (slot, off) in args["mems"].items()}
    for key in ("mem", "out"):
        if name in ("mmap", "mem_write") and key in args:
            args[key] = f"{actor}:{args[key]}"
    return name, args


def _number(args: Args, name: str) -> int:
    """A field as the program gave it; -1 if the program gave a slot, whose value is not known here."""
    value = args.get("set", {}).get(name, 0)
    return value if isinstance(value, int) else -1


def _source(args: Args) -> tuple[str, int] | None:
    memory = args.get("mems", {})
    for name in ("user_va", "vaddr"):
        if name in memory and name not in args.get("set", {}):
            return str(memory[name][0]), int(memory[name][1])
    if "fd" in args.get("fds", {}):
        return str(args["fds"]["fd"]), int(args.get("set", {}).get("start", 0))
    return None


def judge_address_spaces(ops: Sequence[Sequence[Any]], records: Mapping[int, Record], out: Judgement) -> None:
    """Judge the maps, unmaps, copies and accesses of one thread's operations."""
    spaces = AddressSpaces(out)
    for index, (name, args) in enumerate(ops):
        if index in records:
            spaces.step(index, name, args, records[index])
