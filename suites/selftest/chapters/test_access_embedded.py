# SPDX-License-Identifier: Apache-2.0
"""Chapter ACC on the lab: two devices of one group, processes that exec and pass descriptors on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.reach import embedded_host
from fixtures.subject import Subject
from harness.errors import LabError
from harness.hosts.host import Host
from harness.hosts.inventory import DeviceSpec, embedded_devices
from harness.hosts.provision import ProvisionedDevice, provisioned
from harness.lab.embedded import EmbeddedLab
from harness.oracle.judge import judge
from suites.acc.experiments_references import (
    devices_of_a_group_have_one_owner,
    exec_keeps_what_is_not_close_on_exec,
)
from suites.acc.random_histories import contest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PAIR = [{"pci": "0000:01:01.0"}, {"pci": "0000:01:02.0"}]


@pytest.fixture
def host(embedded_lab: EmbeddedLab) -> Iterator[Host]:
    """An agent of its own."""
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as connected:
        yield connected


def test_both_devices_of_a_group_are_bound_tried_and_put_back(host: Host) -> None:
    """The companion too; the kernel answers as the model of ownership expects."""
    spec = next(each for each in embedded_devices() if each.id == "edu-pair")
    before = host.agent.call("snapshot_host", devices=PAIR)
    with provisioned(host, spec, holder="me") as ready:
        assert ready.capabilities["shared_group"]
        assert ready.capabilities["hot_reset_owned"]
        checked = _clauses_checked(host, ready)
    assert {"ACC-051", "ACC-053", "ACC-057", "ACC-064", "ACC-068", "ACC-071"} <= checked
    assert host.agent.call("snapshot_host", devices=PAIR) == before


def _clauses_checked(host: Host, ready: ProvisionedDevice) -> set[str]:
    subject = Subject.of(ready.capabilities, ready.profile, 1)
    devices = {f"dev{n}": dict(entry) for n, entry in enumerate((ready.entry, *ready.companions))}
    checked: set[str] = set()
    for history in (
        *devices_of_a_group_have_one_owner(subject),
        *exec_keeps_what_is_not_close_on_exec(subject),
        contest(subject),
    ):
        program = history.to_json()
        trace = host.agent.run({"devices": devices, "threads": program["threads"]}).trace
        verdict = judge(ready.capabilities, program, trace)
        assert not verdict.violations
        checked |= verdict.checked.keys()
    return checked


def test_a_companion_that_the_host_needs_is_refused_before_anything_is_unbound(host: Host) -> None:
    """The network interface of the SSH session."""
    spec = DeviceSpec.model_validate(
        {"id": "dut", "host": "embedded", "pci": "0000:01:01.0", "profile": "vfio_pci",
         "companions": ("0000:00:02.0",)}
    )  # fmt: skip
    before = host.agent.call("snapshot_host", devices=PAIR)
    with pytest.raises(LabError, match="must not be taken"), provisioned(host, spec, holder="me"):
        pytest.fail("it was taken")
    assert host.agent.call("snapshot_host", devices=PAIR) == before
