# SPDX-License-Identifier: Apache-2.0
"""Faults while certify runs: none of them makes a finding, finished tests are kept, the host is restored."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from harness.hosts.host import Host
from harness.hosts.inventory import embedded_devices
from harness.hosts.inventory.models import HostSpec
from harness.hosts.provision import snapshot_difference, wire_device
from harness.hosts.ssh import SshHost
from suites.selftest.commands.certify_process import CLAUSES, Certify, finished, verdicts_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

FEW = ("MIG-008", "MIG-150")


def spec(lab):
    """The lab as a host of an inventory."""
    return {
        "address": lab.address, "port": lab.port, "user": lab.user,
        "key": str(lab.key_path), "known_hosts": str(lab.known_hosts_path),
    }  # fmt: skip


@pytest.fixture
def fresh_lab(embedded_lab):
    """The lab, fresh before and after: other tests leave modules of ours loaded."""
    embedded_lab.reset()
    yield embedded_lab
    embedded_lab.reset()


@pytest.fixture
def labs_file(fresh_lab, tmp_path):
    """An inventory with the lab as an ordinary host, which has no snapshot to restore it."""
    device = {"id": "uart", "host": "node", "mdev": {"parent": "mtty", "type": "mtty-1"}, "profile": "mtty"}
    path = tmp_path / "labs.yaml"
    path.write_text(json.dumps({"labs": {"rack": {"hosts": {"node": spec(fresh_lab)}, "devices": [device]}}}))
    return path


def on_host(lab, command):
    """Run a shell command on the lab host and give what it printed."""
    connection = SshHost(30.0).connect(HostSpec.model_validate(spec(lab)), "probe", ())
    try:
        return connection.exec(command, 30.0)[1].decode()
    finally:
        connection.close()


def snapshot(lab, host_name="embedded.embedded"):
    """What provisioning may change on the host, and the undo journal's folders."""
    wire = wire_device(host_name, embedded_devices()[0])
    with Host.connect(HostSpec.model_validate(spec(lab)), name="probe") as host:
        state = host.agent.call("snapshot_host", devices=[wire])
        return {"state": state, "journal": host.exec("ls -A /run/vfiocert/journal", 30.0)[1].decode().split()}


def is_restored(lab, before, deadline_s=60.0):
    """The differences from `before` at the deadline; [] as soon as there are none."""
    end = time.monotonic() + deadline_s
    while (left := snapshot_difference(before, snapshot(lab))) and time.monotonic() < end:
        time.sleep(1)
    return left


def kill_agent(lab):
    """Kill the agent: the process that holds the lock of a journal on the lab host."""
    assert on_host(lab, "kill -9 $(cat /run/vfiocert/journal/*/owner.lock) && echo killed") == "killed\n"


def test_an_agent_that_is_killed_changes_no_verdict(fresh_lab, tmp_path):
    """Steps: kill -9 the agent.  Verify: its test is tried again, all verdicts are passes, the host clean."""
    before = snapshot(fresh_lab)
    with Certify(fresh_lab, tmp_path / "out") as run:
        run.wait_line(r"^\[3/")
        kill_agent(fresh_lab)
        assert run.status() == 0, run.text
    assert set(verdicts_of(tmp_path / "out").values()) == {"pass", "conforming"}
    assert is_restored(fresh_lab, before) == []


def test_an_agent_killed_on_a_host_without_snapshots_leaves_it_clean(fresh_lab, labs_file, tmp_path):
    """Steps: the lab as a host of labs.yaml; kill -9 its agent.  Verify: as before, and nothing is left."""
    before = snapshot(fresh_lab)
    options = ("--lab", "rack", "--labs-file", str(labs_file))
    with Certify(None, tmp_path / "out", *options) as run:
        run.wait_line(r"^\[3/")
        kill_agent(fresh_lab)
        assert run.status() == 0, run.text
    assert is_restored(fresh_lab, before) == []


def test_a_controller_that_is_killed_leaves_the_host_clean(fresh_lab, labs_file, tmp_path):
    """Steps: kill -9 the controller.  Verify: the agent, alone, restores the host."""
    before = snapshot(fresh_lab)
    options = ("--lab", "rack", "--labs-file", str(labs_file))
    with Certify(None, tmp_path / "out", *options) as run:
        run.wait_line(r"^\[4/")
        assert snapshot_difference(before, snapshot(fresh_lab, "rack.node"))
        run.process.kill()
        run.process.wait(30)
    assert is_restored(fresh_lab, before) == []


def test_a_machine_that_is_killed_changes_no_verdict(fresh_lab, tmp_path):
    """Steps: kill -9 QEMU.  Verify: the machine is started again, every verdict is a pass."""
    with Certify(fresh_lab, tmp_path / "out") as run:
        run.wait_line(r"^\[4/")
        os.kill(fresh_lab.qemu_pid, signal.SIGKILL)
        assert run.status() == 0, run.text
    assert set(verdicts_of(tmp_path / "out").values()) == {"pass", "conforming"}


@pytest.mark.parametrize("task", ["vfiocert-agent", "somebody"])
def test_a_kernel_that_crashes_accuses_who_made_it_crash(fresh_lab, tmp_path, task):
    """Steps: crash the kernel in a task of this name.

    Verify: the agent's crash is a MIG-166 with the log; another's is a note, and changes no verdict.
    """
    crash = f"(printf {task} > /proc/self/comm; sleep 0.1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &"
    own = task == "vfiocert-agent"
    with Certify(fresh_lab, tmp_path / "out", clauses=(*CLAUSES, "MIG-166")) as run:
        run.wait_line(r"^\[3/")
        on_host(fresh_lab, f"sh -c {shlex.quote(crash)}")
        assert run.status() == (1 if own else 0), run.text
    verdicts = verdicts_of(tmp_path / "out")
    assert {key[1] for key, verdict in verdicts.items() if verdict == "fail"} == (
        {"MIG-166"} if own else set()
    )
    assert "inconclusive" not in verdicts.values()
    run_json = json.loads((tmp_path / "out" / "run.json").read_text())
    findings = [f for d in run_json["devices"] for c in d["clauses"] for f in c["findings"]]
    assert any("sysrq" in line.lower() for f in findings for line in f["kernel_log"]) is own
    assert any("sysrq" in note.lower() for note in run_json["notes"]) is not own


def test_a_full_disk_on_the_controller_is_no_verdict_and_resumes(fresh_lab, tmp_path):
    """Steps: --out on 64 KiB.  Verify: status 3, one line; with more space, --resume finishes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with Certify(fresh_lab, disk / "out") as run:
            assert run.status() == 3, run.text
        assert [line for line in run.lines if line.startswith("vfiocert:")] == [run.lines[-1]]
        assert "full" in run.lines[-1] or "space" in run.lines[-1]
        kept = finished(disk / "out")
        subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)
        with Certify(fresh_lab, disk / "out", "--resume") as run:
            assert run.status() == 0, run.text
        assert finished(disk / "out")[: len(kept)] == kept
        assert set(verdicts_of(disk / "out").values()) == {"pass", "conforming"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_on_the_lab_host_is_no_verdict(fresh_lab, tmp_path):
    """Steps: the journal's folder on a full tmpfs.  Verify: status 3, and the reason is said."""
    full = "mkdir -p /run/vfiocert && mount -t tmpfs -o size=4k tmpfs /run/vfiocert && "
    full += "dd if=/dev/zero of=/run/vfiocert/fill bs=4096; df /run/vfiocert"
    assert "100%" in on_host(fresh_lab, full)
    with Certify(fresh_lab, tmp_path / "out", clauses=FEW) as run:
        assert run.status() == 3, run.text
    assert "No space left" in run.text
    assert set(verdicts_of(tmp_path / "out").values()) == {"inconclusive"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(fresh_lab, labs_file, tmp_path, number):
    """Steps: signal a run in its test.  Verify: status 128 and the signal, no verdict, the host is clean."""
    before = snapshot(fresh_lab)
    with Certify(None, tmp_path / "out", "--lab", "rack", "--labs-file", str(labs_file), clauses=FEW) as run:
        run.wait_line(r"^\[2/")
        run.process.send_signal(number)
        assert run.status() == 128 + number, run.text
    assert verdicts_of(tmp_path / "out")[None, None] == "inconclusive"
    assert is_restored(fresh_lab, before) == []
