# SPDX-License-Identifier: Apache-2.0
"""The agent on a real kernel: mtty and edu are provisioned, driven by programs, walked, and given back."""

from __future__ import annotations

import base64
import random
import time

import pytest

from fixtures.reach import embedded_host
from harness.errors import LabError
from harness.hosts import client
from harness.hosts.host import Host
from harness.hosts.ssh import SshHost
from suites.selftest.agent.programs import op, program, trace_records

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

MTTY = {"mdev_parent": "mtty", "mdev_type": "mtty-1", "uuid": "83b8f4f2-509f-382f-3c1e-e6bfe0fa10aa"}
EDU = {"pci": "0000:00:04.0"}
RUNNING, STOP_COPY, RESUMING, PRE_COPY = 2, 3, 4, 6
OPEN = [
    op("open_cdev", dev="dev0", out="d"),
    op("open_iommufd", out="i"),
    op("bind", fd="d", iommufd="i"),
    op("ioas_alloc", fd="i", out="ioas"),
    op("attach", fd="d", pt="ioas"),
]


@pytest.fixture
def host(embedded_lab):
    """The lab with an agent, which gives everything back when it is closed."""
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as connected:
        yield connected


@pytest.fixture
def agent(host):
    before = host.agent.call("snapshot_host", devices=[MTTY, EDU])
    yield host.agent
    assert all(e["status"] in ("undone", "already") for e in host.agent.call("undo", run=None))
    assert host.agent.call("snapshot_host", devices=[MTTY, EDU]) == before


def run(agent, ops, device, **more):
    result = agent.run(program(ops, devices={"dev0": device}, **more))
    assert result.hung is None
    return trace_records(result.trace)


def walk(agent, device, targets):
    """The 4-byte records of a walk from a freshly opened device."""
    encoded = base64.b64encode(bytes(targets)).decode()
    records = run(agent, [*OPEN, op("walk", fd="d", targets=encoded)], device, deadline_ms=60000)
    assert all(r.ok for r in records)
    data = base64.b64decode(records[-1]["recs"])
    return [tuple(data[n : n + 4]) for n in range(0, len(data), 4)]


def test_mtty_saves_and_resumes_through_a_program(agent):
    device = agent.call("provision", device=MTTY)
    assert device["cdev"].startswith("/dev/vfio/devices/vfio")
    records = run(agent, [
        *OPEN, op("get_state", fd="d"), op("debugfs_state", dev="dev0"),
        op("set_state", fd="d", state=STOP_COPY, out="f"),
        op("read_all", fd="f", keep="b", chunks=[3, 64]), op("set_state", fd="d", state=RUNNING),
        op("read", fd="f", n=1), op("set_state", fd="d", state=RESUMING, out="r"),
        op("write_all", fd="r", from_="b"),
        op("set_state", fd="d", state=RUNNING), op("get_state", fd="d"),
    ], device)[5:]  # fmt: skip
    assert (records[0]["state"], records[1]["text"]) == (RUNNING, "RUNNING")
    assert (records[2]["data_fd"], records[2]["cloexec"]) == (1, True)
    assert (records[3]["end"], records[3]["n"] > 0) == ("eof", True)
    assert (records[5].ret, records[5].errno != 0) == (-1, True)
    assert [r.ok for r in records[6:]] == [True] * 4
    assert records[9]["state"] == RUNNING


def test_a_walk_agrees_with_single_operations(agent):
    """Steps: the same targets as a walk and as operations.  Verify: same errno, state, fds at each step."""
    device = agent.call("provision", device=MTTY)
    targets = [
        STOP_COPY,
        RUNNING,
        PRE_COPY,
        STOP_COPY,
        RUNNING,
        RESUMING,
        255,
        99,
        0,
        PRE_COPY,
        7,
        PRE_COPY,
        5,
    ]
    fast = walk(agent, device, targets)
    ops = list(OPEN)
    for target in targets:
        step = op("reset", fd="d") if target == 255 else op("set_state", fd="d", state=target, out="f")
        ops += [step, op("get_state", fd="d")]
    slow = run(agent, ops, device)[len(OPEN) :]
    for number, (error, state, flags, _) in enumerate(fast):
        request, answer = slow[2 * number : 2 * number + 2]
        assert (error, state) == (request.errno, answer["state"])
        if request.op == "set_state":
            assert bool(flags & 1) == (request["data_fd"] == 1)
            assert bool(flags & 2) == request["cloexec"]
            assert not flags & 8
    assert {record[3] for record in fast} > {0xFE}  # a fd was read after its session


def test_the_walk_in_c_and_the_walk_in_python_give_the_same_records(agent, embedded_lab, monkeypatch):
    """Steps: the same targets by two agents, one of them without the compiled loop.  Verify: same bytes."""
    device = agent.call("provision", device=MTTY)
    dice = random.Random(0)
    targets = bytes(dice.choice((0, 1, 2, 3, 4, 4, 5, 6, 7, 99, 255)) for _ in range(2000))
    ops = [
        *OPEN, op("set_state", fd="d", state=STOP_COPY, out="f"), op("read_all", fd="f", keep="b"),
        op("set_state", fd="d", state=RUNNING),
        op("walk", fd="d", targets=base64.b64encode(targets).decode(), stream="b"),
        op("reset", fd="d"), op("walk", fd="d", targets=base64.b64encode(targets).decode()),
        op("reset", fd="d"),  # mtty keeps its state when it is closed, but not the session that belongs to it
    ]  # fmt: skip
    monkeypatch.setattr(client, "compiled_module", lambda source: source)
    plain = client.bundle.__wrapped__()
    monkeypatch.setattr(client, "bundle", lambda: plain)
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as other:
        found = [run(one, ops, device, deadline_ms=60000) for one in (agent, other.agent)]
        told = [one.transport.stderr_tail() for one in (agent, other.agent)]
    assert all(r.ok for records in found for r in records)
    assert [r.fields for r in found[0] if r.op == "walk"] == [r.fields for r in found[1] if r.op == "walk"]
    assert len(base64.b64decode(found[0][-2]["recs"])) == 4 * len(targets)
    assert ["walks in Python" in text for text in told] == [False, True]


def test_who_has_the_device_by_its_group_excludes_the_cdev_and_the_other_way_round(agent):
    device = agent.call("provision", device=MTTY)
    records = run(agent, [
        *OPEN, op("open_group", dev="dev0", out="g"), op("close", fd="d"),
        op("open_group", dev="dev0", out="g"),
        op("open_container", out="c"), op("group_set_container", fd="g", container="c"),
        op("container_set_iommu", fd="c", type=3), op("group_get_device_fd", fd="g", dev="dev0", out="d2"),
        op("get_state", fd="d2"), op("open_cdev", dev="dev0", out="d3"), op("bind", fd="d3", iommufd="i"),
    ], device)[5:]  # fmt: skip
    assert [r.ok for r in records] == [False, True, True, True, True, True, True, True, True, False]


def test_an_actor_that_holds_the_device_is_excluded_by_nothing_but_its_end(agent):
    device = agent.call("provision", device=MTTY)
    records = run(agent, [
        *OPEN, op("exec_self", fds=["d", "i"]), op("fork", actor="a"), op("close", fd="d"),
        op("open_group", dev="dev0", out="g"), op("kill", actor="a"), op("wait", actor="a"),
        op("open_group", dev="dev0", out="g"),
    ], device)[5:]  # fmt: skip
    assert records[0]["open"] == {"d": False, "i": False}
    assert (records[3].ok, records[5]["signal"], records[6].ok) == (False, 9, True)


def test_edu_is_bound_mapped_and_read(agent):
    device = agent.call("provision", device=EDU)
    assert device["driver"] == "vfio-pci"
    records = run(agent, [
        *OPEN, op("region_info", fd="d", index=0), op("region_read", fd="d", region=0, off=0, n=4, width=4),
        op("mmap", out="bar", fd="d", region=0, n=4096), op("mem_read", mem="bar", n=4, width=4),
        op("mmap", out="m", n=8192, align=4096),
        op("ioas_map", fd="i", ioas="ioas", mem="m", n=8192, iova=0x100000),
        op("eventfd", out="e"), op("set_irqs", fd="d", index=0, start=0, count=1, flags=36, fds=["e"]),
        op("ioas_unmap", fd="i", ioas="ioas", iova=0x100000, n=8192), op("get_state", fd="d"),
    ], device)[5:]  # fmt: skip
    assert [r.ok for r in records] == [True] * 9 + [False]
    assert records[0]["size"] == 1 << 20
    assert records[1]["hex"] == records[3]["hex"] == "ed000001"


def test_the_network_card_of_the_session_is_protected(agent):
    with pytest.raises(LabError, match="is protected: the network interface eth0 carries this SSH session"):
        agent.call("provision", device={"pci": "0000:00:02.0"})


def test_marks_in_the_kernel_log_bracket_what_happens_between_them(agent):
    """mtty prints a line for each reset: it must lie between the two marks, with nothing lost."""
    device = agent.call("provision", device=MTTY)
    first = agent.call("kmsg_mark", text="vfiocert: first \\ mark")["seq"]
    run(agent, [*OPEN, op("reset", fd="d")], device)
    last = agent.call("kmsg_mark", text="vfiocert: last")["seq"]
    log = agent.call("kmsg_read", since=first, max=1000)
    assert log["lost"] is False
    assert (log["records"][0][1], log["records"][-1][1]) == (first, last)
    assert log["next"] == last + 1
    assert len(log["records"]) > 2
    assert agent.call("kmsg_read", since=log["next"], max=10)["records"] == []


def test_when_the_channel_closes_the_host_is_as_it_was(embedded_lab, agent):
    before = agent.call("snapshot_host", devices=[MTTY, EDU])
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as other:
        device = other.agent.call("provision", device=MTTY)
        other.agent.call("provision", device=EDU)
        # held open: the undo must close what the session keeps, or the removal waits for ever
        run(other.agent, OPEN, device, session="s", keep=["d", "i"])
        assert agent.call("snapshot_host", devices=[MTTY, EDU]) != before
    end = time.monotonic() + 120  # a busy machine takes its time; what is looked at is the end
    while agent.call("snapshot_host", devices=[MTTY, EDU]) != before:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_what_a_killed_agent_left_is_undone_by_another(embedded_lab, agent):
    before = agent.call("snapshot_host", devices=[MTTY, EDU])
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as other:
        other.agent.call("provision", device=EDU)
        living = [e["status"] for e in agent.call("undo", run=None)]
        assert any(status.startswith("skipped: its agent lives") for status in living)
        other.agent.call("lease", keys=[EDU], holder="doomed")
        kill_agent(embedded_lab, other.agent.hello["pid"])
        with pytest.raises(LabError):
            other.agent.call("host_info")
    assert agent.call("snapshot_host", devices=[MTTY, EDU]) != before
    agent.call("lease", keys=[EDU], holder="next")
    agent.call("release", keys=[EDU])
    assert "undone" in [e["status"] for e in agent.call("undo", run=None)]
    assert agent.call("snapshot_host", devices=[MTTY, EDU]) == before


def kill_agent(lab, pid):
    """Kill one agent, as a crash of it would."""
    with SshHost().connect(embedded_host(lab), "embedded.embedded") as connection:
        connection.exec(f"kill -9 {pid}", deadline_s=20)
