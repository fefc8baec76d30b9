# SPDX-License-Identifier: Apache-2.0
"""The contract: clauses are complete and tested, and the state machine follows its own rules."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from fixtures.controller import chapters
from fixtures.experiment import Experiment, declared, experiment, experiments_in
from harness import PROJECT
from harness.commands.clauses import PUBLISHED, publish
from harness.errors import HarnessError
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


def _experiments() -> dict[str, Any]:
    """The experiments of all chapters, by the place they stand in."""
    modules = [
        importlib.import_module(f"suites.{file.parent.name}.{file.stem}")
        for chapter in chapters()
        for file in sorted(chapter.glob("experiments_*.py"))
    ]
    return {f"{e.__module__}:{e.__name__}": e for e in experiments_in(*modules, programs=False)}


EXPERIMENTS = _experiments()
CLAUSE_ID = re.compile(r"[A-Z]{3,5}-\d{3}")


def literals_of(function: Any) -> set[str]:
    """Clause ids written in an experiment and in what it calls of its own module."""
    source = Path(inspect.getfile(function)).read_text(encoding="utf-8")
    body = ast.parse(source).body
    parts: dict[str, Any] = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    for node in body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        parts |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    found: set[str] = set()
    todo, seen = [function.__name__], set()
    while todo:
        name = todo.pop()
        if name in seen or name not in parts:
            continue
        seen.add(name)
        node = parts[name]
        inside = node.body if isinstance(node, ast.FunctionDef) else [node]
        for each in (x for part in inside for x in ast.walk(part)):
            if (
                isinstance(each, ast.Constant)
                and isinstance(each.value, str)
                and CLAUSE_ID.fullmatch(each.value)
            ):
                found.add(each.value)
            if isinstance(each, ast.Name):
                todo.append(each.id)
    return found


def test_every_clause_has_a_test_or_a_reason() -> None:
    named = {c for e in EXPERIMENTS.values() for c in declared(e).clauses} | BY_THE_RIG
    assert [c.id for c in all_clauses() if c.id not in named and not c.untested] == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_names_the_clauses_that_it_claims(name: str) -> None:
    """Steps: read the ids in its code. Verify: its decorator names each of them, and none twice."""
    named = declared(EXPERIMENTS[name]).clauses
    assert literals_of(EXPERIMENTS[name]) <= set(named)
    assert len(named) == len(set(named))


def test_an_experiment_that_claims_more_than_it_names_is_stopped() -> None:
    about = Experiment(("MIG-001",))
    about.check_claims("x", {"claims": [{"clause": "MIG-001"}]})
    with pytest.raises(HarnessError, match="claims MIG-002"):
        about.check_claims("x", {"claims": [{"clause": "MIG-002"}]})


@pytest.mark.parametrize(("id", "words"), [("MIG-0600", "did you mean MIG-060"), ("XYZ", "is no clause")])
def test_an_experiment_of_a_clause_that_does_not_exist_is_refused(id: str, words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        experiment(id)


def test_no_published_clause_vanishes_or_is_renumbered() -> None:
    """Certificates cite clauses for years: an id keeps its level and its words, and is never used again.

    Steps: read the published list. Verify: each line is a clause as it is now, and each clause has a line.
    """
    published = PUBLISHED.read_text(encoding="utf-8").splitlines()
    now = [f"{c.id} {c.level} {c.statement}" for c in all_clauses()]
    assert [line for line in published if line not in now] == [], "gone, or says another thing"
    assert [line for line in now if line not in published] == [], "run ./vfiocert clauses --write-docs"
    assert len({line.split(" ")[0] for line in published}) == len(published)


def test_publishing_adds_and_never_alters() -> None:
    clauses = all_clauses()
    first = publish("", clauses[:2])
    assert publish(first.replace("MUST", "MAY"), clauses[:3]).startswith(first.replace("MUST", "MAY"))
    assert publish(first, clauses[:3]).splitlines()[2].startswith(clauses[2].id)


def test_ids_are_literals() -> None:
    """Verify: the id of every clause is in the source as a literal."""
    text = "".join(f.read_text(encoding="utf-8") for f in (PROJECT / "harness/spec/clauses").glob("*.py"))
    assert [c.id for c in all_clauses() if text.count(f'"{c.id}"') != 1] == []


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
