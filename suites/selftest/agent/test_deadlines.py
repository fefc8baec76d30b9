# SPDX-License-Identifier: Apache-2.0
"""Which operation of a running program is late, by the clock that the watcher reads."""

from __future__ import annotations

import pytest

from harness.agent.executor import RunningProgram, _Thread
from harness.agent.slots import Slots

S = 1_000_000_000
DEADLINE_S, OP_S = 20, 60


def running(operation: str) -> tuple[RunningProgram, _Thread]:
    """A program that began now and has its one operation under way."""
    thread = _Thread("main", None, [[operation, {}]])
    program = {"deadline_ms": DEADLINE_S * 1000, "op_ms": OP_S * 1000}
    run = RunningProgram(Slots(), program, [thread], None)
    thread.index = 0
    return run, thread


def test_a_walk_that_advances_is_never_late_however_long_it_takes() -> None:
    """Steps: ten minutes of a walk, a step each 5 s.  Verify: it is late only when a step is."""
    run, thread = running("walk")
    begun = thread.since_ns
    for passed_s in range(0, 600, 5):
        thread.since_ns = begun + passed_s * S
        assert not run.late(thread.since_ns + 5 * S)
    assert not run.late(thread.since_ns + OP_S * S)
    assert run.late(thread.since_ns + (OP_S + 1) * S)


@pytest.mark.parametrize(("passed_s", "late"), [(OP_S + 1, False), (DEADLINE_S + OP_S + 1, True)])
def test_what_waits_for_others_has_the_programs_time_too(passed_s: int, late: bool) -> None:
    run, thread = running("barrier")
    assert run.late(thread.since_ns + passed_s * S) is late


def test_a_thread_that_has_ended_is_not_late() -> None:
    run, thread = running("walk")
    thread.ended = True
    assert not run.late(thread.since_ns + 1000 * S)


def test_time_in_which_the_host_stood_still_is_given_back() -> None:
    run, thread = running("set_state")
    now = thread.since_ns + (OP_S + 1) * S
    assert run.late(now)
    run.excuse(30 * S)
    assert not run.late(now)
