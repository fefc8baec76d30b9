# SPDX-License-Identifier: Apache-2.0
"""Which hosts a command speaks to: those of the inventory, and the embedded labs that are up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fixtures.connect import embedded_host
from harness.errors import UsageError
from harness.inventory import (
    EMBEDDED,
    DeviceSpec,
    HostSpec,
    Inventory,
    JumpSpec,
    embedded_devices,
    jumps,
)
from harness.lab.embedded import list_labs

__all__ = ["Reach", "embedded_host", "gone", "reaches"]


@dataclass(frozen=True)
class Reach:
    """A host and the way to it; `spec` is None where it is known not to run, and `why` says more."""

    lab: str
    host_id: str
    spec: HostSpec | None
    jumps: tuple[JumpSpec, ...]
    devices: tuple[DeviceSpec, ...]
    why: str = ""

    @property
    def name(self) -> str:
        """The host's name in messages, and in the names of the mdevs made there."""
        return f"{self.lab}.{EMBEDDED if self.lab == EMBEDDED else self.host_id}"


def reaches(inventory: Inventory, labs: Sequence[str] = (), hosts: Sequence[str] = ()) -> list[Reach]:
    """The hosts of `labs` called `hosts` (none named: all of them); UsageError for unknown names."""
    known = [EMBEDDED, *inventory.labs]
    for name in labs:
        if name not in known:
            raise UsageError(f"lab='{name}' is not a lab: {', '.join(known)}")
    found: list[Reach] = []
    for name in labs or known:
        found += _embedded() if name == EMBEDDED else _of_inventory(inventory, name)
    for host in hosts:
        if host not in [reach.host_id for reach in found]:
            names = ", ".join(reach.host_id for reach in found if reach.spec is not None) or "none"
            raise UsageError(f"host='{host}' is not a host of these labs: {names}")
    return [reach for reach in found if not hosts or reach.host_id in hosts]


def gone(reach: Reach) -> bool:
    """Whether this was an embedded lab that has ended meanwhile: nothing is left of it."""
    return reach.lab == EMBEDDED and reach.host_id not in [lab.name for lab in list_labs() if lab.alive()]


def _of_inventory(inventory: Inventory, name: str) -> list[Reach]:
    lab = inventory.labs[name]
    return [
        Reach(name, host_id, host, jumps(lab, host), tuple(d for d in lab.devices if d.host == host_id))
        for host_id, host in lab.hosts.items()
    ]


def _embedded() -> list[Reach]:
    running = [lab for lab in list_labs() if lab.alive()]
    if not running:
        why = "it starts with 'vfiocert certify', or by hand with 'vfiocert lab up'"
        return [Reach(EMBEDDED, "-", None, (), embedded_devices(), why)]
    return [Reach(EMBEDDED, lab.name, embedded_host(lab), (), embedded_devices()) for lab in running]
