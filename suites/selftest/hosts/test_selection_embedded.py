# SPDX-License-Identifier: Apache-2.0
"""Driver selection against what the lab's kernel binds: equals, an absent module, a VF and its PF."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.reach import embedded_host
from harness.commands.devices.explain import host_aliases
from harness.errors import LabError
from harness.hosts.driver_choice import choose
from harness.hosts.host import Host
from harness.hosts.inventory import DeviceSpec
from harness.hosts.provision import provisioned
from harness.lab.embedded import EmbeddedLab
from harness.lab.modfile import read_module
from harness.lab.outoftree import REFERENCE_MODULES, build_module, install_command
from harness.progress import NoProgress

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
EDU = {"pci": "0000:00:05.0"}
NVME, NVME_VF = {"pci": "0000:02:00.0"}, {"pci": "0000:02:00.1"}
INDEX = '"/lib/modules/$(uname -r)/modules.alias"'


@pytest.fixture
def host(embedded_lab: EmbeddedLab) -> Iterator[Host]:
    """An agent whose changes are undone at the end, on a lab that has the variant driver for edu."""
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as connected:
        (module,) = build_module(embedded_lab.kernel, REFERENCE_MODULES["edu_vfio_pci"], NoProgress())
        command = install_command(embedded_lab.kernel, module)
        assert connected.exec(command, 60.0, module.read_bytes())[0] == 0
        yield connected


@contextlib.contextmanager
def extra_alias(host: Host, line: str) -> Iterator[None]:
    """One more line in the lab's modules.alias."""
    assert host.exec(f"cp {INDEX} /tmp/alias.saved && echo '{line}' >> {INDEX}", 10.0)[0] == 0
    try:
        yield
    finally:
        host.exec(f"mv /tmp/alias.saved {INDEX}", 10.0)


def modalias(host: Host, device: dict[str, str]) -> str:
    """The device's modalias."""
    return str(host.agent.call("describe_device", device=device)["modalias"])


def spec(device: dict[str, str], profile: str) -> DeviceSpec:
    """An inventory entry for it."""
    fields = {"id": "dut", "host": "embedded", "profile": profile, **device}
    return DeviceSpec.model_validate(fields)


def test_of_two_equally_specific_drivers_the_override_decides(host: Host, embedded_lab: EmbeddedLab) -> None:
    """Both candidates are reported, and each is bound when driver_override names it."""
    (module,) = build_module(embedded_lab.kernel, ROOT / "fixtures/selection/twin", NoProgress())
    alias = read_module(module).aliases[0]
    with extra_alias(host, f"alias {alias} edu_twin_vfio_pci"):
        choice = choose(modalias(host, EDU), host_aliases(host))
    assert (choice.module, choice.tied) == ("edu_vfio_pci", ("edu_twin_vfio_pci",))
    image = base64.b64encode(module.read_bytes()).decode()
    host.agent.call("insmod", name="edu_twin_vfio_pci", image_b64=image)
    for name, wanted in (("edu_twin_vfio_pci", "edu-twin"), ("edu_vfio_pci", "edu_vfio_pci")):
        assert wanted in host.agent.call("load_module", name=name)["drivers"]
        seen = host.agent.call("rebind", device=EDU, override=wanted, steps=["unbind", "probe"])["seen"]
        assert (seen[-1]["driver"], seen[-1]["module"]) == (wanted, name)
        assert seen[-1]["vfio_name"]


def test_an_alias_of_an_absent_module_is_the_labs_fault(host: Host) -> None:
    """It is the most specific, so it is chosen; it cannot be loaded; nothing is changed."""
    line = "alias vfio_pci:v00001234d000011E8sv00001AF4sd*bc*sc*i* absent_vfio_pci"
    before = host.agent.call("snapshot_host", devices=[EDU])
    with extra_alias(host, line):
        assert choose(modalias(host, EDU), host_aliases(host)).module == "absent_vfio_pci"
        device = spec(EDU, "generic")
        with pytest.raises(LabError, match="absent_vfio_pci"), provisioned(host, device, holder="me"):
            pytest.fail("it was bound")
    assert host.agent.call("snapshot_host", devices=[EDU]) == before


def test_without_a_named_driver_the_choice_is_bound(host: Host) -> None:
    """Provisioning a device whose profile names no driver binds what the library chooses."""
    chosen = choose(modalias(host, EDU), host_aliases(host)).module
    assert chosen == "edu_vfio_pci"
    with provisioned(host, spec(EDU, "generic"), holder="me") as ready:
        assert ready.module == chosen


def test_a_virtual_function_is_bound_beside_its_physical_function(host: Host) -> None:
    """The VF goes to vfio-pci by the alias that matches all; its PF stays with nvme."""
    host.agent.call("sriov", device=NVME, numvfs=1)
    try:
        choice = choose(modalias(host, NVME_VF), host_aliases(host))
        assert choice.module == "vfio_pci"
        seen = host.agent.call("rebind", device=NVME_VF, override="vfio-pci", steps=["unbind", "probe"])[
            "seen"
        ]
        assert seen[-1]["driver"] == "vfio-pci"
        assert host.agent.call("describe_device", device=NVME)["driver"] == "nvme"
    finally:
        assert not [e for e in host.agent.call("undo", run=host.info.run) if "failed" in str(e.get("status"))]
    assert host.agent.call("describe_device", device=NVME)["sriov_numvfs"] == 0
