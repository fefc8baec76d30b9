# SPDX-License-Identifier: Apache-2.0
"""VFIO's opens, binds and attachments in memory: keeps every rule of chapter ACC, or breaks those it is told.

It counts as the kernel does (references to a file, openers of a group, owners of DMA) where
`harness.ownership` looks at who refers to what: two ways to the same answers, which a self-test compares.
`BROKEN` names the rules that can be broken and the clause each of them breaks.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from harness.access_model_host import OK, File, Host

__all__ = ["BROKEN", "Model"]

BROKEN: Mapping[str, str] = {
    "cdev_refused": "ACC-001", "cdev_opens_once": "ACC-002", "info_before_bind": "ACC-003",
    "read_before_bind": "ACC-004", "bind_refused": "ACC-005", "devid_zero": "ACC-006",
    "no_access": "ACC-007", "rebind": "ACC-008", "second_fd_binds": "ACC-009", "loser_cuts_owner": "ACC-010",
    "bind_any_file": "ACC-011", "bind_no_file": "ACC-012", "bind_gives_up": "ACC-013",
    "bind_argsz": "ACC-014", "bind_flags": "ACC-015", "bind_long": "ACC-016", "bind_device": "ACC-017",
    "attach_device": "ACC-018", "devid_shared": "ACC-019", "iommufd_close_unbinds": "ACC-020",
    "attach_refused": "ACC-025", "attach_pt": "ACC-026", "no_replace": "ACC-027", "replace_keeps": "ACC-028",
    "attach_any_id": "ACC-029", "attach_own_id": "ACC-030", "refused_attach_detaches": "ACC-031",
    "ioas_unpinned": "ACC-032", "detach_keeps": "ACC-033", "close_keeps": "ACC-034", "pt_argsz": "ACC-035",
    "pt_flags": "ACC-036", "pt_pasid": "ACC-037", "attach_once": "ACC-039", "group_beside_cdev": "ACC-050",
    "group_beside_sibling": "ACC-051", "cdev_beside_group": "ACC-052", "sibling_beside_group": "ACC-053",
    "group_twice": "ACC-054", "idle_cdev_blocks": "ACC-055", "sibling_refused": "ACC-056",
    "two_owners": "ACC-057", "dup_uncounted": "ACC-060", "fork_uncounted": "ACC-061",
    "scm_uncounted": "ACC-062", "flight_uncounted": "ACC-063", "exec_closes_all": "ACC-064",
    "close_leaks": "ACC-065", "kill_leaks": "ACC-066", "exit_leaks": "ACC-067", "exec_leaks": "ACC-068",
    "flight_leaks": "ACC-069", "group_close_frees": "ACC-073", "iommufd_group_close_frees": "ACC-074",
    "unset_beside_devices": "ACC-075", "mapping_uncounted": "ACC-076", "not_viable": "ACC-080",
    "status_argsz": "ACC-081", "status_no_container": "ACC-082", "set_refused": "ACC-083",
    "set_twice": "ACC-084", "set_any_file": "ACC-085", "unset_nothing": "ACC-086", "unset_in_use": "ACC-087",
    "unset_refused": "ACC-088", "iommu_without_group": "ACC-089", "iommu_any_type": "ACC-090",
    "iommu_refused": "ACC-091", "iommu_twice": "ACC-092", "device_without_iommu": "ACC-093",
    "device_any_name": "ACC-094", "device_refused": "ACC-095", "device_once": "ACC-097",
    "bind_unwritten": "ACC-021", "attach_unwritten": "ACC-041",
    "unset_keeps_iommu": "ACC-103", "iommufd_no_container": "ACC-104",
}  # fmt: skip


class Model(Host):
    """The operations that claim a device, give it, or take it away."""

    def _open_cdev(self, proc: str, args: Mapping[str, Any]) -> Any:
        group = self.groups[self.number[args["dev"]]]
        busy = bool(group.bound or group.opened)
        if self._has("cdev_refused") or (busy and self._has("cdev_opens_once")):
            return errno.EBUSY
        if self._has("idle_cdev_blocks") and not busy:
            group.bound += 1
        return self._open_as(
            proc, args, File("cdev", dev=args["dev"]), "O_CLOEXEC" in args.get("flags", ["O_CLOEXEC"])
        )

    def _open_group(self, proc: str, args: Mapping[str, Any]) -> Any:
        group = self.groups[self.number[args["dev"]]]
        sibling = group.bound and not self.open_count[args["dev"]]
        allowed = (self._has("group_beside_cdev") and not sibling) or (
            self._has("group_beside_sibling") and sibling
        )
        if (group.bound and not allowed) or (group.opened and not self._has("group_twice")):
            return errno.EBUSY
        file = File("group", dev=args["dev"])
        group.opened = group.opened or file
        return self._open_as(proc, args, file, "O_CLOEXEC" in args.get("flags", ["O_CLOEXEC"]))

    def _open_container(self, proc: str, args: Mapping[str, Any]) -> Any:
        return self._open_as(proc, args, File("container"))

    def _open_iommufd(self, proc: str, args: Mapping[str, Any]) -> Any:
        return self._open_as(proc, args, File("iommufd"))

    def _open(self, proc: str, args: Mapping[str, Any]) -> Any:
        return self._open_as(proc, args, File("file"))

    def _eventfd(self, proc: str, args: Mapping[str, Any]) -> Any:
        return self._open_as(proc, args, File("eventfd"))

    def _ioas_alloc(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind != "iommufd":
            return errno.ENOTTY
        number = self._new_id(file, "ioas")
        self.ints[proc][args["out"]] = number
        return OK, {"ioas": number}

    def _new_id(self, file: File, kind: str) -> int:
        number = next(n for n in range(1, 1000) if n not in file.objects)
        file.objects[number], file.pins[number] = kind, 0
        return number

    def _bind(self, proc: str, args: Mapping[str, Any]) -> Any:
        file, target = self._file(proc, args["fd"]), self._file(proc, args["iommufd"])
        assert file is not None
        number = self._bind_refused(file, target, args)
        if number:
            if self._has("bind_gives_up") and file.context is None:
                file.bad = True
            if self._has("loser_cuts_owner"):
                self._cut(self.number.get(file.dev))
            return number
        if target is None or target.kind != "iommufd" or file.kind == "device":
            return OK, {"devid": 1}
        group = self._of(file)
        if file.context is None:
            self.open_count[file.dev] += 1
            group.bound += 1
            group.owner, group.owners = target, group.owners + 1
        file.context = target
        file.devid = 0 if self._has("devid_zero") else self._new_id(target, "device")
        if self._has("devid_shared"):
            file.devid = 99
            target.objects[99], target.pins[99] = "device", 0
        if "out" in args:
            self.ints[proc][args["out"]] = file.devid
        return OK, {"devid": file.devid}

    def _cut(self, number: int | None) -> None:
        for table in self.slots.values():
            for file, _ in table.values():
                if file.kind in ("cdev", "device") and file.context and self.number[file.dev] == number:
                    file.bad = True

    def _bind_refused(self, file: File, target: File | None, args: Mapping[str, Any]) -> int:
        if file.kind not in ("cdev", "device"):
            return errno.ENOTTY
        if file.kind == "device":
            return 0 if self._has("bind_device") else errno.EINVAL
        if args.get("argsz", 16) < 16 and not self._has("bind_argsz"):
            return errno.EINVAL
        if args.get("argsz", 16) > 24 and self._has("bind_long"):
            return errno.E2BIG
        if args.get("flags", 0) and not self._has("bind_flags"):
            return errno.EINVAL
        if file.context is not None:
            return 0 if self._has("rebind") else errno.EINVAL
        return self._claim_refused(file, target)

    def _claim_refused(self, file: File, target: File | None) -> int:
        group = self._of(file)
        if group.opened:
            sibling = group.opened.dev != file.dev
            if not self._has("sibling_beside_group" if sibling else "cdev_beside_group"):
                return errno.EBUSY
        if self.open_count[file.dev] and not self._has("second_fd_binds"):
            return errno.EINVAL
        if target is None:
            return 0 if self._has("bind_no_file") else errno.EBADF
        if target.kind != "iommufd":
            return 0 if self._has("bind_any_file") else errno.EBADFD
        if group.owner not in (None, target) and not self._has("two_owners"):
            return errno.EPERM
        if file.bad or self._has("bind_refused") or (group.owners and self._has("sibling_refused")):
            return errno.EPERM
        return 0

    def _device_info(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind not in ("cdev", "device"):
            return errno.ENOTTY
        if file.kind == "cdev" and file.context is None:
            return 0 if self._has("info_before_bind") else errno.EINVAL
        cut = file.bad or (file.context is not None and file.context.bad)
        return errno.EIO if cut or self._has("no_access") else 0

    def _pread(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        unbound = file.kind == "cdev" and file.context is None
        return errno.EINVAL if unbound and not self._has("read_before_bind") else 0

    _pwrite = _pread

    def _ioctl_readonly(self, proc: str, args: Mapping[str, Any]) -> Any:
        unwritten = "bind_unwritten" if args.get("fds") else "attach_unwritten"
        return 0 if self._has(unwritten) else errno.EFAULT

    def _ioctl(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if "arg" in args:
            return errno.EFAULT
        if file.kind == "container":
            return 0 if file.iommu else errno.EINVAL
        return errno.EINVAL if file.kind == "group" or file.context is None else 0

    def _api_version(self, proc: str, args: Mapping[str, Any]) -> Any:
        return 0, {"ret": 0}

    def _group_status(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind != "group":
            return errno.ENOTTY
        if args.get("argsz", 8) < 8 and not self._has("status_argsz"):
            return errno.EINVAL
        is_set = file.context is not None and not self._has("status_no_container")
        return OK, {"flags": (0 if self._has("not_viable") else 1) | (2 if is_set else 0)}

    def _attach(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        wrong = self._pt_refused(file, args, 12, 16)
        if wrong is not None:
            return wrong, {"pt": 1}
        context, number = file.context, self._id(proc, args["pt"])
        assert context is not None
        kind = context.objects.get(number)
        any_id = (kind is None and self._has("attach_any_id")) or (
            kind == "device" and self._has("attach_own_id")
        )
        if kind != "ioas" or (file.attached and self._has("no_replace") and file.attached != number):
            if file.attached and self._has("refused_attach_detaches"):
                self._drop_attachment(file)
            return (0, {"pt": number}) if any_id else errno.ENOENT
        if self._has("attach_refused") or (file.detached and self._has("attach_once")):
            return errno.EINVAL
        if file.attached and not self._has("replace_keeps"):
            self._drop_attachment(file)
        file.attached = number
        context.pins[number] += not self._has("ioas_unpinned")
        return OK, {"pt": -7 if self._has("attach_pt") else number}

    def _drop_attachment(self, file: File) -> None:
        assert file.context is not None
        if file.attached in file.context.pins:
            file.context.pins[file.attached] -= 1
        file.attached = 0

    def _detach(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        wrong = self._pt_refused(file, args, 8, 12)
        if wrong is not None:
            return wrong
        if file.attached:
            if not self._has("detach_keeps"):
                self._drop_attachment(file)
            file.attached, file.detached = 0, True
        return OK

    def _pt_refused(self, file: File, args: Mapping[str, Any], least: int, with_pasid: int) -> int | None:
        """errno of a request that does not get as far as the attachment; None for one that does."""
        size, flags = args.get("argsz", with_pasid if "pasid" in args else least), args.get("flags", 0)
        if file.kind == "device":
            return 0 if self._has("attach_device") else errno.ENOTTY
        if file.kind != "cdev" or file.context is None:
            return errno.EINVAL
        if size < least:
            return 0 if self._has("pt_argsz") else errno.EINVAL
        if flags & ~1:
            return 0 if self._has("pt_flags") else errno.EINVAL
        if flags and size < with_pasid:
            return 0 if self._has("pt_pasid") else errno.EINVAL
        return errno.EOPNOTSUPP if flags else None

    def _destroy(self, proc: str, args: Mapping[str, Any]) -> Any:
        file, number = self._file(proc, args["fd"]), self._id(proc, args["id"])
        assert file is not None
        if number not in file.objects:
            return errno.ENOENT
        if file.pins[number] > 0:
            return errno.EBUSY
        del file.objects[number]
        return OK

    def _group_set_container(self, proc: str, args: Mapping[str, Any]) -> Any:
        file, target = self._file(proc, args["fd"]), self._file(proc, args["container"])
        assert file is not None
        if file.kind != "group":
            return errno.ENOTTY
        if file.context is not None and not self._has("set_twice"):
            return errno.EINVAL
        if target is None or target.kind not in ("container", "iommufd"):
            return 0 if self._has("set_any_file") else errno.EBADFD
        if self._has("set_refused") or (target.kind == "iommufd" and self._has("iommufd_no_container")):
            return errno.EPERM
        if file.context is None:
            target.groups += 1
            file.context = target
            self._of(file).owner, self._of(file).owners = file, 1
        return OK

    def _group_unset_container(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind != "group":
            return errno.ENOTTY
        if file.context is None:
            return 0 if self._has("unset_nothing") else errno.EINVAL
        if self._of(file).users:
            legacy = file.context.kind == "container"
            if not self._has("unset_in_use" if legacy else "unset_beside_devices"):
                return errno.EBUSY
        if self._has("unset_refused"):
            return errno.EBUSY
        self._leave(self._of(file), file)
        return OK

    def _container_set_iommu(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind != "container":
            return errno.ENOTTY
        kept = self._has("unset_keeps_iommu") and file.used
        groupless = not file.groups and not self._has("iommu_without_group")
        if (groupless or self._has("iommu_refused")) and not kept:
            return errno.EINVAL
        if file.iommu and not self._has("iommu_twice") and not self._has("unset_keeps_iommu"):
            return errno.EINVAL
        if args["type"] not in (1, 3) and not self._has("iommu_any_type"):
            return errno.ENODEV
        file.iommu = file.used = True
        return OK

    def _group_get_device_fd(self, proc: str, args: Mapping[str, Any]) -> Any:
        file = self._file(proc, args["fd"])
        assert file is not None
        if file.kind != "group":
            return errno.ENOTTY
        ready = file.context is not None and (file.context.iommu or file.context.kind == "iommufd")
        if "name" in args and not (self._has("device_any_name") and ready):
            return errno.ENODEV
        if (not ready and not self._has("device_without_iommu")) or self._has("device_refused"):
            return errno.EINVAL
        dev = args.get("dev", file.dev)
        if self.number[dev] != self.number[file.dev] or (self.open_count[dev] and self._has("device_once")):
            return errno.ENODEV
        self.open_count[dev] += 1
        self._of(file).users += 1
        compat = file.context is not None and file.context.kind == "iommufd"
        if not self._has("iommufd_group_close_frees" if compat else "group_close_frees"):
            file.count += 1
        return self._open_as(proc, args, File("device", dev=dev, context=file))
