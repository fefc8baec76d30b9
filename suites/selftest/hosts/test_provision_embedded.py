# SPDX-License-Identifier: Apache-2.0
"""Provisioning on the embedded lab: real devices are bound, made, probed, refused, and put back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.reach import embedded_host
from harness.errors import LabError
from harness.hosts.host import Host
from harness.hosts.inventory import DeviceSpec, embedded_devices
from harness.hosts.lease import current_leases
from harness.hosts.provision import provisioned, wire_device

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
MTTY0, MTTY1 = embedded_devices()[:2]
EDU, EDU2 = "0000:00:04.0", "0000:00:05.0"
NVME, NVME_VF = "0000:02:00.0", "0000:02:00.1"
NETWORK = "0000:00:02.0"


def pci(bdf, **more):
    fields = {"id": "dut", "host": "embedded", "pci": bdf, "profile": "vfio_pci", **more}
    return DeviceSpec.model_validate(fields)


@pytest.fixture
def host(embedded_lab):
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as connected:
        yield connected


@pytest.fixture
def other(embedded_lab):
    """A second agent on the same host: another run."""
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as connected:
        yield connected


def photograph(host):
    wires = [{"pci": bdf} for bdf in (EDU, EDU2, NVME, NETWORK)]
    return host.agent.call("snapshot_host", devices=wires)


def refused(host, device, **arguments):
    before = photograph(host)
    with pytest.raises(LabError) as caught, provisioned(host, device, holder="me", **arguments):
        pytest.fail("the body must not run")
    assert photograph(host) == before
    return str(caught.value)


def test_mtty_is_made_probed_and_removed(host):
    before = photograph(host)
    with provisioned(host, MTTY0, holder="me") as ready:
        assert ready.driver == "mtty"
        assert ready.capabilities["migration"] == ["STOP_COPY", "P2P", "PRE_COPY"]
        assert ready.capabilities["data_size"]
        assert ready.capabilities["dma_logging"]
        assert ready.capabilities["debugfs_state"]
        assert ready.region_sizes[0] == 8
        assert ready.region_sizes[1] == 0
        assert photograph(host) != before
    assert photograph(host) == before


def test_mtty_with_two_ports_has_two_regions(host):
    with provisioned(host, MTTY1, holder="me") as ready:
        assert [r.region for r in ready.profile.present_state(ready.region_sizes)] == [0, 1]


def test_pci_device_is_bound_and_given_back(host):
    before = photograph(host)
    with provisioned(host, pci(EDU), holder="me") as ready:
        assert ready.driver == "vfio-pci"
        assert ready.capabilities["migration"] == []
        assert ready.capabilities["reset_flag"] == ready.capabilities["reset"]
        assert ready.region_sizes[0] == 1 << 20
    assert photograph(host) == before


def test_bound_driver_comes_back(host):
    with provisioned(host, pci(NVME), holder="me") as ready:
        assert ready.driver == "vfio-pci"
    assert host.agent.call("describe_device", device={"pci": NVME})["driver"] == "nvme"


def test_vf_is_made_on_its_pf_and_removed(host):
    assert not host.agent.call("describe_device", device={"pci": NVME_VF})["exists"]
    with provisioned(host, pci(NVME_VF, vf_of=NVME), holder="me") as ready:
        assert ready.described["physfn"] == NVME
        assert ready.driver == "vfio-pci"
    assert not host.agent.call("describe_device", device={"pci": NVME_VF})["exists"]
    assert host.agent.call("describe_device", device={"pci": NVME})["sriov_numvfs"] == 0


def test_vf_that_the_pf_does_not_make_is_a_lab_error(host):
    assert "is not among the VFs of" in refused(host, pci("0000:02:1f.7", vf_of=NVME))


def test_exception_puts_the_host_back(host):
    before = photograph(host)
    with pytest.raises(ZeroDivisionError), provisioned(host, pci(EDU), holder="me"):
        raise ZeroDivisionError
    assert photograph(host) == before


def test_absent_device_is_refused(host):
    assert "device 'dut' is absent: no '0000:7f:1f.0'" in refused(host, pci("0000:7f:1f.0"))


def test_device_we_came_by_is_protected(host):
    assert "must not be taken: the network interface eth0 carries this SSH session" in refused(
        host, pci(NETWORK)
    )


def test_device_in_use_is_refused_and_named(host):
    # The second agent opens the cdev without a lease, as any program may.
    with (
        Host.connect(host.spec, "embedded.embedded") as second,
        provisioned(second, pci(EDU), holder="x") as ready,
    ):
        opened = ["open_cdev", {"dev": "dev0", "out": "d"}]
        result = second.agent.run(
            {"devices": {"dev0": ready.entry}, "session": "s", "keep": ["d"], "deadline_ms": 10000,
             "threads": [{"name": "main", "ops": [opened]}]}
        )  # fmt: skip
        assert result.trace[0]["errno"] == 0
        with (
            pytest.raises(LabError, match=r"is in use: pid \d+ \(vfiocert-agent\)"),
            provisioned(host, pci(EDU), holder="me"),
        ):
            pytest.fail("the body must not run")
        second.agent.call("session_end", session="s")


@pytest.mark.parametrize("device", [MTTY0, pci(EDU)], ids=["mdev", "pci"])
def test_leased_device_is_refused_with_the_holder(host, other, device):
    with provisioned(other, device, holder="somebody@there"):
        held = current_leases(host)
        assert any(text.startswith("somebody@there since 2") for text in held.values())
        with (
            pytest.raises(LabError, match="is leased by somebody@there since 2"),
            provisioned(host, device, holder="me"),
        ):
            pytest.fail("the body must not run")
    assert current_leases(host) == {}
    with provisioned(host, device, holder="me"):
        pass


def test_group_is_leased_with_the_device(host, other):
    # 01:01.0 and 01:02.0 are behind one conventional bridge: one IOMMU group.
    other.agent.call("lease", keys=[{"pci": "0000:01:02.0"}], holder="neighbour")
    assert "is leased by neighbour" in refused(host, pci("0000:01:01.0"))


def test_two_devices_side_by_side_leave_no_difference(host, other):
    with provisioned(host, MTTY0, holder="a"), provisioned(other, MTTY1, holder="b") as inner:
        result = host.agent.run(
            {"devices": {"dev0": inner.entry}, "session": "s", "keep": [], "deadline_ms": 10000,
             "threads": [{"name": "main", "ops": [["open_cdev", {"dev": "dev0", "out": "d"}]]}]}
        )  # fmt: skip
        assert result.trace[0]["errno"] == 0


def test_closed_connection_undoes_by_itself(embedded_lab, host):
    before = photograph(host)
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as second:
        second.agent.call("provision", device=wire_device("x", MTTY0), driver=None)
        assert photograph(host) != before
    deadline = time.monotonic() + 30
    while photograph(host) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert photograph(host) == before


def test_broken_line_is_made_anew_and_the_host_restored(embedded_lab):
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as host:
        before = photograph(host)
        with provisioned(host, MTTY0, holder="me"):
            host.agent.transport.close()
        assert photograph(host) == before


def test_host_that_was_reset_is_reconnected(embedded_lab):
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as host:
        with provisioned(host, MTTY0, holder="me"):
            embedded_lab.reset()
        assert host.alive
        assert host.agent.call("host_info")["uid"] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_controller_leaves_nothing(embedded_lab, host, number):
    before = photograph(host)
    text = (
        "import sys, time\n"
        "from fixtures.reach import embedded_host\n"
        "from harness.hosts.host import Host\n"
        "from harness.hosts.inventory import embedded_devices\n"
        "from harness.lab.embedded import attach\n"
        "from harness.hosts.provision import provisioned\n"
        "host = Host.connect(embedded_host(attach(sys.argv[1], own=False)), 'embedded.embedded')\n"
        "with provisioned(host, embedded_devices()[0], holder='victim'):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(300)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", text, embedded_lab.name], stdout=subprocess.PIPE, env=environment, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert photograph(host) != before
        finally:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
    deadline = time.monotonic() + 60
    while photograph(host) != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert photograph(host) == before
    assert current_leases(host) == {}


def test_undo_needs_no_controller_state(embedded_lab, host):
    before = photograph(host)
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as second:
        second.agent.call("provision", device=wire_device("x", MTTY0), driver=None)
        # The agent itself is killed: it cannot undo, and its journal stays.
        host.exec(f"kill -9 {second.agent.hello['pid']}", 10)
    assert photograph(host) != before
    done = subprocess.run(
        [sys.executable, "-m", "harness", "undo", "--lab", "embedded", "--host", embedded_lab.name],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ": undone" in done.stdout
    assert photograph(host) == before


def test_devices_command_lists_and_probes_the_lab(embedded_lab):
    done = subprocess.run(
        [sys.executable, "-m", "harness", "devices", "--lab", "embedded", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["devices"] if row["host"] == embedded_lab.name]
    assert {row["id"]: row["state"] for row in rows} == {spec.id: "ready" for spec in embedded_devices()}


def test_module_replaces_the_hosts_and_is_replaced_back(embedded_lab, host):
    files = sorted((embedded_lab.kernel.folder).rglob("mtty.ko"))
    if not files:
        pytest.skip("this kernel's folder has no mtty.ko")
    before = photograph(host)
    with provisioned(host, MTTY0, holder="me", module=files[0]) as ready:
        assert ready.module == "mtty"
    assert photograph(host) == before
