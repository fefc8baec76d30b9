# SPDX-License-Identifier: Apache-2.0
"""Random programs of an address space on every old backend, and a device that does DMA in a container."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fixtures.experiment import experiment
from fixtures.rig import Rig
from fixtures.search import Search, made_by
from fixtures.subject import Subject
from harness.uapi import vfio
from suites.iom.device_traffic import traffic_program
from suites.iom.program import Core
from suites.iom.random_space import CompatBackend, random_space
from suites.leg.program import Container, Type1Backend

RANDOM_PROGRAMS = 6
"""Programs on each of the backends."""


@experiment(
    "LEG-020", "LEG-021", "LEG-022", "LEG-023", "LEG-024", "LEG-025", "LEG-030", "LEG-031", "LEG-032",
    search=True,
)  # fmt: skip
def random_programs_on_a_container(subject: Subject, search: Search) -> None:
    kinds = {"type1v2": vfio.VFIO_TYPE1v2_IOMMU, "type1": vfio.VFIO_TYPE1_IOMMU}
    for kind in [number for name, number in kinds.items() if subject.has(name)]:
        backend = Type1Backend(kind)
        programs = made_by(partial(_program, lambda: Container(iommu=False), backend), subject)
        search.each(programs, RANDOM_PROGRAMS, own=True, log_every=RANDOM_PROGRAMS)


def _program(core: Callable[[], Core], backend: Any, subject: Subject) -> Core:
    return random_space(backend, core(), subject.rng)


@experiment("LEG-080", "LEG-081", "LEG-082", "LEG-083", search=True)
def random_programs_on_an_iommufd_as_container(subject: Subject, search: Search) -> None:
    mock = subject.has("mock")
    backend = CompatBackend(Core.mock if mock else Core.device)
    programs = made_by(partial(_program, Core, backend), subject)
    search.each(programs, RANDOM_PROGRAMS, own=not mock, log_every=RANDOM_PROGRAMS)


@experiment("LEG-062", "LEG-063", "LEG-064", needs=("engine", "type1v2"), search=True, own_open=True)
def a_device_in_a_container_reaches_what_is_mapped(subject: Subject, rig: Rig) -> Iterator[Core]:
    if subject.has("lockdep") and subject.has("engine_pinned"):
        # lockdep reports the order in which the container takes its own two locks.
        rig.log.mainline_reports = {"vfio_iommu_type1_register_device": "LEG-064"}
    core = Container()
    core.script.op("group_get_device_fd", fd="g", dev="dev0", out="d")
    yield traffic_program(
        core, subject, "LEG-062", "LEG-063",
        lambda iova, n, off: core.dma_map(iova, n, off=off), core.dma_unmap,
        lambda slot, n, iova: core.dma_map(iova, n, slot),
    )  # fmt: skip
