# SPDX-License-Identifier: Apache-2.0
"""Clauses: each is one checkable sentence of the contract; `all_clauses()` is the contract."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from harness.spec.capabilities import unknown_names

__all__ = ["Clause", "Level", "all_clauses", "by_id", "matching"]

Level = Literal["MUST", "SHOULD", "MAY"]
_ID = re.compile(r"[A-Z]{3,5}-\d{3}")


@dataclass(frozen=True)
class Clause:
    """One rule.

    `needs` names capabilities (`harness.spec.capabilities`) that PROBE must have found; `since` is for the
    reader only; `untested` says why a clause has no check yet: without it the clause must have one.
    """

    id: str
    level: Level
    statement: str
    source: str
    needs: tuple[str, ...] = ()
    since: str = "v5.18"
    untested: str = ""
    mock: bool = False
    """Whether the clause is also checked on iommufd's mock, not only on VFIO devices."""
    mainline: str = ""
    """Why mainline breaks this SHOULD on every device, as read in its source; else ''.

    Such a failure is reported, but is no advisory against the driver.
    """

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"clause id {self.id!r} is not like MIG-012")
        if wrong := unknown_names(self.needs):
            raise ValueError(f"clause {self.id}: needs {wrong}")

    @property
    def chapter(self) -> str:
        """The letters before the number."""
        return self.id.partition("-")[0]


@cache
def all_clauses() -> tuple[Clause, ...]:
    """Every clause of every chapter, in order of id; ValueError if an id is used twice.

    They are in the files of `harness/spec/clauses/`, each with a tuple `CLAUSES`.
    """
    import harness.spec.clauses

    found: list[Clause] = []
    for _, name, _ in pkgutil.iter_modules(harness.spec.clauses.__path__):
        found += importlib.import_module(f"harness.spec.clauses.{name}").CLAUSES
    clauses = sorted(found, key=lambda c: c.id)
    ids = [c.id for c in clauses]
    if len(set(ids)) != len(ids):
        raise ValueError(f"clause id used twice: {sorted(i for i in set(ids) if ids.count(i) > 1)}")
    return tuple(clauses)


def by_id() -> dict[str, Clause]:
    """Clauses keyed by id."""
    return {c.id: c for c in all_clauses()}


def matching(globs: tuple[str, ...]) -> tuple[Clause, ...]:
    """Clauses whose id matches one of the shell patterns; all clauses if there is no pattern."""
    from fnmatch import fnmatchcase

    return tuple(c for c in all_clauses() if not globs or any(fnmatchcase(c.id, g) for g in globs))
