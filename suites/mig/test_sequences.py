# SPDX-License-Identifier: Apache-2.0
"""Sequences of requests: every short one, many long random ones, and several threads at once."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from fixtures.plugin import Case
from fixtures.rig import Rig
from suites.mig.random_programs import concurrent_program, decode, race_program
from suites.mig.sweep import sweep_programs

PROGRAMS = 600
OPERATIONS = 20
RACES = 120


def test_every_sequence_up_to_the_depth(rig: Rig, case: Case, request: pytest.FixtureRequest) -> None:
    """Clauses: MIG-022 to MIG-062, MIG-064 to MIG-067, MIG-106, MIG-111, MIG-113, MIG-140 to MIG-142."""
    depth = int(request.config.getoption("--depth"))

    def body() -> None:
        subject = rig.subject("sweep")
        for program in sweep_programs(subject.flags, depth):
            rig.run(program)

    case.run(body)


class Unseen(AssertionError):
    """A violation no program has shown before; Hypothesis shrinks towards it."""


def test_random_programs_of_requests_and_io(rig: Rig, case: Case, request: pytest.FixtureRequest) -> None:
    """Clauses: MIG-022 to MIG-079, MIG-080 to MIG-093, MIG-140 to MIG-142."""
    examples = max(20, int(PROGRAMS * float(request.config.getoption("--budget"))))
    subject = rig.subject("random")

    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @hypothesis.seed(subject.seed)
    @hypothesis.given(st.binary(min_size=2, max_size=2 * OPERATIONS))
    def program_is_judged_clean(data: bytes) -> None:
        program = decode(data, subject)
        verdict, trace = rig.execute(program)
        rig.programs += 1
        rig.total.merge(verdict.seen())
        if rig.unknown(verdict, program) is not None:
            raise Unseen
        if rig.programs % 50 == 0:
            rig.read_log(program, trace)
        last.append((program, trace))
        del last[:-1]

    last: list[tuple[dict[str, object], list[dict[str, object]]]] = []

    def body() -> None:
        for _ in range(10):  # each round finds one kind of violation and shrinks it
            try:
                program_is_judged_clean()
            except Unseen:
                data = rig.last_program
                rig.run(data)
                continue
            break
        if last:
            rig.read_log(*last[-1])

    case.run(body)


def test_threads_act_as_if_in_some_order(rig: Rig, case: Case, request: pytest.FixtureRequest) -> None:
    """Clauses: MIG-160 to MIG-164."""
    races = max(10, int(RACES * float(request.config.getoption("--budget"))))

    def body() -> None:
        subject = rig.subject("threads")
        for number in range(races):
            make = race_program if number % 4 == 3 else concurrent_program
            rig.run(make(subject), log=number % 10 == 9)
        rig.read_log({"threads": [{"name": "main", "ops": []}]}, [])

    case.run(body)
