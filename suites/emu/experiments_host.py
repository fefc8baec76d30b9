# SPDX-License-Identifier: Apache-2.0
"""Experiments on an emulated device seen from the host, a device in no-IOMMU mode, and one with UIO."""

from __future__ import annotations

import struct
from typing import Any
from uuid import UUID

from fixtures.experiment import experiment
from fixtures.rig import Rig
from harness.errors import LabError
from harness.program.script import Script
from harness.uapi import vfio
from suites.sel.matching import NO_DRIVER

_TAINT_USER = 1 << 6  # Documentation/admin-guide/tainted-kernels.rst
_BUS_MASTER = 1 << 2
_COMMAND = 4
_CREATE_ALLOCATIONS, _CREATE_S = 161, 60.0
_READ_S = 30.0
_APIS = {"vfio-pci": vfio.VFIO_DEVICE_FLAGS_PCI, "vfio-platform": vfio.VFIO_DEVICE_FLAGS_PLATFORM}
"""Values of device_api and the flag of each (vfio.h, VFIO_DEVICE_API_*_STRING)."""


@experiment("EMU-006", "EMU-020", "EMU-021", needs=("emulated",))
def what_sysfs_says_of_an_emulated_device(rig: Rig) -> None:
    """Verify: its group node is a number, GET_INFO matches its type's device_api, a used UUID is refused."""
    node = str(rig.connection.device["group"]).rpartition("/")[2]
    rig.observe("EMU-006", node.isdigit(), "/dev/vfio/N", node or "no group node")
    if not rig.capabilities.get("mdev"):
        return
    connection: Any = rig.connection
    path, wire = connection.ready.sysfs, connection.ready.wire
    api = _read(rig, f"cat {path}/mdev_type/device_api").strip()
    flags = int(rig.capabilities["flags"])
    if api in _APIS:
        rig.observe("EMU-020", bool(flags & _APIS[api]), f"GET_INFO says {api}", f"flags {flags:#x}")
    command = f"echo {wire['uuid']} > {path}/mdev_type/create"
    status, _, words = connection.exec(command, _READ_S)
    rig.observe("EMU-021", status != 0, "an error", words.decode(errors="replace")[:80] or "success")


@experiment("EMU-022", "EMU-023", needs=("mdev", "fault_injection"))
def a_device_made_while_memory_is_short(rig: Rig) -> None:
    """Steps: create a second device with one allocation failing, for each in turn; then without failures."""
    connection: Any = rig.connection
    second = {**connection.ready.wire, "uuid": str(UUID(int=rig.subject("short").rng.getrandbits(128)))}
    # The agent creates it once: its journal then removes the device, however this experiment ends.
    connection.agent.call("provision", device=second)
    create = f"{connection.ready.sysfs}/mdev_type/create"
    device = f"/sys/bus/mdev/devices/{second['uuid']}"
    gone = f"[ ! -e {device} ] || echo 1 > {device}/remove"
    make = f"echo {second['uuid']} > {create}"
    each = f"echo $n > /proc/self/fail-nth; {make}; echo 0 > /proc/self/fail-nth; {gone}"
    numbers = " ".join(str(n) for n in range(1, _CREATE_ALLOCATIONS))
    connection.exec(f"{gone}; for n in {numbers}; do {each}; done 2> /dev/null", _CREATE_S)
    status, _, words = connection.exec(f"{make}; test -e {device}", _READ_S)
    rig.observe(
        "EMU-022", status == 0, "it is made", words.decode(errors="replace")[:80] or "it is not there"
    )
    connection.exec(gone, _READ_S)
    rig.log.mainline_reports = {"vfio_create_group": "EMU-023"}
    rig.read_log()


@experiment("EMU-040", "EMU-041", "EMU-042", needs=("noiommu",))
def noiommu_mode_has_its_own_names_and_taints(rig: Rig) -> None:
    """Steps: bind with the mode off, then with it on.  The taint stays until the machine is restarted."""
    agent = rig.connection.agent
    # Unbind before the mode changes: the undo runs backwards, so it restores the mode before it binds.
    _rebound(rig, NO_DRIVER)
    _mode(rig, "N")
    without = _rebound(rig, "vfio-pci")
    _mode(rig, "Y")
    refused = without["driver"] is None and without["vfio_name"] is None
    rig.observe("EMU-040", refused, "no driver", f"{without['driver']}, {without['vfio_name']}")
    bound = _rebound(rig, "vfio-pci")
    found = agent.call("describe_device", device=_wire(rig))
    node = str(found["group"] or "").rpartition("/")[2]
    named = node.startswith("noiommu-") and bound["driver"] == "vfio-pci"
    rig.observe("EMU-041", named, "/dev/vfio/noiommu-N", node or "no group node")
    rig.observe("EMU-041", found["cdev"] is None, "no cdev", str(found["cdev"]))
    taint = int(agent.call("host_info")["taint"])
    rig.observe("EMU-042", bool(taint & _TAINT_USER), "TAINT_USER", f"taint {taint:#x}")
    rig.drop()


@experiment("EMU-060", "EMU-061", "EMU-062", "EMU-063", needs=("noiommu",))
def uio_is_no_vfio(rig: Rig) -> None:
    """Steps: bind to uio_pci_generic.  Verify: there is a UIO node and no VFIO node, and no new taint."""
    agent = rig.connection.agent
    if not agent.call("load_module", name="uio_pci_generic")["drivers"]:
        raise LabError(f"{rig.device_id}: this kernel has no uio_pci_generic")
    before = int(agent.call("host_info")["taint"])
    bound = _rebound(rig, "uio_pci_generic")
    path = str(agent.call("describe_device", device=_wire(rig))["path"])
    name = _read(rig, f"ls {path}/uio 2>/dev/null || true").strip()
    right = bound["driver"] == "uio_pci_generic" and name.startswith("uio") and bound["vfio_name"] is None
    rig.observe("EMU-060", right, "uioN and no vfioN", f"{name or 'no uio'}, {bound['vfio_name']}")
    after = int(agent.call("host_info")["taint"])
    rig.observe("EMU-062", after == before, f"taint {before:#x}", f"taint {after:#x}")
    if name.startswith("uio"):
        rig.run(_uio_program(f"/dev/{name}", f"{path}/config").to_json(), own=True)
    rig.drop()


def _uio_program(node: str, config: str) -> Script:
    """Send ioctls of VFIO to the UIO node; turn bus mastering on before closing it."""
    script = Script(fresh=False)
    opened = script.op("open", path=node, flags=["O_RDWR"], out="u")
    works = [(opened, "errno", "==", 0)]
    for name in ("VFIO_DEVICE_SET_IRQS", "VFIO_DEVICE_RESET", "VFIO_DEVICE_GET_INFO", "VFIO_IOMMU_MAP_DMA"):
        asked = script.op("ioctl", fd="u", nr=getattr(vfio, name), buf="20" + "00" * 31)
        script.is_refused("EMU-061", asked, expected=f"{name} is refused").when(*works)
    script.op("open", path=config, flags=["O_RDWR"], out="c")
    on = script.op("pwrite", fd="c", off=_COMMAND, hex=struct.pack("<H", _BUS_MASTER | 2).hex())
    shown = script.op("pread", fd="c", off=_COMMAND, n=2)
    script.op("close", fd="u")
    closed = script.op("pread", fd="c", off=_COMMAND, n=2)
    mastering = [
        *works,
        (on, "errno", "==", 0),
        (shown, "hex", "==", struct.pack("<H", _BUS_MASTER | 2).hex()),
    ]
    off = struct.pack("<H", 2).hex()
    script.equals("EMU-063", closed, "hex", off, "memory space on, bus mastering off").when(*mastering)
    return script


def _mode(rig: Rig, value: str) -> None:
    rig.connection.agent.call("set_parameter", module="vfio", name="enable_unsafe_noiommu_mode", value=value)


def _wire(rig: Rig) -> dict[str, Any]:
    connection: Any = rig.connection
    return dict(connection.ready.wire)


def _rebound(rig: Rig, driver: str) -> dict[str, Any]:
    answer = rig.connection.agent.call(
        "rebind", device=_wire(rig), override=driver, steps=["unbind", "probe"]
    )
    return dict(answer["seen"][-1])


def _read(rig: Rig, command: str) -> str:
    connection: Any = rig.connection
    status, out, err = connection.exec(command, _READ_S)
    if status != 0:
        raise LabError(f"{rig.device_id}: {command[:60]!r} failed: {err.decode(errors='replace')[:120]}")
    return str(out.decode("utf-8", "replace"))
