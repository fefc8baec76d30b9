# SPDX-License-Identifier: Apache-2.0
"""Renders a run as one self-contained page: no script, nothing fetched, all text escaped and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from reports.listing import SYMBOLS, program_lines, replay_command, shortened, trace_lines
from reports.models import ClauseResult, DeviceResult, Finding, Run, verdict_counts
from reports.statemap import SPEC_TABLE, ArcTable, diagram, state_table
from reports.text import one_line

__all__ = ["render_html"]

_MAX_FINDINGS = 200
_LOG_LINES = 160
_OP_LINES = 120
_ORDER = ("fail", "inconclusive", "advisory", "kernel", "waived", "pass", "not-applicable")
_TITLES = {
    "fail": "Failed", "inconclusive": "Inconclusive", "advisory": "Advisory", "kernel": "Broken by the core",
    "waived": "Waived",    "pass": "Passed", "not-applicable": "Not applicable",
}  # fmt: skip


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = one_line
    return environment


def _finding(number: int, clause: ClauseResult, finding: Finding, out_dir: str) -> dict[str, Any]:
    return {
        "number": number,
        "clause": clause,
        "it": finding,
        "source": finding.source or clause.source,
        "path": shortened(finding.path, 60),
        "program": program_lines(finding.program, _OP_LINES),
        "trace": trace_lines(finding.trace, _OP_LINES),
        "kernel_log": shortened(finding.kernel_log, _LOG_LINES),
        "replay": replay_command(finding, out_dir),
    }


def _findings(device: DeviceResult) -> Iterator[tuple[ClauseResult, Finding]]:
    for verdict in _ORDER:
        for clause in device.clauses:
            if clause.verdict == verdict:
                for finding in clause.findings:
                    yield clause, finding


def _device(device: DeviceResult, table: ArcTable, out_dir: str) -> dict[str, Any]:
    pairs = list(_findings(device))
    counts = verdict_counts(device.clauses)
    return {
        "it": device,
        "counts": [(verdict, counts[verdict]) for verdict in _ORDER if verdict in counts],
        "covered": device.arcs_covered(),
        "precision": device.precision(),
        "cells": len(table.states) ** 2,
        "diagram": diagram(device.arcs, table) if device.arcs else None,
        "table": state_table(device.arcs, table) if device.arcs else [],
        "findings": [_finding(n, *pair, out_dir) for n, pair in enumerate(pairs[:_MAX_FINDINGS], 1)],
        "more": max(0, len(pairs) - _MAX_FINDINGS),
        "groups": [
            (verdict, _TITLES[verdict], [each for each in device.clauses if each.verdict == verdict])
            for verdict in _ORDER
            if verdict in counts
        ],
    }


def render_html(run: Run, *, table: ArcTable = SPEC_TABLE, out_dir: str = "") -> str:
    """The page of `run`, with the state machine in `table`; replay commands name `out_dir`."""
    return _environment().get_template("run.html.j2").render(
        run=run,
        devices=[_device(device, table, out_dir) for device in run.devices],
        states=table.states,
        symbols=SYMBOLS,
        finding_count=len(run.findings()),
    )  # fmt: skip
