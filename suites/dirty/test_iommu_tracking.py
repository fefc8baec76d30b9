# SPDX-License-Identifier: Apache-2.0
"""The IOMMU's dirty tracking: its experiments, and random interleavings of what they are made of."""

from __future__ import annotations

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from suites.dirty.experiments_iommu import EXPERIMENTS, Experiment
from suites.dirty.random_tracking import random_tracking

RANDOM_PROGRAMS = 40


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: str(e.__name__))
def test_experiment_on_a_tracked_table(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment."""

    def body() -> None:
        for script in experiment(rig.subject(experiment.__name__)):
            rig.run(script.to_json(), own=not rig.capabilities.get("mock"))

    case.run(body)


def test_random_interleavings_of_mappings_writes_and_reports(rig: Rig, case: Case) -> None:
    """Clauses: DIRTY-110 to DIRTY-119, DIRTY-121 to DIRTY-123."""

    def body() -> None:
        subject = rig.subject("random interleavings of mappings, writes and reports")
        for number in range(RANDOM_PROGRAMS if subject.has("mock") else 0):
            rig.run(random_tracking(subject.rng).to_json(), log=number % 20 == 19)

    case.run(body)
