# SPDX-License-Identifier: Apache-2.0
"""Read back what a trial wrote; it is checked, because a killed trial leaves a torn line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.commands.prove.trial import Job
from reports.models import Finding

__all__ = ["Result", "Seen", "read_events", "result_from_json"]

_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Seen:
    """The first violation of a clause: seconds since the lab was fresh, programs run until then."""

    clause: str
    seconds: float
    programs: int
    test: str = ""
    expected: str = ""
    observed: str = ""


@dataclass
class Result:
    """The result of a trial.  `job` is its name; `subject` the defect's name, or the golden device's id.

    `case` is the finding of the broken clause as the run records it, shrunk and without its trace.
    """

    job: str
    subject: str
    golden: bool
    device: str
    seed: int
    whole: bool
    flavour: str = "plain"
    seen: list[Seen] = field(default_factory=list)
    seconds: float = 0.0
    programs: int = 0
    tests: int = 0
    planned: int = 0
    why: str = ""
    """How it ended: done, caught, limit, killed, fault."""
    faults: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    undecided: dict[str, str] = field(default_factory=dict)
    """Clause -> why a test left it open."""
    case: Finding | None = None

    @property
    def lab_fault(self) -> bool:
        """Whether the trial has no result because the lab failed."""
        return self.why == "fault" and not self.bugs

    def caught_by(self, baseline: frozenset[str] = frozenset()) -> list[Seen]:
        """The violations in order of time, without those of clauses in `baseline`."""
        return sorted((s for s in self.seen if s.clause not in baseline), key=lambda s: s.seconds)

    def as_json(self) -> dict[str, Any]:
        """The content of a line of `results.jsonl`."""
        values = asdict(replace(self, case=None))
        return {**values, "case": self.case.model_dump(mode="json") if self.case else None}


def read_events(job: Job, path: Path, *, killed: bool) -> Result:
    """Read the result of a trial from its file of events."""
    result = Result(
        job.name, job.defect.name if job.defect else job.device, job.defect is None, job.device, job.seed,
        job.mode != "catch", job.flavour,
    )  # fmt: skip
    fresh = False
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            event = json.loads(line)
            fresh |= event["event"] == "fresh"
            _take(result, event)
        except (ValueError, KeyError, TypeError):
            continue  # a torn line
    if not result.why:
        result.why = "killed" if killed and fresh else "fault"
        if not result.faults and not result.bugs:
            said = "it outlived its limit and was killed" if killed else "the trial's process died"
            (result.bugs if fresh and not killed else result.faults).append(said)
    return result


def _take(result: Result, event: Mapping[str, Any]) -> None:
    kind = event["event"]
    if kind == "seen":
        result.seen.append(
            Seen(str(event["clause"]), float(event["s"]), int(event["programs"]), str(event["test"]),
                 str(event["expected"]), str(event["observed"]))
        )  # fmt: skip
    elif kind == "test":
        result.programs, result.seconds = int(event["programs"]), float(event["s"])
        for clause, why in (event.get("undecided") or {}).items():
            result.undecided.setdefault(str(clause), f"{event['test']}: {why}"[:500])
        if event["lab_error"]:
            result.faults.append(f"{event['test']}: {event['lab_error']}")
    elif kind == "finding" and result.case is None:
        found = Finding.model_validate(event["finding"])
        # Keep it to one line per trial; the whole trace is in the trial's own file.
        result.case = found.model_copy(update={"trace": [], "kernel_log": []})
    elif kind == "open":
        result.undecided.setdefault(str(event["clause"]), str(event["why"]))
    elif kind == "fault":
        (result.bugs if event["bug"] else result.faults).append(str(event["message"]))
    elif kind == "end":
        result.seconds, result.why = float(event["s"]), str(event["why"])
        result.tests, result.planned = int(event["tests"]), int(event["planned"])


def result_from_json(values: Mapping[str, Any]) -> Result:
    """The inverse of `Result.as_json`; KeyError, TypeError or ValueError if `values` is not a result."""
    seen = [Seen(**s) for s in values["seen"]]
    case = Finding.model_validate(values["case"]) if values["case"] is not None else None
    return Result(**{**values, "seen": seen, "case": case})
