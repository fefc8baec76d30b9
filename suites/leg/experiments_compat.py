# SPDX-License-Identifier: Apache-2.0
"""Experiments on an iommufd in place of the container: the old ioctls on an IOAS."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import iommufd, vfio
from suites.iom.program import FIRST, PAGE, Core
from suites.leg.program import INFO_BYTES

_GET, _SET, _CLEAR = iommufd.IOMMU_VFIO_IOAS_GET, iommufd.IOMMU_VFIO_IOAS_SET, iommufd.IOMMU_VFIO_IOAS_CLEAR
_V1, _V2 = vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU


def _ioas(core: Core, op: int, slot: str | int = 0) -> int:
    return core.io("IOMMU_VFIO_IOAS", {"ioas_id": slot, "op": op})


def _map(core: Core, iova: int, size: int, off: int = 0, **spoilt: int) -> int:
    fields = {"flags": 3, "iova": iova, "size": size, **spoilt}
    return core.io("VFIO_IOMMU_MAP_DMA", fields, mems={"vaddr": ["m", off]})


def _unmap(core: Core, iova: int, size: int, **spoilt: int) -> int:
    return core.io("VFIO_IOMMU_UNMAP_DMA", {"argsz": 24, "iova": iova, "size": size, **spoilt})


@experiment("LEG-084", "LEG-085", "LEG-086", "LEG-087", own_open=True)
def an_ioas_for_the_old_interface(subject: Subject) -> Iterator[Script]:
    """Steps: no IOAS set, one set, another set, cleared; each time ask what the iommufd supports."""
    core = Core()
    script = core.script
    core.ioas("b")
    core.memory(pages=4)
    script.equals("LEG-084", script.op("api_version", fd="f"), "ret", 0, "the version is 0")
    for kind in (_V1, _V2, vfio.VFIO_UNMAP_ALL):
        index = script.op("check_extension", fd="f", ext=kind)
        script.equals("LEG-084", index, "ret", 1, "it is supported")
    for unknown in (vfio.VFIO_UPDATE_VADDR, 0x7777, 2, 6):
        index = script.op("check_extension", fd="f", ext=unknown)
        script.equals("LEG-084", index, "ret", 0, "it is not supported")
    core.refused("LEG-085", _ioas(core, _GET), "nothing is set", errno.ENODEV)
    core.refused("LEG-086", script.op("container_set_iommu", fd="f", type=_V2), "nothing is set")
    core.refused("LEG-086", _map(core, FIRST, PAGE), "nothing is set")
    core.refused("LEG-086", _unmap(core, FIRST, PAGE), "nothing is set")
    core.refused("LEG-086", core.io("VFIO_IOMMU_GET_INFO", {"argsz": 64}), "nothing is set")
    for slot in ("a", "b", "a"):
        core.ok("LEG-085", _ioas(core, _SET, slot), "an IOAS is set")
        got = core.ok("LEG-085", _ioas(core, _GET), "it is told")
        # The next mapping shows which one is set.
        core.ok("LEG-087", core.map(FIRST, PAGE, ioas=slot), "it is that one")
        index = _unmap(core, FIRST, PAGE)
        core.is_("LEG-087", core.ok("LEG-087", index, "it is there"), "size", PAGE, "all of it")
        script.exceeds("LEG-085", got, "ioas_id", 0, "it has an id")
    core.ok("LEG-086", script.op("container_set_iommu", fd="f", type=_V2), "the type is there")
    for unknown in (0, 2, 8, 0x7777):
        core.refused("LEG-086", script.op("container_set_iommu", fd="f", type=unknown), "it is no such type")
    core.refused("LEG-085", _ioas(core, 9, "a"), "there is no such operation", errno.EOPNOTSUPP)
    core.ok("LEG-085", _ioas(core, _CLEAR), "it is cleared")
    core.refused("LEG-085", _ioas(core, _GET), "nothing is set any more", errno.ENODEV)
    core.refused("LEG-086", _map(core, FIRST, PAGE), "nothing is set any more")
    core.ok("LEG-085", core.map(FIRST, PAGE), "the IOAS is there still")
    yield script


@experiment("LEG-084", "LEG-088", own_open=True)
def what_an_iommufd_tells_of_its_type1(subject: Subject) -> Iterator[Script]:
    """Steps: GET_INFO with buffers of every size."""
    core = Core()
    script = core.script
    if subject.has("mock"):
        core.mock()
    else:
        core.device()
    _ioas(core, _SET, "a")

    def ask(size: int) -> int:
        return core.io("VFIO_IOMMU_GET_INFO", {"argsz": size})

    for size in (0, 8, 15):
        core.refused("LEG-088", ask(size), "the fixed part does not fit", errno.EINVAL)
    whole = core.ok("LEG-088", ask(INFO_BYTES), "it fits")
    core.is_("LEG-088", whole, "flags", 3, "page sizes and capabilities")
    script.at_least("LEG-088", whole, "iova_pgsizes", PAGE, "there are page sizes")
    script.equals("LEG-088", whole, "cap_offset", 24, "the chain is behind the structure")
    for size in (16, 24, 32, 40):
        small = core.ok("LEG-088", ask(size), "it is no error")
        core.is_("LEG-088", small, "argsz", Script.ref(whole, "argsz"), "the size needed")
        if size >= 24:
            core.is_("LEG-088", small, "cap_offset", 0, "there is no chain")
    core.io("VFIO_IOMMU_DIRTY_PAGES", {"argsz": 8, "flags": 1})
    index = script.op("check_extension", fd="f", ext=vfio.VFIO_DMA_CC_IOMMU)
    script.is_one_of("LEG-084", index, "ret", [0, 1], "it is coherent or not")
    yield script


@experiment("LEG-080", "LEG-081", "LEG-082", "LEG-083", "LEG-087", "LEG-089", own_open=True)
def maps_of_both_interfaces_meet(subject: Subject) -> Iterator[Script]:
    """Steps: unmap, copy and avoid maps of the other interface; with the old type1, unmap parts of maps."""
    core = Core()
    core.memory(pages=64)
    core.ioas("b")
    if subject.has("mock"):
        core.mock()
    else:
        core.device()
    core.ranges()
    _ioas(core, _SET, "a")
    core.io("VFIO_IOMMU_GET_INFO", {"argsz": INFO_BYTES})
    _map(core, FIRST, 8 * PAGE)
    core.refused("LEG-087", core.map(FIRST + PAGE, PAGE), "the old interface has mapped it", errno.EEXIST)
    core.map(FIRST + (1 << 20), 8 * PAGE)
    core.refused("LEG-087", _map(core, FIRST + (1 << 20), PAGE), "the new interface has mapped it")
    core.copy(FIRST, 8 * PAGE, FIRST)
    index = core.unmap(FIRST, 8 * PAGE)
    core.is_("LEG-087", core.ok("LEG-087", index, "it is there"), "length", 8 * PAGE, "all of it")
    index = _unmap(core, FIRST + (1 << 20), 8 * PAGE)
    core.is_("LEG-087", core.ok("LEG-087", index, "it is there"), "size", 8 * PAGE, "all of it")
    _unmap(core, FIRST, PAGE)
    _map(core, FIRST, 4 * PAGE)
    _map(core, FIRST + 4 * PAGE, 4 * PAGE, 4 * PAGE)
    _map(core, FIRST + 3 * PAGE, PAGE)
    _unmap(core, FIRST + PAGE, PAGE)
    _unmap(core, FIRST, 8 * PAGE)
    _map(core, FIRST, 4 * PAGE)
    _unmap(core, 0, 0, flags=2)
    for spoilt in ({"flags": 8}, {"flags": 1}, {"argsz": 8}):
        core.refused("LEG-081", _unmap(core, FIRST, PAGE, **spoilt), "it is not understood", errno.EINVAL)
    for spoilt in ({"flags": 8}, {"flags": 4}, {"argsz": 8}):
        core.refused("LEG-080", _map(core, FIRST, PAGE, **spoilt), "it is not understood", errno.EINVAL)
    yield core.script
    core = Core()
    core.memory(pages=64)
    if subject.has("mock"):
        core.mock()
    else:
        core.device()
    _ioas(core, _SET, "a")
    core.ok("LEG-089", core.script.op("container_set_iommu", fd="f", type=_V1), "the old type1 is there")
    core.ok("LEG-089", _map(core, FIRST, 32 * PAGE), "one mapping")
    for first, count in ((8, 4), (0, 1), (31, 1)):
        index = _unmap(core, FIRST + first * PAGE, count * PAGE)
        core.ok("LEG-089", index, "a part of it is unmapped")
        core.is_("LEG-089", index, "size", count * PAGE, "that part")
    for first, count in ((8, 4), (0, 1)):
        core.ok("LEG-089", _map(core, FIRST + first * PAGE, count * PAGE), "its addresses are free")
    core.refused("LEG-089", _map(core, FIRST + 12 * PAGE, PAGE), "what lies beside it is not")
    rest = _unmap(core, 0, 0, flags=2)
    core.is_("LEG-089", rest, "size", 31 * PAGE, "the rest is unmapped")
    yield core.script


@experiment("LEG-090", own_open=True)
def a_group_with_an_iommufd_for_its_container(subject: Subject) -> Iterator[Script]:
    """Steps: VFIO_GROUP_SET_CONTAINER with an iommufd.  Verify: it uses the IOAS set, or a new one."""
    if not subject.has("type1v2"):
        return
    for chosen in (False, True):
        core = Core()
        script = core.script
        core.memory(pages=4)
        if chosen:
            _ioas(core, _SET, "a")
        script.op("open_group", dev="dev0", out="g")
        joined = script.op("group_set_container", fd="g", container="f")
        core.ok("LEG-090", joined, "the group takes the iommufd")
        again = script.op("group_set_container", fd="g", container="f")
        core.refused("LEG-090", again, "it has a container")
        told = core.ok("LEG-090", _ioas(core, _GET), "there is an IOAS for it")
        if chosen:
            script.equals("LEG-090", told, "ioas_id", script.ref(1, "ioas"), "it is the one that was set")
        core.ok("LEG-090", script.op("container_set_iommu", fd="f", type=_V2), "the type is set")
        status = script.op("group_status", fd="g")
        script.equals("LEG-090", status, "flags", 3, "the group is viable, and has a container")
        core.ok("LEG-090", _map(core, FIRST, 2 * PAGE), "memory is mapped")
        device = script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
        core.ok("LEG-090", device, "the device is opened")
        core.ok("LEG-090", script.op("device_info", fd="d"), "it answers")
        unmapped = core.ok("LEG-090", _unmap(core, FIRST, 2 * PAGE), "memory is unmapped")
        core.is_("LEG-090", unmapped, "size", 2 * PAGE, "all of it")
        script.op("close", fd="d")
        core.ok("LEG-090", script.op("group_unset_container", fd="g"), "nobody uses the device any more")
        yield script
