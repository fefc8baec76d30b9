# SPDX-License-Identifier: Apache-2.0
"""Compute the matrix from trials: what caught each defect, how fast, how reliably, and false alarms."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.commands.prove.defects import Defect
from harness.commands.prove.known import KNOWN_OF_MAINLINE, NOT_GOLDEN, known_of
from harness.commands.prove.result import Result, Seen
from harness.hosts.inventory import embedded_variants
from harness.spec.arcs import State

__all__ = ["Alarm", "Matrix", "MatrixRow", "build_matrix", "short_case"]

Verdict = Literal["caught", "elsewhere", "missed", "undecided"]
_CASE_OPS = 24


@dataclass
class MatrixRow:
    """One defect.  `caught_by` has the clauses in order of time, from the trial that ran all tests.

    `seconds` and `programs` count from the fresh lab to the first catch by the broken clause;
    `of_seeds` says in how many trials the broken clause caught it.
    """

    defect: Defect
    verdict: Verdict
    caught_by: list[Seen] = field(default_factory=list)
    seconds: float | None = None
    programs: int | None = None
    caught_seeds: list[int] = field(default_factory=list)
    missed_seeds: list[int] = field(default_factory=list)
    case: str = ""
    expected: str = ""
    observed: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> Seen | None:
        """The first catch, by any clause."""
        return self.caught_by[0] if self.caught_by else None


@dataclass(frozen=True)
class Alarm:
    """A false alarm: a finding on a golden device."""

    device: str
    seed: int
    seen: Seen


@dataclass
class Matrix:
    """The whole proof."""

    rows: list[MatrixRow]
    alarms: list[Alarm]
    golden_runs: dict[str, int]
    """Golden trials that ran to their end, by device."""
    golden_faults: list[str]
    baseline: dict[str, list[str]]
    """The clauses that devices which are not golden violate without a defect; each has a known cause."""
    elapsed_s: float = 0.0
    bugs: list[str] = field(default_factory=list)
    """Faults of the suite itself; with any, there is no proof."""

    def counts(self) -> dict[str, int]:
        """Rows by verdict."""
        return {
            v: sum(r.verdict == v for r in self.rows) for v in ("caught", "elsewhere", "missed", "undecided")
        }

    @property
    def median_s(self) -> float | None:
        """Median seconds to the first catch by the broken clause."""
        times = [r.seconds for r in self.rows if r.seconds is not None]
        return statistics.median(times) if times else None

    @property
    def unsteady(self) -> list[MatrixRow]:
        """Defects that the clause they break did not catch with every seed."""
        return [r for r in self.rows if r.caught_seeds and r.missed_seeds]

    @property
    def proved(self) -> bool:
        """Whether some clause caught every defect with every seed, and there was no false alarm."""
        counts = self.counts()
        return not (counts["missed"] or counts["undecided"] or self.alarms or self.unsteady)

    def summary(self) -> str:
        """The matrix in one line."""
        counts, runs = self.counts(), sum(self.golden_runs.values())
        caught = counts["caught"] + counts["elsewhere"]
        seeds = max((len(r.caught_seeds) + len(r.missed_seeds) for r in self.rows), default=0)
        text = (
            f"{caught} of {len(self.rows)} seeded defects caught, {counts['caught']} by the clause they break"
        )
        if seeds > 1:
            text += f", {sum(len(r.caught_seeds) == seeds for r in self.rows)} with each of {seeds} seeds"
        if self.median_s is not None:
            text += f"; median {self.median_s:.1f} s from a fresh lab"
        return f"{text}; {len(self.alarms)} false alarms in {runs} runs of golden devices"

    def as_json(self) -> dict[str, Any]:
        """The content of `proof.json`."""
        return {
            "schema": 1, "summary": self.summary(), "counts": self.counts(), "median_s": self.median_s,
            "elapsed_s": round(self.elapsed_s, 1), "golden_runs": self.golden_runs,
            "golden_faults": self.golden_faults, "baseline": self.baseline,
            "alarms": [
                {"device": a.device, "seed": a.seed, "clause": a.seen.clause, "test": a.seen.test,
                 "expected": a.seen.expected, "observed": a.seen.observed} for a in self.alarms
            ],
            "defects": [
                {"name": r.defect.name, "module": r.defect.module, "where": r.defect.where,
                 "text": r.defect.text, "clause": r.defect.clause, "device": r.defect.device,
                 "flavour": r.defect.flavour, "verdict": r.verdict,
                 "caught_by": [s.clause for s in r.caught_by], "seconds": r.seconds, "programs": r.programs,
                 "first": vars(r.first) if r.first else None, "caught_seeds": r.caught_seeds,
                 "missed_seeds": r.missed_seeds, "case": r.case, "expected": r.expected,
                 "observed": r.observed, "notes": r.notes} for r in self.rows
            ],
        }  # fmt: skip


def build_matrix(defects: Sequence[Defect], results: Iterable[Result], elapsed_s: float = 0.0) -> Matrix:
    """Build the matrix of these defects from the results of their trials, which need not be complete."""
    found = list(results)
    baseline: dict[str, set[str]] = {}
    runs: dict[str, int] = {}
    alarms: list[Alarm] = []
    faults: list[str] = []
    for result in (r for r in found if r.golden):
        label = result.device if result.flavour == "plain" else f"{result.device} ({result.flavour})"
        if result.device in NOT_GOLDEN:
            baseline.setdefault(result.device, set()).update(
                s.clause for s in result.seen if s.clause not in KNOWN_OF_MAINLINE
            )
        known = known_of(result.device)
        faults += [f"{label}, seed {result.seed}: {f}" for f in result.faults + result.bugs]
        faults += [f"{label}, seed {result.seed}: {u}" for u in _open_clauses(result)]
        alarms += [Alarm(label, result.seed, s) for s in result.seen if s.clause not in known]
        if result.why == "done" and not result.faults and not result.bugs:
            runs[label] = runs.get(label, 0) + 1
        else:
            faults.append(f"{label}, seed {result.seed}: ended with '{result.why}' and is not counted")
    rows = [
        _row(
            d,
            [r for r in found if not r.golden and r.subject == d.name],
            frozenset({*baseline.get(d.device, ()), *known_of(d.device)}),
        )
        for d in defects
    ]
    bugs = [f"{r.job}: {bug}" for r in found for bug in r.bugs]
    own = {device: sorted(clauses) for device, clauses in baseline.items() if clauses}
    return Matrix(rows, alarms, runs, faults, own, elapsed_s, bugs)


def _open_clauses(result: Result) -> list[str]:
    """What a run of a variant left undecided without being expected to."""
    variant = embedded_variants().get(result.device)
    if variant is None:
        return []
    return [f"{c} undecided: {why}" for c, why in result.undecided.items() if c not in variant.undecided]


def _row(defect: Defect, results: Sequence[Result], baseline: frozenset[str]) -> MatrixRow:
    row = MatrixRow(defect, "undecided")
    for result in sorted(results, key=lambda r: (not r.whole, r.seed)):
        caught = result.caught_by(baseline)
        mine = next((s for s in caught if s.clause == defect.clause), None)
        row.notes += [f"seed {result.seed}: {text}" for text in _remarks(result)]
        if not mine and (result.lab_fault or result.bugs):
            continue  # it says nothing about the device
        (row.caught_seeds if mine else row.missed_seeds).append(result.seed)
        if mine and row.seconds is None:
            row.seconds, row.programs = mine.seconds, mine.programs
            row.expected, row.observed = mine.expected, mine.observed
        if result.whole or not row.caught_by:
            row.caught_by = row.caught_by or caught
        if result.case is not None and not row.case:
            row.case = short_case(result.case.program or {})
            row.expected, row.observed = result.case.expected, result.case.observed
    if row.caught_seeds:
        row.verdict = "caught"
    elif row.caught_by:
        row.verdict = "elsewhere"
    elif row.missed_seeds:
        row.verdict = "missed"
    return row


def _remarks(result: Result) -> list[str]:
    remarks = [*result.faults[:1], *result.bugs[:1]]
    if result.why in ("limit", "killed"):
        remarks.append(f"ended at its limit, after {result.seconds:.0f} s")
    return remarks


def short_case(program: Mapping[str, Any]) -> str:
    """A program in words: `SET STOP; read 4096`, threads with a bar between them."""
    threads = program.get("threads") or []
    return " || ".join(
        "; ".join(_operation(op) for op in list(thread.get("ops") or [])[:_CASE_OPS])
        + ("; ..." if len(thread.get("ops") or []) > _CASE_OPS else "")
        for thread in threads
        if thread.get("ops")
    )


def _operation(op: Sequence[Any]) -> str:
    name, args = str(op[0]), dict(op[1]) if len(op) > 1 else {}
    state = args.get("state")
    if name == "set_state" and isinstance(state, int):
        return f"SET {State(state).name if state in State._value2member_map_ else state}"
    if name == "get_state":
        return "GET"
    shown = [
        f"{key}={value}"
        for key, value in args.items()
        if key in ("region", "off", "n", "flags", "page_size", "iova", "length", "dev", "index", "fd", "from")
        and not (key == "fd" and value in ("d", "i"))
        and len(str(value)) <= 24
    ]
    return f"{name} {' '.join(shown)}".strip()
