# SPDX-License-Identifier: Apache-2.0
"""What the text demands of each operation that claims, passes on or releases access, in a given `World`.

There is one method for each operation; it names the clause that a different outcome would break.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.oracle.ownership import Expect, File, World, must, refused

__all__ = ["OwnershipRules"]

TYPE1, TYPE1V2 = 1, 3
_BIND_BYTES, _ATTACH_BYTES, _DETACH_BYTES, _RESET_INFO_BYTES = 16, 12, 8, 12
_OPEN = Expect(None)


class OwnershipRules(World):
    """A `World` that also says what each operation must do."""

    def expect(self, proc: str, name: str, args: Mapping[str, Any]) -> Expect:
        """What the text demands of the operation in the present state."""
        rule = getattr(self, f"_expect_{name}", None)
        if rule is None or self.dying:
            return _OPEN
        answer = rule(proc, args)
        assert isinstance(answer, Expect)
        return answer

    def _free(self, words: str, clause: str) -> Expect:
        """Expect a claim to succeed; if there was an earlier holder, this also tests its release."""
        return must(words, self.released, clause, "ACC-070" if self.released else "")

    def _expect_open_cdev(self, proc: str, args: Mapping[str, Any]) -> Expect:
        number = self.groups[args["dev"]]
        if self.open_group(number) or self.bound(number):
            return must("opening the cdev claims nothing, so it succeeds", "ACC-002")
        return must("the cdev of a free device can be opened", "ACC-001")

    def _expect_open_group(self, proc: str, args: Mapping[str, Any]) -> Expect:
        number = self.groups[args["dev"]]
        holder = self.open_group(number)
        if holder is not None:
            return refused("the group is open already", self._held(holder, "ACC-054"))
        for cdev in self.bound(number):
            clause = "ACC-050" if cdev.dev == args["dev"] else "ACC-051"
            return refused(f"{cdev.dev} of this group is bound by cdev", self._held(cdev, clause))
        return self._free("nobody uses the group", "ACC-055")

    def _expect_bind(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file = self.file(proc, args["fd"])
        if file is None or file.kind not in ("cdev", "device"):
            return _OPEN
        if file.kind == "device":
            return refused("BIND is only for cdev fds", "ACC-017")
        size, flags = args.get("argsz", _BIND_BYTES), args.get("flags", 0)
        if size < _BIND_BYTES:
            return refused(f"argsz {size} has no room for out_devid", "ACC-014")
        if flags & ~1:
            return refused(f"flags {flags:#x} are not defined", "ACC-015")
        if flags:
            return _OPEN
        if file.context is not None:
            return refused("this fd is bound already", "ACC-008")
        return self._expect_claim(proc, file, args, size)

    def _expect_claim(self, proc: str, file: File, args: Mapping[str, Any], size: int) -> Expect:
        """Expectation for BIND of an unbound cdev fd with well formed arguments."""
        number, target = self._group_of(file), self.file(proc, args["iommufd"])
        holder = self.open_group(number)
        if holder is not None:
            clause = "ACC-052" if file.dev == holder.group_device else "ACC-053"
            return refused("the group is open", self._held(holder, clause))
        others = self.bound(number)
        for other in others:
            if other.dev == file.dev:
                return refused("the device is bound through another fd", self._held(other, "ACC-009"))
        if isinstance(args["iommufd"], int):
            return refused("there is no such fd", "ACC-012")
        if target is None:
            return _OPEN
        if target.kind != "iommufd":
            return refused(f"a {target.kind} is no iommufd", "ACC-011")
        for other in others:
            if other.context is not target:
                return refused(
                    "another device of the group is bound to another iommufd", self._held(other, "ACC-057")
                )
        if size not in (_BIND_BYTES, 24):
            return must(f"argsz {size}, the rest zero, is well formed", "ACC-016") if size > 24 else _OPEN
        if others:
            return must("devices of one group bind to the same iommufd", "ACC-056")
        if file in self.disturbed:
            return must("a refused BIND of this fd left nothing behind", "ACC-013", "ACC-005")
        return self._free("nobody uses the device", "ACC-005")

    def _expect_access(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file = self.file(proc, args["fd"])
        if file is None or file.kind not in ("cdev", "device"):
            return _OPEN
        if file.kind == "cdev" and file.context is None:
            return refused("the cdev fd is not bound", "ACC-003")
        if file.context is not None and file.context.kind == "iommufd" and not any(self.refs(file.context)):
            return must("closing the iommufd does not unbind", "ACC-020", "ACC-007")
        if file in self.disturbed:
            return must("the holder of the device can still use it", "ACC-010", "ACC-007")
        return must("the device is accessible", "ACC-007" if file.kind == "cdev" else "ACC-095")

    _expect_device_info = _expect_access

    def _expect_unbound(self, proc: str, args: Mapping[str, Any]) -> Expect:
        """Expectation for operations with one known rule: an unbound cdev fd refuses them."""
        file = self.file(proc, args["fd"])
        if file is not None and file.kind == "cdev" and file.context is None:
            return refused("the cdev fd is not bound", "ACC-003")
        return _OPEN

    _expect_region_info = _expect_irq_info = _expect_set_irqs = _expect_reset = _expect_unbound
    _expect_feature = _expect_ioctl = _expect_unbound

    def _expect_io(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file = self.file(proc, args.get("fd"))
        if file is not None and file.kind == "cdev" and file.context is None:
            return refused("the cdev fd is not bound", "ACC-004")
        return _OPEN

    _expect_pread = _expect_pwrite = _expect_mmap = _expect_io

    def _malformed(
        self, args: Mapping[str, Any], least: int, with_pasid: int, file: File | None
    ) -> Expect | None:
        if file is None or file.kind not in ("cdev", "device"):
            return _OPEN
        if file.kind == "device":
            return refused("only for cdev fds", "ACC-018")
        if file.context is None:
            return refused("the cdev fd is not bound", "ACC-003")
        flags = args.get("flags", 0)
        size = args.get("argsz", with_pasid if "pasid" in args else least)
        if size < least:
            return refused(f"argsz {size} is less than {least}", "ACC-035")
        if flags & ~1:
            return refused(f"flags {flags:#x} are not defined", "ACC-036")
        if flags:
            return refused(f"argsz {size} has no pasid", "ACC-037") if size < with_pasid else _OPEN
        return None

    def _expect_attach(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file = self.file(proc, args["fd"])
        wrong = self._malformed(args, _ATTACH_BYTES, 16, file)
        if wrong is not None or file is None or file.context is None:
            return wrong or _OPEN
        number = self._id(proc, args["pt"])
        if number is None or file.attached == -1:
            return _OPEN
        kind = file.context.objects.get(number)
        if kind is None:
            return _OPEN if file.context.opaque else refused("the iommufd has no such object", "ACC-029")
        if kind == "device":
            return refused("a device is no address space", "ACC-030")
        if kind == "hwpt":
            return _OPEN
        partners = {c.attached for c in self.bound(self._group_of(file)) if c is not file}
        if partners - {None, number}:
            return _OPEN  # a group has one address space; the text does not say whether ATTACH may move it
        if file.attached is not None:
            return must("another address space replaces the attached one", "ACC-027")
        detached = file.context.last.get(number) == "ACC-033"
        return must("an IOAS of the bound iommufd can be attached", "ACC-039" if detached else "ACC-025")

    def _expect_detach(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file = self.file(proc, args["fd"])
        wrong = self._malformed(args, _DETACH_BYTES, 12, file)
        if wrong is not None or file is None or file.attached is None:
            return wrong or _OPEN
        return must("an attached device can be detached", "ACC-033")

    def _expect_destroy(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file, number = self.file(proc, args["fd"]), self._id(proc, args["id"])
        if file is None or number is None or file.objects.get(number) != "ioas":
            return _OPEN
        users = [c for c in self._live("cdev") if c.context is file]
        if any(c.attached == -1 for c in users):
            return _OPEN
        if any(c.attached == number for c in users):
            return refused("a device is attached to it", file.last.get(number, "") or "ACC-032", "ACC-032")
        clause = file.last.get(number, "")
        return must("no device is attached to it any more", clause) if clause else _OPEN

    def _expect_group_set_container(self, proc: str, args: Mapping[str, Any]) -> Expect:
        group = self.file(proc, args["fd"])
        if group is None or group.kind != "group":
            return _OPEN
        if group.context is not None:
            return refused("the group has a container", "ACC-084")
        target = self.file(proc, args["container"])
        if isinstance(args["container"], int):
            return refused("there is no such fd", "ACC-085")
        if target is None:
            return _OPEN
        if target.kind == "iommufd":
            return must("an iommufd stands in for a container", "ACC-104")
        if target.kind != "container":
            return refused(f"a {target.kind} is no container", "ACC-085")
        if any(g.context is target for g in self._live("group")):
            return _OPEN  # a container may take several groups, but need not
        again = "ACC-088" if group in self.unset else ""
        return must("a group without container takes an empty one", again, "ACC-083")

    def _expect_group_unset_container(self, proc: str, args: Mapping[str, Any]) -> Expect:
        group = self.file(proc, args["fd"])
        if group is None or group.kind != "group":
            return _OPEN
        if group.context is None:
            return refused("the group has no container", "ACC-086")
        if self.devices_of(group):
            legacy = group.context.kind == "container"
            return refused("device fds of the group are open", "ACC-087" if legacy else "ACC-075")
        return must("no device fd of the group is open", "ACC-088")

    def _expect_container_set_iommu(self, proc: str, args: Mapping[str, Any]) -> Expect:
        container = self.file(proc, args["fd"])
        if container is None or container.kind != "container":
            return _OPEN
        if not any(g.context is container for g in self._live("group")):
            again = container.used  # removing the last group resets the container
            return refused("the container has no group", "ACC-103" if again else "ACC-089")
        if container.iommu:
            return refused("the container has an IOMMU", "ACC-092")
        if args["type"] in (TYPE1, TYPE1V2):
            return must("a container with a group takes a supported IOMMU type", "ACC-091")
        return refused(f"there is no IOMMU type {args['type']}", "ACC-090")

    def _expect_group_get_device_fd(self, proc: str, args: Mapping[str, Any]) -> Expect:
        group = self.file(proc, args["fd"])
        if group is None or group.kind != "group":
            return _OPEN
        context = group.context
        if context is None or (context.kind == "container" and not context.iommu):
            return refused("the group has no IOMMU context", "ACC-093")
        if "name" in args:
            return refused(f"no device of the group is called {args['name'][:40]!r}", "ACC-094")
        if self.groups[args["dev"]] != self._group_of(group):
            return _OPEN
        several = any(d.dev == args["dev"] for d in self.devices_of(group))
        return must("the group gives its device", "ACC-097" if several else "ACC-095")

    def _expect_group_status(self, proc: str, args: Mapping[str, Any]) -> Expect:
        group = self.file(proc, args["fd"])
        if group is None or group.kind != "group":
            return _OPEN
        if args.get("argsz", 8) < 8:
            return refused("argsz has no room for flags", "ACC-081")
        return must("GET_STATUS is always available", "ACC-080")

    def _expect_hot_reset_info(self, proc: str, args: Mapping[str, Any]) -> Expect:
        unbound = self._expect_unbound(proc, args)
        size = args.get("argsz", 4096)
        if unbound.ok is False or size >= _RESET_INFO_BYTES + 8:
            return unbound
        if size < _RESET_INFO_BYTES:
            return refused(f"argsz {size} is shorter than the struct", "ACC-120")
        return refused("there is no room for a device", "ACC-110")

    def _expect_hot_reset(self, proc: str, args: Mapping[str, Any]) -> Expect:
        file = self.file(proc, args["fd"])
        if file is None or file.kind not in ("cdev", "device") or (file.kind == "cdev" and not file.context):
            return self._expect_unbound(proc, args)
        fds = [self.file(proc, name) for name in args["fds"]]
        if args.get("flags") or args.get("argsz", _RESET_INFO_BYTES + 4 * len(fds)) < _RESET_INFO_BYTES:
            return refused("flags or argsz are not what is defined", "ACC-120")
        if any(fd is not None and fd.kind != "group" for fd in fds):
            return refused("an fd is no group", "ACC-119" if file.kind == "device" else "ACC-116")
        if file.kind == "cdev":
            if fds:
                return refused("a cdev proves nothing by group fds", "ACC-116")
            owned = self.affected.get(file.dev)
            return must("all affected devices are owned", "ACC-115") if owned else _OPEN
        if not fds:
            return refused("there is no proof of ownership", "ACC-118")
        if None in fds:
            return _OPEN
        complete = self.affected.get(file.dev) and len(fds) == 1 and fds[0] is file.context
        return must("the group of all affected devices is shown", "ACC-117") if complete else _OPEN
