# SPDX-License-Identifier: Apache-2.0
"""`vfiocert devices` and `vfiocert undo`: hosts that answer from a table, and one that does not."""

from __future__ import annotations

import contextlib
import json
import socket
from types import SimpleNamespace

import pytest

import fixtures.reach
import harness.commands.devices.command
import harness.commands.undo
from harness.__main__ import main
from harness.errors import LabError
from harness.hosts.lease import current_leases, lease_of

LABS = """\
labs:
  rack7:
    hosts:
      good: {address: 127.0.0.1}
      bad: {address: 127.0.0.1, port: PORT, key: labs.yaml}
    devices:
      - {id: free, host: good, pci: 0000:00:04.0, profile: vfio_pci}
      - {id: gone, host: good, pci: 0000:00:05.0}
      - {id: busy, host: good, pci: 0000:00:06.0}
      - {id: vital, host: good, pci: 0000:00:07.0}
      - {id: taken, host: good, pci: 0000:00:08.0}
      - {id: far, host: bad, pci: 0000:00:04.0}
"""
HERE = {"exists": True, "driver": "edu", "iommu_group": "3", "in_use": [], "protected_because": None}
DESCRIBED = {
    "0000:00:04.0": HERE,
    "0000:00:05.0": {"exists": False, "in_use": []},
    "0000:00:06.0": {**HERE, "in_use": ["pid 9 (qemu)"]},
    "0000:00:07.0": {**HERE, "protected_because": "the disk vda is in use for /"},
    "0000:00:08.0": {**HERE, "iommu_group": "8"},
}
LEASES = (
    b'77 iommu-group-8 {"holder": "you", "since": "noon"}\n'
    b'78 0000:00:04.0 {"holder": "old", "since": "x"}\n--\n'
)
LOCKS = b"1: FLOCK  ADVISORY  WRITE 12 00:17:77 0 EOF\n"


class FakeHost:
    steps: list = []  # noqa: RUF012  (set by a test)
    vfio = True

    def __init__(self):
        self.agent = SimpleNamespace(call=self.call)
        self.info = SimpleNamespace(has_vfio=self.vfio, has_iommufd=True, kernel="6.1")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def exec(self, command, deadline_s):
        return 0, LEASES + LOCKS, b""

    def call(self, method, **params):
        return {"describe_device": lambda: DESCRIBED[params["device"]["pci"]], "undo": lambda: self.steps}[
            method
        ]()


@pytest.fixture
def labs(tmp_path, monkeypatch):
    """An inventory with one host that answers, and one where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    file = tmp_path / "labs.yaml"
    file.write_text(LABS.replace("PORT", str(port)))
    real = harness.commands.devices.command.Host.connect

    def connect(spec, *args, **kwargs):
        return FakeHost() if spec.port == 22 else real(spec, *args, **kwargs)

    for module in (harness.commands.devices.command, harness.commands.undo):
        monkeypatch.setattr(module, "Host", SimpleNamespace(connect=connect))
    monkeypatch.setattr(fixtures.reach, "list_labs", lambda: [])
    monkeypatch.chdir(tmp_path)
    return file


def listed(capsys, *arguments):
    assert main(["devices", *arguments, "--json"]) == 0
    return {row["id"]: row for row in json.loads(capsys.readouterr().out)["devices"]}


def test_each_device_has_its_state_and_why(labs, capsys):
    rows = listed(capsys, "--labs-file", str(labs), "--lab", "rack7")
    assert {name: row["state"] for name, row in rows.items()} == {
        "free": "ready", "gone": "absent", "busy": "in-use", "vital": "protected", "taken": "leased",
        "far": "unreachable",
    }  # fmt: skip
    assert (rows["free"]["driver"], rows["free"]["group"]) == ("edu", "3")
    assert rows["busy"]["why"] == "pid 9 (qemu)"
    assert rows["taken"]["lease"] == "you since noon"
    assert "rack7.bad (127.0.0.1:" in rows["far"]["why"]
    assert "unreachable (connection refused)" in rows["far"]["why"]


def test_embedded_lab_that_is_not_up_is_listed_as_such(labs, capsys):
    rows = listed(capsys, "--labs-file", str(labs))
    assert (rows["mtty0"]["state"], rows["mtty1"]["state"]) == ("not-running", "not-running")
    assert "vfiocert lab up" in rows["mtty0"]["why"]


def test_kernel_without_vfio_is_why(labs, capsys, monkeypatch):
    monkeypatch.setattr(FakeHost, "vfio", False)
    row = listed(capsys, "--labs-file", str(labs), "--lab", "rack7")["free"]
    assert (row["state"], row["why"]) == ("no-vfio", "kernel 6.1 has no VFIO")


def test_probe_shows_capabilities_of_free_devices_only(labs, capsys, monkeypatch):
    probed = []

    @contextlib.contextmanager
    def fake(host, device, *, holder):
        probed.append(device.id)
        yield SimpleNamespace(driver="vfio-pci", capabilities={"migration": [], "reset": True})

    monkeypatch.setattr(harness.commands.devices.command, "provisioned", fake)
    rows = listed(capsys, "--labs-file", str(labs), "--lab", "rack7", "--probe")
    assert probed == ["free"]
    assert rows["free"]["capabilities"] == {"migration": [], "reset": True}


def test_probe_that_fails_is_why(labs, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise LabError("did not take driver vfio-pci")

    monkeypatch.setattr(harness.commands.devices.command, "provisioned", fail)
    row = listed(capsys, "--labs-file", str(labs), "--lab", "rack7", "--probe")["free"]
    assert (row["state"], row["why"]) == ("unusable", "did not take driver vfio-pci")


def test_last_verdict_comes_from_the_newest_run_of_that_lab(labs, capsys, tmp_path):
    for name, lab, verdict in (("a", "rack7", "conforming"), ("b", "other", "non-conforming")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        record = {
            "lab": lab,
            "devices": [{"id": "free", "verdict": verdict, "capabilities": {"reset": True}}],
        }
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(record))
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "c" / "run.json").write_text("{")
    rows = listed(capsys, "--labs-file", str(labs), "--lab", "rack7")
    assert (rows["free"]["last_verdict"], rows["free"]["last_run"]) == ("conforming", "runs/a")
    assert rows["free"]["capabilities"] == {"reset": True}
    assert rows["gone"]["last_verdict"] == ""


def test_table_is_plain_where_nobody_looks(labs, capsys):
    assert main(["devices", "--labs-file", str(labs), "--lab", "rack7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["lab", "host", "id", "device"]
    assert len(lines) == 7
    assert lines[1].split()[:7] == ["rack7", "good", "free", "0000:00:04.0", "edu", "3", "ready"]


def test_unknown_lab_is_a_usage_error(labs, capsys):
    assert main(["devices", "--labs-file", str(labs), "--lab", "rack9"]) == 2
    assert "lab='rack9' is not a lab: embedded, rack7" in capsys.readouterr().err


def test_undo_shows_each_step(labs, capsys, monkeypatch):
    step = {"run": "agent-1", "step": 1, "undo": "mdev", "subject": "u", "status": "undone"}
    monkeypatch.setattr(FakeHost, "steps", [step])
    assert main(["undo", "--labs-file", str(labs), "--lab", "rack7", "--host", "good"]) == 0
    assert capsys.readouterr().out == "rack7.good: run agent-1 mdev u: undone\n"


def test_undo_says_where_nothing_is_left(labs, capsys):
    assert main(["undo", "--labs-file", str(labs), "--host", "good"]) == 0
    assert capsys.readouterr().out == "rack7.good: nothing to undo\n"


def test_undo_that_fails_is_no_success(labs, capsys, monkeypatch):
    step = {"run": "r", "step": 1, "undo": "mdev", "subject": "u", "status": "failed: busy"}
    monkeypatch.setattr(FakeHost, "steps", [step])
    assert main(["undo", "--labs-file", str(labs), "--host", "good"]) == 3
    assert "1 hosts or steps could not be undone" in capsys.readouterr().err


def test_undo_goes_on_after_a_host_that_is_not_reached(labs, capsys):
    assert main(["undo", "--labs-file", str(labs), "--lab", "rack7"]) == 3
    out, err = capsys.readouterr()
    assert out == "rack7.good: nothing to undo\n"
    assert "unreachable" in err


def test_undo_of_an_unknown_host_is_a_usage_error(labs, capsys):
    assert main(["undo", "--labs-file", str(labs), "--host", "node9"]) == 2
    assert "host='node9' is not a host of these labs: good, bad" in capsys.readouterr().err


def test_lease_file_that_nobody_locks_is_no_lease():
    assert current_leases(FakeHost()) == {"iommu-group-8": "you since noon"}


@pytest.mark.parametrize(
    "output", [b"", b"--\n", b"garbage", b"77 k nothing\n--\n" + LOCKS, b"\xff\xfe\n--\n\xff"]
)
def test_any_answer_about_leases_is_survived(output):
    host = SimpleNamespace(exec=lambda command, deadline_s: (0, output, b""))
    assert current_leases(host) in ({}, {"k": "somebody unknown"})


def test_group_of_an_mdev_is_not_leased_with_it():
    held = {"iommu-group-1": "you", "u": "me"}
    assert lease_of(held, {"uuid": "v"}, {"iommu_group": "1"}) == ""
    assert lease_of(held, {"uuid": "u"}, {}) == "me"
