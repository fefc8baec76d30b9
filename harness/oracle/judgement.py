# SPDX-License-Identifier: Apache-2.0
"""The result of judging a run: clauses checked, clauses broken, cells of the state table seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Judgement", "Violation"]


@dataclass(frozen=True)
class Violation:
    """One broken clause: index of the operation in the main thread, what was expected and observed."""

    clause: str
    index: int
    expected: str
    observed: str
    step: int = -1
    """Step inside a `walk`, or -1."""
    claimed: bool = False
    """Whether a claim of the program found it, and not only the tracker."""


@dataclass
class Judgement:
    """Checks counted per clause; a clause without a check has not been exercised."""

    checked: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    cells: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    """(state before, state asked for, "reached" | "refused" | "failed") -> count."""
    arcs: int = 0
    undecided: dict[str, str] = field(default_factory=dict)
    """Clause -> why its claim could not be judged: the operation it speaks of was not done, or in part."""
    figures: Counter[str] = field(default_factory=Counter)
    """Counts for the report that are not checks, such as pages written and reported."""
    walked: bytes = b""
    """The state that GET reported after each step of the program's `walk`; `merge` leaves it alone."""

    def check(self, clause: str, ok: bool, index: int, expected: str, observed: str, step: int = -1) -> bool:
        """Count one check of the clause, and keep the violation if it failed; returns `ok`."""
        self.checked[clause] += 1
        if not ok and len(self.violations) < 1000:  # a broken device may break the clause at every step
            self.violations.append(Violation(clause, index, expected, observed, step))
        return ok

    def cell(self, cur: int, new: int, outcome: str) -> None:
        """Count one SET for the state table."""
        self.arcs += 1
        if 0 <= new < 8:
            self.cells[cur, new, outcome] += 1

    def merge(self, other: Judgement) -> None:
        """Add the results of another run."""
        self.checked.update(other.checked)
        self.violations.extend(other.violations)
        self.cells.update(other.cells)
        self.arcs += other.arcs
        self.figures.update(other.figures)
        self.undecided = {**other.undecided, **self.undecided}

    def seen(self) -> Judgement:
        """A copy without the violations; used while a failing program is still being shrunk."""
        return Judgement(self.checked, [], self.cells, self.arcs, self.undecided, self.figures)
