# SPDX-License-Identifier: Apache-2.0
"""Every experiment of the chapter, on the device; each program opens the device itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from fixtures.subject import Subject
from suites.dev import (
    experiments_config,
    experiments_gfx,
    experiments_irqs,
    experiments_regions,
    experiments_rest,
    experiments_uart,
)
from suites.dev.program import Bench

Experiment = Callable[[Subject], Generator[Bench, Any, None] | Iterator[Bench]]


EXPERIMENTS = (
    *experiments_config.EXPERIMENTS, *experiments_irqs.EXPERIMENTS, *experiments_rest.EXPERIMENTS,
    *experiments_regions.EXPERIMENTS, *experiments_uart.EXPERIMENTS, *experiments_gfx.EXPERIMENTS,
)  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: str(e.__name__))
def test_device(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment, which may go by what the one before showed."""

    def body() -> None:
        programs = experiment(rig.subject(experiment.__name__))
        assert isinstance(programs, Generator)
        program = next(programs, None)
        while program is not None:
            verdict = rig.run(program.to_json(), own=True)
            try:
                program = programs.send(verdict)
            except StopIteration:
                break

    case.run(body)
