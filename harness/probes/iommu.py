# SPDX-License-Identifier: Apache-2.0
"""Probe what an IOMMU can do: the one behind a VFIO device, or iommufd's mock.

`harness/spec/capabilities.py` lists the capabilities found here, with their sources.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from harness.errors import LabError
from harness.probes.runner import Runner
from harness.uapi import iommufd, vfio

__all__ = ["MOCK_WORDS", "has_mmap_bar", "probe_iommu", "probe_mock"]

MOCK_WORDS = "the kernel's own mock stands in for the hardware"
_DEADLINE_MS = 20_000
_PAGE = 4096
_ASKED = {
    "map_file": "IOMMU_IOAS_MAP_FILE",
    "change_process": "IOMMU_IOAS_CHANGE_PROCESS",
    "fault_queue": "IOMMU_FAULT_QUEUE_ALLOC",
    "viommu": "IOMMU_VIOMMU_ALLOC",
    "veventq": "IOMMU_VEVENTQ_ALLOC",
    "hw_queue": "IOMMU_HW_QUEUE_ALLOC",
    "hwpt_invalidate": "IOMMU_HWPT_INVALIDATE",
}


_HUGE = ["mmap", {"out": "huge", "n": 2 << 20, "flags": ["SHARED", "ANONYMOUS", "HUGETLB"]}]


def _records(agent: Runner, devices: Mapping[str, Any], ops: list[list[Any]], name: str) -> list[Any]:
    result = agent.run(
        {
            "devices": dict(devices), "session": "probe-iommu", "keep": [], "deadline_ms": _DEADLINE_MS,
            "threads": [{"name": "main", "ops": ops}],
        }
    )  # fmt: skip
    if result.hung or len(result.trace) != len(ops):
        raise LabError(f"{name}: probing the iommufd did not return within 20 s")
    return sorted(result.trace, key=lambda record: record["i"])


def _asked() -> list[list[Any]]:
    """Each ioctl with `size` 0: an ioctl that exists refuses that with EINVAL."""
    return [["iommu", {"fd": "i", "cmd": command, "set": {"size": 0}}] for command in _ASKED.values()]


def _answers(records: list[Any]) -> dict[str, bool]:
    return {key: r["errno"] != errno.ENOTTY for key, r in zip(_ASKED, records, strict=True)}


def _hw_info(record: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("out_data_type", "out_capabilities", "out_max_pasid_log2")
    kind, declared, width = (record.get(name) for name in fields)
    told = isinstance(kind, int) and isinstance(declared, int) and isinstance(width, int)
    if not told or record["errno"] or record.get("skipped"):
        return {"hw_info": False, "hwpt_dirty": False, "max_pasid_log2": 0}
    return {
        "hw_info": True,
        "hw_info_type": kind,
        "hwpt_dirty": bool(int(declared or 0) & iommufd.IOMMU_HW_CAP_DIRTY_TRACKING),
        "max_pasid_log2": width,
    }


def probe_iommu(agent: Runner, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Capabilities of the IOMMU behind the VFIO device `entry`; LabError if the program hangs."""
    ops: list[list[Any]] = [
        ["open_iommufd", {"out": "i"}],
        ["ioas_alloc", {"fd": "i", "out": "ioas"}],
        ["open_cdev", {"dev": "dev0", "out": "d"}],
        ["bind", {"fd": "d", "iommufd": "i", "out": "devid"}],
        ["iommu", {"fd": "i", "cmd": "IOMMU_GET_HW_INFO", "set": {"dev_id": "devid"}}],
        ["hwpt_alloc", {"fd": "i", "devid": "devid", "pt": "ioas"}],
        _HUGE,
        *_asked(),
    ]
    records = _records(agent, {"dev0": dict(entry)}, ops, name)
    legacy = _legacy(agent, entry, name)
    info, hwpt = _hw_info(records[4]), records[5]
    physical = not hwpt["errno"] and not hwpt.get("skipped")
    return {
        **info,
        "physical_iommu": physical,
        "emulated_iommu": not physical,
        "hwpt_refuses_dirty": physical and info["hw_info"] and not info["hwpt_dirty"],
        "hugepages": not records[6]["errno"],
        "iommufd_compat": True,
        **_answers(records[7:]),
        **legacy,
    }


def _legacy(agent: Runner, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Capabilities of a container that holds the device's group; all False if there is no container."""
    names = {"type1": 1, "type1v2": 3, "unmap_all": 9, "update_vaddr": 10}
    ops: list[list[Any]] = [
        ["open_group", {"dev": "dev0", "out": "g"}],
        ["open_container", {"out": "c"}],
        ["group_set_container", {"fd": "g", "container": "c"}],
        ["container_set_iommu", {"fd": "c", "type": names["type1v2"]}],
        ["iommu", {"fd": "c", "cmd": "VFIO_IOMMU_GET_INFO", "set": {"argsz": 4096}}],
        *(["check_extension", {"fd": "c", "ext": number}] for number in names.values()),
    ]
    records = _records(agent, {"dev0": dict(entry)}, ops, name)
    works = not any(r["errno"] or r.get("skipped") for r in records[:4])
    has = {key: works and not r["errno"] and r["ret"] > 0 for key, r in zip(names, records[5:], strict=True)}
    ids = _capability_ids(records[4]) if works else set()
    return {**has, "no_update_vaddr": works and not has["update_vaddr"], "type1_migration": 2 in ids}


def _capability_ids(info: Mapping[str, Any]) -> set[int]:
    """Capability ids in the chain after struct vfio_iommu_type1_info (24 bytes)."""
    try:
        tail, at = bytes.fromhex(str(info.get("tail", ""))), int(info.get("cap_offset") or 0)
    except ValueError:
        return set()
    found: set[int] = set()
    while 24 <= at <= 24 + len(tail) - 8 and len(found) < 16:
        found.add(int.from_bytes(tail[at - 24 : at - 22], "little"))
        at = int.from_bytes(tail[at - 20 : at - 16], "little")
    return found


def probe_mock(agent: Runner, name: str) -> dict[str, Any]:
    """Capabilities of iommufd's mock; LabError if the kernel has none (CONFIG_IOMMUFD_TEST)."""
    ops: list[list[Any]] = [
        ["open_iommufd", {"out": "i"}],
        ["ioas_alloc", {"fd": "i", "out": "ioas"}],
        [
            "iommu",
            {"fd": "i", "cmd": "IOMMU_TEST_OP_MOCK_DOMAIN", "set": {"id": "ioas"},
             "outs": {"devid": "out_idev_id"}},
        ],
        ["iommu", {"fd": "i", "cmd": "IOMMU_GET_HW_INFO", "set": {"dev_id": "devid"}}],
        # 4 is the flag for PASID; an older mock has other flags.
        [
            "iommu",
            {"fd": "i", "cmd": "IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS", "set": {"id": "ioas", "dev_flags": 4},
             "outs": {"pasid_devid": "out_idev_id"}},
        ],
        ["iommu", {"fd": "i", "cmd": "IOMMU_GET_HW_INFO", "set": {"dev_id": "pasid_devid"}}],
        ["iommu", {"fd": "i", "cmd": "IOMMU_TEST_OP_DMABUF_GET", "set": {"length": 0}}],
        _HUGE,
        *_asked(),
    ]  # fmt: skip
    records = _records(agent, {}, ops, name)
    if records[0]["errno"]:
        raise LabError(f"{name}: /dev/iommu cannot be opened: boot a kernel with CONFIG_IOMMUFD")
    if records[2]["errno"] == errno.ENOTTY:
        raise LabError(
            f"{name}: this kernel's iommufd has no mock: no verdict; boot one with CONFIG_IOMMUFD_TEST"
        )
    if records[2]["errno"]:
        raise LabError(
            f"{name}: iommufd's mock makes no device (errno {records[2]['errno']}): no verdict; "
            "a kernel without iommu_mock_device_add() gives it none beside another IOMMU driver"
        )
    return {
        "mock": MOCK_WORDS,
        **_hw_info(records[3]),
        "physical_iommu": True,
        "iommufd_compat": True,
        "hwpt_refuses_dirty": True,
        "max_pasid_log2": _hw_info(records[5])["max_pasid_log2"],
        "mock_dmabuf": records[6]["errno"] == errno.EINVAL,
        "hugepages": not records[7]["errno"],
        **_answers(records[8:]),
        "migration": [],
        "regions": [],
        "irqs": [],
    }


def has_mmap_bar(capabilities: Mapping[str, Any]) -> bool:
    """Whether the probed regions have a BAR of at least four pages that can be mmap-ed."""
    return any(
        r["index"] <= vfio.VFIO_PCI_BAR5_REGION_INDEX
        and r["flags"] & vfio.VFIO_REGION_INFO_FLAG_MMAP
        and r["size"] >= 4 * _PAGE
        for r in capabilities.get("regions") or ()
    )
