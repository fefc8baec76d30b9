# SPDX-License-Identifier: Apache-2.0
"""Device DMA logging on the device: every experiment, random programs, and reports beside DMA."""

from __future__ import annotations

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from fixtures.subject import Subject
from fixtures.traffic_runs import run_traffic
from suites.dirty import experiments_log_content, experiments_log_interface
from suites.dirty.experiments_log_interface import Experiment
from suites.dirty.program import engine_of
from suites.dirty.random_logging import random_program, reports_beside_dma, reports_beside_reports

RANDOM_PROGRAMS = 40
RANDOM_PROGRAMS_SLOW = 3
RACES = 12
LARGEST_RANGE = 64 << 30
SAID: set[str] = set()
"""Devices whose narrow reach is noted already."""
FIRST = experiments_log_interface.EXPERIMENTS[:1]
"""What a device that declares a part of it is asked."""


def _loggable(subject: Subject) -> bool:
    return subject.has("dma_logging")


@pytest.mark.parametrize("experiment", experiments_log_interface.EXPERIMENTS, ids=lambda e: str(e.__name__))
def test_logging_interface(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment in the device's long-lived session."""

    def body() -> None:
        subject = rig.subject(experiment.__name__)
        if _loggable(subject) or (subject.has("dma_logging_any") and experiment in FIRST):
            for script in experiment(subject):
                run_traffic(rig, script.to_json())

    case.run(body)


@pytest.mark.parametrize("experiment", experiments_log_interface.OWN_SESSION, ids=lambda e: str(e.__name__))
def test_logging_over_opens(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment, each on an open of its own."""

    def body() -> None:
        subject = rig.subject(experiment.__name__)
        if _loggable(subject):
            for script in experiment(subject):
                run_traffic(rig, script.to_json(), own=True)

    case.run(body)


@pytest.mark.parametrize("experiment", experiments_log_content.EXPERIMENTS, ids=lambda e: str(e.__name__))
def test_logging_of_traffic(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment on a device with a traffic engine."""

    def body() -> None:
        subject = rig.subject(experiment.__name__)
        if _loggable(subject) and subject.has("engine"):
            _say_reach(rig, subject)
            for script in experiment(subject):
                run_traffic(rig, script.to_json())

    case.run(body)


def _say_reach(rig: Rig, subject: Subject) -> None:
    """A device that does not reach every IOVA is tried in the part that it reaches: the report says so."""
    engine = engine_of(subject)
    if engine is not None and engine.reach.highest < LARGEST_RANGE and rig.device_id not in SAID:
        SAID.add(rig.device_id)
        rig.notes.append(
            f"{rig.device_id}: its engine ({engine.name}) reaches IOVAs up to {engine.reach.highest:#x}: "
            "ranges are narrowed to that"
        )


def test_random_programs_of_writes_and_reports(rig: Rig, case: Case) -> None:
    """Clauses: DIRTY-030 to DIRTY-037, DIRTY-045, DIRTY-058."""

    def body() -> None:
        subject = rig.subject("random logging")
        if not (_loggable(subject) and subject.has("engine")):
            return
        sample = random_program(subject)
        count = RANDOM_PROGRAMS if sample.quick else RANDOM_PROGRAMS_SLOW
        for _ in range(count):
            run_traffic(rig, random_program(subject).to_json())

    case.run(body)


def test_reports_beside_dma_and_beside_each_other(rig: Rig, case: Case) -> None:
    """Clauses: DIRTY-055, DIRTY-056."""

    def body() -> None:
        subject = rig.subject("logging races")
        if not (_loggable(subject) and subject.has("engine")):
            return
        for number in range(RACES if reports_beside_dma(subject).quick else 2):
            make = reports_beside_reports if number % 2 else reports_beside_dma
            run_traffic(rig, make(subject).to_json())

    case.run(body)
