# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of this chapter: several processes use a device's descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import vfio

__all__ = ["MAIN", "History"]

MAIN = "main"
_TYPE1 = vfio.VFIO_TYPE1_IOMMU


class History(Script):
    """A program that opens everything itself; `harness.oracle.access` judges each of its operations.

    `proc` is the process that acts: MAIN, or an actor forked earlier.  Each process has its own slots; a
    forked process starts with copies of them.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__(fresh=False)
        self.subject = subject
        self.groups: dict[str, int] = dict(subject.capabilities.get("groups") or {}) or {"dev0": 0}
        self.contest: int | None = None

    def do(self, proc: str, name: str, /, **args: Any) -> int:
        """Append an operation of `proc`; returns its index, for claims."""
        if proc == MAIN:
            return self.op(name, **args)
        plain = {key.rstrip("_"): value for key, value in args.items() if value is not None}
        return self.op("act", actor=proc, do=[name, plain])

    # -- whole steps
    def cdev(self, proc: str = MAIN, dev: str = "dev0", **args: Any) -> str:
        """Open the cdev; returns the slot."""
        out = self.slot("d")
        self.do(proc, "open_cdev", dev=dev, out=out, **args)
        return out

    def iommufd(self, proc: str = MAIN) -> str:
        """Open an iommufd; returns the slot."""
        out = self.slot("i")
        self.do(proc, "open_iommufd", out=out)
        return out

    def ioas(self, iommufd: str, proc: str = MAIN) -> str:
        """Allocate an IOAS; returns the slot of its id."""
        out = self.slot("as")
        self.do(proc, "ioas_alloc", fd=iommufd, out=out)
        return out

    def bound(self, proc: str = MAIN, dev: str = "dev0", **args: Any) -> tuple[str, str]:
        """Open the cdev and bind it to a new iommufd; returns the slots of both."""
        device, iommufd = self.cdev(proc, dev, **args), self.iommufd(proc)
        self.do(proc, "bind", fd=device, iommufd=iommufd)
        return device, iommufd

    def group(self, proc: str = MAIN, dev: str = "dev0", **args: Any) -> str:
        """Open the group of `dev`; returns the slot."""
        out = self.slot("g")
        self.do(proc, "open_group", dev=dev, out=out, **args)
        return out

    def container(self, group: str, proc: str = MAIN) -> str:
        """Set a new container with a type1 IOMMU for the group; returns its slot."""
        out = self.slot("c")
        self.do(proc, "open_container", out=out)
        self.do(proc, "group_set_container", fd=group, container=out)
        self.do(proc, "container_set_iommu", fd=out, type=_TYPE1)
        return out

    def given(self, group: str, proc: str = MAIN, dev: str = "dev0") -> str:
        """Get a device fd from the group; returns its slot."""
        out = self.slot("d")
        self.do(proc, "group_get_device_fd", fd=group, dev=dev, out=out)
        return out

    def uses(self, device: str, proc: str = MAIN) -> int:
        """Ask the device for its info."""
        return self.do(proc, "device_info", fd=device)

    def close(self, *slots: str, proc: str = MAIN) -> None:
        """Close the slots, in this order."""
        for slot in slots:
            self.do(proc, "close", fd=slot)

    def fork(self) -> str:
        """Fork a process with copies of all descriptors; returns its name."""
        actor = self.slot("p")
        self.op("fork", actor=actor)
        return actor

    def ends(self, actor: str, how: str = "kill") -> None:
        """End the process by SIGKILL or exit, and wait for it."""
        self.op(how, actor=actor)
        self.op("wait", actor=actor, timeout_ms=5000)

    def try_group(self) -> None:
        """Try to open the group (refused while the device is held), and close it if that worked."""
        if self.subject.has("group"):
            slot = self.group()
            self.op("close", fd=slot)

    def try_cdev(self, dev: str = "dev0") -> None:
        """Try to bind the device through a new cdev fd, and close it."""
        device, iommufd = self.bound(dev=dev)
        self.close(device, iommufd)

    def free(self) -> None:
        """Use each way to the device, one after the other; everything must be closed by now."""
        for dev in self.groups:
            device, iommufd = self.bound(dev=dev)
            self.uses(device)
            self.close(device, iommufd)
        if self.subject.has("group"):
            group = self.group()
            self.op("group_status", fd=group)
            self.close(group)

    def race(self, lanes: Sequence[tuple[str, Sequence[tuple[str, dict[str, Any]]]]]) -> None:
        """Run processes (or threads of main) at the same time, between two barriers."""
        parties = len(lanes) + 1
        names = [f"race{n}" for n in range(len(lanes))]
        for name, (proc, ops) in zip(names, lanes, strict=True):
            thread: dict[str, Any] = {"name": name, "ops": [
                ["barrier", {"name": "go", "parties": parties}],
                *[[op, args] for op, args in ops],
                ["barrier", {"name": "done", "parties": parties}],
            ]}  # fmt: skip
            if proc != MAIN:
                thread["actor"] = proc
            self._threads.append(thread)
        self.op("barrier", name="go", parties=parties)
        self.op("barrier", name="done", parties=parties)

    def to_json(self) -> dict[str, Any]:
        """The program with what its judge must know about the devices."""
        emulated = not self.subject.has("physical_iommu")
        names = dict(self.subject.capabilities.get("names") or {})
        world = {"groups": self.groups, "emulated": emulated, "names": names}
        extra: dict[str, Any] = {"judge": "ownership", "world": world}
        if self.contest is not None:
            extra["contest"] = self.contest
        return {**super().to_json(), **extra}
