# SPDX-License-Identifier: Apache-2.0
"""Every experiment of the chapter, and the random programs of an address space on every old backend."""

from __future__ import annotations

import pytest

from fixtures.plugin import Case
from fixtures.rig import Rig
from harness.uapi import vfio
from suites.iom.device_traffic import traffic_program
from suites.iom.program import Core
from suites.iom.random_space import CompatBackend, random_space
from suites.leg import experiments_compat, experiments_container, experiments_memory
from suites.leg.experiments_container import Experiment
from suites.leg.program import Container, Type1Backend

RANDOM_PROGRAMS = 6
"""On each of the backends."""


@pytest.mark.parametrize(
    "experiment",
    [*experiments_container.EXPERIMENTS, *experiments_memory.EXPERIMENTS],
    ids=lambda e: str(e.__name__),
)
def test_experiment_on_a_container(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment, each on a container of its own."""

    def body() -> None:
        subject = rig.subject(experiment.__name__)
        for script in experiment(subject) if subject.has("type1v2") else ():
            rig.run(script.to_json(), own=True)

    case.run(body)


@pytest.mark.parametrize("experiment", experiments_compat.EXPERIMENTS, ids=lambda e: str(e.__name__))
def test_experiment_on_an_iommufd_as_container(rig: Rig, case: Case, experiment: Experiment) -> None:
    """Runs the programs of one experiment, each on an iommufd of its own."""

    def body() -> None:
        subject = rig.subject(experiment.__name__)
        for script in experiment(subject):
            rig.run(script.to_json(), own=not subject.has("mock"))

    case.run(body)


def test_random_programs_on_a_container(rig: Rig, case: Case) -> None:
    """Clauses: LEG-020 to LEG-025, LEG-030 to LEG-032."""

    def body() -> None:
        subject = rig.subject("random programs on a container")
        kinds = [vfio.VFIO_TYPE1v2_IOMMU] * subject.has("type1v2") + [vfio.VFIO_TYPE1_IOMMU] * subject.has(
            "type1"
        )
        for kind in kinds:
            for _ in range(RANDOM_PROGRAMS):
                program = random_space(Type1Backend(kind), Container(iommu=False), subject.rng)
                rig.run(program.json(), own=True, log=False)
        rig.read_log({"threads": [{"name": "main", "ops": []}]}, [])

    case.run(body)


def test_random_programs_on_an_iommufd_as_container(rig: Rig, case: Case) -> None:
    """Clauses: LEG-080 to LEG-083."""

    def body() -> None:
        subject = rig.subject("random programs on an iommufd as container")
        mock = subject.has("mock")
        attach = Core.mock if mock else Core.device
        for _ in range(RANDOM_PROGRAMS):
            program = random_space(CompatBackend(attach), Core(), subject.rng)
            rig.run(program.json(), own=not mock, log=False)
        rig.read_log({"threads": [{"name": "main", "ops": []}]}, [])

    case.run(body)


def test_a_device_in_a_container_reaches_what_is_mapped(rig: Rig, case: Case) -> None:
    """Clauses: LEG-062 to LEG-064."""

    def body() -> None:
        subject = rig.subject("a device in a container reaches what is mapped")
        if not subject.has("engine") or not subject.has("type1v2"):
            return
        if subject.has("lockdep") and subject.has("engine_pinned"):
            # The order in which the container takes its own two locks.
            rig.core_reports = {"vfio_iommu_type1_register_device": "LEG-064"}
        core = Container()
        core.script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
        program = traffic_program(
            core, subject, "LEG-062", "LEG-063",
            lambda iova, n, off: core.dma_map(iova, n, off=off), core.dma_unmap,
            lambda slot, n, iova: core.dma_map(iova, n, slot),
        )  # fmt: skip
        rig.run(program.json(), own=True)

    case.run(body)
