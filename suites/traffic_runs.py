# SPDX-License-Identifier: Apache-2.0
"""Runs programs with traffic: an engine that does not do what it is told leaves no verdict."""

from __future__ import annotations

from typing import Any

from fixtures.rig import Rig
from harness.errors import LabError

__all__ = ["run_traffic"]


def run_traffic(rig: Rig, program: dict[str, Any], *, own: bool = False) -> None:
    """Run a program; LabError where the engine did not do what it was told and no clause says why."""
    verdict = rig.run(program, own=own)
    failed = int(verdict.figures["commands_failed"])
    if failed and not verdict.violations:
        raise LabError(
            f"{rig.device_id}: the engine left {failed} commands undone or memory as it was: no verdict"
        )
