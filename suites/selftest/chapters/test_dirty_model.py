# SPDX-License-Identifier: Apache-2.0
"""Device DMA logging on its model: no clause fails unbroken; each broken rule fails its own clause."""

from __future__ import annotations

import random
from functools import cache

import pytest

from fixtures.experiment import experiments_in
from fixtures.fakes.traffic import DMA_CAPABILITIES, LOG_DEFECTS, DmaModelAgent
from fixtures.subject import Subject
from harness.oracle.judge import judge
from harness.oracle.judgement import Judgement
from harness.spec.clause import all_clauses
from suites.dirty import experiments_log_content, experiments_log_interface
from suites.dirty.random_logging import random_program, reports_beside_dma, reports_beside_reports

EXPERIMENTS = [
    *experiments_in(experiments_log_interface, experiments_log_content),
]
# Needs two reports that run at the same time: the model runs one operation after the other.
BESIDE = {"DIRTY-056"}
FAR, MANY = "a_large_range_is_reported_in_every_part", "a_million_pages_are_written_and_reported"
"""Experiments with bitmaps of megabytes, which take the model seconds."""


@cache
def programs(seed: int, count: int, large: tuple[str, ...]) -> list[dict[str, object]]:
    subject = Subject(DMA_CAPABILITIES, [[0, 0, 16, 1]], (), (), seed, 40, random.Random(seed))
    listed = [
        s.to_json()
        for e in EXPERIMENTS
        if e.__name__ in large or e.__name__ not in (FAR, MANY)
        for s in e(subject)
    ]
    listed += [random_program(subject).to_json() for _ in range(count)]
    return [*listed, reports_beside_dma(subject).to_json(), reports_beside_reports(subject).to_json()]


def certify(agent: DmaModelAgent, seed: int = 1, count: int = 6, large: tuple[str, ...] = ()) -> Judgement:
    total = Judgement()
    for program in programs(seed, count, large):
        total.merge(judge(DMA_CAPABILITIES, program, agent.run(program)))
    return total


def test_a_log_that_keeps_every_rule_has_no_finding() -> None:
    for seed in range(3):
        found = certify(DmaModelAgent(), seed, 40, (FAR, MANY) if seed == 0 else ())
        assert found.violations == []
        assert not found.figures["commands_failed"]
        if seed == 0:
            clauses = {c.id for c in all_clauses() if "DIRTY-000" <= c.id < "DIRTY-100"}
            assert clauses - set(found.checked) == set()
            assert found.figures["dirty_written"] > 100_000
        assert found.figures["dirty_reported"] >= found.figures["dirty_written"] > 0


@pytest.mark.parametrize("defect", sorted(LOG_DEFECTS))
def test_a_broken_rule_of_the_log_is_caught_by_its_clause(defect: str) -> None:
    found = certify(DmaModelAgent(defect), large=(FAR,) if defect == "tail-lost" else ())
    assert LOG_DEFECTS[defect] in {v.clause for v in found.violations}


def test_every_must_of_the_log_has_a_defect() -> None:
    musts = {c.id for c in all_clauses() if "DIRTY-000" <= c.id < "DIRTY-100" and c.level == "MUST"}
    assert musts - set(LOG_DEFECTS.values()) == BESIDE
