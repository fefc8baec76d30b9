# SPDX-License-Identifier: Apache-2.0
"""Random histories: several processes open, bind, attach, pass on, close and die, one after the other.

The steps need not be legal: `harness.oracle.ownership_rules` decides which must succeed and which must be
refused.  At the end of every history all processes have ended and closed everything; then the device must be
free.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from random import Random

from fixtures.subject import Subject
from harness.uapi import vfio
from suites.acc.program import MAIN, History

__all__ = ["contest", "history", "turmoil"]

_STEPS = 22
_MAX_ACTORS = 3
_TYPES = (*[vfio.VFIO_TYPE1_IOMMU] * 3, vfio.VFIO_TYPE1v2_IOMMU, 0x7FFF0000)


@dataclass
class _Slots:
    """The slots of one process by kind; some may be empty, if the call that fills them failed."""

    cdev: list[str] = field(default_factory=list)
    iommufd: list[str] = field(default_factory=list)
    ioas: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    container: list[str] = field(default_factory=list)
    device: list[str] = field(default_factory=list)

    def any_fd(self) -> list[tuple[str, str]]:
        """Kind and slot of each descriptor."""
        return [(k, s) for k in ("cdev", "iommufd", "group", "container", "device") for s in getattr(self, k)]


class _Generator:
    """Draws the steps of one history."""

    def __init__(self, subject: Subject) -> None:
        self.h, self.rng = History(subject), subject.rng
        self.procs = {MAIN: _Slots()}
        self.in_flight: list[str] = []
        self.legacy, self.has_group = subject.has("legacy"), subject.has("group")
        self.steps = [
            (self.open_cdev, 7), (self.open_iommufd, 3), (self.bind, 11), (self.use, 6), (self.space, 3),
            (self.detach, 2), (self.close, 9), (self.dup, 3), (self.send, 3), (self.receive, 4),
            (self.fork, 3), (self.end, 3), (self.exec, 1),
        ]  # fmt: skip
        if self.has_group:
            self.steps += [(self.open_group, 7)]
        if self.legacy:
            self.steps += [(self.container, 4), (self.set_container, 2), (self.set_iommu, 1),
                           (self.give, 5), (self.unset, 2), (self.status, 1)]  # fmt: skip

    def run(self) -> History:
        self.h.op("socketpair", out=["x", "y"])
        moves, weights = zip(*self.steps, strict=True)
        for _ in range(_STEPS):
            proc = self.rng.choice(list(self.procs))
            self.rng.choices(moves, weights)[0](proc, self.procs[proc])
        for actor in [p for p in self.procs if p != MAIN]:
            self.h.ends(actor, self.rng.choice(("kill", "exit")))
        rest = [slot for _, slot in self.procs[MAIN].any_fd()] + ["x", "y"]
        self.rng.shuffle(rest)
        self.h.close(*rest)
        self.h.free()
        return self.h

    def _dev(self) -> str:
        return self.rng.choice(sorted(self.h.groups))

    def _flags(self) -> list[str] | None:
        return ["O_RDWR"] if self.rng.random() < 0.25 else None

    # -- moves: the process and its slots
    def open_cdev(self, proc: str, mine: _Slots) -> None:
        mine.cdev.append(self.h.cdev(proc, self._dev(), flags=self._flags()))

    def open_iommufd(self, proc: str, mine: _Slots) -> None:
        mine.iommufd.append(self.h.iommufd(proc))

    def bind(self, proc: str, mine: _Slots) -> None:
        if not mine.cdev:
            self.open_cdev(proc, mine)
        if not mine.iommufd:
            self.open_iommufd(proc, mine)
        others = [slot for kind, slot in mine.any_fd() if kind != "iommufd"]
        target = self.rng.choice(mine.iommufd * 12 + others)
        self.h.do(proc, "bind", fd=self.rng.choice(mine.cdev + mine.device[:1]), iommufd=target)

    def use(self, proc: str, mine: _Slots) -> None:
        if mine.cdev or mine.device:
            self.h.uses(self.rng.choice(mine.cdev + mine.device), proc)

    def space(self, proc: str, mine: _Slots) -> None:
        if mine.iommufd and (not mine.ioas or self.rng.random() < 0.7):
            mine.ioas.append(self.h.ioas(self.rng.choice(mine.iommufd), proc))
        if mine.ioas and mine.cdev:
            self.h.do(proc, "attach", fd=self.rng.choice(mine.cdev), pt=self.rng.choice(mine.ioas))

    def detach(self, proc: str, mine: _Slots) -> None:
        if mine.cdev:
            self.h.do(proc, "detach", fd=self.rng.choice(mine.cdev))

    def open_group(self, proc: str, mine: _Slots) -> None:
        mine.group.append(self.h.group(proc, self._dev(), flags=self._flags()))

    def container(self, proc: str, mine: _Slots) -> None:
        if not mine.group:
            self.open_group(proc, mine)
        mine.container.append(self.h.container(self.rng.choice(mine.group), proc))

    def set_container(self, proc: str, mine: _Slots) -> None:
        targets = mine.container * 4 + mine.cdev + mine.group
        if mine.group and targets:
            group, target = self.rng.choice(mine.group), self.rng.choice(targets)
            self.h.do(proc, "group_set_container", fd=group, container=target)

    def set_iommu(self, proc: str, mine: _Slots) -> None:
        if mine.container:
            slot = self.rng.choice(mine.container)
            self.h.do(proc, "container_set_iommu", fd=slot, type=self.rng.choice(_TYPES))

    def give(self, proc: str, mine: _Slots) -> None:
        if mine.group:
            mine.device.append(self.h.given(self.rng.choice(mine.group), proc, self._dev()))

    def unset(self, proc: str, mine: _Slots) -> None:
        if mine.group:
            self.h.do(proc, "group_unset_container", fd=self.rng.choice(mine.group))

    def status(self, proc: str, mine: _Slots) -> None:
        if mine.group:
            self.h.do(proc, "group_status", fd=self.rng.choice(mine.group))

    def close(self, proc: str, mine: _Slots) -> None:
        if fds := mine.any_fd():
            kind, slot = self.rng.choice(fds)
            getattr(mine, kind).remove(slot)
            self.h.close(slot, proc=proc)

    def dup(self, proc: str, mine: _Slots) -> None:
        if fds := mine.any_fd():
            kind, slot = self.rng.choice(fds)
            out = self.h.slot("u")
            getattr(mine, kind).append(out)
            self.h.do(proc, "dup", fd=slot, out=out, cloexec=self.rng.random() < 0.5)

    def send(self, proc: str, mine: _Slots) -> None:
        if fds := mine.any_fd():
            kind, slot = self.rng.choice(fds)
            self.in_flight.append(kind)
            self.h.do(proc, "send_fd", sock="x", fd=slot)

    def receive(self, proc: str, mine: _Slots) -> None:
        if self.in_flight:
            out = self.h.slot("r")
            getattr(mine, self.in_flight.pop(0)).append(out)
            self.h.do(proc, "recv_fd", sock="y", out=out, timeout_ms=20)

    def fork(self, proc: str, mine: _Slots) -> None:
        if len(self.procs) <= _MAX_ACTORS:
            self.procs[self.h.fork()] = copy.deepcopy(self.procs[MAIN])

    def end(self, proc: str, mine: _Slots) -> None:
        if proc != MAIN:
            del self.procs[proc]
            self.h.ends(proc, self.rng.choice(("kill", "kill", "exit")))

    def exec(self, proc: str, mine: _Slots) -> None:
        if proc != MAIN:
            self.h.op("exec", actor=proc)
            self.procs[proc] = _Slots()


def history(subject: Subject) -> History:
    """One random history of one to four processes, one step after the other."""
    return _Generator(subject).run()


def contest(subject: Subject) -> History:
    """Two to four processes or threads try to claim the same free device at the same time."""
    h, rng = History(subject), subject.rng
    dev = rng.choice(sorted(h.groups))
    count = rng.randint(2, 4)
    iommufd = h.iommufd()
    cdevs = [h.cdev(dev=dev) for _ in range(count)]
    lanes = []
    for cdev in cdevs:
        proc = h.fork() if rng.random() < 0.6 else MAIN
        lanes.append((proc, _claim(h, rng, dev, cdev, iommufd)))
    h.contest = h.groups[dev]
    h.race(lanes)
    for proc, _ in lanes:
        if proc != MAIN:
            h.ends(proc, rng.choice(("kill", "exit")))
    h.close(iommufd, *cdevs, *[str(args["out"]) for _, ops in lanes for _, args in ops if "out" in args])
    h.free()
    return h


def _claim(h: History, rng: Random, dev: str, cdev: str, iommufd: str) -> list[tuple[str, dict[str, object]]]:
    if h.subject.has("group") and rng.random() < 0.5:
        return [("open_group", {"dev": dev, "out": h.slot("g")})]
    return [("bind", {"fd": cdev, "iommufd": iommufd}), ("device_info", {"fd": cdev})]


def turmoil(subject: Subject) -> History:
    """Two or three processes or threads claim and release devices repeatedly, at the same time."""
    h, rng = History(subject), subject.rng
    iommufd = h.iommufd()
    slots: list[str] = []
    lanes = []
    for _ in range(rng.randint(2, 3)):
        ops: list[tuple[str, dict[str, object]]] = []
        for _ in range(rng.randint(1, 3)):
            out, dev = h.slot("t"), rng.choice(sorted(h.groups))
            slots.append(out)
            if h.subject.has("group") and rng.random() < 0.5:
                ops.append(("open_group", {"dev": dev, "out": out}))
            else:
                ops.append(("open_cdev", {"dev": dev, "out": out}))
                ops.append(("bind", {"fd": out, "iommufd": iommufd}))
            if rng.random() < 0.8:
                ops.append(("close", {"fd": out}))
        lanes.append((h.fork() if rng.random() < 0.5 else MAIN, ops))
    h.race(lanes)
    for proc, _ in lanes:
        if proc != MAIN:
            h.ends(proc)
    h.close(iommufd, *slots)
    h.free()
    return h
