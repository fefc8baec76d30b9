# SPDX-License-Identifier: Apache-2.0
"""Model of who holds which device; it decides which open, bind or attach may succeed.

A `World` consists of *files* (open file descriptions of a cdev, a group, a container, an iommufd, or a device
fd that a group gave) and of *references* to them: fd slots of processes, and descriptors in flight in a
socket.  A file lives as long as it has a reference.  `World.apply` follows what the kernel really did, right
or wrong, so that one wrong answer causes one violation and no others after it.  What the kernel should have
done is in `harness.oracle.ownership_rules`.  Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Expect", "File", "Ref", "World", "must", "refused"]

Record = Mapping[str, Any]

_HOW = {"dup": "ACC-060", "fork": "ACC-061", "scm": "ACC-062", "flight": "ACC-063", "exec": "ACC-064",
        "mmap": "ACC-076"}  # fmt: skip
"""How a copied descriptor came about -> the clause that such a copy alone keeps the file in use."""
_RELEASED = {"close": "ACC-065", "kill": "ACC-066", "exit": "ACC-067", "exec": "ACC-068", "flight": "ACC-069",
             "munmap": "ACC-065"}  # fmt: skip
"""How the last reference went away -> the clause that the device is free afterwards."""


@dataclass(eq=False)
class File:
    """One open file description.

    `kind` is cdev, device (from a group), group, container, iommufd, socket, eventfd or file.
    """

    kind: str
    dev: str = ""
    context: File | None = None
    """cdev: the iommufd it is bound to.  group: its container or iommufd.  device: its group."""
    attached: int | None = None
    """cdev: id of the attached IOAS; -1 if the text does not say which one it is."""
    devid: int = 0
    """cdev: its id in the iommufd."""
    iommu: bool = False
    """container: an IOMMU has been set."""
    objects: dict[int, str] = field(default_factory=dict)
    """iommufd: id -> "ioas", "hwpt" or "device", for the objects that the program made."""
    used: bool = False
    """container: has had a group."""
    opaque: bool = False
    """iommufd: has objects that the program did not make."""
    last: dict[int, str] = field(default_factory=dict)
    """iommufd: id of an address space -> clause of the operation that last released it."""
    queue: list[tuple[File, bool]] = field(default_factory=list)
    peer: File | None = None
    group_device: str = ""
    """group: the device by which the program named it."""


@dataclass(frozen=True)
class Ref:
    """A process's reference to a file."""

    file: File
    how: str
    cloexec: bool


@dataclass(frozen=True)
class Expect:
    """The expected outcome: `ok` is True (must succeed), False (must be refused) or None (text is silent).

    A different outcome breaks the first of `clauses`; the expected outcome counts as a check of all of them.
    """

    ok: bool | None
    clauses: tuple[str, ...] = ()
    words: str = ""


def must(words: str, *clauses: str) -> Expect:
    """Expect success."""
    return Expect(True, tuple(c for c in clauses if c), words)


def refused(words: str, *clauses: str) -> Expect:
    """Expect a refusal."""
    return Expect(False, tuple(c for c in clauses if c), words)


class World:
    """Who holds the devices of one program.

    `groups`: device name -> IOMMU group.  `emulated`: the devices have no IOMMU of their own, so ATTACH makes
    no page table.  `names`: device name -> PCI address.
    """

    def __init__(self, groups: Mapping[str, int], emulated: bool, names: Mapping[str, str]) -> None:
        self.groups, self.emulated, self.names = dict(groups), emulated, dict(names)
        self.affected: dict[str, bool] = {}
        """Device -> whether a hot reset of it affects only devices of this world."""
        self.slots: dict[str, dict[str, Ref]] = {"main": {}}
        self.ints: dict[str, dict[str, int]] = {"main": {}}
        self.dying: dict[str, str] = {}
        self.released = ""
        """Clause that says how the last holder of a device or group went away; '' while there was none."""
        self.disturbed: set[File] = set()
        """Holders that a refused operation was aimed at, and that have not been seen to work since."""
        self.unset: set[File] = set()
        """Groups that were taken out of a container."""
        self._hidden = 0

    # -- references
    def refs(self, file: File) -> Iterator[str]:
        """Yield how each reference to the file came about."""
        for table in self.slots.values():
            for ref in table.values():
                if ref.file is file:
                    yield ref.how
        for socket in self._live("socket"):
            for queued, _ in socket.queue:
                if queued is file:
                    yield "flight"

    def _live(self, *kinds: str) -> list[File]:
        """Files that have a reference, or are pinned by a file that has one."""
        found: dict[int, File] = {}
        todo = [ref.file for table in self.slots.values() for ref in table.values()]
        while todo:
            file = todo.pop()
            if id(file) in found:
                continue
            found[id(file)] = file
            if file.kind == "device" and file.context is not None:
                todo.append(file.context)
            if file.kind == "socket":
                todo += [queued for queued, _ in file.queue]
        return [f for f in found.values() if not kinds or f.kind in kinds]

    def _put(self, proc: str, name: str | None, ref: Ref) -> None:
        if name is None:
            return
        table = self.slots.setdefault(proc, {})
        if name in table:  # the agent keeps it open until the program ends
            self._hidden += 1
            table[f"{name}~{self._hidden}"] = table[name]
        table[name] = ref

    def file(self, proc: str, name: Any) -> File | None:
        """The file in the slot; None if the model does not know the slot."""
        ref = self.slots.get(proc, {}).get(name) if isinstance(name, str) else None
        return ref.file if ref else None

    def _drop(self, cause: str, before: list[File]) -> None:
        """Record what the dropped references released; `before` are the files that were live until now."""
        alive = {id(f) for f in self._live()}
        for gone in before:
            if id(gone) in alive:
                continue
            if gone.kind in ("group", "device") or (gone.kind == "cdev" and gone.context is not None):
                self.released = _RELEASED[cause]
            if gone.kind == "cdev" and gone.context is not None:
                gone.context.objects.pop(gone.devid, None)
                if gone.attached is not None:
                    gone.context.last[gone.attached] = "ACC-034"
            if gone.kind == "group":
                self._leave_container(gone)

    def _leave_container(self, group: File) -> None:
        container, group.context = group.context, None
        if container is not None and not any(g.context is container for g in self._live("group")):
            container.iommu, container.used = False, True

    # -- who is in the way
    def _group_of(self, file: File) -> int:
        return self.groups[file.dev or file.group_device]

    def open_group(self, number: int) -> File | None:
        """The file that has the group open."""
        return next((g for g in self._live("group") if self._group_of(g) == number), None)

    def bound(self, number: int) -> list[File]:
        """The bound cdev files of the group's devices."""
        return [c for c in self._live("cdev") if c.context is not None and self._group_of(c) == number]

    def devids(self, iommufd: File) -> set[int]:
        """The ids of the devices bound to the iommufd."""
        return {c.devid for c in self._live("cdev") if c.context is iommufd}

    def devices_of(self, group: File) -> list[File]:
        """The device fds that the group gave."""
        return [d for d in self._live("device") if d.context is group]

    def _held(self, file: File, clause: str) -> str:
        """The clause broken if `file` is ignored: `clause`, or that of its copies if only copies are left."""
        hows = set(self.refs(file))
        if not hows and file.kind == "group":
            return "ACC-074" if file.context is not None and file.context.kind == "iommufd" else "ACC-073"
        if not hows or "open" in hows:
            return clause
        return next(_HOW[how] for how in _HOW if how in hows)

    # -- what happened
    def apply(self, proc: str, name: str, args: Mapping[str, Any], record: Record) -> None:
        """Follow a successful operation; for a refused one, note which holders it was aimed at."""
        if record.get("skipped"):
            return
        if record["errno"]:
            self._tried(proc, name, args)
            return
        effect = getattr(self, f"_do_{name}", None)
        if effect is not None:
            effect(proc, args, record)

    def _tried(self, proc: str, name: str, args: Mapping[str, Any]) -> None:
        file = self.file(proc, args.get("fd"))
        if name == "attach" and file is not None and file.context is not None and file.attached is not None:
            file.context.last[file.attached] = "ACC-031"
        if name == "bind" and file is not None and file.kind == "cdev" and file.context is None:
            self.disturbed.add(file)
        if name in ("bind", "open_group", "group_set_container"):
            dev = args.get("dev") or (file.dev if file else "")
            number = self.groups.get(dev)
            if number is not None:
                self.disturbed.update(self.bound(number))
                self.disturbed.update(d for d in self._live("device") if self._group_of(d) == number)

    def _new(self, proc: str, args: Mapping[str, Any], file: File, cloexec: bool = True) -> None:
        self._put(proc, args.get("out"), Ref(file, "open", cloexec))

    def _do_open_cdev(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self._new(proc, args, File("cdev", args["dev"]), "O_CLOEXEC" in args.get("flags", ["O_CLOEXEC"]))

    def _do_open_group(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        group = File("group", group_device=args["dev"])
        self._new(proc, args, group, "O_CLOEXEC" in args.get("flags", ["O_CLOEXEC"]))

    def _do_open_container(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self._new(proc, args, File("container"))

    def _do_open_iommufd(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self._new(proc, args, File("iommufd"))

    def _do_open(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self._new(proc, args, File("file"))

    def _do_eventfd(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self._new(proc, args, File("eventfd"))

    def _do_ioas_alloc(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args["fd"])
        if file is not None and file.kind == "iommufd":
            file.objects[int(record["ioas"])] = "ioas"
            file.last.pop(int(record["ioas"]), None)
            self.ints.setdefault(proc, {})[args.get("out", "")] = int(record["ioas"])

    def _do_bind(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file, target = self.file(proc, args["fd"]), self.file(proc, args["iommufd"])
        if file is not None and file.kind == "cdev" and target is not None:
            file.context, file.attached, file.devid = target, None, int(record["devid"])
            self.disturbed.discard(file)
            target.objects[int(record["devid"])] = "device"
            if "out" in args:
                self.ints.setdefault(proc, {})[args["out"]] = int(record["devid"])

    def _do_attach(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args["fd"])
        if file is None or file.context is None or file.kind != "cdev":
            return
        context, number = file.context, self._id(proc, args["pt"])
        context.objects.setdefault(int(record["pt"]), "hwpt")
        partners = [c for c in self.bound(self._group_of(file)) if c is not file and c.attached is not None]
        clear = context.objects.get(number or 0) == "ioas" and not args.get("flags")
        if not clear or any(c.attached != number for c in partners):
            for each in (file, *partners):
                each.attached = -1
            return
        assert number is not None
        if file.attached not in (None, number):
            context.last[file.attached or 0] = context.last[number] = "ACC-028"
        else:
            context.last.pop(number, None)
        file.attached = number

    def _do_detach(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args["fd"])
        if file is None or file.context is None or file.attached is None or args.get("flags"):
            return
        file.context.last[file.attached] = "ACC-033"
        file.attached = None

    def _do_destroy(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file, number = self.file(proc, args["fd"]), self._id(proc, args["id"])
        if file is not None and number is not None:
            file.objects.pop(number, None)
            file.last.pop(number, None)

    def _do_group_set_container(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        group, target = self.file(proc, args["fd"]), self.file(proc, args["container"])
        if group is not None and target is not None:
            group.context = target
            target.opaque = target.kind == "iommufd"

    def _do_group_unset_container(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        group = self.file(proc, args["fd"])
        if group is not None:
            self._leave_container(group)
            self.unset.add(group)

    def _do_container_set_iommu(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        container = self.file(proc, args["fd"])
        if container is not None:
            container.iommu = True

    def _do_group_get_device_fd(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        group = self.file(proc, args["fd"])
        if group is not None:
            dev = args.get("dev") or group.group_device
            self._new(proc, args, File("device", dev, context=group))

    def _do_device_info(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args["fd"])
        if file is not None:
            self.disturbed.discard(file)

    def _do_hot_reset_info(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args["fd"])
        if file is not None and file.dev:
            self.affected[file.dev] = {bdf for _, bdf in record["devices"]} <= set(self.names.values())

    # -- copies and their end
    def _do_dup(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args["fd"])
        if file is not None:
            self._put(proc, args["out"], Ref(file, "dup", bool(args.get("cloexec"))))

    def _do_mmap(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        file = self.file(proc, args.get("fd"))
        if file is not None:
            self._put(proc, f"mem:{args['out']}", Ref(file, "mmap", True))

    def _do_munmap(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self._forget(proc, [f"mem:{args['mem']}"], "munmap")

    def _do_close(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        closed = self.file(proc, args["fd"])
        in_flight = closed is not None and closed.kind == "socket"
        self._forget(proc, [args["fd"]], "flight" if in_flight else "close")

    def _forget(self, proc: str, names: list[str], cause: str) -> None:
        before = self._live()
        for name in names:
            self.slots.get(proc, {}).pop(name, None)
        self._drop(cause, before)

    def _do_socketpair(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        ends = File("socket"), File("socket")
        ends[0].peer, ends[1].peer = ends[1], ends[0]
        for name, end in zip(args["out"], ends, strict=True):
            self._put(proc, name, Ref(end, "open", True))

    def _do_send_fd(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        sock, file = self.file(proc, args["sock"]), self.file(proc, args["fd"])
        if sock is not None and sock.peer is not None and file is not None:
            sock.peer.queue.append((file, True))

    def _do_recv_fd(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        sock = self.file(proc, args["sock"])
        if sock is not None and sock.queue:
            file, _ = sock.queue.pop(0)
            self._put(proc, args["out"], Ref(file, "scm", True))

    def _do_fork(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        mine = {n: r for n, r in self.slots[proc].items() if "~" not in n}
        copied = {n: r if r.how == "mmap" else Ref(r.file, "fork", r.cloexec) for n, r in mine.items()}
        self.slots[args["actor"]] = copied
        self.ints[args["actor"]] = dict(self.ints[proc])

    def _do_kill(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self.dying[args["actor"]] = "kill"

    def _do_exit(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        self.dying[args["actor"]] = "exit"

    def _do_wait(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        actor = args["actor"]
        self._forget(actor, list(self.slots.get(actor, {})), self.dying.pop(actor, "exit"))

    def _do_exec(self, proc: str, args: Mapping[str, Any], record: Record) -> None:
        actor = args["actor"]
        table = self.slots.get(actor, {})
        self._forget(actor, [name for name, ref in table.items() if ref.cloexec], "exec")
        for name, ref in table.items():
            table[name] = Ref(ref.file, "exec", ref.cloexec)

    def _id(self, proc: str, value: Any) -> int | None:
        return value if isinstance(value, int) else self.ints.get(proc, {}).get(value)
