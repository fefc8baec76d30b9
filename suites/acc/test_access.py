# SPDX-License-Identifier: Apache-2.0
"""Every experiment of the chapter, on the device; each program opens what it needs itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from fixtures.subject import Subject
from suites.acc import experiments_cdev, experiments_group, experiments_references
from suites.acc.program import History

Experiment = Callable[[Subject], Iterator[History]]


@pytest.mark.parametrize(
    "experiment",
    [*experiments_cdev.EXPERIMENTS, *experiments_group.EXPERIMENTS, *experiments_references.EXPERIMENTS],
    ids=lambda e: str(e.__name__),
)
def test_access(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment."""

    def body() -> None:
        for history in experiment(rig.subject(experiment.__name__)):
            rig.run(history.to_json(), own=True)

    case.run(body)
