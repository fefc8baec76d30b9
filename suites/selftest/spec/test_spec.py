# SPDX-License-Identifier: Apache-2.0
"""The contract: clauses are complete and tested, and the state machine follows its own rules."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from fixtures.plugin import named_clauses
from harness.commands.certification import chapters
from harness.spec.arcs import (
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
from harness.spec.clause import all_clauses

ALL = Mig.STOP_COPY | Mig.P2P | Mig.PRE_COPY
# Checked by the rig itself, around every program of every test.
BY_THE_RIG = {"MIG-164", "MIG-166", "MIG-167"}


def _experiments() -> dict[str, str]:
    """Docstrings of the tests and experiments of all chapters, by name: those that name clauses."""
    found = {}
    for file in (f for chapter in chapters() for f in Path(chapter).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and named_clauses(ast.get_docstring(node) or ""):
                found[f"{file.parent.name}/{file.name}:{node.name}"] = ast.get_docstring(node) or ""
    return found


EXPERIMENTS = _experiments()


def test_every_clause_has_a_test_or_a_reason() -> None:
    named = {c for text in EXPERIMENTS.values() for c in named_clauses(text)} | BY_THE_RIG
    assert [c.id for c in all_clauses() if c.id not in named and not c.untested] == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_names_clauses_that_exist(name: str) -> None:
    known = {c.id for c in all_clauses()}
    alone = {c for c in named_clauses(re.sub(r"[A-Z]{3,5}-\d{3} to [A-Z]{3,5}-\d{3}", "", EXPERIMENTS[name]))}
    assert alone <= known  # what lies inside a range may be a gap


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
