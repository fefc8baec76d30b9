# SPDX-License-Identifier: Apache-2.0
"""Under `harness.access_model`: files and who refers to them, processes, and running a program."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OK", "File", "Group", "Host"]

OK = 0


@dataclass(eq=False)
class File:
    kind: str
    count: int = 1
    dev: str = ""
    context: File | None = None
    attached: int = 0
    devid: int = 0
    objects: dict[int, str] = field(default_factory=dict)
    pins: dict[int, int] = field(default_factory=dict)
    groups: int = 0
    iommu: bool = False
    used: bool = False
    bad: bool = False
    queue: list[File] = field(default_factory=list)
    peer: File | None = None
    detached: bool = False


@dataclass(eq=False)
class Group:
    opened: File | None = None
    bound: int = 0
    owner: File | None = None
    owners: int = 0
    users: int = 0


class Host:
    """Devices, their groups, and processes with descriptors; `broken`: names in `access_model.BROKEN`."""

    def __init__(self, groups: Mapping[str, int], broken: Iterable[str] = ()) -> None:
        self.number = dict(groups)
        self.groups = {n: Group() for n in set(groups.values())}
        self.open_count = dict.fromkeys(groups, 0)
        self.broken = frozenset(broken)
        self.slots: dict[str, dict[str, tuple[File, bool]]] = {"main": {}}
        self.ints: dict[str, dict[str, int]] = {"main": {}}
        self.ends: dict[str, str] = {}
        self.clock = 0

    def run(
        self, program: Mapping[str, Any], order: Callable[[int], int] = lambda n: 0
    ) -> list[dict[str, Any]]:
        """The trace of a program; `order(n)` draws which of n threads acts next."""
        lanes = [[t, 0] for t in program["threads"]]
        trace = []
        while ready := [lane for lane in lanes if lane[1] < len(lane[0]["ops"]) and self._may(lane, lanes)]:
            lane = ready[order(len(ready))]
            thread, index = lane
            lane[1] += 1
            name, args = thread["ops"][index]
            record = self._record(thread.get("actor") or "main", name, args)
            self.clock += 10
            trace.append({"t": thread["name"], "i": index, "op": name, "t0": self.clock, "dt": 5, **record})
        return trace

    def _may(self, lane: list[Any], lanes: list[list[Any]]) -> bool:
        """A barrier opens when every thread that has it stands before it, or has passed."""
        thread, index = lane
        name, args = thread["ops"][index]
        if name != "barrier":
            return True
        places = [[n for n, (o, a) in enumerate(other["ops"]) if o == "barrier" and a["name"] == args["name"]]
                  for other, _ in lanes]  # fmt: skip
        return all(at >= place[0] for place, (_, at) in zip(places, lanes, strict=True) if place)

    def _record(self, proc: str, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
        if name == "act":
            proc, (name, args) = args["actor"], args["do"]
        function = getattr(self, f"_{name}", None)
        if function is None:
            return {"ret": 0, "errno": 0, "text": "", "rdev": ""}
        if proc not in self.slots or (proc in self.ends and name not in ("wait",)):
            return {"ret": -1, "errno": 0, "skipped": "gone"}
        missing = [args[k] for k in ("fd", "sock", "iommufd", "container")
                   if isinstance(args.get(k), str) and args[k] not in self.slots[proc]]  # fmt: skip
        if missing or (isinstance(args.get("pt"), str) and args["pt"] not in self.ints[proc]):
            return {"ret": -1, "errno": 0, "skipped": f"no slot {missing}"}
        if name == "munmap" and f"mem:{args['mem']}" not in self.slots[proc]:
            return {"ret": -1, "errno": 0, "skipped": "no slot"}
        answer = function(proc, args)
        number, fields = answer if isinstance(answer, tuple) else (answer, {})
        return {"ret": -1 if number else 0, "errno": number, **fields}

    def _has(self, name: str) -> bool:
        return name in self.broken

    def _file(self, proc: str, value: Any) -> File | None:
        return self.slots[proc][value][0] if isinstance(value, str) else None

    def _id(self, proc: str, value: Any) -> int:
        return value if isinstance(value, int) else self.ints[proc].get(value, -1)

    # -- references
    def _open_as(self, proc: str, args: Mapping[str, Any], file: File, cloexec: bool = True) -> int:
        self.slots[proc][args["out"]] = (file, cloexec)
        return OK

    def _put(self, file: File, leak: bool = False) -> None:
        file.count -= 1
        if file.count == 0 and not leak:
            self._release(file)

    def _release(self, file: File) -> None:
        if file.kind == "cdev" and file.context is not None:
            self._unbind(file)
        elif file.kind == "device" and file.context is not None:
            self._device_gone(file)
        elif file.kind == "group":
            self._group_gone(file)
        elif file.kind == "iommufd" and self._has("iommufd_close_unbinds"):
            file.bad = True
        elif file.kind == "socket":
            for queued in file.queue:
                if not self._has("flight_uncounted"):
                    self._put(queued, self._has("flight_leaks"))
            file.queue = []

    def _unbind(self, file: File) -> None:
        group, context = self._of(file), file.context
        assert context is not None
        if file.attached and not self._has("close_keeps"):
            context.pins[file.attached] -= 1
        context.objects.pop(file.devid, None)
        self.open_count[file.dev] -= 1
        group.bound -= 1
        group.owners -= 1
        if not group.owners:
            group.owner = None
        file.context = None

    def _device_gone(self, file: File) -> None:
        group_file = file.context
        assert group_file is not None
        group = self._of(file)
        self.open_count[file.dev] -= 1
        group.users -= 1
        self._put(group_file)

    def _group_gone(self, file: File) -> None:
        group = self.groups[self.number[file.dev]]
        if group.opened is file:
            group.opened = None
        self._leave(group, file)

    def _leave(self, group: Group, file: File) -> None:
        container, file.context = file.context, None
        if container is not None:
            container.groups -= 1
            group.owner, group.owners = None, 0
            if not container.groups and not self._has("unset_keeps_iommu"):
                container.iommu = False

    def _of(self, file: File) -> Group:
        return self.groups[self.number[file.dev]]

    # -- descriptors
    def _dup(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        file.count += not self._has("dup_uncounted")
        return self._open_as(proc, args, file, bool(args.get("cloexec")))

    def _mmap(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind == "cdev" and file.context is None and not self._has("read_before_bind"):
            return errno.EINVAL
        file.count += not self._has("mapping_uncounted")
        self.slots[proc][f"mem:{args['out']}"] = (file, True)
        return OK

    def _munmap(self, proc: str, args: Mapping[str, Any]) -> Any:
        file, _ = self.slots[proc].pop(f"mem:{args['mem']}")
        if not self._has("mapping_uncounted"):
            self._put(file)
        return OK

    def _close(self, proc: str, args: Mapping[str, Any]) -> Any:
        file, _ = self.slots[proc].pop(args["fd"])
        self._put(file, file.kind != "socket" and self._has("close_leaks"))
        return OK

    def _socketpair(self, proc: str, args: Mapping[str, Any]) -> Any:
        ends = File("socket"), File("socket")
        ends[0].peer, ends[1].peer = ends[1], ends[0]
        for name, end in zip(args["out"], ends, strict=True):
            self.slots[proc][name] = (end, True)
        return OK

    def _send_fd(self, proc: str, args: Mapping[str, Any]) -> Any:
        sock, file = self._file(proc, args["sock"]), self._file(proc, args["fd"])
        assert sock is not None
        assert file is not None
        assert sock.peer is not None
        file.count += not self._has("flight_uncounted")
        sock.peer.queue.append(file)
        return OK

    def _recv_fd(self, proc: str, args: Mapping[str, Any]) -> Any:
        sock = self._file(proc, args["sock"])
        assert sock is not None
        if not sock.queue:
            return errno.ETIMEDOUT
        file = sock.queue.pop(0)
        if self._has("scm_uncounted"):
            file.count -= 1
            if not file.count:
                self._release(file)
        return self._open_as(proc, args, file)

    def _fork(self, proc: str, args: Mapping[str, Any]) -> Any:
        table = dict(self.slots[proc])
        for file, _ in table.values():
            file.count += not (self._has("fork_uncounted") and file.kind != "socket")
        self.slots[args["actor"]] = table
        self.ints[args["actor"]] = dict(self.ints[proc])
        return OK

    def _kill(self, proc: str, args: Mapping[str, Any]) -> Any:
        self.ends[args["actor"]] = "kill_leaks"
        return OK

    def _exit(self, proc: str, args: Mapping[str, Any]) -> Any:
        self.ends[args["actor"]] = "exit_leaks"
        return OK

    def _wait(self, proc: str, args: Mapping[str, Any]) -> Any:
        leak = self._has(self.ends.pop(args["actor"]))
        for file, _ in self.slots.pop(args["actor"]).values():
            if not (self._has("fork_uncounted") and file.count <= 0):
                self._put(file, leak and file.kind != "socket")
        return OK

    def _exec(self, proc: str, args: Mapping[str, Any]) -> Any:
        table = self.slots[args["actor"]]
        for name, (file, cloexec) in list(table.items()):
            if cloexec or self._has("exec_closes_all"):
                del table[name]
                self._put(file, self._has("exec_leaks") and file.kind != "socket")
        return OK
