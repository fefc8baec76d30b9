# SPDX-License-Identifier: Apache-2.0
"""The commands, one module each, imported only when the command runs."""

from __future__ import annotations

__all__ = ["COMMANDS", "Entry"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A command's place (`module:attribute`, a function or a typer app) and its line in `--help`."""

    target: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "certify": Entry("harness.commands.certify:certify", "certify devices; with no option: the embedded lab"),
    "check": Entry(
        "harness.commands.check:check", "check this project itself: style, types, tests, a certify"
    ),
    "lab": Entry("harness.commands.lab:app", "the embedded lab by hand: up, down, status, reset, ssh"),
    "devices": Entry(
        "harness.commands.devices.command:devices", "devices of the lab, and why one cannot be certified"
    ),
    "clauses": Entry(
        "harness.commands.clauses:clauses", "the clauses of the contract, or one of them in full"
    ),
    "replay": Entry("harness.commands.replay:replay", "run a saved program again and judge it"),
    "report": Entry("harness.commands.report:report", "write the reports of a finished run again"),
    "undo": Entry("harness.commands.undo:undo", "undo what killed runs left on lab hosts"),
    "prove": Entry(
        "harness.commands.prove.command:prove",
        "seed every known defect, say what catches it",
    ),
    "coverage": Entry(
        "harness.commands.coverage.command:coverage",
        "which lines of the kernel the chapters reach",
    ),
    "bench": Entry("harness.commands.bench.command:bench", "measure operations per second of agent and lab"),
    "new": Entry("harness.commands.new:app", "start a new clause or a new driver profile"),
}
