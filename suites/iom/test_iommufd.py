# SPDX-License-Identifier: Apache-2.0
"""Every experiment of the chapter, and random programs on an address space."""

from __future__ import annotations

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from suites.iom import (
    experiments_account,
    experiments_format,
    experiments_pins,
    experiments_space,
    experiments_tables,
    experiments_viommu,
)
from suites.iom.device_traffic import traffic_program
from suites.iom.experiments_format import Experiment
from suites.iom.program import Core
from suites.iom.random_space import NativeBackend, random_space

RANDOM_PROGRAMS = 45
RANDOM_PROGRAMS_OF_A_DEVICE = 8


@pytest.mark.parametrize(
    "experiment",
    [
        *experiments_format.EXPERIMENTS, *experiments_space.EXPERIMENTS, *experiments_tables.EXPERIMENTS,
        *experiments_viommu.EXPERIMENTS, *experiments_account.EXPERIMENTS, *experiments_pins.EXPERIMENTS,
    ],
    ids=lambda e: str(e.__name__),
)  # fmt: skip
def test_experiment_on_iommufd(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment."""

    def body() -> None:
        subject = rig.subject(experiment.__name__)
        only = subject.has("mock")
        for script in experiment(subject) if only or experiment in DEVICE_EXPERIMENTS else ():
            rig.run(script.to_json(), own=not only)

    case.run(body)


DEVICE_EXPERIMENTS = (
    experiments_space.ranges_are_full_at_first_and_narrowed_by_devices,
    experiments_space.maps_at_fixed_and_chosen_addresses,
    experiments_space.copies_share_what_they_copy,
    experiments_space.files_are_mapped_by_what_they_hold,
    experiments_tables.tables_hold_what_their_space_maps,
    experiments_tables.flags_of_tables,
    experiments_tables.hardware_information,
    experiments_account.pinned_memory_is_counted_once,
)
"""What depends on the device, and is tried on VFIO devices too."""


def test_random_programs_on_an_ioas(rig: Rig, case: Case) -> None:
    """Clauses: IOM-030 to IOM-038, IOM-040 to IOM-044, IOM-050, IOM-051."""

    def body() -> None:
        subject = rig.subject("random programs on an IOAS")
        mock = subject.has("mock")
        for number in range(RANDOM_PROGRAMS if mock else RANDOM_PROGRAMS_OF_A_DEVICE):
            attach = None if mock and number % 3 == 0 else (Core.mock if mock else Core.device)
            program = random_space(NativeBackend(attach, mock), Core(), subject.rng)
            rig.run(program.json(), own=not mock, log=number % 10 == 9)

    case.run(body)


def test_a_device_reaches_what_is_mapped(rig: Rig, case: Case) -> None:
    """Clauses: IOM-046, IOM-047."""

    def body() -> None:
        subject = rig.subject("a device reaches what is mapped")
        if not subject.has("engine"):
            return
        core = Core()
        core.script.op("open_cdev", dev="dev0", out="d")
        core.script.op("bind", fd="d", iommufd="f")
        core.script.op("attach", fd="d", pt="a")
        program = traffic_program(
            core, subject, "IOM-046", "IOM-047", lambda iova, n, off: core.map(iova, n, off=off), core.unmap,
            lambda slot, n, iova: core.map(iova, n, slot),
        )  # fmt: skip
        rig.run(program.json(), own=True)

    case.run(body)
