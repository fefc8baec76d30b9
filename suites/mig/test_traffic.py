# SPDX-License-Identifier: Apache-2.0
"""Every experiment about a device that was busy when it was stopped."""

from __future__ import annotations

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from fixtures.traffic_runs import run_traffic
from suites.mig import experiments_traffic
from suites.mig.experiments_traffic import Experiment


@pytest.mark.parametrize("experiment", experiments_traffic.EXPERIMENTS, ids=lambda e: str(e.__name__))
def test_quiescence(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment in the device's long-lived session."""

    def body() -> None:
        for script in experiment(rig.subject(experiment.__name__)):
            run_traffic(rig, script.to_json())

    case.run(body)


@pytest.mark.parametrize("experiment", experiments_traffic.OWN_SESSION, ids=lambda e: str(e.__name__))
def test_quiescence_over_opens(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment, each on an open of its own."""

    def body() -> None:
        for script in experiment(rig.subject(experiment.__name__)):
            run_traffic(rig, script.to_json(), own=True)

    case.run(body)
