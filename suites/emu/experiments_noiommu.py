# SPDX-License-Identifier: Apache-2.0
"""Experiments on a device in no-IOMMU mode: group, container, device, and the privilege they need."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script, succeeded
from harness.uapi import vfio
from suites.emu.experiments_emulated import CAP_SYS_RAWIO

_TYPE1, _TYPE1V2, _NOIOMMU = vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_NOIOMMU_IOMMU
_CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX


def _grouped(script: Script) -> int:
    """Open the group and set a new container for it; returns the index of SET_CONTAINER."""
    script.op("open_group", dev="dev0", out="g")
    script.op("open_container", out="c")
    return script.op("group_set_container", fd="g", container="c")


def _given(script: Script) -> int:
    """Get the device from a group with a VFIO_NOIOMMU_IOMMU container; returns the index of GET_DEVICE_FD."""
    _grouped(script)
    script.op("container_set_iommu", fd="c", type=_NOIOMMU)
    return script.op("group_get_device_fd", fd="g", dev="dev0", out="d")


@experiment("EMU-043", "EMU-044", "EMU-046", needs=("noiommu",), own_open=True)
def a_noiommu_container_has_no_translation(subject: Subject) -> Iterator[Script]:
    script = Script(fresh=False)
    joined = _grouped(script)
    here = [(joined, "errno", "==", 0)]
    offered = script.op("check_extension", fd="c", ext=_NOIOMMU)
    script.equals("EMU-043", offered, "ret", 1, "VFIO_NOIOMMU_IOMMU is offered").when(*here)
    for kind in (_TYPE1, _TYPE1V2):
        asked = script.op("check_extension", fd="c", ext=kind)
        script.equals("EMU-043", asked, "ret", 0, "type1 is not offered").when(*here)
        refused = script.op("container_set_iommu", fd="c", type=kind)
        script.is_refused("EMU-044", refused, expected="type1 is refused").when(*here)
    taken = script.op("container_set_iommu", fd="c", type=_NOIOMMU)
    script.succeeds("EMU-044", taken, "VFIO_NOIOMMU_IOMMU is taken").when(*here)
    there = [*here, (taken, "errno", "==", 0)]
    script.op("mmap", out="mem", n=4096, align=4096)
    mapped = script.op("dma_map", fd="c", mem="mem", n=4096, iova=0x1000000)
    script.is_refused("EMU-046", mapped, expected="MAP_DMA is refused").when(*there)
    info = script.op("ioctl", fd="c", nr=vfio.VFIO_IOMMU_GET_INFO, buf="10" + "00" * 15)
    script.is_refused("EMU-046", info, expected="VFIO_IOMMU_GET_INFO is refused").when(*there)
    yield script


@experiment("EMU-045", "EMU-052", needs=("noiommu",), own_open=True)
def a_noiommu_device_can_be_used(subject: Subject) -> Iterator[Script]:
    for _ in range(2):  # twice: the first time must have closed everything
        script = Script(fresh=False)
        given = _given(script)
        script.succeeds("EMU-045", given, "the device")
        info = script.op("device_info", fd="d")
        script.succeeds("EMU-045", info, "its info").when(succeeded(given))
        ids = script.op("region_read", fd="d", region=_CONFIG, off=0, n=4, width=4)
        script.equals(
            "EMU-045", ids, "hex", str(subject.capabilities["config_ids"]), "the device's ids"
        ).when(succeeded(given))
        for slot in ("d", "g", "c"):
            script.op("close", fd=slot)
        again = script.op("open_group", dev="dev0", out="g")
        script.succeeds("EMU-052", again, "the group")
        yield script


@experiment("EMU-047", "EMU-048", "EMU-049", needs=("noiommu",), own_open=True)
def noiommu_needs_sys_rawio(subject: Subject) -> Iterator[Script]:
    script = Script(fresh=False)
    script.op("fork", actor="p")
    dropped = script.op("act", actor="p", do=["drop_capability", {"caps": [CAP_SYS_RAWIO]}])
    refused = script.op("act", actor="p", do=["open_group", {"dev": "dev0", "out": "g"}])
    script.is_refused("EMU-047", refused, expected="an error").when(succeeded(dropped))
    yield script

    script = Script(fresh=False)
    script.op("open_group", dev="dev0", out="g")
    script.op("open_container", out="c")
    script.op("fork", actor="p")
    dropped = script.op("act", actor="p", do=["drop_capability", {"caps": [CAP_SYS_RAWIO]}])
    less = [(dropped, "errno", "==", 0)]
    refused = script.op("act", actor="p", do=["group_set_container", {"fd": "g", "container": "c"}])
    script.is_refused("EMU-048", refused, expected="an error").when(*less)
    joined = script.op("group_set_container", fd="g", container="c")
    script.succeeds("EMU-048", joined, "the privileged user gets it").when(*less)
    refused = script.op("act", actor="p", do=["container_set_iommu", {"fd": "c", "type": _NOIOMMU}])
    script.is_refused("EMU-049", refused, expected="an error").when(*less, succeeded(joined))
    taken = script.op("container_set_iommu", fd="c", type=_NOIOMMU)
    script.succeeds("EMU-049", taken, "the privileged user gets it").when(*less)
    script.op("exit", actor="p")
    script.op("wait", actor="p", timeout_ms=5000)
    yield script


@experiment("EMU-050", "EMU-051", needs=("noiommu",), own_open=True)
def an_iommufd_stands_in_for_a_noiommu_container(subject: Subject) -> Iterator[Script]:
    script = Script(fresh=False)
    script.op("open_iommufd", out="i")
    script.op("open_group", dev="dev0", out="g")
    joined = script.op("group_set_container", fd="g", container="i")
    script.succeeds("EMU-050", joined, "SET_CONTAINER succeeds")
    given = script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
    script.succeeds("EMU-050", given, "the device").when(succeeded(joined))
    info = script.op("device_info", fd="d")
    script.succeeds("EMU-050", info, "its info").when(succeeded(given))
    yield script

    script = Script(fresh=False)
    script.op("open_iommufd", out="i")
    script.op("ioas_alloc", fd="i", out="ioas")
    compat = script.op("iommu", fd="i", cmd="IOMMU_VFIO_IOAS", set={"ioas_id": "ioas", "op": 1})
    script.op("open_group", dev="dev0", out="g")
    joined = script.op("group_set_container", fd="g", container="i")
    given = script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
    script.is_refused("EMU-051", given, expected="an error").when(succeeded(compat))
    yield script
