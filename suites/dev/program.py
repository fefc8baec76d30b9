# SPDX-License-Identifier: Apache-2.0
"""A device opened for one program of this chapter, with short methods for its operations and claims."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from fixtures.subject import Subject
from harness.program.script import Script
from harness.uapi import vfio

__all__ = ["CONFIG", "INTX", "MSI", "MSIX", "Bench", "le"]

CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
INTX, MSI, MSIX = vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_PCI_MSI_IRQ_INDEX, vfio.VFIO_PCI_MSIX_IRQ_INDEX
_NONE, _BOOL = vfio.VFIO_IRQ_SET_DATA_NONE, vfio.VFIO_IRQ_SET_DATA_BOOL
_EVENTFD = vfio.VFIO_IRQ_SET_DATA_EVENTFD
_MASK, _UNMASK = vfio.VFIO_IRQ_SET_ACTION_MASK, vfio.VFIO_IRQ_SET_ACTION_UNMASK
_TRIGGER = vfio.VFIO_IRQ_SET_ACTION_TRIGGER
_SIGNAL_MS = 1000


def le(value: int, width: int) -> str:
    """A number as the bytes of a register, in hex."""
    return (value & (1 << 8 * width) - 1).to_bytes(width, "little").hex()


class Bench(Script):
    """A program that opens, binds and attaches the device itself, in slot `d`."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(fresh=False)
        self.subject = subject
        self.op("open_iommufd", out="i")
        self.op("ioas_alloc", fd="i", out="ioas")
        self.op("open_cdev", dev="dev0", out="d")
        self.op("bind", fd="d", iommufd="i")
        self.op("attach", fd="d", pt="ioas")
        # Some drivers (mtty) set the number of interrupts only when the info is read.
        self.op("device_info", fd="d")

    def to_json(self) -> dict[str, Any]:
        """The program, with the name of its judge."""
        return {**super().to_json(), "judge": "device"}

    @property
    def regions(self) -> list[dict[str, Any]]:
        """The regions as PROBE saw them."""
        return [dict(r) for r in self.subject.capabilities.get("regions") or ()]

    # -- claims
    def alive(self, clause: str, words: str) -> None:
        """Claim that the device answers."""
        self.succeeds(clause, self.op("device_info", fd="d"), f"the device answers {words}")

    # -- registers
    def read(self, region: int, off: int, n: int = 4) -> int:
        """Read a register; returns the index."""
        return self.op("region_read", fd="d", region=region, off=off, n=n, width=n)

    def write(self, region: int, off: int, value: int | str, n: int = 4) -> int:
        """Write a register; returns the index."""
        data = value if isinstance(value, str) else le(value, n)
        return self.op("region_write", fd="d", region=region, off=off, hex=data, width=n)

    def config(self, off: int, n: int = 4) -> int:
        """Read a register of the configuration space; returns the index."""
        return self.read(CONFIG, off, n)

    # -- interrupts
    def irqs(self, flags: int, index: int, start: int, count: int, **args: Any) -> int:
        """Append SET_IRQS; returns the index."""
        return self.op("set_irqs", fd="d", index=index, start=start, count=count, flags=flags, **args)

    def eventfd(self, name: str) -> str:
        """Make a new eventfd; returns the slot."""
        self.op("eventfd", out=name)
        return name

    def trigger_fds(self, index: int, start: int, fds: Sequence[str | int]) -> int:
        """Set eventfds as triggers."""
        return self.irqs(_EVENTFD | _TRIGGER, index, start, len(fds), fds=list(fds))

    def loopback(self, index: int, start: int, count: int) -> int:
        """Trigger interrupts by software."""
        return self.irqs(_NONE | _TRIGGER, index, start, count)

    def loopback_some(self, index: int, start: int, marks: Sequence[int]) -> int:
        """Trigger the marked interrupts by software."""
        return self.irqs(_BOOL | _TRIGGER, index, start, len(marks), hex=bytes(marks).hex())

    def disable(self, index: int) -> int:
        """Disable an index as a whole."""
        return self.irqs(_NONE | _TRIGGER, index, 0, 0)

    def mask(self, index: int = INTX) -> int:
        """Mask by DATA_NONE."""
        return self.irqs(_NONE | _MASK, index, 0, 1)

    def unmask(self, index: int = INTX) -> int:
        """Unmask by DATA_NONE."""
        return self.irqs(_NONE | _UNMASK, index, 0, 1)

    def signalled(self, clause: str, fd: str, words: str, *when: tuple[int, str, str, Any]) -> int:
        """Claim that the eventfd is signalled; it may take a while."""
        i = self.op("eventfd_read", fd=fd, timeout_ms=_SIGNAL_MS)
        self.succeeds(clause, i, words).when(*when)
        return i

    def silent(self, clause: str, fd: str, words: str, *when: tuple[int, str, str, Any]) -> int:
        """Claim that the eventfd is not signalled."""
        i = self.op("eventfd_read", fd=fd)
        self.is_refused(clause, i, errno.EAGAIN, expected=words).when(*when)
        return i

    def raises(self, key: str = "irq_source") -> int:
        """Make the device assert its interrupt."""
        source = self.subject.capabilities[key]
        return self.write(source["region"], source["raise"][0], source["raise"][1])

    def lowers(self, key: str = "irq_source") -> int:
        """Make the device deassert its interrupt."""
        source = self.subject.capabilities[key]
        return self.write(source["region"], source["ack"][0], source["ack"][1])
