# SPDX-License-Identifier: Apache-2.0
"""The one place to import verdict records from: the models, how verdicts combine, and the writer of a run."""

from __future__ import annotations

from reports.models import (
    SCHEMA,
    STATES,
    ArcResult,
    ArcVerdict,
    ClauseResult,
    ClauseVerdict,
    DeviceResult,
    Finding,
    Level,
    Run,
    RunVerdict,
    merge,
    signature_of,
    verdict_counts,
    verdict_of,
)
from reports.waivers import Waiver, load_waivers
from reports.writer import RunWriter, read_run

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
    "RunWriter",
    "Waiver",
    "load_waivers",
    "merge",
    "read_run",
    "signature_of",
    "verdict_counts",
    "verdict_of",
]
