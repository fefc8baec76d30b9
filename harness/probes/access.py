# SPDX-License-Identifier: Apache-2.0
"""Probe the ways to reach a device: group, legacy container, hot reset, mappings.

`harness/spec/capabilities.py` lists the capabilities found here, with their sources.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import LabError
from harness.probes.runner import Runner
from harness.uapi import vfio

__all__ = ["probe_access"]

_DEADLINE_MS = 20_000
_PAGE = 4096
_SPARSE = vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP


def probe_access(
    agent: Runner, devices: Mapping[str, Mapping[str, Any]], name: str, regions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Capabilities of `devices["dev0"]` and its companions; `regions` are the region infos of dev0."""
    groups = {
        key: int(str(entry["group"]).rpartition("/")[2].removeprefix("noiommu-"))
        for key, entry in devices.items()
        if entry.get("group")
    }
    has_group = "dev0" in groups
    result: dict[str, Any] = {
        "group": has_group,
        "groups": groups,
        "shared_group": has_group and list(groups.values()).count(groups["dev0"]) > 1,
        "names": {
            key: str(entry["device_name"]) for key, entry in devices.items() if entry.get("device_name")
        },
        "cdev_name": str(devices["dev0"].get("name") or ""),
        "sysfs": str(devices["dev0"].get("sysfs") or ""),
        "mmap_region": next((int(r["index"]) + 1 for r in regions if _maps_first_page(r)), 0),
    }
    legacy = _errors(agent, devices, name, [
        ["open_group", {"dev": "dev0", "out": "g"}],
        ["open_container", {"out": "c"}],
        ["group_set_container", {"fd": "g", "container": "c"}],
        ["container_set_iommu", {"fd": "c", "type": 1}],
        ["group_get_device_fd", {"fd": "g", "dev": "dev0", "out": "d"}],
    ])  # fmt: skip
    result["legacy"] = not any(legacy)
    *_, reset = _errors(agent, devices, name, [
        ["open_cdev", {"dev": "dev0", "out": "d"}],
        ["open_iommufd", {"out": "i"}],
        ["bind", {"fd": "d", "iommufd": "i"}],
        ["ioctl", {"fd": "d", "nr": vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, "buf": "0c" + "00" * 11}],
    ])  # fmt: skip
    result["hot_reset"] = reset in (0, errno.ENOSPC)
    result["hot_reset_owned"] = result["hot_reset"] and _all_affected(agent, devices, name, result["names"])
    return result


def _all_affected(
    agent: Runner, devices: Mapping[str, Mapping[str, Any]], name: str, names: Mapping[str, str]
) -> bool:
    """Whether a hot reset of dev0 affects only devices of the program."""
    record = _records(agent, devices, name, [
        ["open_cdev", {"dev": "dev0", "out": "d"}],
        ["open_iommufd", {"out": "i"}],
        ["bind", {"fd": "d", "iommufd": "i"}],
        ["hot_reset_info", {"fd": "d"}],
    ])[-1]  # fmt: skip
    affected = {bdf for _, bdf in record.get("devices") or ()}
    return not record["errno"] and bool(affected) and affected <= set(names.values())


def _maps_first_page(region: Mapping[str, Any]) -> bool:
    if not int(region["flags"]) & vfio.VFIO_REGION_INFO_FLAG_MMAP or int(region["size"]) < _PAGE:
        return False
    caps = bytes.fromhex(region.get("caps_hex") or "")
    if len(caps) >= 16 and struct.unpack_from("=H", caps)[0] == _SPARSE:
        count = struct.unpack_from("=I", caps, 8)[0]
        return any(
            struct.unpack_from("=Q", caps, 16 + 16 * n)[0] == 0
            for n in range(min(count, (len(caps) - 16) // 16))
        )
    return True


def _records(
    agent: Runner, devices: Mapping[str, Mapping[str, Any]], name: str, ops: list[list[Any]]
) -> list[Mapping[str, Any]]:
    """Run `ops` and return their records in program order; LabError if the program hangs."""
    result = agent.run(
        {
            "devices": {key: dict(entry) for key, entry in devices.items()}, "session": "probe-access",
            "keep": [], "deadline_ms": _DEADLINE_MS, "threads": [{"name": "main", "ops": ops}],
        }
    )  # fmt: skip
    if result.hung or len(result.trace) != len(ops):
        raise LabError(f"{name}: probing access to the device did not return within 20 s")
    return sorted(result.trace, key=lambda record: int(record["i"]))


def _errors(
    agent: Runner, devices: Mapping[str, Mapping[str, Any]], name: str, ops: list[list[Any]]
) -> list[int]:
    """Run `ops` and return the errno of each; EIO for one that was skipped."""
    records = _records(agent, devices, name, ops)
    return [errno.EIO if record.get("skipped") else int(record["errno"]) for record in records]
