# SPDX-License-Identifier: Apache-2.0
"""Random histories of several processes, in a definite order and at the same time."""

from __future__ import annotations

import time

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from suites.acc.random_histories import contest, history, turmoil

HISTORIES = 30
CONTESTS = 8
TURMOILS = 6
LEAST = 10
"""Histories tried however long one takes; a device whose every open resets it takes its time."""
SHARE = 0.04
"""Of the budget of a device."""
_READ_LOG_EVERY = 10


def test_whoever_does_what_the_device_has_one_owner_at_most(
    rig: Rig, case: Case, request: pytest.FixtureRequest
) -> None:
    """Clauses: ACC-001 to ACC-011, ACC-020, ACC-025 to ACC-030, ACC-050 to ACC-070, ACC-073, ACC-083 to
    ACC-097."""
    budget_s = float(request.config.getoption("--budget"))

    def body() -> None:
        subject, begun = rig.subject("histories"), time.monotonic()
        for number in range(HISTORIES):
            if number >= LEAST and time.monotonic() - begun > SHARE * budget_s:
                break
            rig.run(history(subject).to_json(), own=True, log=number % _READ_LOG_EVERY == 0)

    case.run(body)


def test_claims_at_the_same_time_have_one_winner(rig: Rig, case: Case) -> None:
    """Clauses: ACC-070 to ACC-072."""

    def body() -> None:
        subject = rig.subject("races")
        for number in range(CONTESTS):
            rig.run(contest(subject).to_json(), own=True, log=number == CONTESTS - 1)
        for number in range(TURMOILS):
            rig.run(turmoil(subject).to_json(), own=True, log=number == TURMOILS - 1)

    case.run(body)
