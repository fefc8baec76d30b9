# SPDX-License-Identifier: Apache-2.0
"""Device DMA logging: random programs of writes and reports; reports during DMA and during other reports."""

from __future__ import annotations

from fixtures.experiment import experiment
from fixtures.search import Search, made_by
from fixtures.subject import Subject
from suites.dirty.random_logging import random_program, reports_beside_dma, reports_beside_reports

RANDOM_PROGRAMS = 40
RANDOM_PROGRAMS_SLOW = 3
RACES = 12


@experiment(
    "DIRTY-030", "DIRTY-031", "DIRTY-032", "DIRTY-033", "DIRTY-034", "DIRTY-035", "DIRTY-036", "DIRTY-037",
    "DIRTY-045", "DIRTY-058", needs=("dma_logging", "engine"), search=True,
)  # fmt: skip
def random_programs_of_writes_and_reports(subject: Subject, search: Search) -> None:
    count = RANDOM_PROGRAMS if random_program(subject).quick else RANDOM_PROGRAMS_SLOW
    search.each(made_by(random_program, subject), count, own=False, traffic=True)


@experiment("DIRTY-055", "DIRTY-056", needs=("dma_logging", "engine"), search=True)
def reports_beside_dma_and_beside_each_other(subject: Subject, search: Search) -> None:
    count = RACES // 2 if reports_beside_dma(subject).quick else 1
    for make in (reports_beside_dma, reports_beside_reports):
        search.each(made_by(make, subject), count, own=False, traffic=True)
