# SPDX-License-Identifier: Apache-2.0
"""Every experiment of the chapter, on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from fixtures.subject import Subject
from harness.program.script import Script
from suites.mig import (
    experiments_failing,
    experiments_interface,
    experiments_stream,
    experiments_whole_state,
)

Experiment = Callable[[Subject], Iterator[Script]]


@pytest.mark.parametrize(
    "experiment",
    [
        *experiments_interface.EXPERIMENTS,
        *experiments_stream.EXPERIMENTS,
        *experiments_failing.EXPERIMENTS,
        *experiments_whole_state.EXPERIMENTS,
    ],
    ids=lambda e: str(e.__name__),
)
def test_experiment(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment in the device's long-lived session."""

    def body() -> None:
        for script in experiment(rig.subject(experiment.__name__)):
            rig.run(script.to_json())

    case.run(body)


@pytest.mark.parametrize(
    "experiment",
    [*experiments_interface.OWN_SESSION, *experiments_whole_state.OWN_SESSION],
    ids=lambda e: str(e.__name__),
)
def test_experiment_on_its_own_open(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment, each on an open of its own."""

    def body() -> None:
        for script in experiment(rig.subject(experiment.__name__)):
            rig.run(script.to_json(), own=True)

    case.run(body)
