# SPDX-License-Identifier: Apache-2.0
"""Writes a run's folder: `results.jsonl` while clauses finish, `run.json` and the reports at the end.

The journal is the only truth: nothing is held in memory, so a killed controller loses no finished clause and
several workers may append to the same folder.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import UsageError
from reports.disk import write_atomically, write_error
from reports.models import ClauseResult, DeviceResult, Run, RunVerdict, merge, verdict_of
from reports.render import render_all
from reports.text import one_line
from reports.waivers import Waiver, apply_waivers

__all__ = ["ALLURE", "JOURNAL", "RUN_FILE", "RunWriter", "assemble", "read_run"]

ALLURE = "allure-results"
"""Folder of the results for Allure, which pytest writes while the run goes on."""
JOURNAL = "results.jsonl"
RUN_FILE = "run.json"
_MAX_RUN_BYTES = 512 << 20


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class RunWriter:
    """The folder of one run.

    `out_dir` must be empty or absent, except with `resume` (go on with a run that was cut short) or `attach`
    (a worker of the same run); anything else is a `UsageError`.  `about` holds the fields of `Run` that are
    known at the start (suite, seed, budget, lab, host, command, setup); on resume those of the first start
    stay.
    """

    def __init__(
        self,
        out_dir: Path | str,
        *,
        resume: bool = False,
        attach: bool = False,
        waivers: Sequence[Waiver] = (),
        **about: Any,
    ) -> None:
        self.dir = Path(out_dir)
        self._journal = self.dir / JOURNAL
        self._waivers = tuple(waivers)
        unknown = set(about) - {"suite", "seed", "budget", "lab", "host", "command", "setup"}
        if unknown:
            raise TypeError(f"RunWriter has no {', '.join(sorted(unknown))}")
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            occupied = any(not _is_ours(path) for path in self.dir.iterdir())
        except OSError as error:
            raise UsageError(f"--out={self.dir}: {error.strerror}; name a folder that can be made") from None
        if attach or (resume and self._journal.exists()):
            self.session = max((line.get("session", 0) for line in self._lines()), default=0)
        elif occupied:
            hint = (
                "it holds no run to resume" if resume else "give another, or --resume to go on with that run"
            )
            raise UsageError(f"--out={self.dir} exists and is not empty; {hint}")
        else:
            self.session = 0
        if not attach:
            self.session += 1
            self._put({"run": {"started": _now(), **about}})

    # -- while the run goes on

    def append(self, device_id: str, clause: ClauseResult) -> None:
        """Records, durably, a result of `clause` on `device_id`; of several the worst counts."""
        self._put({"device": device_id, "clause": clause.model_dump(mode="json")})

    def set_device(self, device: DeviceResult) -> None:
        """Records the facts of a device (its clauses come from `append`); the last call counts."""
        self._put({"facts": device.model_dump(mode="json", exclude={"clauses", "verdict"})})

    def note(self, text: str) -> None:
        """Records a remark on the whole run, for every report."""
        self._put({"note": one_line(text)})

    def done(self, device_id: str) -> set[str]:
        """Ids of the clauses of `device_id` that need no second try: all but the inconclusive ones."""
        devices, _, _ = assemble(self._lines())
        return {
            clause.id
            for device in devices
            if device.id == device_id
            for clause in device.clauses
            if clause.verdict != "inconclusive"
        }

    # -- at the end

    def snapshot(self) -> Run:
        """The run as far as it has come, verdicts and waivers applied."""
        devices, notes, about = assemble(self._lines())
        today = datetime.datetime.now(datetime.UTC).date()
        judged = []
        for device in devices:
            waived, remarks = apply_waivers(device, self._waivers, today)
            notes += remarks
            judged.append(waived.model_copy(update={"verdict": verdict_of(waived.clauses)}))
        for waiver in self._waivers:
            if not any(waiver.covers(clause.id, each.id) for each in judged for clause in each.clauses):
                notes.append(f"waiver of {waiver.clause} on {waiver.device} matched nothing in this run")
        return Run(**about, finished=_now(), verdict=_overall(judged), devices=judged, notes=notes)

    def finish(self) -> Run:
        """Writes `run.json` and all reports, and gives the run."""
        run = self.snapshot()
        write_atomically(self.dir / RUN_FILE, json.dumps(run.model_dump(mode="json"), indent=1) + "\n")
        render_all(run, self.dir)
        return run

    # -- the journal

    def _put(self, line: dict[str, Any]) -> None:
        data = json.dumps({"session": self.session, **line}, separators=(",", ":")).encode() + b"\n"
        try:
            with self._locked() as fd:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    data = b"\n" + data  # a torn line of somebody who died: it must not swallow this one
                try:
                    _write_all(fd, data)
                    os.fsync(fd)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(fd, size)
                    raise
        except OSError as error:
            raise write_error(self._journal, error) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self._journal, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            raw = self._journal.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"{self._journal}: {error.strerror}") from None
        return list(_parse(raw))


def _is_ours(path: Path) -> bool:
    """Whether this run made it before its writer: allure-pytest makes the folder of its results first."""
    return path.name == ALLURE and path.is_dir() and not any(path.iterdir())


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _parse(raw: bytes) -> Iterator[dict[str, Any]]:
    """The lines of a journal; one that was cut short becomes a note, since what it held is not known."""
    for number, text in enumerate(raw.split(b"\n"), 1):
        if not text:
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict):
            yield line
        else:
            yield {"note": f"line {number} of {JOURNAL} was cut short and left out"}


def assemble(lines: Iterable[dict[str, Any]]) -> tuple[list[DeviceResult], list[str], dict[str, Any]]:
    """Devices (without verdicts), notes and the facts of the run, from the lines of a journal.

    An inconclusive result of an earlier session is dropped when a later one tried again; a failure stays.
    """
    facts: dict[str, DeviceResult] = {}
    results: dict[tuple[str, str], tuple[int, ClauseResult]] = {}
    notes: list[str] = []
    about: dict[str, Any] = {}
    for line in lines:
        try:
            session = int(line.get("session", 0))
            if "run" in line:
                about = about or dict(line["run"])
            elif "facts" in line:
                device = DeviceResult.model_validate(line["facts"])
                facts[device.id] = device
            elif "clause" in line:
                clause = ClauseResult.model_validate(line["clause"])
                key = (str(line["device"]), clause.id)
                facts.setdefault(key[0], DeviceResult(id=key[0]))
                results[key] = (session, _joined(results.get(key), session, clause))
            elif "note" in line:
                notes.append(str(line["note"]))
        except (ValidationError, ValueError, TypeError, KeyError) as error:
            notes.append(f"a line of {JOURNAL} was not understood and left out: {one_line(str(error), 200)}")
    devices = [
        facts[name].model_copy(
            update={"clauses": [results[key][1] for key in sorted(results) if key[0] == name]}
        )
        for name in sorted(facts)
    ]
    return devices, list(dict.fromkeys(notes)), about


def _joined(old: tuple[int, ClauseResult] | None, session: int, new: ClauseResult) -> ClauseResult:
    if old is None or (old[0] < session and old[1].verdict == "inconclusive"):
        return new
    return merge(old[1], new)


def _overall(devices: Sequence[DeviceResult]) -> RunVerdict:
    verdicts = {device.verdict for device in devices}
    if "non-conforming" in verdicts:
        return "non-conforming"
    return "conforming" if verdicts == {"conforming"} else "inconclusive"


def read_run(out_dir: Path | str) -> Run:
    """The run in `out_dir/run.json`; a `UsageError` where there is none or it is of another schema."""
    path = Path(out_dir) / RUN_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_RUN_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name the --out of a certify") from None
    if len(raw) > _MAX_RUN_BYTES:
        raise UsageError(f"{path}: over {_MAX_RUN_BYTES} bytes, which no run writes")
    try:
        return Run.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"{path}: {name}: {one_line(first['msg'], 200)}; this suite reads schema 1"
        ) from None
