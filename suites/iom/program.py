# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of this chapter."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from harness.program.script import Script, succeeded
from harness.uapi import iommufd
from harness.uapi.iommufd_test import MOCK_APERTURE_START

__all__ = ["FIRST", "NOTHING", "PAGE", "RW", "RW_FIXED", "Core"]

PAGE = 4096
FIRST = MOCK_APERTURE_START
"""An IOVA that the mock, and every IOMMU of a PC, can map."""
NOTHING = 0x7FFFFFF0
"""The id of no object."""
RW = iommufd.IOMMU_IOAS_MAP_WRITEABLE | iommufd.IOMMU_IOAS_MAP_READABLE
RW_FIXED = RW | iommufd.IOMMU_IOAS_MAP_FIXED_IOVA


class Core:
    """A program with its own iommufd: slots `f` (the iommufd) and `a` (an IOAS)."""

    def __init__(self, *, ioas: bool = True, hangs: str = "") -> None:
        self.script = Script(fresh=False, hangs=hangs)
        self.script.op("open_iommufd", out="f")
        if ioas:
            self.script.op("ioas_alloc", fd="f", out="a")

    def io(self, cmd: str, fields: Mapping[str, Any] | None = None, /, fd: str = "f", **more: Any) -> int:
        """Append an ioctl with `fields` of its struct; `more` as in the operation `iommu`."""
        return self.script.op("iommu", **{"fd": fd, "cmd": cmd, "set": dict(fields or {}), **more})

    # -- claims
    def ok(self, clause: str, index: int, what: str, when: tuple[tuple[int, str, str, Any], ...] = ()) -> int:
        """Claim that the operation succeeds; returns its index."""
        self.script.succeeds(clause, index, what).when(*when)
        return index

    def refused(self, clause: str, index: int, what: str, number: int = 0, standard: str = "") -> int:
        """Claim that the operation is refused, if the kernel has it; returns its index.

        With `number`, that errno is claimed: under `clause`, or under the clause `standard` if one is given.
        """
        exists = [(index, "errno", "!=", errno.ENOTTY)]
        if number and not standard:
            words = f"{what}: {errno.errorcode[number]}"
            self.script.is_refused(clause, index, number, expected=words).when(*exists)
            return index
        self.script.is_refused(clause, index, expected=what).when(*exists)
        if standard:
            words = f"{what}: {errno.errorcode[number]}"
            refused = [*exists, (index, "errno", "!=", 0)]
            self.script.is_refused(standard, index, number, expected=words).when(*refused)
        return index

    def is_(self, clause: str, index: int, name: str, value: Any, what: str) -> int:
        """Claim the value of a field, if the operation succeeded."""
        self.script.equals(clause, index, name, value, what).when(succeeded(index))
        return index

    # -- objects
    def ioas(self, slot: str) -> int:
        """Allocate another IOAS."""
        return self.script.op("ioas_alloc", fd="f", out=slot)

    def mock(self, suffix: str = "", pt: str = "a", flags: int = 0) -> int:
        """Make a mock device attached to `pt`: slots `std`, `dev` and `hw`, each with the suffix."""
        outs = {f"std{suffix}": "out_stdev_id", f"dev{suffix}": "out_idev_id", f"hw{suffix}": "out_hwpt_id"}
        if flags:
            return self.io("IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS", {"id": pt, "dev_flags": flags}, outs=outs)
        return self.io("IOMMU_TEST_OP_MOCK_DOMAIN", {"id": pt}, outs=outs)

    def device(self, pt: str = "a", *, attach: bool = True) -> None:
        """Bind the VFIO device to the iommufd: slots `x` and `dev`."""
        self.script.op("open_cdev", dev="dev0", out="x")
        self.script.op("bind", fd="x", iommufd="f", out="dev")
        if attach:
            self.script.op("attach", fd="x", pt=pt)

    def hwpt(self, slot: str, pt: str = "a", dev: str = "dev", flags: int = 0, **fields: Any) -> int:
        """Allocate a page table."""
        chosen = {"dev_id": dev, "pt_id": pt, "flags": flags, **fields}
        return self.io("IOMMU_HWPT_ALLOC", chosen, outs={slot: "out_hwpt_id"})

    def replace(self, pt: str, std: str = "std") -> int:
        """Move a mock device to another page table or IOAS."""
        return self.io("IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE", {"id": std, "pt_id": pt})

    def destroy(self, slot: str | int) -> int:
        """IOMMU_DESTROY."""
        return self.io("IOMMU_DESTROY", {"id": slot})

    def ranges(self, ioas: str = "a", room: int = 16) -> int:
        """Ask for the usable IOVAs."""
        return self.io(
            "IOMMU_IOAS_IOVA_RANGES", {"ioas_id": ioas, "num_iovas": room},
            bufs={"allowed_iovas": max(16 * room, 16)},
        )  # fmt: skip

    def access(self, slot: str, ioas: str = "a", flags: int = 0) -> int:
        """Make an in-kernel user of an IOAS, as a VFIO mdev is one."""
        fields = {"id": ioas, "flags": flags}
        return self.io("IOMMU_TEST_OP_CREATE_ACCESS", fields, out_fds={slot: "out_access_fd"})

    # -- memory
    def memory(self, slot: str = "m", pages: int = 16, **more: Any) -> str:
        """Make memory whose pages all differ; returns its content in hex."""
        content = b"".join(bytes([n & 255, 0x5A, n >> 8, 0xC3]) * (PAGE // 4) for n in range(pages)).hex()
        self.script.op("mmap", **{"out": slot, "n": pages * PAGE, "align": pages * PAGE, **more})
        self.script.op("mem_write", mem=slot, off=0, hex=content)
        return content

    def map(
        self, iova: int | None, length: int, memory: str = "m", off: int = 0, *, ioas: str = "a",
        flags: int = RW, **spoilt: Any,
    ) -> int:  # fmt: skip
        """IOMMU_IOAS_MAP; without an address the kernel chooses one."""
        fixed = 0 if iova is None else iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
        fields = {"flags": flags | fixed, "ioas_id": ioas, "length": length, "iova": iova or 0, **spoilt}
        return self.io("IOMMU_IOAS_MAP", fields, mems={"user_va": [memory, off]})

    def map_file(
        self, fd: str, iova: int | None, length: int, start: int = 0, *, ioas: str = "a", flags: int = RW
    ) -> int:
        """IOMMU_IOAS_MAP_FILE."""
        fixed = 0 if iova is None else iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
        fields = {
            "flags": flags | fixed, "ioas_id": ioas, "length": length, "iova": iova or 0, "start": start,
        }  # fmt: skip
        return self.io("IOMMU_IOAS_MAP_FILE", fields, fds={"fd": fd})

    def copy(
        self, src: int, length: int, dst: int | None, *, to: str = "b", frm: str = "a", flags: int = RW
    ) -> int:
        """IOMMU_IOAS_COPY."""
        fixed = 0 if dst is None else iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
        fields = {
            "flags": flags | fixed, "dst_ioas_id": to, "src_ioas_id": frm, "length": length,
            "dst_iova": dst or 0, "src_iova": src,
        }  # fmt: skip
        return self.io("IOMMU_IOAS_COPY", fields)

    def unmap(self, iova: int, length: int, ioas: str = "a") -> int:
        """IOMMU_IOAS_UNMAP."""
        return self.io("IOMMU_IOAS_UNMAP", {"ioas_id": ioas, "iova": iova, "length": length})

    def rw(self, access: str, iova: int, length: int, data: str = "", slow: bool = False) -> int:
        """Read, or write `data`, through an IOVA as an in-kernel user."""
        flags = bool(data) | (4 if slow else 0)
        fields = {"iova": iova, "length": length, "flags": flags}
        return self.io("IOMMU_TEST_OP_ACCESS_RW", fields, fds={"id": access}, bufs={"uptr": data or length})

    def check_map(self, table: str, iova: int, length: int, memory: str = "m", off: int = 0) -> int:
        """Check the mock's page table: succeeds where it maps this memory there."""
        fields = {"id": table, "iova": iova, "length": length}
        return self.io("IOMMU_TEST_OP_MD_CHECK_MAP", fields, mems={"uptr": [memory, off]})

    def to_json(self) -> dict[str, Any]:
        """The program as data."""
        return self.script.to_json()
