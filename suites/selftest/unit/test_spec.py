# SPDX-License-Identifier: Apache-2.0
"""The contract: clauses are complete and tested, and the state machine follows its own rules."""

from __future__ import annotations

import itertools

import pytest

from fixtures.plugin import named_clauses
from harness.spec.clause import all_clauses
from harness.spec.fsm import (
    BLOCKED,
    DIRECT_ARCS,
    OUT_OF_RANGE,
    SAVING_GROUP,
    Mig,
    S,
    State,
    path,
    starts_session,
)
from suites.mig import experiments_failing, experiments_interface, experiments_stream, test_sequences

ALL = Mig.STOP_COPY | Mig.P2P | Mig.PRE_COPY
# Checked by the rig itself, around every program of every test.
BY_THE_RIG = {"MIG-164", "MIG-166", "MIG-167"}
EXPERIMENTS = [
    *experiments_interface.EXPERIMENTS,
    *experiments_interface.OWN_SESSION,
    *experiments_stream.EXPERIMENTS,
    *experiments_failing.EXPERIMENTS,
    *(f for name, f in vars(test_sequences).items() if name.startswith("test_")),
]


def test_every_clause_has_a_test_or_a_reason() -> None:
    named = {c for e in EXPERIMENTS for c in named_clauses(e.__doc__ or "")} | BY_THE_RIG
    assert [c.id for c in all_clauses() if c.id not in named and not c.untested] == []


def test_every_experiment_names_clauses_that_exist() -> None:
    known = {c.id for c in all_clauses()}
    for experiment in EXPERIMENTS:
        named = named_clauses(experiment.__doc__ or "")
        assert named, experiment.__name__
        gaps = {f"MIG-{n:03d}" for n in range(200)} - known
        assert set(named) - gaps <= known


def test_the_chapter_has_at_least_70_clauses() -> None:
    assert len([c for c in all_clauses() if c.chapter == "MIG"]) >= 70


def test_every_clause_cites_its_source() -> None:
    assert [c.id for c in all_clauses() if not c.source or not c.statement or c.statement.endswith(".")] == []


def test_paths_are_made_of_direct_arcs() -> None:
    for cur, new in itertools.product(State, State):
        way = path(cur, new, ALL)
        if way is not None:
            assert all(step in DIRECT_ARCS for step in itertools.pairwise(way))
            inside = set(way[1:-1]) & SAVING_GROUP
            assert not inside or (cur in SAVING_GROUP and new in SAVING_GROUP)


@pytest.mark.parametrize("new", [OUT_OF_RANGE, 255, 0xFFFFFFFF, 0])
def test_no_path_leads_to_error_or_outside_the_enum(new: int) -> None:
    assert all(path(cur, new, ALL) is None for cur in State)


def test_blocked_arcs_have_no_path() -> None:
    assert all(path(cur, new, ALL) is None for cur, new in BLOCKED)


def test_a_session_starts_on_entering_the_saving_group_or_resuming() -> None:
    starting = {(a, b) for a, b in DIRECT_ARCS if starts_session(a, b)}
    assert starting == {
        (S.RUNNING, S.PRE_COPY), (S.RUNNING_P2P, S.PRE_COPY_P2P), (S.STOP, S.STOP_COPY), (S.STOP, S.RESUMING),
    }  # fmt: skip
