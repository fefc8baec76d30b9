# SPDX-License-Identifier: Apache-2.0
"""The IOMMU's dirty tracking: random sequences of the operations in its experiments."""

from __future__ import annotations

from fixtures.experiment import experiment
from fixtures.search import Search, made_by
from fixtures.subject import Subject
from suites.dirty.random_tracking import random_tracking

RANDOM_PROGRAMS = 40


@experiment(
    "DIRTY-110", "DIRTY-111", "DIRTY-112", "DIRTY-113", "DIRTY-114", "DIRTY-115", "DIRTY-116", "DIRTY-117",
    "DIRTY-118", "DIRTY-119", "DIRTY-121", "DIRTY-122", "DIRTY-123", needs=("mock",), search=True,

)  # fmt: skip
def random_interleavings_of_mappings_writes_and_reports(subject: Subject, search: Search) -> None:
    programs = made_by(lambda drawn: random_tracking(drawn.rng), subject)
    search.each(programs, RANDOM_PROGRAMS, own=False, log_every=20)
