# SPDX-License-Identifier: Apache-2.0
"""The agent's undo journal, leases, kernel log and sysfs, against folders that stand in for a host."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.agent.failure import Failure
from harness.agent.journal import Journal, undo_runs
from harness.agent.kmsg import KernelLog, parse_record
from harness.agent.lease import Leases
from harness.agent.modules import Modules
from harness.agent.protected import Protected
from harness.agent.provision import Provisioner
from harness.agent.sysfs import Sysfs
from harness.errors import LabError
from harness.hosts.client import start_local_agent

pytestmark = pytest.mark.timeout(60)

BDF = "0000:03:00.0"
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


class Host:
    """A tree that looks like sysfs; the files of the PCI bus do nothing, so tests play the kernel."""

    def __init__(self, root: Path):
        self.root = root

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def link(self, path: str, target: str) -> None:
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        (self.root / target).mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.root / target)

    def pci(self, bdf: str, cls: str = "0x020000", group: str = "7", driver: str | None = None) -> str:
        folder = f"sys/devices/pci0000:00/{bdf}"
        self.write(f"{folder}/class", cls + "\n")
        self.write(f"{folder}/modalias", "pci:v000015B3d0000101Esv000015B3sd00000023bc02sc00i00\n")
        self.write(f"{folder}/driver_override", "(null)\n")
        self.link(f"sys/bus/pci/devices/{bdf}", folder)
        self.link(f"{folder}/iommu_group", f"sys/kernel/iommu_groups/{group}")
        self.link(f"sys/kernel/iommu_groups/{group}/devices/{bdf}", folder)
        if driver:
            self.link(f"{folder}/driver", f"sys/bus/pci/drivers/{driver}")
        return folder


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "host")


@pytest.fixture
def sysfs(host):
    return Sysfs(str(host.root))


# -- journal


def test_the_undo_is_on_disk_before_the_change_and_replayed_backwards(tmp_path):
    journal = Journal(str(tmp_path), "r1")
    paths = [journal.before({"undo": "x", "subject": name}) for name in "abc"]
    assert [os.path.basename(p) for p in paths] == ["0001.json", "0002.json", "0003.json"]
    assert json.loads(Path(paths[1]).read_text()) == {"undo": "x", "subject": "b"}
    seen = []
    done = journal.undo(lambda step: seen.append(step["subject"]) or "undone")
    assert seen == ["c", "b", "a"]
    assert [d["status"] for d in done] == ["undone"] * 3
    assert not Path(journal.folder).exists()
    assert journal.undo(lambda step: "undone") == []


def test_a_step_that_cannot_be_undone_stays_and_the_others_go(tmp_path):
    journal = Journal(str(tmp_path), "r1")
    for name in "abc":
        journal.before({"undo": "x", "subject": name})

    def undo(step):
        if step["subject"] == "b":
            raise OSError(16, "busy")
        return "undone"

    assert [d["status"][:6] for d in journal.undo(undo)] == ["undone", "failed", "undone"]
    assert [p.name for p in Path(journal.folder).glob("*.json")] == ["0002.json"]
    assert [d["status"] for d in journal.undo(lambda step: "already")] == ["already"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"undo": 1}', "\x00\xff"])
def test_a_broken_step_is_reported_and_hurts_no_other(tmp_path, text):
    journal = Journal(str(tmp_path), "r1")
    journal.before({"undo": "x"})
    (Path(journal.folder) / "0002.json").write_text(text)
    done = journal.undo(lambda step: "undone")
    assert [d["status"][:6] for d in done] == ["failed", "undone"]


def test_what_a_dead_run_left_is_undone_and_a_living_run_is_left_alone(tmp_path):
    dead, alive, mine = (Journal(str(tmp_path), name) for name in ("dead", "alive", "mine"))
    for journal in (dead, alive, mine):
        journal.before({"undo": "x", "subject": journal.run})
    os.close(dead._lock_fd)
    done = {d["run"]: d["status"] for d in undo_runs(str(tmp_path), None, mine, lambda step: "undone")}
    assert done["dead"] == done["mine"] == "undone"
    assert done["alive"].startswith(f"skipped: its agent lives (pid {os.getpid()})")
    assert (Path(alive.folder) / "0001.json").exists()
    assert undo_runs(str(tmp_path), "dead", mine, lambda step: "undone") == []


def test_a_run_name_cannot_leave_the_journal(tmp_path):
    for name in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(Failure, match="run="):
            Journal(str(tmp_path), name)


# -- leases


def test_a_lease_is_refused_with_holder_and_since_and_ends_with_its_holder(tmp_path):
    first, second = Leases(str(tmp_path)), Leases(str(tmp_path))
    first.take(["dev", "group-1"], "ann@host:12")
    with pytest.raises(Failure, match=r"group-1 is leased by ann@host:12 since 20\d\d-") as caught:
        second.take(["a-free-one", "group-1"], "bob")
    assert caught.value.kind == "lab"
    assert caught.value.detail["pid"] == os.getpid()
    Leases(str(tmp_path)).take(["a-free-one"], "carl")  # all or none: it was given back
    first.take(["dev"], "again")
    first.release(["dev", "group-1", "never-held"])
    second.take(["group-1"], "bob")


@pytest.mark.parametrize("key", ["", "../x", "a b", 7, None, "x" * 300, "é"])
def test_a_lease_key_is_a_plain_name(tmp_path, key):
    with pytest.raises(Failure, match="lease: key"):
        Leases(str(tmp_path)).take([key], "me")


def test_leases_end_when_the_agent_is_killed(tmp_path):
    """Steps: lease with one agent, kill it.  Verify: the next one gets the lease at once."""
    one = start_local_agent(run_dir=str(tmp_path))
    with start_local_agent(run_dir=str(tmp_path)) as two:
        one.call("lease", keys=["dev"], holder="one")
        with pytest.raises(LabError, match="leased by one"):
            two.call("lease", keys=["dev"], holder="two")
        os.kill(one.hello["pid"], 9)
        with pytest.raises(LabError, match=r"exited with status -9|cannot send"):
            one.call("host_info")
        two.call("lease", keys=["dev"], holder="two")
    one.close()


# -- kernel log


def test_records_of_the_kernel_log_are_parsed():
    assert parse_record(b"6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n") == [
        6,
        339,
        5140900,
        "NET: Registered",
    ]
    assert parse_record(b"4,1,2,-,caller=T1;a;b\n") == [4, 1, 2, "a;b"]
    for bad in (b"", b"x", b"1,2;x", b"a,b,c;x", b";"):
        assert parse_record(bad) is None


def test_a_gap_in_the_numbers_is_a_loss(monkeypatch, tmp_path):
    records = [[6, n, n, f"r{n}"] for n in (5, 6, 9)]
    feed = iter([*[(r, False) for r in records], (None, False)] * 9)
    monkeypatch.setattr("harness.agent.kmsg._read_one", lambda fd: next(feed))
    (tmp_path / "kmsg").touch()
    log = KernelLog(str(tmp_path / "kmsg"))
    first = log.read(5, 2)
    assert ([r[1] for r in first["records"]], first["lost"], first["next"]) == ([5, 6], False, 7)
    second = log.read(7, 10)
    assert ([r[1] for r in second["records"]], second["lost"], second["next"]) == ([9], True, 10)


# -- sysfs


def test_a_device_is_described(host, sysfs):
    folder = host.pci(BDF, driver="mlx5_core")
    (host.root / folder / "vfio-dev" / "vfio3").mkdir(parents=True)
    host.write("dev/vfio/devices/vfio3")
    host.write("dev/vfio/7")
    found = sysfs.describe({"pci": BDF})
    assert (found["driver"], found["iommu_group"], found["group_members"]) == ("mlx5_core", "7", [BDF])
    assert found["vfio_name"] == "vfio3"
    assert found["cdev"].endswith("/dev/vfio/devices/vfio3")
    assert found["group"].endswith("/dev/vfio/7")
    assert (found["driver_override"], found["debugfs"]) == (None, None)
    assert sysfs.describe({"pci": "0000:99:00.0"})["exists"] is False


@pytest.mark.parametrize(
    "device",
    [
        {},
        {"pci": "3:0.0"},
        {"pci": 1},
        {"pci": BDF, "uuid": UUID},
        {"uuid": "X" + UUID[1:]},
        {"uuid": UUID, "mdev_parent": "../x"},
        {"uuid": UUID, "x": 1},
    ],
)
def test_a_malformed_device_is_refused(sysfs, device):
    with pytest.raises(Failure) as caught:
        sysfs.describe(device)
    assert caught.value.kind == "usage"


# -- what must not be touched


def reason(sysfs, bdf):
    return Protected(sysfs).because(sysfs.path({"pci": bdf}))


def test_a_disk_with_a_mounted_file_system_is_protected_also_below_lvm(host, sysfs):
    folder = host.pci(BDF, "0x010802")
    host.link("sys/dev/block/259:1", f"{folder}/nvme/nvme0/nvme0n1/nvme0n1p1")
    host.write("sys/devices/virtual/block/dm-0/slaves/.keep")
    host.link("sys/dev/block/254:0", "sys/devices/virtual/block/dm-0")
    assert reason(sysfs, BDF) is None
    host.write("proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/mapper/root rw\n")
    assert reason(sysfs, BDF) is None
    host.link("sys/devices/virtual/block/dm-0/slaves/nvme0n1p1", f"{folder}/nvme/nvme0/nvme0n1/nvme0n1p1")
    assert reason(sysfs, BDF) == "the disk nvme0n1p1 is in use for /"


def test_the_interface_with_the_default_route_is_protected_also_below_a_bond(host, sysfs):
    folder = host.pci(BDF)
    host.link("sys/class/net/eth9", f"{folder}/net/eth9")
    host.link("sys/class/net/bond0", "sys/devices/virtual/net/bond0")
    host.link("sys/devices/virtual/net/bond0/lower_eth9", f"{folder}/net/eth9")
    host.write(
        "proc/net/route", "Iface\tDestination\tGateway\nbond0\t0000000A\t0\t1\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert reason(sysfs, BDF) is None
    host.write(
        "proc/net/route",
        "Iface\tDestination\tGateway\nbond0\t00000000\t0202000A\t3\t0\t0\t0\t00000000\t0\t0\t0\n",
    )
    assert reason(sysfs, BDF) == "the network interface bond0 has the default route"


def test_the_interface_of_the_ssh_session_is_protected(host, sysfs, monkeypatch):
    folder = host.pci(BDF)
    host.link("sys/class/net/eth9", f"{folder}/net/eth9")
    monkeypatch.setattr(Protected, "_addresses", lambda self, name: ["192.0.2.7"] if name == "eth9" else [])
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.8 22")
    assert reason(sysfs, BDF) is None
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.7 22")
    assert reason(sysfs, BDF) == "the network interface eth9 carries this SSH session"


def test_bridges_the_console_and_companions_in_a_group_are_protected(host, sysfs):
    host.pci("0000:00:01.0", "0x060400", group="1")
    host.pci("0000:00:02.0", "0x030000", group="2")
    host.write("sys/devices/pci0000:00/0000:00:02.0/boot_vga", "1\n")
    host.pci("0000:00:02.1", "0x040300", group="2")
    host.pci("0000:00:03.0", "0x070002", group="3")
    assert reason(sysfs, "0000:00:01.0") == "it is a bridge of the host"
    assert reason(sysfs, "0000:00:02.0") == "it is the console's display"
    assert reason(sysfs, "0000:00:02.1") == (
        "it shares IOMMU group 2 with 0000:00:02.0, of which it is the console's display"
    )
    assert reason(sysfs, "0000:00:03.0") is None
    host.link("sys/class/tty/ttyS4", "sys/devices/pci0000:00/0000:00:03.0/tty/ttyS4")
    host.write("sys/class/tty/console/active", "tty0 ttyS4\n")
    assert reason(sysfs, "0000:00:03.0") == "ttyS4 is the console"


# -- provisioning


def test_the_driver_with_the_fewest_wildcards_is_chosen(host, sysfs):
    modules = Modules(sysfs)
    host.write(f"lib/modules/{os.uname().release}/modules.alias", "\n".join([
        "# comment", "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci",
        "alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
        "alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core",
        "alias vfio_pci:v00008086d*sv*sd*bc*sc*i* xe_vfio_pci",
    ]))  # fmt: skip
    assert modules.vfio_driver("pci:v000015B3d0000101Esv000015B3sd00000023bc02sc00i00") == "mlx5_vfio_pci"
    assert modules.vfio_driver("pci:v00001234d0000101Esv000015B3sd00000023bc02sc00i00") == "vfio_pci"
    assert modules.vfio_driver("usb:v1") is None


def test_the_old_driver_and_override_are_journaled_before_binding(host, sysfs, tmp_path):
    """The tree does not bind, so provisioning fails; verify that the undo puts back what was there."""
    folder = host.pci(BDF, driver="mlx5_core")
    for file in (
        "sys/bus/pci/drivers/mlx5_core/unbind",
        "sys/bus/pci/drivers/mlx5_core/bind",
        "sys/bus/pci/drivers_probe",
    ):
        host.write(file)
    (host.root / "sys/bus/pci/drivers/vfio-pci").mkdir()
    journal = Journal(str(tmp_path), "r")
    provisioner = Provisioner(sysfs, journal)
    with pytest.raises(Failure, match="did not take driver vfio-pci"):
        provisioner.provision({"pci": BDF}, "vfio-pci")
    (step,) = [json.loads(p.read_text()) for p in Path(journal.folder).glob("*.json")]
    assert (step["driver"], step["override"], step["device"]) == ("mlx5_core", None, BDF)
    assert (host.root / folder / "driver_override").read_text() == "vfio-pci\n"
    assert (host.root / "sys/bus/pci/drivers/mlx5_core/unbind").read_text() == BDF
    assert [d["status"] for d in journal.undo(provisioner.undo)] == ["undone"]
    assert (host.root / folder / "driver_override").read_text() == "\n"


def test_undo_of_steps_whose_subject_is_gone_is_already_done(sysfs, tmp_path):
    provisioner = Provisioner(sysfs, Journal(str(tmp_path), "r"))
    for step in (
        {"undo": "pci_driver", "device": BDF, "driver": "x", "override": None},
        {"undo": "mdev", "uuid": UUID},
        {"undo": "sriov", "device": BDF, "numvfs": 0},
        {"undo": "modules", "module": "nonesuch", "before": []},
        {"undo": "insmod", "module": "nonesuch", "was_loaded": False},
    ):
        assert provisioner.undo(step) == "already"
    with pytest.raises(Failure, match="'bogus' is not known"):
        provisioner.undo({"undo": "bogus"})


def test_virtual_functions_are_counted_back(host, sysfs, tmp_path):
    folder = host.pci(BDF)
    file = host.write(f"{folder}/sriov_numvfs", "2\n")
    journal = Journal(str(tmp_path), "r")
    provisioner = Provisioner(sysfs, journal)
    assert provisioner.sriov({"pci": BDF}, 4) == {"vfs": []}
    assert file.read_text() == "4"
    journal.undo(provisioner.undo)
    assert file.read_text() == "2"
    with pytest.raises(Failure, match="has no SR-IOV"):
        file.unlink() or provisioner.sriov({"pci": BDF}, 1)


def test_new_virtual_functions_are_left_alone_and_the_switch_is_put_back(host, sysfs, tmp_path):
    """Verify: autoprobe is off only where that was asked for, and as it was after an undo."""
    folder = host.pci(BDF)
    host.write(f"{folder}/sriov_numvfs", "0\n")
    switch = host.write(f"{folder}/sriov_drivers_autoprobe", "1\n")
    journal = Journal(str(tmp_path), "r")
    provisioner = Provisioner(sysfs, journal)
    provisioner.sriov({"pci": BDF}, 2)
    assert switch.read_text() == "1\n"
    provisioner.sriov({"pci": BDF}, 3, autoprobe=False)
    assert switch.read_text() == "0"
    journal.undo(provisioner.undo)
    assert switch.read_text().strip() == "1"


def test_a_protected_device_is_not_provisioned(host, sysfs, tmp_path):
    host.pci(BDF, "0x060400")
    provisioner = Provisioner(sysfs, Journal(str(tmp_path), "r"))
    with pytest.raises(Failure, match=r"0000:03:00\.0 is protected: it is a bridge"):
        provisioner.provision({"pci": BDF}, "vfio-pci")
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize(("image", "words"), [("!", "not base64"), ("AAAA", "not an ELF file")])
def test_what_is_no_module_is_refused_before_anything_changes(sysfs, tmp_path, image, words):
    provisioner = Provisioner(sysfs, Journal(str(tmp_path), "r"))
    with pytest.raises(Failure, match=words):
        provisioner.insmod("mtty", image)
    assert not (tmp_path / "journal").exists()
