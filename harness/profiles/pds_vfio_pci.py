# SPDX-License-Identifier: Apache-2.0
"""AMD Pensando Ethernet virtual functions (drivers/vfio/pci/pds).

A failed suspend or a firmware recovery puts the device into ERROR; firmware holds the state.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="pds_vfio_pci",
    driver="pds_vfio_pci",
    description="AMD Pensando DSC virtual function",
    does_dma=True,
    pci_ids=((0x1DD8, 0x1003),),
    needs_pf=True,
    source="drivers/vfio/pci/pds",
)
