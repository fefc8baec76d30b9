# SPDX-License-Identifier: Apache-2.0
"""The records of a run, schema version 1: what `run.json` holds, and how verdicts combine.

Text in a record may come from a device or a lab host: it is cleaned and bounded when the record is made, so
that no renderer has to.  Losing a finding is worse than shortening it, hence clipped and not refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from reports.text import MAX_LINE, MAX_TEXT, clip, clip_json, one_line

__all__ = [
    "SCHEMA",
    "STATES",
    "ArcResult",
    "ArcVerdict",
    "ClauseResult",
    "ClauseVerdict",
    "DeviceResult",
    "Finding",
    "Level",
    "Run",
    "RunVerdict",
    "SavedFinding",
    "merge",
    "signature_of",
    "verdict_counts",
    "verdict_of",
]

SCHEMA = 1
MAX_LOG_LINES = 400
MAX_TRACE = 400
MAX_FINDINGS = 50
MAX_JSON = 256 * 1024

STATES = ("ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P")
"""Names of `enum vfio_device_mig_state`, in the order of their values."""

Level = Literal["MUST", "SHOULD", "MAY"]
ClauseVerdict = Literal["pass", "fail", "advisory", "kernel", "not-applicable", "inconclusive", "waived"]
"""`kernel`: a SHOULD that the kernel's core breaks on every device, whatever its driver does."""
ArcVerdict = Literal["reached", "refused", "not-applicable", "failed", "inconclusive"]
RunVerdict = Literal["conforming", "non-conforming", "inconclusive"]


def _text(value: Any) -> Any:
    return clip(value, MAX_TEXT) if isinstance(value, str) else value


def _line(value: Any) -> Any:
    return one_line(value, MAX_LINE) if isinstance(value, str) else value


def _log_line(value: Any) -> Any:
    # As `_line`, but the indentation stays: in a kernel log it carries meaning.
    return clip(value.replace("\n", " ").replace("\t", "    "), MAX_LINE) if isinstance(value, str) else value


def _lines(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) <= MAX_LOG_LINES:
        return value
    # The head names the event and the tail shows how it ended; the middle is the least telling.
    half = MAX_LOG_LINES // 2
    return [*value[:half], f"[... {len(value) - 2 * half} lines left out]", *value[-half:]]


def _state(value: str) -> str:
    name = value.removeprefix("VFIO_DEVICE_STATE_")
    if name not in STATES:
        raise ValueError(f"{value!r} is not one of {', '.join(STATES)}")
    return name


def _inside(value: str) -> str:
    if ".." in value.split("/"):
        raise ValueError(f"{value!r} leaves the folder of the run")
    return value


Text = Annotated[str, BeforeValidator(_text)]
Line = Annotated[str, BeforeValidator(_line)]
Lines = Annotated[list[Annotated[str, BeforeValidator(_log_line)]], BeforeValidator(_lines)]
State = Annotated[str, AfterValidator(_state), Field(json_schema_extra={"enum": list(STATES)})]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,199}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,254}$"), AfterValidator(_inside)]
"""A file of the run, relative to its folder."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)


def signature_of(clause: str, operation: str, expected: str, observed: str) -> str:
    """16 hex digits that are the same for the same finding, whatever the run, the path or the host.

    `operation` is the name of the operation (or the title of a kernel event); `expected` and `observed` must
    hold nothing that changes between runs (no address, pid, fd number or time).
    """
    packed = "\0".join((clause, operation, expected, observed))
    return hashlib.sha256(packed.encode("utf-8", "backslashreplace")).hexdigest()[:16]


class Finding(_Record):
    """One piece of positive evidence that a device broke a clause."""

    clause: Identifier
    device: Identifier
    title: Line
    expected: Text
    observed: Text
    path: Lines = []
    """States and operations that led there, in words, in order."""
    source: Text = ""
    """The rule: file, struct or paragraph, citation."""
    signature: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")
    program: dict[str, Any] | None = None
    trace: list[dict[str, Any]] = []
    kernel_log: Lines = []
    replay: FileName | None = None
    """Name of the file, relative to the run's folder, that `vfiocert replay` takes."""
    explanation: Text | None = None
    flaky: bool = False
    """Whether no further run of its program showed it again: then it alone decides nothing."""

    @property
    def certain(self) -> bool:
        """Whether it decides its clause: it came again, or the kernel log is evidence of its own."""
        return not self.flaky or bool(self.kernel_log)

    @field_validator("program", mode="before")
    @classmethod
    def _bounded_program(cls, value: Any) -> Any:
        return clip_json(value, MAX_JSON) if isinstance(value, dict) else value

    @field_validator("trace", mode="before")
    @classmethod
    def _bounded_trace(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        # A finding is at the end of its trace.
        return [clip_json(each, MAX_JSON // 16) for each in value[-MAX_TRACE:]]

    @model_validator(mode="after")
    def _signed(self) -> Finding:
        if not self.signature:
            self.signature = signature_of(self.clause, self.title, self.expected, self.observed)
        return self


class SavedFinding(BaseModel):
    """A finding as a file of its own, with all that `vfiocert replay` needs to run it again."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", serialize_by_alias=True)

    version: Literal[1] = Field(alias="schema")
    device: Identifier
    profile: str = ""
    clause: Identifier
    own: StrictBool
    """Whether the program opens the device itself."""
    signature: str = ""
    expected: Text
    observed: Text
    capabilities: dict[str, Any] = {}
    """What PROBE said of the device."""
    program: dict[str, Any]
    """The whole program, as the judge had it."""
    trace: list[dict[str, Any]] = []

    @field_validator("program")
    @classmethod
    def _runs(cls, value: dict[str, Any]) -> dict[str, Any]:
        threads = value.get("threads")
        good = isinstance(threads, list) and bool(threads)
        if not good or not all(isinstance(t, dict) and isinstance(t.get("ops"), list) for t in threads or ()):
            raise ValueError("program.threads is not a list of threads with ops")
        return value

    @classmethod
    def of(
        cls,
        finding: Finding,
        program: dict[str, Any],
        trace: list[dict[str, Any]],
        *,
        own: bool,
        profile: str,
        capabilities: Mapping[str, Any],
    ) -> SavedFinding:
        """The finding with its whole program, and more of its trace than a report shows."""
        return cls(
            version=1, device=finding.device, profile=profile, clause=finding.clause, own=own,
            signature=finding.signature, expected=finding.expected, observed=finding.observed,
            capabilities=dict(capabilities), program=program, trace=trace,
        )  # fmt: skip

    def to_json(self) -> str:
        """The text of the file."""
        # Not by pydantic, which refuses the lone surrogates that an answer of the lab may hold.
        return json.dumps(self.model_dump(), indent=1) + "\n"


class ClauseResult(_Record):
    """What one device did about one clause."""

    id: Identifier
    level: Level
    statement: Text
    source: Text = ""
    verdict: ClauseVerdict
    reason: Text = ""
    """Why the verdict is not-applicable, inconclusive or waived; empty for a plain pass."""
    tests: Lines = []
    findings: list[Finding] = []
    counts: dict[Line, int] = {}
    """How much was tried: arcs, programs, bytes."""
    evidence: list[FileName] = []

    @field_validator("findings", mode="after")
    @classmethod
    def _bounded_findings(cls, value: list[Finding]) -> list[Finding]:
        return _distinct(value)

    @model_validator(mode="after")
    def _coherent(self) -> ClauseResult:
        if self.level != "MUST" and self.verdict == "fail":
            self.verdict = "advisory"
        if self.level == "MUST" and self.verdict in ("advisory", "kernel"):
            raise ValueError(
                f"verdict of {self.id}={self.verdict!r} is not possible for a MUST; say fail or pass"
            )
        if self.verdict in ("not-applicable", "inconclusive", "waived") and not self.reason:
            self.reason = "no reason was recorded"
        return self


class ArcResult(_Record):
    """One cell of the state table: what a request for `new` did in `cur`."""

    cur: State
    new: State
    verdict: ArcVerdict
    count: int = Field(default=0, ge=0)
    """How often it was tried."""
    path: Lines = []
    """States passed through, from `cur` to `new`."""


class DeviceResult(_Record):
    """One device: what it is, and what every clause said of it."""

    id: Identifier
    profile: Line = ""
    driver: Line = ""
    module_srcversion: Line = ""
    kernel: Line = ""
    kind: Literal["", "hardware", "emulated", "modelled"] = ""
    """Silicon; the work of QEMU or of a driver alone; or a driver whose silicon a model stands in for."""
    stands_in: Line = ""
    """What stands in for the silicon of a modelled device."""
    driver_source: Line = ""
    """What a modelled device's driver was compiled from, with its hash."""
    capabilities: dict[str, Any] = {}
    """What the device answered to PROBE, not what its version promises."""
    verdict: RunVerdict = "inconclusive"
    clauses: list[ClauseResult] = []
    arcs: list[ArcResult] = []
    counts: dict[Line, int] = {}
    unexercised: Lines = []
    """What of the contract the run did not exercise, each with the reason."""
    taint_before: int = 0
    taint_after: int = 0

    @field_validator("capabilities", mode="before")
    @classmethod
    def _bounded_capabilities(cls, value: Any) -> Any:
        return clip_json(value, MAX_JSON // 16) if isinstance(value, dict) else value

    def verdict_line(self) -> str:
        """The verdict, and that it does not speak of the whole contract where it does not."""
        if self.verdict != "conforming" or not self.unexercised:
            return self.verdict
        return f"{self.verdict} in what was exercised"

    def precision(self) -> str:
        """What the log of device DMA reported beside what the device wrote, in words; '' where none did."""
        written, reported = self.counts.get("dirty_written", 0), self.counts.get("dirty_reported", 0)
        if not written:
            return ""
        return f"{reported} pages reported for {written} written ({reported / written:.2f} for one)"

    def arcs_covered(self) -> int:
        """How many of the 64 cells were reached, refused as they must be, or not applicable."""
        sound = {"reached", "refused", "not-applicable"}
        return len({(arc.cur, arc.new) for arc in self.arcs if arc.verdict in sound})


class Run(_Record):
    """A whole run: what `run.json` holds."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    suite: Line = ""
    """Version of the suite."""
    started: Line = ""
    """UTC, ISO 8601, as `finished`."""
    finished: Line = ""
    seed: int = 0
    budget: Line = ""
    setup: dict[Line, Line] = {}
    """What the run was told to run on, by option: it goes on (`--resume`) with the same only."""
    lab: Line = ""
    host: Line = ""
    command: Text = ""
    verdict: RunVerdict = "inconclusive"
    devices: list[DeviceResult] = []
    notes: Lines = []

    def findings(self) -> list[Finding]:
        """All findings of all devices, in the order of the devices and clauses."""
        return [each for device in self.devices for clause in device.clauses for each in clause.findings]


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    """The first finding of each signature, at most MAX_FINDINGS of them."""
    first: dict[tuple[str, str], Finding] = {}
    for each in findings:
        first.setdefault((each.device, each.signature), each)
    return list(first.values())[:MAX_FINDINGS]


def verdict_counts(clauses: Iterable[ClauseResult]) -> dict[ClauseVerdict, int]:
    """How many clauses have each verdict; verdicts nobody has are left out."""
    return dict(Counter(clause.verdict for clause in clauses))


def verdict_of(clauses: Iterable[ClauseResult]) -> RunVerdict:
    """The verdict that follows from `clauses`; pure.

    A failed MUST that is not waived: non-conforming.  Else a MUST without a result: inconclusive.  Else
    conforming, unless no clause was decided at all: nothing tried is nothing shown.
    """
    known = list(clauses)
    musts = {clause.verdict for clause in known if clause.level == "MUST"}
    if "fail" in musts:
        return "non-conforming"
    decided = any(clause.verdict in ("pass", "advisory", "kernel", "waived") for clause in known)
    return "inconclusive" if "inconclusive" in musts or not decided else "conforming"


_WORST_FIRST: tuple[ClauseVerdict, ...] = (
    "fail",
    "inconclusive",
    "advisory",
    "kernel",
    "waived",
    "pass",
    "not-applicable",
)


def merge(first: ClauseResult, second: ClauseResult) -> ClauseResult:
    """Both results of one clause on one device as one: the worse verdict, and everything that was found."""
    worse, other = sorted((first, second), key=lambda each: _WORST_FIRST.index(each.verdict))
    counts = Counter(first.counts)
    counts.update(second.counts)
    return ClauseResult(
        id=worse.id, level=worse.level, statement=worse.statement, source=worse.source, verdict=worse.verdict,
        reason=worse.reason or (other.reason if other.verdict == worse.verdict else ""),
        tests=list(dict.fromkeys([*first.tests, *second.tests])),
        findings=[*first.findings, *second.findings], counts=dict(counts),
        evidence=list(dict.fromkeys([*first.evidence, *second.evidence])),
    )  # fmt: skip
