# SPDX-License-Identifier: Apache-2.0
"""Random histories of several processes, in a definite order and at the same time."""

from __future__ import annotations

from fixtures.plugin import Case
from fixtures.rig import Rig
from suites.acc.random_histories import contest, history, turmoil

HISTORIES = 30
CONTESTS = 8
TURMOILS = 6
_READ_LOG_EVERY = 10


def test_whoever_does_what_the_device_has_one_owner_at_most(rig: Rig, case: Case) -> None:
    """Clauses: ACC-001 to ACC-011, ACC-020, ACC-025 to ACC-030, ACC-050 to ACC-070, ACC-073, ACC-083 to
    ACC-097."""

    def body() -> None:
        subject = rig.subject("histories")
        for number in range(HISTORIES):
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
