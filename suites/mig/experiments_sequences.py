# SPDX-License-Identifier: Apache-2.0
"""Sequences of requests: every short one, many long random ones, and several threads at once."""

from __future__ import annotations

import time
from collections.abc import Generator

from fixtures.experiment import experiment
from fixtures.rig import Rig
from fixtures.search import Program, Search, made_by
from fixtures.subject import Subject
from harness.oracle.judgement import Judgement
from suites.mig.random_programs import REGRESSIONS, build, concurrent_program, programs, race_program
from suites.mig.sweep import sweep_programs
from suites.mig.tour import Tour

PROGRAMS = 1500
SWEEP_SHARE, RANDOM_SHARE = 0.4, 0.2
"""Shares of the budget of a device."""
FIRST_TARGETS, FEWEST_TARGETS, MOST_TARGETS, PROGRAM_S = 16, 4, 20_000, 5.0
"""Targets of a program of the sweep: of the first, bounds for the others, and how long one should take."""
RESET_ARCS = 2.0
"""What a reset costs, in arcs: 200 ms of a device whose arcs take 100 ms."""
RACES = 120


@experiment(
    "MIG-022", "MIG-023", "MIG-024", "MIG-030", "MIG-031", "MIG-032", "MIG-033", "MIG-034", "MIG-035",
    "MIG-036", "MIG-037", "MIG-038", "MIG-039", "MIG-040", "MIG-041", "MIG-042", "MIG-043", "MIG-044",
    "MIG-045", "MIG-046", "MIG-047", "MIG-048", "MIG-049", "MIG-050", "MIG-051", "MIG-052", "MIG-053",
    "MIG-054", "MIG-055", "MIG-056", "MIG-057", "MIG-058", "MIG-059", "MIG-060", "MIG-061", "MIG-062",
    "MIG-064", "MIG-065", "MIG-066", "MIG-067", "MIG-106", "MIG-111", "MIG-113", "MIG-140", "MIG-141",
    "MIG-142", search=True,
)  # fmt: skip
def every_sequence_up_to_the_depth(
    subject: Subject, rig: Rig, budget_s: float, depth: int
) -> Generator[Program, Judgement, None]:
    """Every sequence of SETs, of one, then of two, and so on, while the time for searches lasts."""
    tour = Tour(subject.flags, depth, reset_cost=RESET_ARCS if subject.has("reset") else None)
    begun = time.monotonic()

    def targets_in_time() -> int:
        walked = tour.sets_walked + tour.resets_walked
        if not walked:
            return FIRST_TARGETS
        spent_s = time.monotonic() - begun
        left_s = SWEEP_SHARE * budget_s - spent_s
        if left_s <= 0 and tour.complete:
            return 0
        return int(min(MOST_TARGETS, max(FEWEST_TARGETS, PROGRAM_S * walked / spent_s)))

    yield from sweep_programs(subject.flags, depth, targets_in_time, tour=tour)
    if tour.complete < depth:
        rig.notes.append(
            f"{rig.device_id}: every sequence up to {tour.complete} instead of {depth}, "
            f"{tour.total - tour.remaining} of {tour.total} in all: --search-time"
        )
    if tour.given_up:
        why = "; ".join(map(str, tour.dropped[:5])) or "GET never reported what the model expects"
        rig.notes.append(f"{rig.device_id}: {tour.given_up} sequences were given up: {why}")


@experiment(
    "MIG-022", "MIG-023", "MIG-024", "MIG-030", "MIG-031", "MIG-032", "MIG-033", "MIG-034", "MIG-035",
    "MIG-036", "MIG-037", "MIG-038", "MIG-039", "MIG-040", "MIG-041", "MIG-042", "MIG-043", "MIG-044",
    "MIG-045", "MIG-046", "MIG-047", "MIG-048", "MIG-049", "MIG-050", "MIG-051", "MIG-052", "MIG-053",
    "MIG-054", "MIG-055", "MIG-056", "MIG-057", "MIG-058", "MIG-059", "MIG-060", "MIG-061", "MIG-062",
    "MIG-063", "MIG-064", "MIG-065", "MIG-066", "MIG-067", "MIG-068", "MIG-069", "MIG-070", "MIG-071",
    "MIG-072", "MIG-073", "MIG-074", "MIG-075", "MIG-076", "MIG-077", "MIG-078", "MIG-079", "MIG-080",
    "MIG-081", "MIG-082", "MIG-083", "MIG-084", "MIG-085", "MIG-086", "MIG-087", "MIG-088", "MIG-089",
    "MIG-090", "MIG-091", "MIG-092", "MIG-093", "MIG-140", "MIG-141", "MIG-142", search=True,
)  # fmt: skip
def random_programs_of_requests_and_io(subject: Subject, rig: Rig, search: Search, budget_s: float) -> None:
    regressions = [build(steps, subject) for steps in REGRESSIONS]
    begun = time.monotonic()
    for _ in range(4):
        rig.execute_many(regressions)
    cost_s = (time.monotonic() - begun) / (4 * len(regressions))
    count = max(50, min(PROGRAMS, int(RANDOM_SHARE * budget_s / cost_s)))
    search.batches(programs(subject), count, regressions)


@experiment("MIG-069", "MIG-160", "MIG-161", "MIG-162", "MIG-163", "MIG-164", search=True)
def threads_act_as_if_in_some_order(subject: Subject, search: Search) -> None:
    search.each(made_by(concurrent_program, subject), 3 * RACES // 4, own=False, log_every=10)
    search.each(made_by(race_program, subject), RACES // 4, own=False, log_every=10)
