# SPDX-License-Identifier: Apache-2.0
"""Quiescence on its model: no clause fails on the unbroken model; each broken rule fails its own clause."""

from __future__ import annotations

import random

import pytest

from fixtures.experiment import experiments_in
from fixtures.fakes.traffic import DMA_CAPABILITIES, QUIET_DEFECTS, DmaModelAgent
from fixtures.subject import Subject
from harness.oracle.judge import judge
from harness.oracle.judgement import Judgement
from suites.mig import experiments_traffic


def certify(agent: DmaModelAgent, seed: int = 1) -> Judgement:
    subject = Subject(DMA_CAPABILITIES, [[0, 0, 16, 1]], (), (), seed, 40, random.Random(seed))
    total = Judgement()
    for experiment in experiments_in(experiments_traffic):
        for script in experiment(subject):
            program = script.to_json()
            total.merge(judge(DMA_CAPABILITIES, program, agent.run(program)))
    return total


def test_a_quiet_device_has_no_finding() -> None:
    for seed in range(5):
        found = certify(DmaModelAgent(), seed)
        assert found.violations == []
        assert set(QUIET_DEFECTS.values()) - set(found.checked) == set()


@pytest.mark.parametrize("defect", sorted(QUIET_DEFECTS))
def test_a_broken_rule_of_quiescence_is_caught_by_its_clause(defect: str) -> None:
    found = certify(DmaModelAgent(defect))
    assert QUIET_DEFECTS[defect] in {v.clause for v in found.violations}
