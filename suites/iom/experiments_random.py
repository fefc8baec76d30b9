# SPDX-License-Identifier: Apache-2.0
"""Random programs on an address space, and a device that does DMA in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fixtures.experiment import experiment
from fixtures.search import Programs, Search, made_by
from fixtures.subject import Subject
from suites.iom.device_traffic import traffic_program
from suites.iom.program import Core
from suites.iom.random_space import NativeBackend, random_space

Attach = Callable[[Core], object] | None

RANDOM_PROGRAMS = 45
RANDOM_PROGRAMS_OF_A_DEVICE = 8


@experiment(
    "IOM-030", "IOM-031", "IOM-032", "IOM-033", "IOM-034", "IOM-035", "IOM-036", "IOM-037", "IOM-038",
    "IOM-040", "IOM-041", "IOM-042", "IOM-043", "IOM-044", "IOM-050", "IOM-051", search=True,
)  # fmt: skip
def random_programs_on_an_ioas(subject: Subject, search: Search) -> None:
    """Steps: random maps and unmaps; on the kernel's mock also without an attached device."""
    mock = subject.has("mock")

    def programs(attach: Attach) -> Programs:
        return made_by(lambda drawn: random_space(NativeBackend(attach, mock), Core(), drawn.rng), subject)

    if not mock:
        search.each(programs(Core.device), RANDOM_PROGRAMS_OF_A_DEVICE, own=True, log_every=10)
        return
    search.each(programs(Core.mock), 2 * RANDOM_PROGRAMS // 3, own=False, log_every=10)
    search.each(programs(None), RANDOM_PROGRAMS // 3, own=False, log_every=10)


@experiment("IOM-046", "IOM-047", needs=("engine",), search=True, own_open=True)
def a_device_reaches_what_is_mapped(subject: Subject) -> Iterator[Core]:
    core = Core()
    core.script.op("open_cdev", dev="dev0", out="d")
    core.script.op("bind", fd="d", iommufd="f")
    core.script.op("attach", fd="d", pt="a")
    yield traffic_program(
        core, subject, "IOM-046", "IOM-047", lambda iova, n, off: core.map(iova, n, off=off), core.unmap,
        lambda slot, n, iova: core.map(iova, n, slot),
    )  # fmt: skip
