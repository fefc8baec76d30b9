# SPDX-License-Identifier: Apache-2.0
"""Device DMA logging: random programs of writes and reports, and reports beside DMA and beside each other."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script
from suites.dirty.random_logging import random_program, reports_beside_dma, reports_beside_reports

RANDOM_PROGRAMS = 40
RANDOM_PROGRAMS_SLOW = 3
RACES = 12


@experiment(
    "DIRTY-030", "DIRTY-031", "DIRTY-032", "DIRTY-033", "DIRTY-034", "DIRTY-035", "DIRTY-036", "DIRTY-037",
    "DIRTY-045", "DIRTY-058", needs=("dma_logging", "engine"), search=True, traffic=True,
)  # fmt: skip
def random_programs_of_writes_and_reports(subject: Subject) -> Iterator[Script]:
    sample = random_program(subject)
    for _ in range(RANDOM_PROGRAMS if sample.quick else RANDOM_PROGRAMS_SLOW):
        yield random_program(subject)


@experiment("DIRTY-055", "DIRTY-056", needs=("dma_logging", "engine"), search=True, traffic=True)
def reports_beside_dma_and_beside_each_other(subject: Subject) -> Iterator[Script]:
    for number in range(RACES if reports_beside_dma(subject).quick else 2):
        yield (reports_beside_reports if number % 2 else reports_beside_dma)(subject)
