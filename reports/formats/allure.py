# SPDX-License-Identifier: Apache-2.0
"""Allure result files: one small case for each clause; a failure brings its program and a log window.

Names are derived from the run, the device and the clause, so writing again replaces and never adds.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Iterator

from reports.listing import finding_lines, program_lines, shortened
from reports.models import ClauseResult, DeviceResult, Run
from reports.text import one_line

__all__ = ["FOLDER", "render_allure"]

FOLDER = "allure-results"
_STATUS = {
    "pass": "passed", "fail": "failed", "advisory": "passed", "kernel": "passed", "waived": "skipped",
    "not-applicable": "skipped", "inconclusive": "broken",
}  # fmt: skip
_SEVERITY = {"MUST": "critical", "SHOULD": "normal", "MAY": "minor"}
_NAMESPACE = uuid.UUID("6b0a4f0e-9f0b-5f0e-8f2d-9a3a6a1c7f10")
_MAX_ATTACHED = 3
_LOG_LINES = 200


def _milliseconds(moment: str) -> int:
    try:
        return int(datetime.datetime.fromisoformat(moment).timestamp() * 1000)
    except ValueError:
        return 0


def _case(run: Run, device: DeviceResult, clause: ClauseResult) -> Iterator[tuple[str, str]]:
    full = f"{device.id}/{clause.id}"
    name = str(uuid.uuid5(_NAMESPACE, f"{run.started}/{full}"))
    attachments = []
    for number, finding in enumerate(clause.findings[:_MAX_ATTACHED]):
        windows = (
            ("program", program_lines(finding.program)),
            ("kernel log", shortened(finding.kernel_log, _LOG_LINES)),
        )
        for title, lines in windows:
            if lines:
                source = f"{uuid.uuid5(_NAMESPACE, f'{name}/{number}/{title}')}-attachment.txt"
                attachments.append({"name": title, "source": source, "type": "text/plain"})
                yield source, "\n".join(lines) + "\n"
    first = clause.findings[0] if clause.findings else None
    message = first.title if first else one_line(clause.reason)
    trace = "\n\n".join("\n".join(finding_lines(clause, each)) for each in clause.findings[:_MAX_ATTACHED])
    result = {
        "uuid": name,
        # The same case in the next run: Allure shows its history by this.
        "historyId": hashlib.md5(full.encode(), usedforsecurity=False).hexdigest(),
        "testCaseId": hashlib.md5(clause.id.encode(), usedforsecurity=False).hexdigest(),
        "fullName": full,
        "name": f"{clause.id} {one_line(clause.statement, 200)}",
        "description": f"{clause.statement}\n\n{clause.source}",
        "status": _STATUS[clause.verdict],
        "statusDetails": {"message": f"{clause.verdict}: {message}" if message else "", "trace": trace},
        "stage": "finished",
        "start": _milliseconds(run.started),
        "stop": _milliseconds(run.finished),
        "parameters": [{"name": "device", "value": device.id}],
        "labels": [
            {"name": "framework", "value": "vfiocert"},
            {"name": "parentSuite", "value": device.id},
            {"name": "suite", "value": clause.id.split("-")[0]},
            {"name": "host", "value": run.host},
            {"name": "severity", "value": _SEVERITY[clause.level]},
            {"name": "tag", "value": clause.verdict},
        ],
        "attachments": attachments,
    }
    yield f"{name}-result.json", json.dumps(result, indent=1) + "\n"


def render_allure(run: Run) -> dict[str, str]:
    """File names (for the folder `FOLDER`) and their texts."""
    return {
        name: text
        for device in run.devices
        for clause in device.clauses
        for name, text in _case(run, device, clause)
    }
