# SPDX-License-Identifier: Apache-2.0
"""The IOMMU's dirty tracking: random interleavings of what its experiments are made of."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from suites.dirty.random_tracking import random_tracking

RANDOM_PROGRAMS = 40


@experiment(
    "DIRTY-110", "DIRTY-111", "DIRTY-112", "DIRTY-113", "DIRTY-114", "DIRTY-115", "DIRTY-116", "DIRTY-117",
    "DIRTY-118", "DIRTY-119", "DIRTY-121", "DIRTY-122", "DIRTY-123", needs=("mock",), search=True,
    log_every=20,
)  # fmt: skip
def random_interleavings_of_mappings_writes_and_reports(subject: Subject) -> Iterator[Script]:
    for _ in range(RANDOM_PROGRAMS):
        yield random_tracking(subject.rng)
