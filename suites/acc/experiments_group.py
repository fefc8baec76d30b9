# SPDX-License-Identifier: Apache-2.0
"""Experiments on the group: its container, device fds and status, and that it excludes the cdev."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.uapi import vfio
from harness.uapi.layout import nr as number_of
from suites.acc.program import History

_CLOSED_FD = 1_000_000
_NO_SUCH_TYPE = 0x7FFF0000
_TYPE1, _TYPE1V2 = vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU
_WRONG_NAMES = ("", "0000:ff:1f.7", "vfio0", "00000000-0000-0000-0000-000000000000", "x" * 4000)


@experiment(
    "ACC-002", "ACC-010", "ACC-050", "ACC-052", "ACC-054", "ACC-055", "ACC-065", "ACC-070", "ACC-080",
    own_open=True,
)  # fmt: skip
def group_and_cdev_exclude_each_other(subject: Subject) -> Iterator[History]:
    if not subject.has("group"):
        return
    h = History(subject)
    idle, i = h.cdev(), h.iommufd()
    g = h.group()
    h.op("group_status", fd=g)
    h.op("bind", fd=idle, iommufd=i)
    h.try_group()
    h.try_cdev()
    h.close(g)
    h.op("bind", fd=idle, iommufd=i)
    h.uses(idle)
    h.try_group()
    h.uses(idle)
    h.close(idle)
    h.try_group()
    h.close(i)
    h.free()
    yield h


@experiment(
    "ACC-010", "ACC-017", "ACC-018", "ACC-052", "ACC-054", "ACC-083", "ACC-091", "ACC-095", "ACC-097",
    "ACC-098", own_open=True,
)  # fmt: skip
def a_device_in_legacy_use_is_nobody_elses(subject: Subject) -> Iterator[History]:
    if not subject.has("legacy"):
        return
    h = History(subject)
    g = h.group()
    h.try_cdev()
    c = h.container(g)
    h.try_cdev()
    d, again = h.given(g), h.given(g)
    h.uses(d)
    h.uses(again)
    h.try_cdev()
    h.try_group()
    h.uses(d)
    i = h.iommufd()
    space = h.ioas(i)
    h.op("bind", fd=d, iommufd=i)
    h.op("attach", fd=d, pt=space)
    h.op("detach", fd=d)
    h.close(d)
    h.try_cdev()
    h.uses(again)
    h.close(again, g, c, i)
    h.free()
    yield h


@experiment("ACC-065", "ACC-070", "ACC-073", "ACC-098", own_open=True)
def legacy_descriptors_close_in_any_order(subject: Subject) -> Iterator[History]:
    if not subject.has("legacy"):
        return
    orders = ("gcd", "gdc", "cgd", "cdg", "dgc", "dcg")
    for order in orders:
        h = History(subject)
        g = h.group()
        c = h.container(g)
        d = h.given(g)
        names = {"g": g, "c": c, "d": d}
        for n, letter in enumerate(order):
            h.close(names[letter])
            left = order[n + 1 :]
            if "d" in left:
                use = h.uses(d)
                h.succeeds("ACC-098", use, f"the device works after close of {order[: n + 1]}")
            if left:
                h.try_group()
                if "g" in left or "d" in left:
                    h.try_cdev()
        h.free()
        yield h


@experiment(
    "ACC-080", "ACC-081", "ACC-082", "ACC-083", "ACC-084", "ACC-085", "ACC-086", "ACC-088", "ACC-089",
    "ACC-090", "ACC-091", "ACC-092", "ACC-093", "ACC-103", own_open=True,
)  # fmt: skip
def a_group_has_one_container(subject: Subject) -> Iterator[History]:
    if not subject.has("legacy"):
        return
    h = History(subject)
    g = h.group()
    h.op("group_status", fd=g)
    for argsz in (0, 4, 7):
        h.op("group_status", fd=g, argsz=argsz)
    h.op("group_unset_container", fd=g)
    h.given(g)
    h.op("eventfd", out="event")
    h.op("open", path="/dev/null", out="null")
    for fd in ("event", "null", g, -1, _CLOSED_FD):
        h.op("group_set_container", fd=g, container=fd)
    h.op("open_container", out="c1")
    h.op("open_container", out="c2")
    h.op("container_set_iommu", fd="c1", type=_TYPE1)
    h.op("group_set_container", fd=g, container="c1")
    h.op("group_status", fd=g)
    h.given(g)
    h.op("group_set_container", fd=g, container="c1")
    h.op("group_set_container", fd=g, container="c2")
    h.op("container_set_iommu", fd="c1", type=_NO_SUCH_TYPE)
    h.op("container_set_iommu", fd="c2", type=_TYPE1)
    h.op("container_set_iommu", fd="c1", type=_TYPE1)
    h.op("container_set_iommu", fd="c1", type=_TYPE1V2)
    h.op("group_status", fd=g)
    h.op("group_unset_container", fd=g)
    h.op("group_status", fd=g)
    h.op("container_set_iommu", fd="c1", type=_TYPE1)
    h.given(g)
    h.op("group_set_container", fd=g, container="c2")
    h.op("container_set_iommu", fd="c2", type=_TYPE1V2)
    d = h.given(g)
    h.uses(d)
    h.close(d)
    h.op("group_unset_container", fd=g)
    h.op("group_set_container", fd=g, container="c1")
    h.op("container_set_iommu", fd="c1", type=_TYPE1V2)
    h.close("c1", "c2", g)
    h.free()
    yield h


@experiment("ACC-087", "ACC-088", "ACC-095", own_open=True)
def a_container_cannot_be_taken_from_open_devices(subject: Subject) -> Iterator[History]:
    if not subject.has("legacy"):
        return
    h = History(subject)
    g = h.group()
    c = h.container(g)
    d = h.given(g)
    h.op("group_unset_container", fd=g)
    h.op("group_status", fd=g)
    h.uses(d)
    h.op("dup", fd=d, out="copy")
    h.close(d)
    h.op("group_unset_container", fd=g)
    h.uses("copy")
    h.close("copy")
    h.op("group_unset_container", fd=g)
    h.close(g, c)
    h.free()
    yield h


@experiment("ACC-007", "ACC-094", "ACC-095", "ACC-101", own_open=True)
def a_group_gives_its_own_devices_by_name(subject: Subject) -> Iterator[History]:
    if not subject.has("legacy"):
        return
    h = History(subject)
    g = h.group()
    c = h.container(g)
    for name in _WRONG_NAMES:
        h.op("group_get_device_fd", fd=g, name=name, out="none")
    for dev in h.groups:
        d = h.given(g, dev=dev)
        h.uses(d)
        h.close(d)
    for nr in (number_of(0x63), number_of(0xFF), vfio.VFIO_DEVICE_GET_INFO, vfio.VFIO_GET_API_VERSION):
        i = h.op("ioctl", fd=g, nr=nr, buf="00" * 64)
        h.is_refused("ACC-101", i, expected="a request that is none of a group's is refused")
    for nr in (vfio.VFIO_GROUP_GET_STATUS, vfio.VFIO_GROUP_SET_CONTAINER, vfio.VFIO_GROUP_GET_DEVICE_FD):
        i = h.op("ioctl", fd=g, nr=nr, arg=0)
        h.is_refused("ACC-101", i, expected="a request of no memory is refused")
    h.close(g, c)
    h.free()
    yield h


@experiment("ACC-089", "ACC-091", "ACC-099", "ACC-100", "ACC-102", "ACC-103", own_open=True)
def a_container_gives_little_by_itself(subject: Subject) -> Iterator[History]:
    if not subject.has("legacy"):
        return
    h = History(subject)
    h.op("open_container", out="c")
    version = h.op("api_version", fd="c")
    h.equals("ACC-099", version, "ret", 0, "API version 0")

    def extension(number: int, *, supported: bool = True) -> None:
        i = h.op("check_extension", fd="c", ext=number)
        if supported:
            h.exceeds("ACC-100", i, "ret", 0, f"CHECK_EXTENSION({number}) is supported")
        else:
            h.equals("ACC-100", i, "ret", 0, f"CHECK_EXTENSION({number}) is not supported")

    def locked(clause: str) -> None:
        for name, size in (
            ("VFIO_IOMMU_GET_INFO", 16),
            ("VFIO_IOMMU_MAP_DMA", 32),
            ("VFIO_IOMMU_UNMAP_DMA", 24),
        ):
            i = h.op(
                "ioctl", fd="c", nr=getattr(vfio, name), buf=size.to_bytes(4, "little").hex() + "00" * 60
            )
            h.is_refused(clause, i, expected=f"{name} is refused")

    extension(_TYPE1)
    extension(_NO_SUCH_TYPE, supported=False)
    locked("ACC-102")
    g = h.group()
    h.op("group_set_container", fd=g, container="c")
    locked("ACC-102")
    extension(_TYPE1V2)
    h.op("container_set_iommu", fd="c", type=_TYPE1V2)
    extension(_TYPE1V2)
    extension(_NO_SUCH_TYPE, supported=False)
    info = h.op("ioctl", fd="c", nr=vfio.VFIO_IOMMU_GET_INFO, buf="10000000" + "00" * 60)
    h.succeeds("ACC-091", info, "VFIO_IOMMU_GET_INFO works after SET_IOMMU")
    h.op("group_unset_container", fd=g)
    locked("ACC-103")
    h.op("container_set_iommu", fd="c", type=_TYPE1)
    h.close("c", g)
    h.free()
    yield h


@experiment("ACC-074", "ACC-075", "ACC-093", "ACC-104", own_open=True)
def an_iommufd_can_be_a_groups_container(subject: Subject) -> Iterator[History]:
    """Steps: use a device of a group that has an iommufd.  Verify: it works, other users are refused.

    Every fd is closed before there is a second user: in Linux 7.2 a second user with a container made
    vfio_group_unuse_container() put a reference that nobody had taken.
    """
    if not subject.has("group"):
        return
    h = History(subject)
    g, i = h.group(), h.iommufd()
    h.op("group_set_container", fd=g, container=i)
    h.op("group_status", fd=g)
    d = h.given(g)
    h.uses(d)
    h.try_group()
    h.try_cdev()
    h.close(g)
    h.try_cdev()
    h.uses(d)
    h.try_group()
    h.close(d, i)
    h.free()
    yield h
    h = History(subject)
    g, i = h.group(), h.iommufd()
    h.op("group_set_container", fd=g, container=i)
    d = h.given(g)
    h.op("group_unset_container", fd=g)
    h.close(d, g, i)
    h.free()
    yield h


@experiment(
    "ACC-003", "ACC-007", "ACC-110", "ACC-111", "ACC-112", "ACC-113", "ACC-114", "ACC-115", "ACC-116",
    "ACC-117", "ACC-118", "ACC-119", "ACC-120", "ACC-121", own_open=True,
)  # fmt: skip
def a_hot_reset_wants_proof_of_ownership(subject: Subject) -> Iterator[History]:
    if not subject.has("hot_reset"):
        return
    h = History(subject)
    idle = h.cdev()
    h.op("hot_reset_info", fd=idle)
    h.op("hot_reset", fd=idle, fds=[])
    d, i = h.bound()
    for argsz in (0, 8, 11, 12, 19):
        h.op("hot_reset_info", fd=d, argsz=argsz)
    h.op("hot_reset_info", fd=d)
    for flags in (1, 1 << 31):
        h.op("hot_reset", fd=d, fds=[], flags=flags)
    for argsz in (0, 8, 11):
        h.op("hot_reset", fd=d, fds=[], argsz=argsz)
    h.op("eventfd", out="event")
    for fds in (["event"], [d], [i]):
        h.op("hot_reset", fd=d, fds=fds)
    h.op("hot_reset", fd=d, fds=[])
    h.uses(d)
    if subject.has("shared_group"):
        other = h.cdev(dev="dev1")
        h.op("bind", fd=other, iommufd=i)
        h.op("hot_reset_info", fd=d)
        h.op("hot_reset_info", fd=other)
        h.op("hot_reset", fd=other, fds=[])
        h.uses(d)
        h.uses(other)
        h.close(other)
        h.op("hot_reset_info", fd=d)
    h.close(d, i)
    h.free()
    yield h
    if not subject.has("legacy"):
        return
    h = History(subject)
    g = h.group()
    c = h.container(g)
    d = h.given(g)
    h.op("eventfd", out="event")
    h.op("hot_reset_info", fd=d)
    for fds in ([], ["event"], [c], [d], [g, "event"]):
        h.op("hot_reset", fd=d, fds=fds)
    h.op("hot_reset", fd=d, fds=[g], flags=2)
    h.op("hot_reset", fd=d, fds=[g])
    h.uses(d)
    h.close(d, g, c)
    h.free()
    yield h
