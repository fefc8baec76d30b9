# SPDX-License-Identifier: Apache-2.0
"""An iommufd in memory that keeps every rule of maps and dirty bits, or breaks those it is told to."""

from __future__ import annotations

import errno
from typing import Any

from harness.hwpt_dirty_judge import bits_of, bytes_of

PAGE = 2048
FIRST, LAST = 1 << 24, (1 << 31) - 1
TOP = 1 << 64


class Refused(Exception):
    """An errno."""


class IommuModel:
    """Performs programs; `defects` are names of rules that it breaks."""

    def __init__(self, *defects: str) -> None:
        self.defects = set(defects)

    def run(self, program: dict[str, Any]) -> list[dict[str, Any]]:
        """The trace of a program."""
        self.next, self.ids = 0, dict[str, int]()
        self.spaces: dict[int, dict[int, list[Any]]] = {}
        self.narrow: set[int] = set()
        self.tables: dict[int, dict[str, Any]] = {}
        self.access: dict[str, int] = {}
        self.memory: dict[str, bytearray] = {}
        self.compat = 0
        trace = []
        for index, (name, args) in enumerate(program["threads"][0]["ops"]):
            record = {"t": "main", "i": index, "op": name, "ret": 0, "errno": 0, "t0": 0, "dt": 0}
            try:
                getattr(self, "op_" + name)(args, record)
            except Refused as refusal:
                record.update(ret=-1, errno=refusal.args[0])
            trace.append(record)
        return trace

    # -- operations beside ioctls
    def op_open_iommufd(self, args, record):
        """Opens."""

    def op_ioas_alloc(self, args, record):
        self.next += 1
        self.spaces[self.next] = {}
        self.ids[args["out"]] = record["ioas"] = self.next

    def op_mmap(self, args, record):
        self.memory[args["out"]] = bytearray(args["n"])

    def op_mem_write(self, args, record):
        data = bytes.fromhex(args["hex"])
        self.memory[args["mem"]][args["off"] : args["off"] + len(data)] = data

    def op_iommu(self, args, record):
        fields = {"flags": 0, "iova": 0, "length": 0, "op_": 0, **self._defaults(args["cmd"])}
        for key, value in args["set"].items():
            fields[{"op": "op_"}.get(key, key)] = value if isinstance(value, int) else self.ids[value]
        for key, value in args.get("mems", {}).items():
            fields[key] = value
        record.update({k: v for k, v in fields.items() if not isinstance(v, list)})
        for key, value in args.get("bufs", {}).items():
            record["buf_" + key] = bytes_of(value).hex()
            record["guard"] = True
        getattr(self, args["cmd"])(args, fields, record)
        for slot, field in args.get("outs", {}).items():
            self.ids[slot] = record[field]

    @staticmethod
    def _defaults(cmd):
        return {"argsz": 56, "size": 0} if cmd.startswith("VFIO") else {}

    # -- maps
    def _space(self, number):
        if number not in self.spaces:
            raise Refused(errno.ENOENT)
        return self.spaces[number]

    def _usable(self, ioas):
        return (FIRST, LAST, PAGE) if ioas in self.narrow else (0, TOP - 1, 1)

    def _touched(self, space, iova, length):
        return sorted(i for i, a in space.items() if i < iova + length and iova < i + a[0])

    def _place(self, ioas, iova, length, flags, source):
        space, (first, last, step) = self._space(ioas), self._usable(ioas)
        if not flags & 6 and "no_permission" not in self.defects:
            raise Refused(errno.EINVAL)
        if not length and "empty" not in self.defects:
            raise Refused(errno.EINVAL)
        if iova + length > TOP and "wraps" not in self.defects:
            raise Refused(errno.EOVERFLOW)
        if (iova | length) % step and "misaligned" not in self.defects:
            raise Refused(errno.EINVAL)
        wraps = iova + length > TOP
        if (iova < first or iova + length - 1 > last) and "outside" not in self.defects and not wraps:
            raise Refused(errno.EINVAL)
        touched = self._touched(space, iova, length)
        if touched and "overlap" not in self.defects:
            raise Refused(errno.EEXIST)
        if "refuses_neighbours" in self.defects and iova - 1 in [i + a[0] - 1 for i, a in space.items()]:
            raise Refused(errno.EEXIST)
        for other in touched:
            del space[other]
        space[iova] = [length, flags, source]
        for table in self.tables.values():
            if table["ioas"] == ioas:
                if "late_map_untracked" not in self.defects or not table["on"]:
                    table["mapped"].add(iova)
                if "unmap_keeps_dirty" not in self.defects:
                    table["dirty"] = {p for p in table["dirty"] if not iova <= p * PAGE < iova + length}

    def _choose(self, ioas, length):
        space, (first, last, _) = self._space(ioas), self._usable(ioas)
        iova = max(first, 1 << 20)
        if "chooses_taken" in self.defects and space:
            return min(space)
        if "chooses_outside" in self.defects:
            return last + 1 - 4096 if last < TOP - 1 else FIRST
        while touched := self._touched(space, iova, length):
            iova = touched[-1] + space[touched[-1]][0]
        return iova

    def IOMMU_IOAS_MAP(self, args, fields, record):
        ioas, length = fields["ioas_id"], fields["length"]
        iova = fields["iova"]
        source = tuple(fields["user_va"])
        if not fields["flags"] & 1:
            iova = self._choose(ioas, length)
            if "chooses_taken" in self.defects or "chooses_outside" in self.defects:
                self.spaces[ioas][iova] = [length, fields["flags"], source]
                record["iova"] = iova
                return
        self._place(ioas, iova, length, fields["flags"], source)
        if "another_place" in self.defects:
            iova += 4096
        record["iova"] = iova

    def IOMMU_IOAS_COPY(self, args, fields, record):
        source, first = self._space(fields["src_ioas_id"]), fields["src_iova"]
        area = source.get(first)
        if area is None or area[0] != fields["length"]:
            if "copies_nothing" not in self.defects or area is not None:
                raise Refused(errno.ENOENT)
            area = [fields["length"], 7, ("m", 0)]
        if fields["flags"] & 2 and not area[1] & 2:
            raise Refused(errno.EPERM)
        iova = fields["dst_iova"] if fields["flags"] & 1 else self._choose(fields["dst_ioas_id"], area[0])
        memory, off = area[2]
        off += 4096 * ("copies_shifted" in self.defects)
        if "refuses_copies" in self.defects:
            raise Refused(errno.ENOMEM)
        self._place(fields["dst_ioas_id"], iova, area[0], fields["flags"], (memory, off))
        record["dst_iova"] = iova

    def _remove(self, ioas, first, length, everything):
        space = self._space(ioas)
        touched = sorted(space) if everything else self._touched(space, first, length)
        cut = [i for i in touched if not everything and (i < first or i + space[i][0] > first + length)]
        if cut and "splits" not in self.defects:
            raise Refused(errno.ENOENT)
        if "keeps_last" in self.defects and len(touched) > 1:
            touched = touched[:-1]
        total = sum(space[i][0] for i in touched)
        for iova in touched:
            if "stays_mapped" not in self.defects:
                del space[iova]
        return total

    def IOMMU_IOAS_UNMAP(self, args, fields, record):
        first, length = fields["iova"], fields["length"]
        everything = first == 0 and length == TOP - 1
        if not everything and (not length or first + length > TOP):
            raise Refused(errno.EOVERFLOW if length else errno.EINVAL)
        if everything and "no_unmap_all" in self.defects:
            raise Refused(errno.ENOENT)
        total = self._remove(fields["ioas_id"], first, length, everything)
        if not total and not everything and "nothing_is_fine" not in self.defects:
            raise Refused(errno.ENOENT)
        record["length"] = total + 4096 * ("wrong_length" in self.defects)

    def IOMMU_IOAS_IOVA_RANGES(self, args, fields, record):
        first, last, step = self._usable(fields["ioas_id"])
        data = first.to_bytes(8, "little") + last.to_bytes(8, "little")
        record.update(num_iovas=1, out_iova_alignment=step, buf_allowed_iovas=data.ljust(256, b"\0").hex())

    # -- type1 on the iommufd
    def IOMMU_VFIO_IOAS(self, args, fields, record):
        self.compat = fields["ioas_id"]

    def VFIO_IOMMU_GET_INFO(self, args, fields, record):
        first, last, _ = self._usable(self.compat)
        chain = (1).to_bytes(2, "little") + bytes(6) + (1).to_bytes(8, "little")
        chain += first.to_bytes(8, "little") + last.to_bytes(8, "little")
        record.update(flags=3, iova_pgsizes=(TOP - 4096), cap_offset=24, tail=chain.hex())

    def VFIO_IOMMU_MAP_DMA(self, args, fields, record):
        flags = 1 | (fields["flags"] & 2) | (fields["flags"] & 1) << 2
        self._place(self.compat, fields["iova"], fields["size"], flags, tuple(fields["vaddr"]))

    def VFIO_IOMMU_UNMAP_DMA(self, args, fields, record):
        if not fields["flags"] & 2 and not fields["size"]:
            raise Refused(errno.EINVAL)
        everything = bool(fields["flags"] & 2)
        total = self._remove(self.compat, fields["iova"], fields["size"], everything)
        record["size"] = total + 4096 * ("wrong_length" in self.defects)

    # -- the mock
    def IOMMU_TEST_OP_MOCK_DOMAIN(self, args, fields, record):
        self.narrow.add(fields["id"])
        for number in range(3):
            self.next += 1
            record[("out_stdev_id", "out_idev_id", "out_hwpt_id")[number]] = self.next

    def IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE(self, args, fields, record):
        """Moves the device."""

    def IOMMU_OPTION(self, args, fields, record):
        record["val64"] = fields["val64"]

    def IOMMU_TEST_OP_CREATE_ACCESS(self, args, fields, record):
        for slot in args["out_fds"]:
            self.access[slot] = fields["id"]

    def IOMMU_TEST_OP_ACCESS_RW(self, args, fields, record):
        space, iova, length = self.spaces[self.access[args["fds"]["id"]]], fields["iova"], fields["length"]
        touched = self._touched(space, iova, length)
        covered = sum(min(i + space[i][0], iova + length) - max(i, iova) for i in touched)
        if covered < length and "reads_unmapped" not in self.defects:
            raise Refused(errno.ENOENT)
        writes, out = fields["flags"] & 1, b""
        given = bytes.fromhex(record["buf_uptr"])
        for area in touched:
            size, flags, (memory, off) = space[area]
            if not flags & (2 if writes else 4) and "permits_all" not in self.defects:
                raise Refused(errno.EPERM)
            low, high = max(area, iova), min(area + size, iova + length)
            start = off + low - area
            if writes and "writes_lost" not in self.defects:
                self.memory[memory][start : start + high - low] = given[low - iova : high - iova]
            out += bytes(self.memory[memory][start : start + high - low])
        if not writes:
            record["buf_uptr"] = out.ljust(length, b"\0").hex()

    # -- dirty bits
    def IOMMU_HWPT_ALLOC(self, args, fields, record):
        self.next += 1
        record["out_hwpt_id"] = self.next
        mapped = set(self.spaces[fields["pt_id"]])
        self.tables[self.next] = {"ioas": fields["pt_id"], "on": False, "dirty": set(), "mapped": mapped}

    def IOMMU_HWPT_SET_DIRTY_TRACKING(self, args, fields, record):
        table = self.tables[fields["hwpt_id"]]
        if fields["flags"] and "begins_dirty" not in self.defects:
            table["dirty"] = set()
        table["on"] = bool(fields["flags"])

    def IOMMU_TEST_OP_DIRTY(self, args, fields, record):
        tables = self.tables.values() if "shared_bits" in self.defects else [self.tables[fields["id"]]]
        bits, step = bits_of(record["buf_uptr"]), fields["page_size"]
        for table in tables:
            space = self.spaces[table["ioas"]]
            for number in range(fields["length"] // step):
                at = fields["iova"] + number * step
                owner = next((i for i, a in space.items() if i <= at < i + a[0]), None)
                if bits >> number & 1 and owner in table["mapped"]:
                    table["dirty"].add(at // PAGE)

    def IOMMU_HWPT_GET_DIRTY_BITMAP(self, args, fields, record):
        table, step = self.tables[fields["hwpt_id"]], fields["page_size"]
        iova, length, keep = fields["iova"], fields["length"], fields["flags"] & 1
        bits = bits_of(record["buf_data"])
        inside = {p for p in table["dirty"] if iova <= p * PAGE < iova + length}
        space = self.spaces[table["ioas"]]
        if "stops_at_holes" in self.defects:
            at = iova
            while at in space:
                at += space[at][0]
            if at < iova + length and not self._touched(space, at, 1):
                inside = {p for p in inside if p * PAGE < at}
        shown = set(inside)
        if "loses_last" in self.defects and shown:
            shown.remove(max(shown))
        if "shifted_loses" in self.defects and args.get("at", {}).get("data"):
            shown = set()
        if "large_pages_lose" in self.defects and step > 4096:
            shown = {p for p in shown if not p * PAGE % step}
        if "reports_all" in self.defects:
            shown |= {p for i, a in space.items() for p in range(i // PAGE, (i + a[0]) // PAGE)
                      if iova <= p * PAGE < iova + length}  # fmt: skip
        if "clears_given" in self.defects:
            bits = 0
        for page in shown:
            bits |= 1 << (page * PAGE - iova) // step
        if "one_too_many" in self.defects and shown and length // step % 64:
            bits |= 1 << length // step
        size = len(record["buf_data"]) // 2
        record["buf_data"] = (bits & (1 << 8 * size) - 1).to_bytes(size, "little").hex()
        record["guard"] = "overruns" not in self.defects
        if (not keep and "never_clears" not in self.defects) or (keep and "keep_clears" in self.defects):
            table["dirty"] -= inside
            if "clears_others" in self.defects:
                table["dirty"] = set()
