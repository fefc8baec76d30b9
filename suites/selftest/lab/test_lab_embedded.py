# SPDX-License-Identifier: Apache-2.0
"""The embedded lab is a lab host: SSH with pinned keys, VFIO, devices, and a reset that keeps nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import paramiko
import pytest

from harness.commands.lab import ssh_arguments
from harness.errors import UsageError
from harness.lab.embedded import EmbeddedLab, attach, list_labs, new_name
from harness.lab.keeper import start_time

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

MTTY = "/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


def connected(lab):
    client = paramiko.SSHClient()
    client.load_host_keys(str(lab.known_hosts_path))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        lab.address,
        lab.port,
        lab.user,
        key_filename=str(lab.key_path),
        look_for_keys=False,
        allow_agent=False,
        timeout=30,
        banner_timeout=30,
        auth_timeout=30,
    )
    return client


def run(lab, command):
    """Exit status and output of `command` in the lab."""
    with connected(lab) as client:
        _, out, err = client.exec_command(command, timeout=60)
        text = out.read().decode() + err.read().decode()
        return out.channel.recv_exit_status(), text.strip()


@pytest.fixture
def fresh_lab(embedded_lab):
    """The lab, fresh after the test whatever the test does to it."""
    yield embedded_lab
    embedded_lab.reset()


def test_ssh_answers_with_the_pinned_host_key(embedded_lab):
    assert run(embedded_lab, "id -u; uname -r") == (0, f"0\n{embedded_lab.kernel_release}")


def test_another_host_key_is_refused(embedded_lab, tmp_path):
    other = paramiko.RSAKey.generate(2048)
    fake = tmp_path / "known_hosts"
    fake.write_text(f"[127.0.0.1]:{embedded_lab.port} ssh-rsa {other.get_base64()}\n")
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(fake))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        with pytest.raises(paramiko.SSHException):
            client.connect(
                embedded_lab.address,
                embedded_lab.port,
                "root",
                timeout=30,
                key_filename=str(embedded_lab.key_path),
                look_for_keys=False,
            )


def test_another_client_key_is_refused(embedded_lab):
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(embedded_lab.known_hosts_path))
        with pytest.raises(paramiko.AuthenticationException):
            client.connect(
                embedded_lab.address,
                embedded_lab.port,
                "root",
                pkey=paramiko.RSAKey.generate(2048),
                timeout=30,
                look_for_keys=False,
                allow_agent=False,
            )


def test_private_key_and_folder_are_private(embedded_lab):
    assert embedded_lab.key_path.stat().st_mode & 0o077 == 0
    assert embedded_lab.key_path.parent.stat().st_mode & 0o077 == 0


def test_vfio_and_iommufd_are_there(embedded_lab):
    status, text = run(
        embedded_lab, "test -c /dev/iommu && test -c /dev/vfio/vfio && cut -d' ' -f1 /proc/modules"
    )
    assert status == 0
    assert {"vfio", "vfio_pci", "vfio_iommu_type1", "mdev", "mtty"} <= set(text.split())


def test_the_kernel_is_not_tainted_by_its_own_boot(embedded_lab):
    """Steps: read the taint and the log.  Verify: nothing that would be taken for a finding later."""
    embedded_lab.reset()
    status, text = run(
        embedded_lab, "cat /proc/sys/kernel/tainted; dmesg | grep -cE 'BUG:|WARNING:|cut here'"
    )
    assert text.split() == ["0", "0"]
    assert status == 1  # of grep: no line


def test_each_edu_of_the_root_bus_has_a_group_of_its_own(embedded_lab):
    listing = "for d in 4 5; do ls /sys/bus/pci/devices/0000:00:0$d.0/iommu_group/devices; done"
    assert run(embedded_lab, listing) == (0, "0000:00:04.0\n0000:00:05.0")


def test_devices_behind_the_bridge_share_a_group(embedded_lab):
    status, text = run(embedded_lab, "ls /sys/bus/pci/devices/0000:01:01.0/iommu_group/devices")
    assert status == 0
    assert {"0000:01:01.0", "0000:01:02.0", "0000:00:06.0"} == set(text.split())


def test_edu_answers_through_its_bar(embedded_lab):
    """Steps: enable memory, map BAR0, read the identification register.  Verify: it is edu's."""
    program = (
        "import mmap,os,struct;d='/sys/bus/pci/devices/0000:00:04.0/';open(d+'enable','w').write('1');"
        "m=mmap.mmap(os.open(d+'resource0',os.O_RDWR|os.O_SYNC),4096);print(hex(struct.unpack('<I',m[:4])[0]));"
        "m.close();open(d+'enable','w').write('0')"
    )
    assert run(embedded_lab, f'python3 -c "{program}"') == (0, "0x10000ed")


def test_reset_removes_an_mdev(fresh_lab):
    assert run(fresh_lab, f"echo {UUID} > {MTTY}/create; ls /sys/bus/mdev/devices") == (0, UUID)
    fresh_lab.reset()
    assert run(fresh_lab, "ls /sys/bus/mdev/devices") == (0, "")


def test_reset_brings_another_boot_id_at_the_same_address(fresh_lab):
    before = run(fresh_lab, "cat /proc/sys/kernel/random/boot_id")
    port = fresh_lab.port
    fresh_lab.reset()
    assert run(fresh_lab, "cat /proc/sys/kernel/random/boot_id") != before
    assert fresh_lab.port == port


def test_reset_recovers_from_a_guest_crash_and_the_console_tells(fresh_lab):
    """Steps: panic the guest.  Verify: QEMU ends, the console shows the stack; after reset SSH answers."""
    with connected(fresh_lab) as client:
        client.exec_command("echo c > /proc/sysrq-trigger", timeout=10)
        deadline = time.monotonic() + 60
        while fresh_lab.alive() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not fresh_lab.alive()
    assert "Kernel panic - not syncing: sysrq triggered crash" in fresh_lab.console_tail(80)
    assert "sysrq_handle_crash" in fresh_lab.console_tail(80)
    fresh_lab.reset()
    assert run(fresh_lab, "echo here") == (0, "here")


def test_reset_recovers_from_a_killed_qemu(fresh_lab):
    os.kill(fresh_lab.qemu_pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while fresh_lab.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not fresh_lab.alive()
    fresh_lab.reset()
    assert run(fresh_lab, "echo here") == (0, "here")


def test_two_labs_are_two_machines_and_down_removes_one(embedded_lab, lab_kernel):
    other = EmbeddedLab.up(name=new_name("selftest"), kernel=lab_kernel)
    try:
        pid = other.qemu_pid
        boot_ids = {run(lab, "cat /proc/sys/kernel/random/boot_id") for lab in (embedded_lab, other)}
        assert len(boot_ids) == 2
        assert {embedded_lab.name, other.name} <= {lab.name for lab in list_labs()}
    finally:
        other.down()
    assert start_time(pid) == 0
    assert not other.key_path.parent.exists()
    assert other.name not in {lab.name for lab in list_labs()}
    assert embedded_lab.alive()


def test_a_name_in_use_is_refused(embedded_lab, lab_kernel):
    with pytest.raises(UsageError, match="is up already"):
        EmbeddedLab.up(name=embedded_lab.name, kernel=lab_kernel)


def test_another_process_can_attach(embedded_lab):
    code = f"from harness.lab.embedded import attach; print(attach({embedded_lab.name!r}).port)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) == embedded_lab.port


def test_attach_names_the_labs_that_are_up(embedded_lab):
    with pytest.raises(UsageError, match=embedded_lab.name):
        attach("no-such-lab")


def test_a_killed_controller_leaves_nothing_past_the_idle_limit(lab_kernel):
    """Steps: a process brings a lab up and is killed.  Verify: QEMU and folder go by themselves."""
    name = new_name("selftest")
    code = (
        "import time; from harness.lab.embedded import EmbeddedLab;"
        f"lab = EmbeddedLab.up(name={name!r}, kernel={lab_kernel!r}, idle_limit_s=10);"
        "print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as controller:
        try:
            assert controller.stdout.readline() == "up\n"
            lab = attach(name, own=False)
            pid = lab.qemu_pid
            assert pid is not None
        finally:
            controller.kill()
    deadline = time.monotonic() + 60
    while start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert start_time(pid) == 0
    while lab.key_path.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lab.key_path.parent.exists()


def test_qemu_dies_with_its_killed_keeper(lab_kernel):
    lab = EmbeddedLab.up(name=new_name("selftest"), kernel=lab_kernel)
    try:
        pid = lab.qemu_pid
        os.kill(lab.keeper_pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while start_time(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert start_time(pid) == 0
    finally:
        lab.down()


def test_the_command_line_runs_a_command_and_ends_with_its_status(embedded_lab):
    done = subprocess.run(
        [sys.executable, "-m", "harness", "lab", "ssh", "--lab", embedded_lab.name, "exit 7"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 7


def test_status_lists_the_lab(embedded_lab):
    done = subprocess.run(
        [sys.executable, "-m", "harness", "lab", "status"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"{embedded_lab.name}: up, Linux {embedded_lab.kernel_release}" in done.stdout


def test_ssh_arguments_ignore_the_users_configuration(embedded_lab):
    arguments = ssh_arguments(embedded_lab)
    assert arguments[:2] == ["-F", "none"]
    assert "StrictHostKeyChecking=yes" in arguments


def test_the_guest_reaches_nothing_on_the_controller(embedded_lab):
    """Steps: listen on the loopback, which QEMU's gateway stands for.  Verify: no connection comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        status, _ = run(embedded_lab, f"timeout 3 nc 10.0.2.2 {listener.getsockname()[1]} </dev/null")
        assert status != 0
        with pytest.raises(BlockingIOError):
            listener.accept()
