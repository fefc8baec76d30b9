# SPDX-License-Identifier: Apache-2.0
"""Random histories of several processes: one step after the other, and at the same time."""

from __future__ import annotations

import time

from fixtures.experiment import experiment
from fixtures.search import Search, made_by
from fixtures.subject import Subject
from suites.acc.random_histories import contest, history, turmoil

HISTORIES = 30
CONTESTS = 8
TURMOILS = 6
LEAST = 10
"""Histories tried however long each takes: a device that is reset by every open is slow."""
SHARE = 0.04
"""Share of the device's budget."""


@experiment(
    "ACC-001", "ACC-002", "ACC-003", "ACC-004", "ACC-005", "ACC-006", "ACC-007", "ACC-008", "ACC-009",
    "ACC-010", "ACC-011", "ACC-020", "ACC-025", "ACC-026", "ACC-027", "ACC-028", "ACC-029", "ACC-030",
    "ACC-050", "ACC-051", "ACC-052", "ACC-053", "ACC-054", "ACC-055", "ACC-056", "ACC-057", "ACC-060",
    "ACC-061", "ACC-062", "ACC-063", "ACC-064", "ACC-065", "ACC-066", "ACC-067", "ACC-068", "ACC-069",
    "ACC-070", "ACC-073", "ACC-083", "ACC-084", "ACC-085", "ACC-086", "ACC-087", "ACC-088", "ACC-089",
    "ACC-090", "ACC-091", "ACC-092", "ACC-093", "ACC-094", "ACC-095", "ACC-097", search=True, 
)  # fmt: skip
def whoever_does_what_the_device_has_one_owner_at_most(
    subject: Subject, search: Search, budget_s: float
) -> None:
    """Run histories in a definite order; fewer where opening the device is slow."""
    begun = time.monotonic()
    search.each(made_by(history, subject), LEAST, own=True, log_every=LEAST)
    cost_s = (time.monotonic() - begun) / LEAST
    more = min(HISTORIES - LEAST, int((SHARE * budget_s - LEAST * cost_s) / cost_s))
    if more > 0:
        search.each(made_by(history, subject), more, own=True, log_every=LEAST, number=1)


@experiment("ACC-070", "ACC-071", "ACC-072", search=True)
def claims_at_the_same_time_have_one_winner(subject: Subject, search: Search) -> None:
    search.each(made_by(contest, subject), CONTESTS, own=True, log_every=CONTESTS)
    search.each(made_by(turmoil, subject), TURMOILS, own=True, log_every=TURMOILS)
