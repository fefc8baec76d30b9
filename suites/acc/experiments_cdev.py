# SPDX-License-Identifier: Apache-2.0
"""Experiments on the cdev: before BIND, BIND, ATTACH and DETACH, and the format of their structs.

`harness.oracle.ownership_rules` decides what may succeed; an experiment only makes the calls.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import succeeded
from harness.uapi import vfio
from suites.acc.program import History

_CLOSED_FD = 1_000_000
_BEFORE_BIND = {
    "VFIO_DEVICE_GET_INFO": 24, "VFIO_DEVICE_GET_REGION_INFO": 32, "VFIO_DEVICE_GET_IRQ_INFO": 16,
    "VFIO_DEVICE_SET_IRQS": 20, "VFIO_DEVICE_RESET": 0, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO": 12,
    "VFIO_DEVICE_PCI_HOT_RESET": 12, "VFIO_DEVICE_IOEVENTFD": 32, "VFIO_DEVICE_FEATURE": 8,
    "VFIO_DEVICE_ATTACH_IOMMUFD_PT": 12, "VFIO_DEVICE_DETACH_IOMMUFD_PT": 8,
}  # fmt: skip


@experiment("ACC-001", "ACC-003", "ACC-004", "ACC-005", "ACC-007", own_open=True)
def before_bind_a_cdev_gives_nothing(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.cdev(), h.iommufd()
    space = h.ioas(i)
    for name, size in _BEFORE_BIND.items():
        h.op("ioctl", fd=d, nr=getattr(vfio, name), buf=size.to_bytes(4, "little").hex() + "00" * 60)
    h.op("device_info", fd=d)
    h.op("attach", fd=d, pt=space)
    h.op("detach", fd=d)
    regions = subject.capabilities.get("regions") or ()
    for region in [r for r in regions if r["size"]][:3]:
        h.op("pread", fd=d, off=region["offset"], n=4)
        h.op("pwrite", fd=d, off=region["offset"], hex="00000000")
        h.op("mmap", fd=d, off=region["offset"], n=4096, out="m")
    h.op("bind", fd=d, iommufd=i)
    h.uses(d)
    h.close(d, i)
    h.free()
    yield h


@experiment(
    "ACC-002", "ACC-005", "ACC-006", "ACC-007", "ACC-008", "ACC-009", "ACC-010", "ACC-020", "ACC-050",
    "ACC-055", "ACC-065", "ACC-070", own_open=True,
)  # fmt: skip
def a_bound_device_has_one_owner(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.bound()
    other = h.iommufd()
    h.op("bind", fd=d, iommufd=i)
    h.uses(d)
    h.op("bind", fd=d, iommufd=other)
    h.uses(d)
    second = h.cdev()
    for iommufd in (i, other):
        h.op("bind", fd=second, iommufd=iommufd)
        h.uses(d)
    h.uses(second)
    h.try_group()
    h.close(i)
    h.uses(d)
    h.try_cdev()
    h.try_group()
    h.uses(d)
    h.close(d)
    h.op("bind", fd=second, iommufd=other)
    h.uses(second)
    h.close(second, other)
    h.free()
    yield h


@experiment(
    "ACC-005", "ACC-011", "ACC-012", "ACC-013", "ACC-014", "ACC-015", "ACC-016", "ACC-055", own_open=True,
)  # fmt: skip
def bind_takes_only_an_iommufd(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.cdev(), h.iommufd()
    h.op("eventfd", out="event")
    h.op("open", path="/dev/null", out="null")
    h.op("socketpair", out=["s0", "s1"])
    for number in (-1, -100, _CLOSED_FD):
        h.op("bind", fd=d, iommufd=number)
    for slot in ("event", "null", "s0", d):
        h.op("bind", fd=d, iommufd=slot)
    if subject.has("legacy"):
        h.op("open_container", out="c")
        h.op("bind", fd=d, iommufd="c")
    for argsz in (0, 4, 8, 12, 15):
        h.op("bind", fd=d, iommufd=i, argsz=argsz)
    for bit in range(1, 32):
        h.op("bind", fd=d, iommufd=i, flags=1 << bit)
    h.op("bind", fd=d, iommufd=i, flags=0xFFFFFFFE)
    h.try_group()
    h.op("bind", fd=d, iommufd=i)
    h.uses(d)
    h.close(d)
    for argsz in (24, 32, 64, 4096):
        d = h.cdev()
        h.op("bind", fd=d, iommufd=i, argsz=argsz)
        h.close(d)
    h.close(i)
    h.free()
    yield h


@experiment(
    "ACC-025", "ACC-026", "ACC-027", "ACC-028", "ACC-029", "ACC-030", "ACC-031", "ACC-032", "ACC-033",
    "ACC-034", "ACC-039", own_open=True,
)  # fmt: skip
def attach_replace_and_detach(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.bound()
    one, two = h.ioas(i), h.ioas(i)
    h.op("attach", fd=d, pt=one)
    h.op("destroy", fd=i, id=one)
    h.op("attach", fd=d, pt=0x7FFFFFFF)
    h.op("destroy", fd=i, id=one)
    h.op("attach", fd=d, pt=two)
    h.op("destroy", fd=i, id=two)
    h.op("destroy", fd=i, id=one)
    h.op("detach", fd=d)
    h.op("attach", fd=d, pt=two)
    h.op("detach", fd=d)
    h.op("destroy", fd=i, id=two)
    three = h.ioas(i)
    h.op("attach", fd=d, pt=three)
    h.close(d)
    h.op("destroy", fd=i, id=three)
    h.close(i)
    h.free()
    yield h
    h = History(subject)
    d, i = h.cdev(), h.iommufd()
    h.op("bind", fd=d, iommufd=i, out="id")
    h.op("attach", fd=d, pt="id")
    foreign = h.iommufd()
    for _ in range(6):
        space = h.ioas(foreign)
    h.op("attach", fd=d, pt=space)
    mine = h.ioas(i)
    h.op("attach", fd=d, pt=mine)
    h.op("attach", fd=d, pt=mine)
    h.op("attach", fd=d, pt="id")
    h.op("destroy", fd=i, id=mine)
    h.op("attach", fd=d, pt=0)
    h.uses(d)
    h.op("detach", fd=d)
    h.op("destroy", fd=i, id=mine)
    h.close(d, i, foreign)
    h.free()
    yield h


@experiment("ACC-025", "ACC-033", "ACC-035", "ACC-036", "ACC-037", own_open=True)
def attach_and_detach_check_their_structs(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.bound()
    space = h.ioas(i)
    for attached in (False, True):
        if attached:
            h.op("attach", fd=d, pt=space)
        for argsz in (0, 4, 8, 11):
            h.op("attach", fd=d, pt=space, argsz=argsz)
        for argsz in (0, 4, 7):
            h.op("detach", fd=d, argsz=argsz)
        for bit in range(1, 32):
            h.op("attach", fd=d, pt=space, flags=1 << bit)
            h.op("detach", fd=d, flags=1 << bit)
        h.op("attach", fd=d, pt=space, flags=1, pasid=1, argsz=12)
        h.op("detach", fd=d, flags=1, pasid=1, argsz=8)
    h.op("detach", fd=d)
    h.op("attach", fd=d, pt=space, argsz=64)
    h.op("detach", fd=d, argsz=64)
    h.close(d, i)
    h.free()
    yield h


@experiment("ACC-003", "ACC-005", "ACC-021", "ACC-041", own_open=True)
def an_answer_that_cannot_be_written_is_a_failure(subject: Subject) -> Iterator[History]:
    """Steps: BIND and ATTACH with structs in read-only memory, or none.  Verify: refused, no effect."""
    h = History(subject)
    d, i = h.cdev(), h.iommufd()
    h.op("ioctl", fd=d, nr=vfio.VFIO_DEVICE_BIND_IOMMUFD, arg=0)
    bind = struct.pack("=IIiI", 16, 0, 0, 0).hex()
    no = h.op("ioctl_readonly", fd=d, nr=vfio.VFIO_DEVICE_BIND_IOMMUFD, buf=bind, fds=[[8, i]])
    h.is_refused("ACC-021", no, expected="BIND cannot write its answer")
    after = h.uses(d)
    h.is_refused("ACC-021", after, expected="the device is not bound")
    h.try_group()
    h.op("bind", fd=d, iommufd=i)
    h.uses(d)
    space = "as1"
    alloc = h.op("ioas_alloc", fd=i, out=space)
    for name in ("VFIO_DEVICE_ATTACH_IOMMUFD_PT", "VFIO_DEVICE_DETACH_IOMMUFD_PT", "VFIO_DEVICE_GET_INFO",
                 "VFIO_DEVICE_GET_REGION_INFO", "VFIO_DEVICE_GET_IRQ_INFO", "VFIO_DEVICE_SET_IRQS",
                 "VFIO_DEVICE_FEATURE", "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
                 "VFIO_DEVICE_PCI_HOT_RESET", "VFIO_DEVICE_IOEVENTFD"):  # fmt: skip
        wrong = h.op("ioctl", fd=d, nr=getattr(vfio, name), arg=0)
        h.is_refused("ACC-041" if "ATTACH" in name else "ACC-021", wrong, expected=f"{name} of no memory")
    for number in range(1, 8):  # one of them is the IOAS
        attach = struct.pack("=III", 12, 0, number).hex()
        no = h.op("ioctl_readonly", fd=d, nr=vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, buf=attach)
        h.is_refused("ACC-041", no, expected="ATTACH cannot write its answer")
    gone = h.op("destroy", fd=i, id=space)
    h.succeeds("ACC-041", gone, "nothing is attached to the IOAS").when(succeeded(alloc))
    h.close(d, i)
    h.free()
    yield h


@experiment("ACC-007", "ACC-025", "ACC-033", own_open=True)
def pasid_requests_leave_the_device_usable(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.bound()
    one, two = h.ioas(i), h.ioas(i)
    for pasid in (1, 2, 0xFFFFF, 0xFFFFFFFF):
        h.op("attach", fd=d, pt=one, flags=1, pasid=pasid, argsz=16)
        h.op("attach", fd=d, pt=two, flags=1, pasid=pasid, argsz=16)
        h.op("detach", fd=d, flags=1, pasid=pasid, argsz=12)
        h.op("detach", fd=d, flags=1, pasid=pasid, argsz=12)
    h.uses(d)
    h.close(d)
    d = h.cdev()
    h.op("bind", fd=d, iommufd=i)
    space = h.ioas(i)
    h.op("attach", fd=d, pt=space)
    h.op("detach", fd=d)
    h.close(d, i)
    h.free()
    yield h


@experiment("ACC-130", "ACC-131", own_open=True)
def the_node_is_named_in_sysfs(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.bound()
    node = h.op("stat", fd=d)
    if subject.has("cdev_name"):
        name = str(subject.capabilities["cdev_name"])
        number = h.op("read_text", path=f"/sys/class/vfio-dev/{name}/dev")
        h.succeeds("ACC-130", number, "sysfs knows the cdev")
        h.equals("ACC-130", number, "text", h.ref(node, "rdev"), "the device number of the node")
    info = h.op("fdinfo", fd=d)
    if subject.has("sysfs"):
        path = str(subject.capabilities["sysfs"])
        h.contains("ACC-131", info, "text", f"vfio-device-syspath: {path}\n", "the device's path").when(
            (info, "text", "contains", "vfio-device-syspath")
        )
    h.close(d, i)
    yield h
