# SPDX-License-Identifier: Apache-2.0
"""What sysfs says about devices.  `root` stands in for `/`, so that tests need no hardware."""

from __future__ import annotations

import os
import re

from .failure import Failure

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BDF", "UUID", "Sysfs", "read_text"]

BDF = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]$")
UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}$")


def read_text(path: str, default: str = "") -> str:
    """Return the stripped text of a small file, `default` if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536).strip()
    except OSError:
        return default


def _entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _link_name(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


class Sysfs:
    """The sysfs of the host whose file system is at `root`."""

    def __init__(self, root: str = "/") -> None:
        self.root = root

    def at(self, *parts: str) -> str:
        """Return the path of `parts` below the root."""
        return os.path.join(self.root, *[part.lstrip("/") for part in parts])

    def key(self, device: dict[str, Any]) -> str:
        """Return a device's name in sysfs (BDF or UUID); Failure `usage` where `device` is malformed."""
        kinds = "{'pci': 'dddd:bb:dd.f'} or {'mdev_parent': ..., 'mdev_type': ..., 'uuid': ...}"
        if "pci" in device:
            if device.keys() != {"pci"} or not isinstance(device["pci"], str) or not BDF.match(device["pci"]):
                raise Failure("usage", "device %.200r is not %s" % (device, kinds))
            return device["pci"]
        if not device.keys() <= {"mdev_parent", "mdev_type", "uuid"} or not isinstance(
            device.get("uuid"), str
        ):
            raise Failure("usage", "device %.200r is not %s" % (device, kinds))
        if not UUID.match(device["uuid"]):
            raise Failure("usage", "device: uuid=%.100r is not a UUID in lower case" % device["uuid"])
        for part in ("mdev_parent", "mdev_type"):
            if part in device and not (isinstance(device[part], str) and _NAME.match(device[part])):
                raise Failure("usage", "device: %s=%.100r is not the name of one" % (part, device[part]))
        return device["uuid"]  # type: ignore[no-any-return]

    def path(self, device: dict[str, Any]) -> str | None:
        """Return the device's folder (resolved), None if it does not exist."""
        bus = "pci" if "pci" in device else "mdev"
        path = self.at("sys/bus", bus, "devices", self.key(device))
        return os.path.realpath(path) if os.path.isdir(path) else None

    def mdev_parent(self, name: str) -> str | None:
        """Return the folder with `mdev_supported_types` of parent `name`, None if there is none."""
        places = [self.at("sys/class/mdev_bus", name), self.at("sys/bus/pci/devices", name)]
        virtual = self.at("sys/devices/virtual")
        places += [os.path.join(virtual, cls, name) for cls in _entries(virtual)]
        for place in places:
            if os.path.isdir(os.path.join(place, "mdev_supported_types")):
                return os.path.realpath(place)
        return None

    def driver(self, path: str) -> str | None:
        """Return the name of the driver bound to the device at `path`."""
        return _link_name(os.path.join(path, "driver"))

    def group(self, path: str) -> str | None:
        """Return the IOMMU group's number (or VFIO's own for an emulated one)."""
        return _link_name(os.path.join(path, "iommu_group"))

    def group_members(self, group: str | None) -> list[str]:
        """Return the names of all devices in an IOMMU group."""
        return _entries(self.at("sys/kernel/iommu_groups", group, "devices")) if group else []

    def override(self, path: str) -> str | None:
        """Return `driver_override`, None if it is unset."""
        text = read_text(os.path.join(path, "driver_override"), "(null)")
        return None if text in ("(null)", "") else text

    def vfio_name(self, path: str) -> str | None:
        """Return `vfioN` where VFIO has registered the device."""
        names = [name for name in _entries(os.path.join(path, "vfio-dev")) if name.startswith("vfio")]
        return names[0] if names else None

    def describe(self, device: dict[str, Any]) -> dict[str, Any]:
        """Return what `describe_device` answers, without `in_use` and `protected_because`."""
        key = self.key(device)
        path = self.path(device)
        result: dict[str, Any] = {
            "name": key, "kind": "pci" if "pci" in device else "mdev", "exists": path is not None, "path":
            path,
            "driver": None, "driver_override": None, "modalias": "", "iommu_group": None, "group_members": [],
            "cdev": None, "group": None, "vfio_name": None, "debugfs": None, "class": "", "numa_node": None,
            "sriov_totalvfs": None, "sriov_numvfs": None, "physfn": None,
        }  # fmt: skip
        if path is None:
            return result
        group = self.group(path)
        name = self.vfio_name(path)
        cdev = self.at("dev/vfio/devices", name) if name else None
        noiommu = self.at("dev/vfio", "noiommu-%s" % group)
        node = noiommu if group and os.path.exists(noiommu) else self.at("dev/vfio", group) if group else None
        debugfs = self.at("sys/kernel/debug/vfio", key)
        result.update(
            driver=self.driver(path), driver_override=self.override(path),
            modalias=read_text(os.path.join(path, "modalias")), iommu_group=group,
            group_members=self.group_members(group), vfio_name=name,
            cdev=cdev if cdev and os.path.exists(cdev) else None,
            group=node if node and os.path.exists(node) else None,
            debugfs=debugfs if os.path.isdir(debugfs) else None,
            physfn=_link_name(os.path.join(path, "physfn")),
        )  # fmt: skip
        result["class"] = read_text(os.path.join(path, "class"))
        for name in ("numa_node", "sriov_totalvfs", "sriov_numvfs"):
            text = read_text(os.path.join(path, name))
            result[name] = int(text) if text.lstrip("-").isdigit() else None
        return result

    def in_use(self, path: str) -> list[str]:
        """Return `pid N (name)` of processes that have the device's VFIO nodes open."""
        nodes = set()
        group, name = self.group(path), self.vfio_name(path)
        if group:
            nodes.update([self.at("dev/vfio", group), self.at("dev/vfio", "noiommu-%s" % group)])
        if name:
            nodes.add(self.at("dev/vfio/devices", name))
        users = []
        for pid in _entries(self.at("proc")):
            if not pid.isdigit() or int(pid) == os.getpid():
                continue
            folder = self.at("proc", pid, "fd")
            for fd in _entries(folder):
                try:
                    target = os.readlink(os.path.join(folder, fd))
                except OSError:
                    continue
                if target in nodes:
                    users.append("pid %s (%s)" % (pid, read_text(self.at("proc", pid, "comm"))))
                    break
        return users
