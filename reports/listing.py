# SPDX-License-Identifier: Apache-2.0
"""Prints programs, traces and kernel logs as short lists of lines."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

from reports.models import ClauseResult, Finding
from reports.text import one_line

__all__ = ["SYMBOLS", "finding_lines", "program_lines", "replay_command", "shortened", "trace_lines"]

SYMBOLS = {
    "pass": "✓", "fail": "✗", "advisory": "!", "not-applicable": "–", "inconclusive": "?", "waived": "~",
    "kernel": "k",
    "reached": "✓", "refused": "⊘", "failed": "✗",
    "conforming": "✓", "non-conforming": "✗",
}  # fmt: skip
"""A sign for each verdict, so that verdicts never differ by colour alone."""

_WIDTH = 200


def shortened(lines: Sequence[str], limit: int) -> list[str]:
    """`lines`, with the middle left out if there are more than `limit`."""
    if len(lines) <= limit:
        return list(lines)
    head, tail = limit * 2 // 3, limit - limit * 2 // 3
    return [*lines[:head], f"[... {len(lines) - head - tail} lines left out]", *lines[-tail:]]


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, separators=(", ", ": "))


def _arguments(args: Any) -> str:
    if not isinstance(args, dict):
        return _compact(args)
    return " ".join(
        f"{name}={each if isinstance(each, str) else _compact(each)}" for name, each in args.items()
    )


def program_lines(program: dict[str, Any] | None, limit: int = 80) -> list[str]:
    """A program, one line for each operation.  Malformed data is shown too, never refused."""
    if not program:
        return []
    threads = program.get("threads")
    if not isinstance(threads, list):
        return [one_line(_compact(program), _WIDTH * 4)]
    lines: list[str] = []
    for thread in threads:
        name = str(thread.get("name", "main")) if isinstance(thread, dict) else "?"
        ops = thread.get("ops") if isinstance(thread, dict) else None
        for index, op in enumerate(ops if isinstance(ops, list) else []):
            if isinstance(op, list) and len(op) == 2:
                lines.append(one_line(f"{name}[{index}]  {op[0]}  {_arguments(op[1])}", _WIDTH))
            else:
                lines.append(one_line(f"{name}[{index}]  {_compact(op)}", _WIDTH))
    return shortened(lines, limit)


def _result(record: dict[str, Any]) -> str:
    if record.get("skipped"):
        return f"skipped: {record['skipped']}"
    number = record.get("errno")
    if isinstance(number, int) and number:
        return f"-1 {errno.errorcode.get(number, number)}"
    return str(record.get("ret", "?"))


def trace_lines(trace: Sequence[dict[str, Any]], limit: int = 80) -> list[str]:
    """A trace, one line for each operation with its result; without times, which differ in each run."""
    hidden = {"t", "i", "op", "ret", "errno", "t0", "dt", "skipped"}
    lines = []
    for record in trace:
        rest = {name: each for name, each in record.items() if name not in hidden}
        place = f"{record.get('t', 'main')}[{record.get('i', '?')}]"
        lines.append(
            one_line(f"{place}  {record.get('op', '?')} = {_result(record)}  {_arguments(rest)}", _WIDTH)
        )
    return shortened(lines, limit)


def replay_command(finding: Finding, out_dir: str = "") -> str:
    """The command that replays the finding; '' if no replay file was saved."""
    if not finding.replay:
        return ""
    return f"./vfiocert replay {out_dir.rstrip('/') + '/' if out_dir else ''}{finding.replay}"


def finding_lines(clause: ClauseResult, finding: Finding, out_dir: str = "") -> list[str]:
    """A finding in plain lines: rule, expected, observed, path, replay command."""
    lines = [
        f"clause     {clause.id} ({clause.level})",
        f"statement  {one_line(clause.statement)}",
        f"expected   {one_line(finding.expected)}",
        f"observed   {one_line(finding.observed)}",
    ]
    if finding.path:
        lines.append(f"path       {' -> '.join(shortened(finding.path, 24))}")
    if finding.source or clause.source:
        lines.append(f"source     {one_line(finding.source or clause.source)}")
    lines.append(f"signature  {finding.signature}")
    command = replay_command(finding, out_dir)
    if command:
        lines.append(f"replay     {command}")
    return lines
