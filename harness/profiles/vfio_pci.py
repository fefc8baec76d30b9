# SPDX-License-Identifier: Apache-2.0
"""The default driver for PCI devices (drivers/vfio/pci/vfio_pci.c).

It has no migration.  The suite certifies that it says so, and everything that does not need migration.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="vfio_pci",
    driver="vfio-pci",
    description="any PCI device",
    does_dma=True,
    source="drivers/vfio/pci/vfio_pci.c",
)
