# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments of certify: status 2, one line with what is allowed, nothing started."""

from __future__ import annotations

import json

import pytest

from harness.__main__ import main

HOST = {"address": "192.0.2.1"}


def inventory(tmp_path, profile):
    """A labs.yaml with one device of a profile."""
    device = {"id": "nic0", "host": "node", "pci": "0000:3b:00.2", "profile": profile}
    path = tmp_path / "labs.yaml"
    path.write_text(json.dumps({"labs": {"rack": {"hosts": {"node": HOST}, "devices": [device]}}}))
    return str(path)


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--device", "nosuch"], ["nosuch", "mtty0, mtty1"]),
        (["--clause", "MIG-9*"], ["MIG-9*", "ACC-001", "vfiocert clauses"]),
        (["--lab", "nosuch"], ["nosuch", "embedded"]),
        (["--budget", "soon"], ["--budget='soon'", "90s"]),
        (["--module", "nosuch.ko"], ["--module=nosuch.ko", "no such file"]),
        (["--depth", "0"], ["--depth", "greater than or equal to 1"]),
        (["--resume", "--out", "OCCUPIED"], ["OCCUPIED", "no run to resume"]),
        (["--out", "OCCUPIED"], ["OCCUPIED", "not empty", "--resume"]),
        (["--lab", "rack", "--labs-file", "BAD_PROFILE"], ["nosuchdriver", "mtty", "mlx5_vfio_pci"]),
        (["--lab", "rack", "--labs-file", "GOOD", "--device", "nic1"], ["nic1", "nic0"]),
        (["--lab", "rack", "--labs-file", "GOOD", "--kernel", "7.2"], ["--kernel", "--lab"]),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    occupied = tmp_path / "OCCUPIED"
    occupied.mkdir()
    (occupied / "letter").write_text("mine")
    good = inventory(tmp_path, "mlx5_vfio_pci")
    bad = tmp_path / "bad"
    bad.mkdir()
    files = {"GOOD": good, "BAD_PROFILE": inventory(bad, "nosuchdriver"), "OCCUPIED": str(occupied)}
    status = main(["certify", *[files.get(a, a) for a in arguments]])
    shown = capsys.readouterr()
    assert status == 2
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    for word in words:
        assert word in shown.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["OCCUPIED", "bad", "labs.yaml"]
    assert [p.name for p in occupied.iterdir()] == ["letter"]
