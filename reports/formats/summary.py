# SPDX-License-Identifier: Apache-2.0
"""The summary of a run for the terminal: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from reports.listing import SYMBOLS, finding_lines
from reports.models import DeviceResult, Run, verdict_counts
from reports.text import one_line

__all__ = ["print_summary", "summary_lines"]

_STYLES = {
    "conforming": "bold blue", "non-conforming": "bold red", "inconclusive": "bold magenta",
    "fail": "red", "advisory": "yellow", "kernel": "yellow",
    "waived": "yellow", "pass": "blue", "not-applicable": "dim",
}  # fmt: skip
_ORDER = ("fail", "inconclusive", "advisory", "kernel", "waived", "pass", "not-applicable")
_MAX_FINDINGS = 20
_MAX_DEVICES = 200


def _what(device: DeviceResult) -> str:
    return f"{device.kind}: {device.stands_in}" if device.stands_in else device.kind


def _rows(run: Run, out_dir: str) -> list[tuple[str, str]]:
    """The lines, each with the verdict that colours it, or with an empty verdict."""
    rows: list[tuple[str, str]] = []
    shown = 0
    for device in run.devices[:_MAX_DEVICES]:
        counts = verdict_counts(device.clauses)
        tally = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if verdict in counts)
        rows.append((device.verdict, f"{SYMBOLS[device.verdict]} {device.id}: {device.verdict_line()}"))
        facts = [device.driver, device.kernel and f"Linux {device.kernel}", _what(device)]
        rows.append(("", f"  {', '.join(fact for fact in facts if fact)}") if any(facts) else ("", ""))
        rows.append(("", f"  clauses: {tally or 'none'}"))
        if device.arcs:
            rows.append((
                "",
                f"  {device.arcs_covered()}/64 cells of the state table reached, refused as they must be, "
                "or not applicable",
            ))  # fmt: skip
        rows += [("advisory", f"  not exercised: {what}") for what in device.unexercised]
        if device.precision():
            rows.append(("", f"  DMA log: {device.precision()}"))
        if device.taint_after & ~device.taint_before:
            rows.append(
                ("advisory", f"  kernel taint {device.taint_before} before, {device.taint_after} after")
            )
        for clause in device.clauses:
            if clause.verdict in ("inconclusive", "kernel", "waived"):
                rows.append(
                    (
                        clause.verdict,
                        f"  {SYMBOLS[clause.verdict]} {clause.id}: {one_line(clause.reason, 300)}",
                    )
                )
            for finding in clause.findings:
                shown += 1
                if shown > _MAX_FINDINGS:
                    continue
                rows.append(("", ""))
                rows.append((clause.verdict, f"  {SYMBOLS[clause.verdict]} {finding.title}"))
                rows += [("", f"    {line}") for line in finding_lines(clause, finding, out_dir)]
        rows.append(("", ""))
    if len(run.devices) > _MAX_DEVICES:
        rows.append(("", f"{len(run.devices) - _MAX_DEVICES} more devices are in run.json"))
    if shown > _MAX_FINDINGS:
        rows.append(("", f"{shown - _MAX_FINDINGS} more findings are in run.json and run.html"))
    rows += [("", f"note: {note}") for note in run.notes]
    rows.append((run.verdict, f"{SYMBOLS[run.verdict]} verdict: {run.verdict}"))
    if out_dir:
        rows.append(("", f"reports in {out_dir}: run.html, run.json, junit.xml, run.ktap, allure-results/"))
    kept: list[tuple[str, str]] = []
    for row in rows:  # no two empty lines in a row
        if row[1] or (kept and kept[-1][1]):
            kept.append(row)
    return kept


def summary_lines(run: Run, out_dir: str = "") -> list[str]:
    """The summary as plain lines; `out_dir` is the folder that replay commands and report paths name."""
    return [text for _, text in _rows(run, out_dir)]


def print_summary(run: Run, out_dir: str = "", file: TextIO | None = None) -> None:
    """Print the summary to `file` (default: standard output), in colour if that is a terminal."""
    stream = file or sys.stdout
    if not stream.isatty():
        for line in summary_lines(run, out_dir):
            encoding = getattr(stream, "encoding", None) or "utf-8"
            print(line.encode(encoding, "replace").decode(encoding), file=stream)
        return
    console = Console(file=stream, highlight=False, soft_wrap=True)
    for verdict, text in _rows(run, out_dir):
        console.print(escape(text), style=_STYLES.get(verdict, ""))
