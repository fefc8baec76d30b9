# SPDX-License-Identifier: Apache-2.0
"""`vfiocert undo`: undo what killed runs left on lab hosts, from the journals there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fixtures.reach import Reach, gone, reaches
from harness.errors import LabError, VfiocertError
from harness.hosts.host import Host
from harness.hosts.inventory import EMBEDDED, load_inventory

__all__ = ["undo"]

_UNDO_S = 180.0


def undo(
    lab: Annotated[str | None, typer.Option(help="lab in labs.yaml, or 'embedded' [default: all]")] = None,
    host: Annotated[list[str] | None, typer.Option(help="only this host; may be repeated")] = None,
    labs_file: Annotated[Path | None, typer.Option(help="inventory [default: labs.yaml]")] = None,
) -> None:
    """Undo what killed runs left on lab hosts; live runs are left alone.

    \b
    Examples:
      vfiocert undo
      vfiocert undo --lab rack7 --host node1

    It needs only the host: each step's undo was written there before the step. Exit status: 0 everything is
    undone, 3 a step could not be undone or a host could not be reached.
    """
    failed = 0
    for reach in reaches(load_inventory(labs_file), [lab] if lab else [], host or []):
        if reach.spec is None:
            if lab == EMBEDDED:
                print(f"{reach.lab}: no lab is up: nothing to undo")
            continue
        try:
            failed += _undo_host(reach)
        except VfiocertError as error:
            if gone(reach):
                continue
            failed += 1
            print(f"vfiocert: {' '.join(str(error).split())}", file=sys.stderr)
    if failed:
        raise LabError(f"{failed} hosts or steps could not be undone; the lines above say which")


def _undo_host(reach: Reach) -> int:
    """Undo one host's steps and print a line for each; return how many failed."""
    if reach.spec is None:
        return 0
    with Host.connect(reach.spec, reach.name, reach.jumps, require_vfio=False) as host:
        answer = host.agent.call("undo", deadline_s=_UNDO_S, run=None)
    steps = [step for step in answer if isinstance(step, dict)] if isinstance(answer, list) else []
    for step in steps:
        print(f"{reach.lab}.{reach.host_id}: {_line(step)}")
    if not steps:
        print(f"{reach.lab}.{reach.host_id}: nothing to undo")
    return sum(str(step.get("status", "")).startswith("failed") for step in steps)


def _line(step: dict[str, Any]) -> str:
    what = f"{step.get('undo', '')} {step.get('subject', '')}".strip()
    return " ".join(f"run {step.get('run', '?')} {what}: {step.get('status', '?')}".split())
