# SPDX-License-Identifier: Apache-2.0
"""What checks a clause: its judges and experiments, the defects that break it, what mainline's drivers do."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fixtures.controller import chapters
from fixtures.experiment import declared, experiments_in
from harness import PROJECT
from harness.commands.prove.defects import catalogue
from harness.oracle.migration_rules import arc_clause
from harness.profiles import load_profile, profile_names
from harness.spec.clause import Clause
from harness.spec.clauses.mig import ARC_CLAUSES

__all__ = ["Holders", "experiments_by_clause", "holders_of", "judges_by_clause"]

_ID = re.compile(r'"([A-Z]{3,5}-\d{3})"')
# Judges are pure functions in the oracle; what no program shows is checked around each program, by the rig.
_JUDGES = ("harness/oracle/*.py", "fixtures/rig.py", "fixtures/device_log.py")


@dataclass(frozen=True)
class Holders:
    """Judges and experiments (`file:line name`), defects (`name: what is wrong`), known facts of mainline."""

    judges: tuple[str, ...]
    experiments: tuple[str, ...]
    defects: tuple[str, ...]
    mainline: tuple[str, ...]


@functools.cache
def experiments_by_clause() -> Mapping[str, tuple[str, ...]]:
    """Map each clause to the experiments that name it."""
    found: dict[str, list[str]] = {}
    for chapter in chapters():
        for file in sorted(chapter.glob("experiments_*.py")):
            module = importlib.import_module(f"suites.{chapter.name}.{file.stem}")
            for function in experiments_in(module, programs=False):
                place = f"suites/{chapter.name}/{file.name}:{function.__code__.co_firstlineno}"
                for clause in declared(function).clauses:
                    found.setdefault(clause, []).append(f"{place} {function.__name__}")
    return {clause: tuple(places) for clause, places in found.items()}


@functools.cache
def judges_by_clause() -> Mapping[str, tuple[str, ...]]:
    """Map each clause to the first place in each file where a judge names it."""
    found: dict[str, dict[str, int]] = {}
    for pattern in _JUDGES:
        for file in sorted(PROJECT.glob(pattern)):
            name = str(file.relative_to(PROJECT))
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                for clause in _ID.findall(line):
                    found.setdefault(clause, {}).setdefault(name, number)
    judges = {c: tuple(f"{name}:{line}" for name, line in places.items()) for c, places in found.items()}
    # The arcs' clauses are named in their table.
    place = f"harness/oracle/migration_rules.py:{arc_clause.__code__.co_firstlineno} arc_clause"
    return {**judges, **{clause: (*judges.get(clause, ()), place) for clause in ARC_CLAUSES.values()}}


def holders_of(clause: Clause) -> Holders:
    """Collect what checks the clause, what breaks it, and what is known about it."""
    known = [f"every device: {clause.mainline}"] if clause.mainline else []
    for name in profile_names():
        if cause := load_profile(name).explanations.get(clause.id):
            known.append(f"{name}: {cause}")
    defects = [f"{d.name}: {d.text}" for d in catalogue() if d.clause == clause.id]
    return Holders(
        judges_by_clause().get(clause.id, ()),
        experiments_by_clause().get(clause.id, ()),
        tuple(defects),
        tuple(known),
    )
