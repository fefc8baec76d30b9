# SPDX-License-Identifier: Apache-2.0
"""Random programs of an address space on every old backend, and a device that does DMA in a container."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.rig import Rig
from fixtures.subject import Subject
from harness.uapi import vfio
from suites.iom.device_traffic import traffic_program
from suites.iom.program import Core
from suites.iom.random_space import CompatBackend, random_space
from suites.leg.program import Container, Type1Backend

RANDOM_PROGRAMS = 6
"""On each of the backends."""


@experiment(
    "LEG-020", "LEG-021", "LEG-022", "LEG-023", "LEG-024", "LEG-025", "LEG-030", "LEG-031", "LEG-032",
    search=True, own_open=True, log_every=2 * RANDOM_PROGRAMS,
)  # fmt: skip
def random_programs_on_a_container(subject: Subject) -> Iterator[Core]:
    kinds = {"type1v2": vfio.VFIO_TYPE1v2_IOMMU, "type1": vfio.VFIO_TYPE1_IOMMU}
    for kind in (number for name, number in kinds.items() if subject.has(name)):
        for _ in range(RANDOM_PROGRAMS):
            yield random_space(Type1Backend(kind), Container(iommu=False), subject.rng)


@experiment("LEG-080", "LEG-081", "LEG-082", "LEG-083", search=True, own_open=True, log_every=RANDOM_PROGRAMS)
def random_programs_on_an_iommufd_as_container(subject: Subject) -> Iterator[Core]:
    attach = Core.mock if subject.has("mock") else Core.device
    for _ in range(RANDOM_PROGRAMS):
        yield random_space(CompatBackend(attach), Core(), subject.rng)


@experiment("LEG-062", "LEG-063", "LEG-064", needs=("engine", "type1v2"), search=True, own_open=True)
def a_device_in_a_container_reaches_what_is_mapped(subject: Subject, rig: Rig) -> Iterator[Core]:
    if subject.has("lockdep") and subject.has("engine_pinned"):
        # The order in which the container takes its own two locks.
        rig.core_reports = {"vfio_iommu_type1_register_device": "LEG-064"}
    core = Container()
    core.script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
    yield traffic_program(
        core, subject, "LEG-062", "LEG-063",
        lambda iova, n, off: core.dma_map(iova, n, off=off), core.dma_unmap,
        lambda slot, n, iova: core.dma_map(iova, n, slot),
    )  # fmt: skip
