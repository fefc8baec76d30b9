# SPDX-License-Identifier: Apache-2.0
"""Chapter MIG on its model: no clause fails on the unbroken model; each broken rule fails its own clause."""

from __future__ import annotations

import random

import pytest

from fixtures.experiment import experiments_in
from fixtures.fakes.migration import CAPABILITIES, DEFECTS, FAIL, ModelAgent
from fixtures.subject import Failing, Subject
from harness.oracle.judge import judge
from harness.oracle.judgement import Judgement
from harness.spec.arcs import Mig, direct_arcs
from suites.mig import (
    experiments_failing,
    experiments_interface,
    experiments_stream,
    experiments_whole_state,
)
from suites.mig.sweep import sweep_programs

MUTATIONS = [[(0, n, f"{17 * n & 0xFF:02x}")] for n in range(1, 16)]
FEATURES = {
    7: ["STOP_COPY", "P2P", "PRE_COPY"],
    1: ["STOP_COPY"],
    3: ["STOP_COPY", "P2P"],
    5: ["STOP_COPY", "PRE_COPY"],
}


def certify(agent: ModelAgent, capabilities: dict[str, object], seed: int = 1, depth: int = 2) -> Judgement:
    failing = [
        Failing(a, b, error, [(0, FAIL, bytes([a, b, error]).hex())])
        for a, b in direct_arcs(agent.flags)
        for error in (False, True)
    ]
    subject = Subject(capabilities, [[0, 0, 16, 1]], MUTATIONS, (), seed, 40, random.Random(seed), failing)
    total = Judgement()
    everything = experiments_in(
        experiments_interface, experiments_stream, experiments_failing, experiments_whole_state
    )
    programs = [s.to_json() for e in everything for s in e(subject)]
    for program in [*programs, *sweep_programs(subject.flags, depth, chunk=200)]:
        total.merge(judge(capabilities, program, agent.run(program)))
    return total


@pytest.mark.parametrize("flags", FEATURES)
def test_a_device_that_keeps_every_rule_has_no_finding(flags: int) -> None:
    capabilities = {**CAPABILITIES, "migration": FEATURES[flags]}
    for seed in range(3):
        found = certify(ModelAgent(flags=Mig(flags)), capabilities, seed)
        assert found.violations == []
        assert found.arcs > 100


@pytest.mark.parametrize("defect", sorted(DEFECTS))
def test_a_broken_rule_is_caught_by_its_clause(defect: str) -> None:
    error = DEFECTS[defect] in ("MIG-130", "MIG-131", "MIG-132", "MIG-133")
    flags = 1 if defect == "undeclared-reached" else 7
    agent = ModelAgent(defect, flags=Mig(flags), error=error)
    found = certify(agent, {**CAPABILITIES, "migration": FEATURES[flags]})
    assert DEFECTS[defect] in {v.clause for v in found.violations}
