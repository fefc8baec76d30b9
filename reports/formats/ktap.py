# SPDX-License-Identifier: Apache-2.0
"""KTAP version 1 (Documentation/dev-tools/ktap.rst): a test for each device, a subtest for each clause."""

from __future__ import annotations

from reports.listing import finding_lines
from reports.models import ClauseResult, Run
from reports.text import one_line

__all__ = ["render_ktap"]

_RESULT = {
    "pass": ("ok", ""),
    "fail": ("not ok", ""),
    "advisory": ("not ok", "XFAIL advisory"),
    "kernel": ("not ok", "XFAIL of the kernel's core:"),
    "waived": ("not ok", "XFAIL waived"),
    "not-applicable": ("ok", "SKIP"),
    "inconclusive": ("not ok", "ERROR"),
}


def _plain(text: str, limit: int = 300) -> str:
    # A number sign would start a directive.
    return one_line(text, limit).replace("#", "no.")


def _clause(number: int, clause: ClauseResult) -> list[str]:
    word, directive = _RESULT[clause.verdict]
    lines = []
    for finding in clause.findings:
        lines.append(f"  # {one_line(finding.title)}")
        lines += [f"  #   {line}" for line in finding_lines(clause, finding)]
    tail = f"{directive} {_plain(clause.reason)}".strip() if directive else ""
    lines.append(f"  {word} {number} {clause.id} {_plain(clause.statement)}" + (f" # {tail}" if tail else ""))
    return lines


def render_ktap(run: Run) -> str:
    """The run as KTAP."""
    lines = ["KTAP version 1", f"1..{len(run.devices)}"]
    for number, device in enumerate(run.devices, 1):
        name = _plain(device.id)
        lines += ["  KTAP version 1", f"  # Subtest: {name}", f"  1..{len(device.clauses)}"]
        for index, clause in enumerate(device.clauses, 1):
            lines += _clause(index, clause)
        word = {"conforming": "ok", "non-conforming": "not ok"}.get(device.verdict, "not ok")
        tail = " # ERROR inconclusive" if device.verdict == "inconclusive" else ""
        lines.append(f"{word} {number} {name}{tail}")
    return "\n".join(lines) + "\n"
