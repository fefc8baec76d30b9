# SPDX-License-Identifier: Apache-2.0
"""Sequences of requests: every short one, many long random ones, and several threads at once."""

from __future__ import annotations

import time
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from fixtures.plugin import Case
from fixtures.rig import Rig
from suites.mig.random_programs import concurrent_program, decode, race_program
from suites.mig.sweep import sweep_programs, sweep_targets

PROGRAMS = 1500
SWEEP_SHARE, RANDOM_SHARE = 0.4, 0.2
"""Shares of the budget of a device."""
OPERATIONS = 20
MEAN_BATCH = 6
"""Programs in one request, on average of the lists of 1 to 11 that Hypothesis draws."""
RACES = 120


def test_every_sequence_up_to_the_depth(rig: Rig, case: Case, request: pytest.FixtureRequest) -> None:
    """Clauses: MIG-022 to MIG-062, MIG-064 to MIG-067, MIG-106, MIG-111, MIG-113, MIG-140 to MIG-142."""
    longest, budget_s = int(request.config.getoption("--depth")), float(request.config.getoption("--budget"))

    def body() -> None:
        flags = rig.subject("sweep").flags
        depth = 1
        while True:
            begun = time.monotonic()
            for program in sweep_programs(flags, depth):
                rig.run(program)
            # The next depth costs some (states) times this one.
            if (
                depth >= longest
                or (time.monotonic() - begun) * len(sweep_targets(flags)) > SWEEP_SHARE * budget_s
            ):
                break
            depth += 1
        if depth < longest:
            rig.notes.append(f"{rig.device_id}: every sequence up to {depth} instead of {longest}: --budget")

    case.run(body)


class Unseen(AssertionError):
    """A violation no program has shown before; Hypothesis shrinks towards it."""


def test_random_programs_of_requests_and_io(rig: Rig, case: Case, request: pytest.FixtureRequest) -> None:
    """Clauses: MIG-022 to MIG-079, MIG-080 to MIG-093, MIG-140 to MIG-142."""
    budget_s = float(request.config.getoption("--budget"))
    subject = rig.subject("random")
    last: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []

    def programs_are_judged_clean(batch: list[bytes]) -> None:
        programs = [decode(data, subject) for data in batch]
        before = rig.programs
        for program, (verdict, trace) in zip(programs, rig.execute_many(programs), strict=False):
            rig.programs += 1
            rig.total.merge(verdict.seen())
            last[:] = [(program, trace)]
            if rig.unknown(verdict, program) is not None:
                rig.last_program = program  # not the batch's last, but the one that is to be kept
                raise Unseen
        if rig.programs // 50 != before // 50:
            rig.read_log(*last[-1])

    def body() -> None:
        begun = time.monotonic()
        for n in range(20):
            rig.run(decode(bytes(range(n, n + 2 * OPERATIONS)), subject), log=False)
        cost_s = (time.monotonic() - begun) / 20
        settings = hypothesis.settings(
            max_examples=max(50, min(PROGRAMS, int(RANDOM_SHARE * budget_s / cost_s))) // MEAN_BATCH,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        # In batches: a round trip costs as much as a program.
        batches = st.lists(
            st.binary(min_size=2, max_size=2 * OPERATIONS), min_size=1, max_size=2 * MEAN_BATCH - 1
        )
        trial = hypothesis.seed(subject.seed)(settings(hypothesis.given(batches)(programs_are_judged_clean)))
        for _ in range(10):  # each round finds one kind of violation and shrinks it
            try:
                trial()
            except Unseen:
                rig.run(rig.last_program)
                continue
            break
        rig.read_log(*last[-1])

    case.run(body)


def test_threads_act_as_if_in_some_order(rig: Rig, case: Case) -> None:
    """Clauses: MIG-069, MIG-160 to MIG-164."""

    def body() -> None:
        subject = rig.subject("threads")
        for number in range(RACES):
            make = race_program if number % 4 == 3 else concurrent_program
            rig.run(make(subject), log=number % 10 == 9)
        rig.read_log({"threads": [{"name": "main", "ops": []}]}, [])

    case.run(body)
