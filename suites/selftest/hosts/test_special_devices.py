# SPDX-License-Identifier: Apache-2.0
"""Devices that need preparation, on the lab: no-IOMMU mode, a VF and its PF; the host is restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.reach import embedded_host
from harness.errors import LabError
from harness.hosts.host import Host
from harness.hosts.inventory import DeviceSpec, embedded_devices
from harness.hosts.provision import provisioned
from harness.lab.embedded import EmbeddedLab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

EDU, PF, VF = {"pci": "0000:00:09.0"}, {"pci": "0000:02:00.0"}, {"pci": "0000:02:00.1"}
MODE = (
    "cat /sys/module/vfio/parameters/enable_unsafe_noiommu_mode /sys/module/vfio_pci/parameters/enable_sriov"
)


@pytest.fixture
def host(embedded_lab: EmbeddedLab) -> Iterator[Host]:
    """An agent of its own."""
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as connected:
        yield connected


def device(name: str) -> DeviceSpec:
    """A device of the built-in lab."""
    return next(spec for spec in embedded_devices() if spec.id == name)


def test_a_vf_and_its_pf_are_made_and_put_back(host: Host) -> None:
    """Verify: VFs, drivers, reset methods and the module's parameter are restored."""
    before = host.agent.call("snapshot_host", devices=[PF]), host.exec(MODE, 10.0)[1]
    with provisioned(host, device("nvme-token"), holder="me") as ready:
        assert ready.capabilities["vf_token_pair"]
        assert ready.described["driver"] == "vfio-pci"
        assert host.agent.call("describe_device", device=PF)["driver"] == "vfio-pci"
        assert [entry["device_name"] for entry in ready.companions] == [PF["pci"]]
    assert (host.agent.call("snapshot_host", devices=[PF]), host.exec(MODE, 10.0)[1]) == before
    assert host.exec(f"cat /sys/bus/pci/devices/{PF['pci']}/reset_method", 10.0)[1].strip()


def test_a_device_with_an_iommu_is_not_taken_for_one_without(host: Host) -> None:
    """`noiommu` in an entry whose device has an IOMMU: nothing is certified, nothing is changed."""
    spec = DeviceSpec.model_validate(
        {"id": "dut", "host": "embedded", "pci": "0000:00:04.0", "profile": "vfio_pci", "noiommu": True}
    )
    before = host.agent.call("snapshot_host", devices=[{"pci": "0000:00:04.0"}]), host.exec(MODE, 10.0)[1]
    with pytest.raises(LabError, match="an IOMMU stands behind it"), provisioned(host, spec, holder="me"):
        pytest.fail("it was taken")
    after = host.agent.call("snapshot_host", devices=[{"pci": "0000:00:04.0"}]), host.exec(MODE, 10.0)[1]
    assert after == before


def test_noiommu_mode_taints_and_is_turned_off_again(host: Host, embedded_lab: EmbeddedLab) -> None:
    """The names, the taint, and the parameter afterwards; a fresh machine has no taint."""
    try:
        with provisioned(host, device("edu-noiommu"), holder="me") as ready:
            assert ready.group.startswith("/dev/vfio/noiommu-")
            assert not ready.cdev
            assert int(host.agent.call("host_info")["taint"]) & 64
        assert host.agent.call("describe_device", device=EDU)["driver"] is None
        assert host.exec(MODE, 10.0)[1].split()[0] == b"N"
    finally:
        embedded_lab.reset()
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as fresh:
        assert not int(fresh.agent.call("host_info")["taint"]) & 64
