# SPDX-License-Identifier: Apache-2.0
"""The clauses that the rig and the concurrency judge hold: each can fail, and none by a fault of the lab."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.rig import Rig
from harness.errors import LabError
from harness.model import CAPABILITIES, ModelAgent
from harness.oracle import judge
from harness.profiles import load_profile
from harness.script import Script
from harness.spec.fsm import S

KASAN = [
    "==================================================================",
    "BUG: KASAN: slab-use-after-free in mtty_save_read+0x1a/0x40 [mtty]",
    "Read of size 8 at addr ffff888003a4c000 by task python3/77",
]


class FakeAgent:
    """The model behind the agent's methods; `log`, `taint` and `hung` are what the host would say."""

    def __init__(self) -> None:
        self.model, self.taint = ModelAgent(), 0
        self.log: list[str] = []
        self.hung: dict[str, object] | None = None
        self.lost = False
        self.dies = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        if method == "kmsg_read":
            texts, self.log = self.log, []
            records = [[4, n, n, text] for n, text in enumerate(texts)]
            return {"records": records, "lost": self.lost, "next": 1000}
        return {"seq": 1, "taint": self.taint}

    def run(self, program: dict[str, Any], deadline_s: float = 0) -> Any:
        if self.dies and any(op[0] == "get_state" for op in program["threads"][0]["ops"]):
            self.dies -= 1
            raise LabError("the agent's channel closed")
        hung, self.hung = self.hung, None
        return SimpleNamespace(trace=self.model.run(program), hung=hung)


class FakeConnection:
    def __init__(self, agent: FakeAgent) -> None:
        self.agent: Any = agent
        self.device: Mapping[str, str] = {}
        self.capabilities: Mapping[str, Any] = CAPABILITIES
        self.fault = ""
        self.lines: list[str] = []
        self.recovered = 0

    def close(self) -> None: ...

    def recover(self) -> None:
        self.recovered += 1

    def console(self) -> list[str]:
        return self.lines


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def connection(agent: FakeAgent) -> FakeConnection:
    return FakeConnection(agent)


@pytest.fixture
def rig(connection: FakeConnection, tmp_path: Path) -> Rig:
    made = Rig("dev", load_profile("generic"), lambda: connection, 1, tmp_path)
    made.facts = {"taint_before": 0}
    return made


def get_state_program() -> dict[str, Any]:
    return Script().to_json()


def clauses_found(rig: Rig) -> set[str]:
    return {f.clause for f in rig.findings}


def test_a_clean_program_finds_nothing(rig: Rig) -> None:
    with rig.test("t"):
        rig.run(get_state_program())
    assert rig.findings == []
    assert rig.total.checked["MIG-166"] == 1


def test_a_kernel_report_is_a_finding_with_its_lines(rig: Rig, agent: FakeAgent) -> None:
    """Clause: MIG-166."""
    with rig.test("t"):
        agent.log = KASAN
        rig.run(get_state_program())
    assert clauses_found(rig) == {"MIG-166"}
    assert any("KASAN" in line for line in rig.findings[0].kernel_log)


def test_a_kernel_report_on_a_shared_host_accuses_no_device(rig: Rig, agent: FakeAgent) -> None:
    rig.shared = True
    with rig.test("t"):
        agent.log = KASAN
        rig.run(get_state_program())
        agent.taint = 512
        rig.check_taint(0)
    assert rig.findings == []
    assert set(rig.record([])["undecided"]) == {"MIG-166", "MIG-167"}


def test_a_lost_kernel_log_decides_nothing(rig: Rig, agent: FakeAgent) -> None:
    agent.lost = True
    with rig.test("t"):
        rig.run(get_state_program())
    assert "MIG-166" in rig.record([])["undecided"]


def test_a_new_taint_is_a_finding(rig: Rig, agent: FakeAgent) -> None:
    """Clause: MIG-167."""
    with rig.test("t"):
        agent.taint = 512
        rig.check_taint(0)
    assert clauses_found(rig) == {"MIG-167"}


def test_a_report_the_core_is_known_for_is_a_finding_of_its_own_clause(rig: Rig, agent: FakeAgent) -> None:
    """Clauses: EMU-023; any other report in the same span stays one of MIG-166."""
    warning = [
        "------------[ cut here ]------------",
        "WARNING: drivers/vfio/group.c:510 at vfio_group_release+0x3d/0x50 [vfio], CPU#0: sh/386",
        "Call Trace:",
        " <TASK>",
        " ? vfio_create_group+0x145/0x1b0 [vfio]",
        " </TASK>",
        "---[ end trace 0000000000000000 ]---",
    ]
    nothing: dict[str, Any] = {"threads": [{"name": "main", "ops": []}]}
    with rig.test("t"):
        rig.run(get_state_program())
        agent.log, agent.taint, rig.core_reports = warning, 512, {"vfio_create_group": "EMU-023"}
        rig.read_log(nothing, [])
        rig.check_taint(0)
        assert clauses_found(rig) == {"EMU-023"}
        agent.log = KASAN
        rig.read_log(nothing, [])
        agent.taint |= 128
        rig.check_taint(0)
    assert clauses_found(rig) == {"EMU-023", "MIG-166", "MIG-167"}


def test_a_hung_operation_of_the_device_is_a_finding(rig: Rig, agent: FakeAgent) -> None:
    """Clause: MIG-164."""
    with rig.test("t"):
        rig.subject("x")  # opens the session
        agent.hung = {"thread": "main", "i": 0, "op": "reset", "stack": []}
        verdict, _ = rig.execute(get_state_program())
    assert {v.clause for v in verdict.violations} == {"MIG-164"}


def test_a_hang_outside_the_device_is_the_labs(rig: Rig, agent: FakeAgent) -> None:
    with rig.test("t"):
        rig.subject("x")
        agent.hung = {"thread": "main", "i": 0, "op": "sleep", "stack": []}
        with pytest.raises(LabError, match="sleep"):
            rig.execute(get_state_program())


def test_a_lab_fault_is_tried_again_and_is_no_finding(
    rig: Rig, agent: FakeAgent, connection: FakeConnection
) -> None:
    agent.dies = 1

    def body() -> None:
        with rig.test("t"):
            rig.run(get_state_program())

    assert rig.guarded(body) == ""
    assert connection.recovered == 1
    assert rig.findings == []


def test_a_lab_that_stays_broken_is_no_verdict(rig: Rig, agent: FakeAgent) -> None:
    agent.dies = 99

    def body() -> None:
        with rig.test("t"):
            rig.run(get_state_program())

    assert "channel closed" in rig.guarded(body)
    assert rig.findings == []


def test_what_a_dying_kernel_printed_is_a_finding(
    rig: Rig, agent: FakeAgent, connection: FakeConnection
) -> None:
    agent.dies = 1
    connection.lines = ["vfiocert: dev t", *KASAN]

    def body() -> None:
        rig.run(get_state_program())

    with rig.test("t"):
        rig.guarded(body)
    assert clauses_found(rig) == {"MIG-166"}


# -- histories of several threads
def record(thread: str, i: int, op: str, t0: int, dt: int, **fields: Any) -> dict[str, Any]:
    return {"t": thread, "i": i, "op": op, "ret": 0, "errno": 0, "t0": t0, "dt": dt, **fields}


def two_threads(a: list[list[Any]], b: list[list[Any]]) -> dict[str, Any]:
    return {"threads": [{"name": "a", "ops": a}, {"name": "b", "ops": b}], "claims": []}


SET_STOP: list[Any] = ["set_state", {"fd": "d", "state": int(S.STOP)}]
GET: list[Any] = ["get_state", {"fd": "d"}]
RESET: list[Any] = ["reset", {"fd": "d"}]


def broken(program: dict[str, Any], trace: list[dict[str, Any]]) -> set[str]:
    return {v.clause for v in judge(CAPABILITIES, program, trace).violations}


def test_a_get_after_a_set_returned_sees_its_state() -> None:
    """Clause: MIG-160.  SET(STOP) was over before GET began, and GET says RUNNING."""
    program = two_threads([SET_STOP], [GET])
    late = [record("a", 0, "set_state", 0, 10, state=1), record("b", 0, "get_state", 20, 5, state=2)]
    assert "MIG-160" in broken(program, late)
    during = [record("a", 0, "set_state", 0, 10, state=1), record("b", 0, "get_state", 5, 3, state=2)]
    assert broken(program, during) == set()


def test_a_get_never_sees_a_state_on_the_way() -> None:
    """Clause: MIG-162.  RUNNING -> STOP goes through RUNNING_P2P, which nobody may see."""
    program = two_threads([SET_STOP], [GET])
    seen = [record("a", 0, "set_state", 0, 10, state=1), record("b", 0, "get_state", 5, 3, state=5)]
    assert "MIG-162" in broken(program, seen)


def test_a_reset_is_not_lost_beside_a_set() -> None:
    """Clause: MIG-161.  The reset returned after SET(STOP) had, and GET still says STOP."""
    program = two_threads([SET_STOP, GET], [GET, RESET])
    lost = [
        record("a", 0, "set_state", 0, 10, state=1), record("b", 0, "get_state", 1, 1, state=2),
        record("b", 1, "reset", 20, 10), record("a", 1, "get_state", 40, 5, state=1),
    ]  # fmt: skip
    assert "MIG-161" in broken(program, lost)


def test_a_refused_set_that_the_machine_allows_is_unexplained() -> None:
    """Clause: MIG-160."""
    program = two_threads([SET_STOP], [GET])
    refused = [
        record("a", 0, "set_state", 0, 10, state=1, errno=errno.EBUSY),
        record("b", 0, "get_state", 20, 1, state=2),
    ]
    assert "MIG-160" in broken(program, refused)


def test_data_after_the_end_of_the_session_is_caught() -> None:
    """Clause: MIG-163."""
    program = two_threads([GET], [["read", {"fd": "f", "n": 64}]])
    claim = {
        "clause": "MIG-163",
        "test": [{"t": "b", "op": 0, "field": "ret"}, "<=", 0],
        "expected": "no data",
    }
    program["claims"] = [claim]
    trace = [record("a", 0, "get_state", 0, 1, state=2), record("b", 0, "read", 5, 1)]
    assert broken(program, trace) == set()
    trace[1]["ret"] = 36
    assert broken(program, trace) == {"MIG-163"}


def test_a_set_that_strays_when_an_allocation_fails_is_caught() -> None:
    """Clauses: MIG-051, MIG-165."""
    script = Script(faults=True)
    script.op("set_state", fd="d", state=int(S.STOP), out="f")
    after = script.op("get_state", fd="d")
    script.claim("MIG-165", after, "errno", "==", 0, "GET tells the state")
    trace = [
        record("main", 0, "reset", 0, 1), record("main", 1, "get_state", 1, 1, state=2, data_fd=-1),
        record("main", 2, "set_state", 2, 1, errno=errno.ENOMEM, ret=-1, state=1, data_fd=-1),
        record("main", 3, "get_state", 3, 1, state=int(S.RESUMING), data_fd=-1),
    ]  # fmt: skip
    assert broken(script.to_json(), trace) == {"MIG-051"}
    trace[3].update(errno=errno.EIO, ret=-1)
    assert broken(script.to_json(), trace) == {"MIG-052", "MIG-165"}
